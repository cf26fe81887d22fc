"""Connected components of a mask: boxes whose figures are known."""

from __future__ import annotations

import numpy as np
import pytest

from napari_diffseg.core.geometry import Geometry
from napari_diffseg.core.lesions import find_lesions

SHAPE = (8, 10, 12)
AFFINE = np.array([[-1, 0, 0, 50], [0, -2, 0, 60], [0, 0, 3, -70], [0, 0, 0, 1]], float)
GEOMETRY = Geometry.from_affine((12, 10, 8), AFFINE)
VOXEL_ML = 0.006


def boxes(*parts: tuple[slice, slice, slice]) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    for part in parts:
        mask[part] = True
    return mask


LARGE = (slice(1, 4), slice(2, 6), slice(3, 8))
SMALL = (slice(6, 7), slice(8, 10), slice(0, 2))


def as_members(*masks: np.ndarray) -> np.ndarray:
    return 255 * np.stack(masks).astype(np.uint8)


def find(mask: np.ndarray, members: np.ndarray | None = None, **more):
    """Find the lesions; the mean map is 0.8 in the mask."""
    if members is None:
        members = as_members(mask, mask)
    sampled = more.pop("sampled", np.ones(members.shape[:2], bool))
    mean = 0.8 * mask.astype(np.float32)
    return find_lesions(mask, mean, members, sampled, GEOMETRY, **more)


def test_two_lesions_the_largest_first():
    found = find(boxes(SMALL, LARGE))

    large, small = found.lesions
    assert (large.number, small.number) == (1, 2)
    assert large.volume_ml == pytest.approx(60 * VOXEL_ML)
    assert small.volume_ml == pytest.approx(4 * VOXEL_ML)
    assert large.mean_probability == pytest.approx(0.8)
    assert (large.n_slices, small.n_slices) == (3, 1)
    assert small.largest_z == 6
    assert small.largest_slice == 1  # the file counts from the other end
    assert small.centre_yx == (8.5, 0.5)
    assert (found.n_more, found.more_ml) == (0, 0)


def test_the_centroid_is_where_the_scanner_says():
    (large,) = find(boxes(LARGE)).lesions
    # Canonical (2, 3.5, 5) in a file whose x and y already run to left and posterior.
    assert large.centroid_ras_mm == pytest.approx((50 - 5, 60 - 2 * 3.5, -70 + 3 * (7 - 2)))


def test_an_oblique_scan_has_oblique_coordinates():
    turned = AFFINE.copy()
    turned[:3, :3] = AFFINE[:3, :3] @ np.array([[0.8, 0.6, 0], [-0.6, 0.8, 0], [0, 0, 1]])
    geometry = Geometry.from_affine((12, 10, 8), turned)
    mask = boxes((slice(2, 3), slice(3, 4), slice(5, 6)))
    mean, sampled = mask.astype(np.float32), np.ones((1, 8), bool)
    (lesion,) = find_lesions(mask, mean, as_members(mask), sampled, geometry).lesions
    expected = (geometry.lpi_affine @ [5, 3, 2, 1])[:3]
    assert lesion.centroid_ras_mm == pytest.approx(expected)


def test_the_largest_slice_is_the_one_with_the_largest_area():
    mask = boxes(
        (slice(1, 2), slice(2, 4), slice(2, 4)),
        (slice(2, 3), slice(2, 6), slice(2, 8)),
        (slice(3, 4), slice(2, 3), slice(2, 3)),
    )
    (lesion,) = find(mask).lesions
    assert lesion.largest_z == 2
    assert lesion.centre_yx == (3.5, 4.5)


def test_voxels_that_touch_by_a_corner_belong_together():
    mask = np.zeros(SHAPE, bool)
    mask[2, 2, 2] = mask[3, 3, 3] = True
    assert len(find(mask).lesions) == 1
    mask[3, 3, 3] = False
    mask[4, 4, 4] = True
    assert len(find(mask).lesions) == 2


def test_disagreement_within_each_lesion():
    both, half = boxes(LARGE, SMALL), boxes(LARGE)
    smaller = boxes((slice(1, 4), slice(2, 6), slice(3, 5)))

    large, small = find(both, as_members(both, half)).lesions
    assert (large.disagreement, small.disagreement) == (0, 1)

    (lesion,) = find(half, as_members(half, smaller)).lesions
    assert lesion.disagreement == pytest.approx(1 - 2 * 24 / (60 + 24))


def test_what_no_member_has_by_itself_tells_no_agreement():
    mask = boxes((slice(2, 4), slice(2, 6), slice(2, 6)))
    (lesion,) = find(mask, as_members(*[np.zeros(SHAPE, bool)] * 3)).lesions
    assert lesion.disagreement is None


def test_members_that_lack_a_slice_of_it_are_not_asked():
    mask = boxes(LARGE)
    sampled = np.ones((3, SHAPE[0]), bool)
    sampled[1, 2] = False
    members = as_members(mask, np.zeros(SHAPE, bool), mask)
    (lesion,) = find(mask, members, sampled=sampled).lesions
    assert lesion.disagreement == 0
    sampled[2, 1] = False
    (lesion,) = find(mask, members, sampled=sampled).lesions
    assert lesion.disagreement is None


def test_only_the_largest_are_described_and_the_others_counted():
    mask = np.zeros(SHAPE, np.uint8)
    mask[::2, ::2, ::2] = 1  # 4 x 5 x 6 single voxels
    mask[0, 0, 1] = 1
    found = find(mask, max_lesions=7)
    assert len(found.lesions) == 7
    assert found.lesions[0].volume_ml == pytest.approx(3 * VOXEL_ML)
    assert found.n_more == 4 * 5 * 6 - 1 - 7
    assert found.more_ml == pytest.approx(found.n_more * VOXEL_ML)


def test_an_empty_mask_has_no_lesion():
    found = find(np.zeros(SHAPE, bool))
    assert found.lesions == ()
    assert (found.n_more, found.more_ml) == (0, 0)
