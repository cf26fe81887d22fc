"""The volume of each slice, with the members' band: hand-counted."""

from __future__ import annotations

import numpy as np
import pytest

from napari_diffseg.core.ensemble import Ensemble
from napari_diffseg.core.geometry import Geometry
from napari_diffseg.core.profile import compute_profile
from napari_diffseg.core.uncertainty import compute_volume_interval

SHAPE = (4, 5, 6)
GEOMETRY = Geometry.from_affine((6, 5, 4), np.diag([-1.0, -2.0, 5.0, 1.0]))
VOXEL_ML = 0.01


def mask_of(*voxels: int) -> np.ndarray:
    """Return a mask with so many voxels on each slice."""
    mask = np.zeros(SHAPE, np.uint8)
    for z, n in enumerate(voxels):
        mask[z].flat[:n] = 1
    return mask


def ensemble_of(*members: tuple[int | None, ...]) -> Ensemble:
    """Return members with so many mask voxels on each slice; None where one is not sampled."""
    ensemble = Ensemble(len(members), SHAPE)
    for member, voxels in enumerate(members):
        for z, n in enumerate(voxels):
            if n is not None:
                ensemble.add(member, z, 255 * mask_of(*[n] * 4)[z])
    return ensemble


def profile_of(ensemble: Ensemble, mask: np.ndarray, truth: np.ndarray | None = None):
    return compute_profile(mask, ensemble.mask_voxels(), ensemble.sampled, GEOMETRY, truth)


def test_millilitres_per_slice_by_the_files_own_numbers():
    ensemble = ensemble_of((0, 4, 9, 2), (1, 6, 8, 2))
    profile = profile_of(ensemble, mask_of(0, 5, 9, 2), mask_of(2, 7, 0, 0))

    assert profile.slices == (0, 1, 2, 3)
    assert profile.z == (3, 2, 1, 0)
    assert profile.mask_ml == pytest.approx((0.02, 0.09, 0.05, 0))
    assert profile.low_ml == pytest.approx((0.02, 0.08, 0.04, 0))
    assert profile.high_ml == pytest.approx((0.02, 0.09, 0.06, 0.01))
    assert profile.truth_ml == pytest.approx((0, 0, 0.07, 0.02))
    assert (profile.kind, profile.n_members) == ("range", 2)


def test_the_slices_add_up_to_the_volume():
    ensemble = ensemble_of((3, 4, 9, 2))
    mask = mask_of(3, 4, 9, 2)
    assert sum(profile_of(ensemble, mask).mask_ml) == pytest.approx(18 * VOXEL_ML)


def test_slices_without_a_sample_are_left_out_and_the_fewest_members_count():
    ensemble = ensemble_of((None, 4, 9, None), (None, 6, None, None))
    profile = profile_of(ensemble, mask_of(0, 5, 9, 0))

    assert profile.z == (2, 1)
    assert profile.low_ml == pytest.approx((0.09, 0.04))
    assert profile.high_ml == pytest.approx((0.09, 0.06))
    assert profile.n_members == 1
    assert profile.truth_ml is None


def test_quantiles_only_when_every_slice_has_members_enough():
    voxels = np.random.default_rng(0).integers(0, 30, (40, 4))
    enough = ensemble_of(*[tuple(row.tolist()) for row in voxels])
    profile = profile_of(enough, mask_of(1, 1, 1, 1))

    assert profile.kind == "2.5-97.5 %"
    interval = compute_volume_interval(voxels[:, 2] * VOXEL_ML)
    assert (profile.low_ml[1], profile.high_ml[1]) == pytest.approx(
        (interval.low_ml, interval.high_ml)
    )
    fewer = compute_profile(
        mask_of(1, 1, 1, 1), enough.mask_voxels(38), enough.sampled[:38], GEOMETRY
    )
    assert fewer.kind == "range"
    assert fewer.low_ml[1] == pytest.approx(voxels[:38, 2].min() * VOXEL_ML)


def test_nothing_sampled_is_an_empty_profile():
    profile = profile_of(Ensemble(3, SHAPE), mask_of(0, 0, 0, 0), mask_of(1, 1, 1, 1))
    assert profile.slices == profile.mask_ml == profile.truth_ml == ()
    assert profile.n_members == 0
