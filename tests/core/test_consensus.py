"""The rules by which members decide together, and who among them is typical."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest

from napari_diffseg.core.consensus import (
    Decision,
    compute_staple,
    cut_out_votes,
    decide,
    has_staple,
    make_mask,
)
from napari_diffseg.core.ensemble import Ensemble
from napari_diffseg.core.errors import ParameterError
from napari_diffseg.core.metrics import compute_dice
from napari_diffseg.core.overlaps import Overlaps, find_closest, rank_members

needs_staple = pytest.mark.skipif(not has_staple(), reason="SimpleITK is not installed")


def ensemble_of(masks: np.ndarray, sampled: np.ndarray | None = None) -> Ensemble:
    return Ensemble.from_arrays(masks.astype(np.uint8) * 255, sampled)


def discs(*radii: float, shape: tuple[int, int, int] = (4, 24, 26)) -> np.ndarray:
    """Balls around one centre, (S, Z, Y, X)."""
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    distance = np.sqrt((z - 1.5) ** 2 + (y - 11) ** 2 + (x - 12) ** 2)
    return np.stack([distance < radius for radius in radii])


def random_ensemble(n_members: int = 6, seed: int = 0) -> Ensemble:
    rng = np.random.default_rng(seed)
    return ensemble_of(rng.random((n_members, 3, 13, 11)) < 0.4)


def brute_force_mean_dice(masks: np.ndarray) -> np.ndarray:
    pairs = {(i, i): np.nan for i in range(len(masks))}
    for i, j in itertools.combinations(range(len(masks)), 2):
        pairs[i, j] = pairs[j, i] = compute_dice(masks[i], masks[j])
    return np.array(
        [np.nanmean([pairs[i, j] for j in range(len(masks))]) for i in range(len(masks))]
    )


def expectation_maximisation(masks: np.ndarray) -> np.ndarray:
    """STAPLE as Warfield et al. (2004) have it, equations 14, 15, 18 and 19, in plain NumPy."""
    votes = masks.reshape(len(masks), -1)
    prior = votes.mean()
    sensitivity = specificity = np.full((len(masks), 1), 0.99999)
    for _ in range(200):
        a = prior * np.where(votes, sensitivity, 1 - sensitivity).prod(axis=0)
        b = (1 - prior) * np.where(votes, 1 - specificity, specificity).prod(axis=0)
        weights = a / (a + b)
        sensitivity = (votes * weights).sum(1, keepdims=True) / weights.sum()
        specificity = (~votes * (1 - weights)).sum(1, keepdims=True) / (1 - weights).sum()
    return weights.reshape(masks.shape[1:])


def test_the_mean_is_the_threshold_of_the_mean_map() -> None:
    ensemble = random_ensemble()
    mask = make_mask(ensemble, decide(ensemble, "mean", threshold=0.3, k=4))
    np.testing.assert_array_equal(mask, ensemble.wt_mask(0.3, 4))


@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_a_majority_is_more_than_half_of_the_masks(k: int) -> None:
    levels = np.random.default_rng(1).integers(0, 256, (6, 3, 5, 4), dtype=np.uint8)
    ensemble = Ensemble.from_arrays(levels)
    votes = (levels[:k] >= 128).sum(axis=0)
    mask = make_mask(ensemble, decide(ensemble, "majority", threshold=0.9, k=k))
    np.testing.assert_array_equal(mask, votes * 2 > k)


def test_the_closest_member_is_the_one_in_the_middle() -> None:
    masks = discs(4, 9, 6, 5, 11)
    ensemble = ensemble_of(masks)
    closest = int(np.argmax(brute_force_mean_dice(masks)))
    assert find_closest(ensemble) == closest == 2
    np.testing.assert_array_equal(make_mask(ensemble, decide(ensemble, "closest")), masks[closest])


def test_only_the_first_k_members_decide() -> None:
    masks = discs(4, 9, 10, 4, 4, 4)
    ensemble = ensemble_of(masks)
    assert find_closest(ensemble, k=3) == 1
    assert find_closest(ensemble) == 0


def test_one_member_is_its_own_consensus() -> None:
    masks = discs(6)
    ensemble = ensemble_of(masks)
    for kind in ("mean", "majority", "closest"):
        np.testing.assert_array_equal(make_mask(ensemble, decide(ensemble, kind)), masks[0])


def test_without_a_sample_the_mask_is_empty() -> None:
    ensemble = Ensemble(3, (2, 4, 4))
    for kind in ("mean", "majority", "closest", *(["staple"] if has_staple() else [])):
        assert not make_mask(ensemble, decide(ensemble, kind)).any()


def test_members_that_lack_slices_do_not_stand_for_all() -> None:
    masks = discs(6, 9, 6)
    sampled = np.ones((3, 4), bool)
    sampled[[0, 2], 3] = False  # the two that agree have not come so far
    ensemble = ensemble_of(masks, sampled)
    assert find_closest(ensemble) == 1
    np.testing.assert_array_equal(make_mask(ensemble, decide(ensemble, "closest")), masks[1])


def test_a_slice_that_the_closest_lacks_is_decided_by_a_majority() -> None:
    masks = discs(6, 7, 9)
    sampled = np.array([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]], bool)
    ensemble = ensemble_of(masks, sampled)
    mask = make_mask(ensemble, decide(ensemble, "closest"))
    np.testing.assert_array_equal(mask[:2], masks[0, :2])
    np.testing.assert_array_equal(mask[2], masks[1, 2])
    np.testing.assert_array_equal(mask[3], masks[2, 3])


@needs_staple
def test_staple_is_that_of_the_paper() -> None:
    masks = discs(6, 7, 8, 7.5)
    masks ^= np.random.default_rng(2).random(masks.shape) < 0.02
    staple = compute_staple(cut_out_votes(ensemble_of(masks)))
    y, x = staple.corner
    height, width = staple.probability.shape[1:]
    framed = np.pad(masks, ((0, 0), (0, 0), (1, 1), (1, 1)))[
        ..., y : y + height + 2, x : x + width + 2
    ]
    expected = expectation_maximisation(framed)[:, 1:-1, 1:-1]
    np.testing.assert_allclose(staple.probability, expected, atol=1e-4)


@needs_staple
def test_staple_does_not_depend_on_the_size_of_the_scan_or_on_other_members() -> None:
    masks = discs(5, 7, 6)
    mask = make_mask(ensemble_of(masks), decide(ensemble_of(masks), "staple"))
    wide = np.pad(masks, ((0, 1), (0, 0), (20, 5), (7, 9)))
    wide[3] = True
    ensemble = ensemble_of(wide)
    wide_mask = make_mask(ensemble, decide(ensemble, "staple", k=3))
    np.testing.assert_array_equal(wide_mask, np.pad(mask, ((0, 0), (20, 5), (7, 9))))


@needs_staple
@pytest.mark.parametrize("fill", [False, True])
def test_staple_of_members_that_all_say_the_same(fill: bool) -> None:
    ensemble = ensemble_of(np.full((3, 2, 4, 5), fill))
    np.testing.assert_array_equal(make_mask(ensemble, decide(ensemble, "staple")), fill)


def test_without_simpleitk_staple_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    ensemble = ensemble_of(discs(5, 6))
    with pytest.raises(ParameterError, match=r"napari-diffseg\[staple\]"):
        decide(ensemble, "staple")


def test_while_staple_is_computed_the_majority_decides() -> None:
    ensemble = ensemble_of(discs(5, 6, 9))
    waiting = make_mask(ensemble, Decision("staple"))
    np.testing.assert_array_equal(waiting, make_mask(ensemble, decide(ensemble, "majority")))


def test_overlaps_agree_with_plain_dice_in_whatever_order_samples_come() -> None:
    ensemble = random_ensemble()
    masks = ensemble.members_uint8() >= 128
    overlaps = Overlaps(2, 3)  # grows with the members
    for index in np.random.default_rng(0).permutation(18):
        overlaps.add(ensemble, *divmod(int(index), 3))
    dice = overlaps.mean_dice(np.arange(6), ensemble.sampled)
    np.testing.assert_allclose(dice, brute_force_mean_dice(masks))


def test_a_pair_is_compared_on_the_slices_that_both_have() -> None:
    masks = discs(5, 8, 6)
    sampled = np.array([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]], bool)
    ensemble = ensemble_of(masks, sampled)
    dice = Overlaps.of_ensemble(ensemble).pair_dice(np.arange(3), sampled)
    assert dice[0, 1] == pytest.approx(compute_dice(masks[0, 1], masks[1, 1]))
    assert np.isnan(dice[0, 2])


def test_the_box_holds_all_masks_of_the_slices_asked_for() -> None:
    masks = np.zeros((2, 3, 10, 12), bool)
    masks[0, 0, 2:4, 5:6], masks[1, 0, 3:7, 1:2], masks[1, 2, 9, 11] = True, True, True
    overlaps = Overlaps.of_ensemble(ensemble_of(masks))
    assert overlaps.box([0]) == (slice(2, 7), slice(1, 6))
    assert overlaps.box() == (slice(2, 10), slice(1, 12))
    assert overlaps.box([1]) is None


def test_members_are_ordered_by_what_they_stand_out_by() -> None:
    masks = discs(8, 7.5, 4, 7, 11)
    masks[0] = np.roll(masks[3], 9, axis=2)  # not the smallest and not the largest, but elsewhere
    ensemble = ensemble_of(masks)
    ranked = rank_members(ensemble, Overlaps.of_ensemble(ensemble))
    assert [(one.member, one.characters) for one in ranked] == [
        (1, ("typical",)),
        (2, ("smallest",)),
        (4, ("largest",)),
        (0, ("outlier",)),
        (3, ()),
    ]
    assert ranked[1].n_voxels == masks[2].sum()


def test_a_member_may_stand_out_twice() -> None:
    ensemble = ensemble_of(discs(7, 7.5, 3))
    ranked = rank_members(ensemble, Overlaps.of_ensemble(ensemble))
    assert ranked[1].characters == ("smallest", "outlier")
    assert len(ranked) == 3


def test_two_members_or_equal_ones_are_neither_typical_nor_outliers() -> None:
    two = ensemble_of(discs(5, 7))
    assert {c for one in rank_members(two, Overlaps.of_ensemble(two)) for c in one.characters} == {
        "smallest",
        "largest",
    }
    equal = ensemble_of(discs(5, 5, 5))
    ranked = rank_members(equal, Overlaps.of_ensemble(equal))
    assert [one.characters for one in ranked] == [("typical",), (), ()]


def test_members_that_are_not_complete_stand_out_by_nothing() -> None:
    sampled = np.ones((4, 4), bool)
    sampled[3, 1:] = False
    ensemble = ensemble_of(discs(5, 7, 6, 11), sampled)
    ranked = rank_members(ensemble, Overlaps.of_ensemble(ensemble))
    last = ranked[-1]
    assert (last.member, last.characters, last.is_comparable) == (3, (), False)
    assert last.mean_dice is None
