"""Dice, Jaccard, HD95 and volumes: masks counted by hand, a brute-force oracle, medpy, MONAI."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from napari_diffseg.core import metrics

ANISOTROPIC = {2: (2.5, 0.7), 3: (5.0, 0.9, 1.3)}


def drawn(*rows: str) -> np.ndarray:
    """A 2-D mask from text: # is inside."""
    return np.array([[character == "#" for character in row] for row in rows])


def oracle_hd95_mm(a, b, spacing_mm):
    """medpy's definition from scratch: no scipy, no erosion, no transform, no np.percentile."""

    def surface_mm(mask):
        points = []
        for index in itertools.product(*map(range, mask.shape)):
            neighbours = [
                tuple(index[i] + step * (i == axis) for i in range(mask.ndim))
                for axis in range(mask.ndim)
                for step in (-1, 1)
            ]
            buried = all(
                all(0 <= n[i] < mask.shape[i] for i in range(mask.ndim)) and mask[n]
                for n in neighbours
            )
            if mask[index] and not buried:
                points.append([i * s for i, s in zip(index, spacing_mm, strict=True)])
        return points

    surface_a, surface_b = surface_mm(a), surface_mm(b)
    pooled = sorted(
        [min(math.dist(p, q) for q in surface_b) for p in surface_a]
        + [min(math.dist(p, q) for q in surface_a) for p in surface_b]
    )
    position = 0.95 * (len(pooled) - 1)
    below, above = pooled[math.floor(position)], pooled[math.ceil(position)]
    return below + (above - below) * (position - math.floor(position))


def iter_mask_pairs():
    """Random and degenerate pairs in 2-D and 3-D, each with a name for the test report."""
    rng = np.random.default_rng(5)
    for shape in [(9, 11), (5, 6, 7)]:
        dimensions = f"{len(shape)}-D"
        for density in (0.03, 0.4, 0.95):
            a, b = (rng.random(shape) < density for _ in range(2))
            a.flat[rng.integers(a.size)] = b.flat[rng.integers(b.size)] = True
            yield pytest.param(a, b, id=f"{dimensions} random {density}")
        first, last = np.zeros(shape, bool), np.zeros(shape, bool)
        first.flat[0] = last.flat[-1] = True
        full = np.ones(shape, bool)
        yield pytest.param(first, last, id=f"{dimensions} opposite corners")
        yield pytest.param(first, first, id=f"{dimensions} one voxel, the same")
        yield pytest.param(full, first, id=f"{dimensions} full against one voxel")
        yield pytest.param(full, full, id=f"{dimensions} both full")
        block = np.zeros(shape, bool)
        block[tuple(slice(0, n - 2) for n in shape)] = True
        yield pytest.param(block, full, id=f"{dimensions} touching three borders")
        face, far_face = np.zeros(shape, bool), np.zeros(shape, bool)
        face[0] = far_face[-1] = True
        yield pytest.param(face, far_face, id=f"{dimensions} opposite faces")
        inner = np.zeros(shape, bool)
        inner[tuple(slice(1, -1) for _ in shape)] = True
        yield pytest.param(full & ~inner, inner, id=f"{dimensions} a shell and what it holds")
    yield pytest.param(np.ones((1, 4), bool), drawn("#..#"), id="2-D one row")


MASK_PAIRS = list(iter_mask_pairs())


@pytest.mark.parametrize(("a", "b"), MASK_PAIRS)
@pytest.mark.parametrize("anisotropic", [False, True], ids=["isotropic", "anisotropic"])
def test_hd95_agrees_with_brute_force(a, b, anisotropic):
    spacing_mm = ANISOTROPIC[a.ndim] if anisotropic else (1.0,) * a.ndim

    hd95_mm = metrics.compute_hd95_mm(a, b, spacing_mm)

    assert hd95_mm == pytest.approx(oracle_hd95_mm(a, b, spacing_mm), rel=1e-12, abs=1e-12)
    assert metrics.compute_hd95_mm(b, a, spacing_mm) == pytest.approx(hd95_mm)


@pytest.mark.parametrize(("a", "b"), MASK_PAIRS)
def test_hd95_agrees_with_medpy(a, b):
    medpy = pytest.importorskip("medpy.metric.binary", reason="medpy is not installed")
    spacing_mm = ANISOTROPIC[a.ndim]

    expected = medpy.hd95(a, b, voxelspacing=spacing_mm)

    assert metrics.compute_hd95_mm(a, b, spacing_mm) == pytest.approx(expected, rel=1e-12)
    assert metrics.compute_dice(a, b) == pytest.approx(medpy.dc(a, b))
    assert metrics.compute_jaccard(a, b) == pytest.approx(medpy.jc(a, b))


@pytest.fixture(scope="module")
def monai():
    """Give MONAI's metrics; its import takes seconds, so it is here and nowhere else."""
    metrics = pytest.importorskip("monai.metrics", reason="MONAI is not installed")
    from monai.metrics import utils

    return metrics, utils


def as_batch(mask):
    return torch.from_numpy(mask)[None, None]


@pytest.mark.filterwarnings("ignore:monai.metrics.utils get_mask_edges:FutureWarning")
@pytest.mark.parametrize(("a", "b"), MASK_PAIRS)
@pytest.mark.parametrize("anisotropic", [False, True], ids=["isotropic", "anisotropic"])
def test_scores_agree_with_monai(a, b, anisotropic, monai):
    monai_metrics, monai_utils = monai
    spacing_mm = ANISOTROPIC[a.ndim] if anisotropic else (1.0,) * a.ndim
    dice = monai_metrics.compute_dice(as_batch(a), as_batch(b))
    jaccard = monai_metrics.compute_iou(as_batch(a), as_batch(b))
    surfaces = monai_utils.get_mask_edges(a, b)
    # MONAI's own HD95 is the larger of two directed percentiles; its distances are pooled here.
    directed = [
        monai_utils.get_surface_distance(*pair, spacing=spacing_mm)
        for pair in (surfaces, surfaces[::-1])
    ]

    assert metrics.compute_dice(a, b) == pytest.approx(float(dice))
    assert metrics.compute_jaccard(a, b) == pytest.approx(float(jaccard))
    ours_mm = metrics.compute_hd95_mm(a, b, spacing_mm)
    assert ours_mm == pytest.approx(np.percentile(np.concatenate(directed), 95), rel=1e-6)
    theirs_mm = monai_metrics.compute_hausdorff_distance(
        as_batch(a), as_batch(b), include_background=True, percentile=95, spacing=list(spacing_mm)
    )
    # Pooled, the percentile lies between the two; interpolation of few distances moves it a little.
    few = min(map(len, directed)) < 40
    assert few or ours_mm <= float(theirs_mm) + 1e-5


def test_empty_masks_agree_with_monai(monai):
    monai_metrics, _ = monai
    empty, tumour = np.zeros((4, 5), bool), drawn("...", ".##", "...")
    tumour = np.pad(tumour, ((0, 1), (0, 2)))
    for a, b in ((empty, tumour), (tumour, empty), (empty, empty)):
        pair = as_batch(a), as_batch(b)
        dice = monai_metrics.compute_dice(*pair, ignore_empty=False)
        jaccard = monai_metrics.compute_iou(*pair, ignore_empty=False)
        assert metrics.compute_dice(a, b) == float(dice)
        assert metrics.compute_jaccard(a, b) == float(jaccard)


@pytest.mark.parametrize("voxels_per_point", [0, 10**9], ids=["tree", "distance transform"])
def test_both_ways_to_measure_distances_agree(monkeypatch, voxels_per_point):
    rng = np.random.default_rng(0)
    a, b = (rng.random((6, 7, 8)) < 0.1 for _ in range(2))
    monkeypatch.setattr(metrics, "VOXELS_PER_POINT", voxels_per_point)

    hd95_mm = metrics.compute_hd95_mm(a, b, ANISOTROPIC[3])

    assert hd95_mm == pytest.approx(oracle_hd95_mm(a, b, ANISOTROPIC[3]))


def test_hand_counted_overlap():
    a = drawn(
        ".###.",
        ".###.",
        ".....",
    )
    b = drawn(
        "..##.",
        "..##.",
        "..##.",
    )

    assert metrics.compute_dice(a, b) == pytest.approx(2 * 4 / (6 + 6))
    assert metrics.compute_jaccard(a, b) == pytest.approx(4 / 8)
    assert metrics.compute_dice(a, a) == metrics.compute_jaccard(a, a) == 1.0
    assert metrics.compute_dice(a, ~a) == metrics.compute_jaccard(a, ~a) == 0.0


def test_hd95_follows_the_axis_order_of_the_spacing():
    top, bottom = drawn("#", ".", ".", "#").T, drawn("#", ".", ".", ".").T
    # Distances along the row: 0 and 3 voxels from A to B, 0 from B to A.
    expected_voxels = np.percentile([0, 3, 0], 95)

    assert metrics.compute_hd95_mm(top, bottom, (10.0, 1.0)) == pytest.approx(expected_voxels)
    assert metrics.compute_hd95_mm(top, bottom, (1.0, 10.0)) == pytest.approx(10 * expected_voxels)
    assert metrics.compute_hd95_mm(top.T, bottom.T, (10.0, 1.0)) == pytest.approx(
        10 * expected_voxels
    )


def test_hd95_pools_both_directions_instead_of_taking_the_larger_one():
    a = np.zeros((1, 60), bool)
    a[0, :40] = True
    b = a.copy()
    b[0, 50:53] = True
    far_voxels = [11.0, 12.0, 13.0]
    larger_of_both = np.percentile([*np.zeros(40), *far_voxels], 95)

    assert larger_of_both > 9
    assert metrics.compute_hd95_mm(a, b, (1, 1)) == 0.0  # 3 of 83 distances are under 5 %


def test_empty_masks_follow_the_protocol_of_the_paper():
    empty, tumour = np.zeros((3, 3), bool), drawn("...", ".##", "...")

    missed = metrics.compute_scores(empty, tumour, (1, 1))
    assert (missed.dice, missed.jaccard, missed.hd95_mm) == (0.0, 0.0, None)
    assert (missed.empty_prediction, missed.empty_truth) == (True, False)

    invented = metrics.compute_scores(tumour, empty, (1, 1))
    assert (invented.dice, invented.jaccard, invented.hd95_mm) == (0.0, 0.0, None)
    assert (invented.empty_prediction, invented.empty_truth) == (False, True)

    agreed = metrics.compute_scores(empty, empty, (1, 1))
    assert (agreed.dice, agreed.jaccard, agreed.hd95_mm) == (1.0, 1.0, None)


def test_scores_of_a_volume_carry_its_millilitres():
    truth = np.zeros((4, 10, 10), bool)
    truth[1:3, 2:7, 2:7] = True
    prediction = truth.copy()
    prediction[1] = False

    scores = metrics.compute_scores(prediction, truth, (5.0, 2.0, 1.0))

    assert type(scores.truth_ml) is float  # a plain number, as the JSON sidecar prints it
    assert scores.truth_ml == pytest.approx(50 * 10 / 1000)
    assert scores.predicted_ml == pytest.approx(25 * 10 / 1000)
    assert scores.volume_error_ml == pytest.approx(-0.25)
    assert scores.dice == pytest.approx(2 / 3)
    assert scores.hd95_mm == pytest.approx(oracle_hd95_mm(prediction, truth, (5.0, 2.0, 1.0)))


def test_a_slice_has_no_volume():
    scores = metrics.compute_scores(drawn("##"), drawn("#."), (1, 1))

    assert (scores.predicted_ml, scores.truth_ml, scores.volume_error_ml) == (None, None, None)


def test_labels_count_as_inside_wherever_they_are_not_zero():
    labels = np.array([[0, 1, 2, 4]], np.uint8)

    assert metrics.compute_dice(labels, drawn(".###")) == 1.0


def test_what_cannot_be_compared_is_refused():
    mask = np.ones((2, 2), bool)
    with pytest.raises(TypeError, match="threshold it first"):
        metrics.compute_dice(np.full((2, 2), 0.2, np.float32), mask)
    with pytest.raises(ValueError, match="different shapes"):
        metrics.compute_dice(mask, np.ones((1, 2), bool))
    with pytest.raises(ValueError, match="3 values for 2 dimensions"):
        metrics.compute_hd95_mm(mask, mask, (1, 1, 1))
    with pytest.raises(ValueError, match="positive"):
        metrics.compute_hd95_mm(mask, mask, (1, 0))
    with pytest.raises(ValueError, match="4-D"):
        metrics.compute_hd95_mm(np.ones((1, 1, 2, 2), bool), np.ones((1, 1, 2, 2), bool), (1,) * 4)
    with pytest.raises(ValueError, match="2-D"):
        metrics.compute_volume_ml(mask, (1, 1, 1))
