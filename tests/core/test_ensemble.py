"""The ensemble's maps against plain floating-point arithmetic on all members."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from napari_diffseg.core import ensemble as ensemble_module
from napari_diffseg.core.ensemble import Ensemble
from napari_diffseg.core.errors import ParameterError
from napari_diffseg.core.levels import MASK_LEVEL, decode_probability, encode_probability

SHAPE = (5, 6, 7)
BRATS_SHAPE = (155, 240, 240)


def random_members(n_members: int = 6, shape=SHAPE, seed: int = 0) -> np.ndarray:
    levels = np.random.default_rng(seed).integers(0, 256, (n_members, *shape), dtype=np.uint8)
    levels[:, :, 0, 0], levels[:, :, 0, 1] = 0, 255
    return levels


def partly_sampled(seed: int = 1) -> tuple[Ensemble, np.ndarray, np.ndarray]:
    """An ensemble with gaps: slice 0 has no sample at all, others have some members."""
    rng = np.random.default_rng(seed)
    members = random_members()
    sampled = rng.random(members.shape[:2]) < 0.6
    sampled[:, 0] = False
    sampled[:, 1] = True
    ensemble = Ensemble(len(members), SHAPE)
    for member, z in rng.permutation(np.argwhere(sampled)):
        ensemble.add(int(member), int(z), members[member, z])
    return ensemble, members, sampled


def oracle_maps(members, sampled, k, of):
    """Mean, variance between members, and that within them, in float64, slice by slice."""
    mean, between, within = np.zeros((3, *members.shape[1:]))
    for z in range(members.shape[1]):
        p = members[:k, z][sampled[:k, z]] / 255.0
        if not len(p):
            continue
        if of == "masks":
            p = (p > 0.5).astype(float)
        mean[z] = p.mean(axis=0)
        between[z] = p.var(axis=0)
        within[z] = (p * (1 - p)).mean(axis=0)
    return mean, between, within


@pytest.mark.parametrize("of", ["probabilities", "masks"])
def test_maps_are_mean_total_variance_and_that_between_the_first_k_members_sampled_there(of):
    ensemble, members, sampled = partly_sampled()

    # Up, down, far and near: the running sums have to follow wherever the slider goes.
    for k in (6, 1, 2, 5, 4, 6, 3, 2, 6):
        mean, between, within = oracle_maps(members, sampled, k, of)
        np.testing.assert_allclose(ensemble.mean_map(k, of), mean, atol=1e-7)
        np.testing.assert_allclose(ensemble.variance_map(k, of), between + within, atol=1e-7)
        np.testing.assert_allclose(ensemble.disagreement_map(k, of), between, atol=1e-7)
    np.testing.assert_array_equal(ensemble.mean_map(None, of), ensemble.mean_map(6, of))
    assert ensemble.mean_map(of=of).dtype == ensemble.variance_map(of=of).dtype == np.float32
    assert not ensemble.mean_map(of=of)[0].any()
    for uncertainty in (ensemble.variance_map(of=of), ensemble.disagreement_map(of=of)):
        assert 0 <= uncertainty.min() <= uncertainty.max() <= 0.25
        assert uncertainty.dtype == np.float32


def test_a_doubt_that_all_members_share_is_no_disagreement():
    levels = np.array([[128, 51, 255, 0]], np.uint8)  # p = 0.502, 0.2, 1, 0
    alike = Ensemble(5, (1, 1, 4))
    for member in range(5):
        alike.add(member, 0, levels)
    for k in (1, 2, 5):
        assert not alike.disagreement_map(k).any()
    np.testing.assert_allclose(alike.variance_map().ravel(), [0.25, 0.16, 0, 0], atol=1e-5)

    opposed = Ensemble(2, (1, 1, 4))
    opposed.add(0, 0, np.zeros((1, 4), np.uint8))
    opposed.add(1, 0, np.full((1, 4), 255, np.uint8))
    assert opposed.disagreement_map().ravel().tolist() == [0.25] * 4


def test_the_two_kinds_of_map_differ_where_members_are_unsure():
    ensemble = Ensemble(2, (1, 1, 2))
    ensemble.add(0, 0, np.array([[255, 153]], np.uint8))
    ensemble.add(1, 0, np.array([[0, 153]], np.uint8))

    np.testing.assert_allclose(ensemble.mean_map(of="masks"), [[[0.5, 1.0]]])
    np.testing.assert_allclose(ensemble.variance_map(of="masks"), [[[0.25, 0.0]]])
    np.testing.assert_allclose(ensemble.mean_map(of="probabilities"), [[[0.5, 0.6]]])
    np.testing.assert_allclose(ensemble.variance_map(of="probabilities"), [[[0.25, 0.24]]])
    np.testing.assert_allclose(ensemble.entropy_map(), [[[1.0, 0.970951]]], atol=1e-6)


@pytest.mark.parametrize("of", ["probabilities", "masks"])
@pytest.mark.parametrize("threshold", [0.0, 0.2, 1 / 3, 0.5, 0.6, 0.8, 1.0])
def test_mask_is_strictly_above_the_threshold(of, threshold):
    ensemble, _, _ = partly_sampled()

    for k in (1, 2, 3, 5, 6):
        mask = ensemble.wt_mask(threshold, k, of)
        np.testing.assert_array_equal(mask, ensemble.mean_map(k, of) > threshold)
        assert mask.dtype == bool
    assert not ensemble.wt_mask(0.0)[0].any()


def test_as_many_votes_as_the_threshold_are_not_enough():
    votes = np.array([[1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]], np.uint8).T * 255
    ensemble = Ensemble(5, (1, 1, 3))
    for member, levels in enumerate(votes):
        ensemble.add(member, 0, levels[np.newaxis])

    assert ensemble.wt_mask(0.6, of="masks").ravel().tolist() == [False, False, True]
    assert ensemble.wt_mask(0.4, of="masks").ravel().tolist() == [True, False, True]
    assert ensemble.wt_mask(0.5, k=4, of="masks").ravel().tolist() == [True, False, True]


@pytest.mark.parametrize("of", ["probabilities", "masks"])
def test_a_new_sample_updates_its_slice_in_place_and_nothing_else(of):
    ensemble, members, _ = partly_sampled()
    k, threshold = 5, 0.4
    mean, variance = ensemble.mean_map(k, of), ensemble.variance_map(k, of)
    disagreement = ensemble.disagreement_map(k, of)
    mask = ensemble.wt_mask(threshold, k, of)
    before = mean.copy()

    ensemble.add(2, 0, members[2, 0])
    ensemble.add(3, 0, members[3, 0])
    ensemble.update_slice(
        0,
        mean=mean,
        variance=variance,
        disagreement=disagreement,
        mask=mask,
        threshold=threshold,
        k=k,
        of=of,
    )

    np.testing.assert_array_equal(mean, ensemble.mean_map(k, of))
    np.testing.assert_array_equal(variance, ensemble.variance_map(k, of))
    np.testing.assert_array_equal(disagreement, ensemble.disagreement_map(k, of))
    assert disagreement[0].any()
    np.testing.assert_array_equal(mask, ensemble.wt_mask(threshold, k, of))
    assert mean[0].any()
    np.testing.assert_array_equal(mean[1:], before[1:])


def test_a_member_beyond_k_changes_no_map_of_k():
    ensemble, members, _ = partly_sampled()
    before = ensemble.mean_map(3)

    ensemble.add(3, 1, 255 - members[3, 1])

    np.testing.assert_array_equal(ensemble.mean_map(3), before)
    assert (ensemble.mean_map(4) != before).any()


def test_sampling_a_slice_again_replaces_it():
    members = random_members()
    ensemble = Ensemble.from_arrays(members)
    ensemble.disagreement_map(), ensemble.mean_map(of="masks")  # the running sums exist

    replaced = members.copy()
    replaced[1, 2] = 255 - members[1, 2]
    ensemble.add(1, 2, replaced[1, 2])

    fresh = Ensemble.from_arrays(replaced)
    for of in ("probabilities", "masks"):
        np.testing.assert_array_equal(ensemble.mean_map(of=of), fresh.mean_map(of=of))
        np.testing.assert_array_equal(
            ensemble.disagreement_map(of=of), fresh.disagreement_map(of=of)
        )
    np.testing.assert_array_equal(ensemble.mask_voxels(), fresh.mask_voxels())


def test_growing_keeps_everything_and_makes_room():
    ensemble, members, sampled = partly_sampled()
    before = {k: (ensemble.variance_map(k), ensemble.disagreement_map(k)) for k in (2, 6)}
    extra = random_members(1, seed=9)[0]

    ensemble.grow(9)
    assert ensemble.n_members == 9
    for k, (variance, disagreement) in before.items():
        np.testing.assert_array_equal(ensemble.variance_map(k), variance)
        np.testing.assert_array_equal(ensemble.disagreement_map(k), disagreement)

    for z in range(SHAPE[0]):
        ensemble.add(8, z, extra[z])
    members = np.concatenate([members, np.zeros((2, *SHAPE), np.uint8), extra[np.newaxis]])
    sampled = np.concatenate([sampled, np.zeros((2, 5), bool), np.ones((1, 5), bool)])
    np.testing.assert_array_equal(ensemble.sampled, sampled)
    np.testing.assert_allclose(
        ensemble.mean_map(), oracle_maps(members, sampled, 9, "probabilities")[0], atol=1e-7
    )
    with pytest.raises(ValueError, match="cannot shrink"):
        ensemble.grow(3)


def test_sums_do_not_overflow_however_many_members_there_are():
    shape = (1, 1, 1)
    certain = np.full((1, 1), 255, np.uint8)
    ensemble = Ensemble(257, shape)
    for member in range(257):
        ensemble.add(member, 0, certain)
    assert ensemble.mean_map().item() == 1.0
    assert ensemble.disagreement_map().item() == 0.0

    ensemble.grow(300)
    for member in range(257, 300):
        ensemble.add(member, 0, certain)
    assert ensemble.mean_map().item() == ensemble.mean_map(of="masks").item() == 1.0
    assert ensemble.wt_mask(0.999).item()

    for member in range(150):
        ensemble.add(member, 0, certain - certain)
    assert ensemble.disagreement_map().item() == 0.25
    assert ensemble.disagreement_map(151).item() == pytest.approx(150 / 151**2)


def test_saved_arrays_restore_the_ensemble():
    ensemble, _, _ = partly_sampled()

    restored = Ensemble.from_arrays(ensemble.members_uint8(), ensemble.sampled)

    np.testing.assert_array_equal(restored.sampled, ensemble.sampled)
    np.testing.assert_array_equal(restored.members_uint8(), ensemble.members_uint8())
    for of in ("probabilities", "masks"):
        np.testing.assert_array_equal(restored.variance_map(3, of), ensemble.variance_map(3, of))


def test_members_are_shown_without_copying_and_cannot_be_changed_from_outside():
    ensemble = Ensemble(2, SHAPE)
    shown = ensemble.members_uint8(1)
    ensemble.add(0, 3, np.full(SHAPE[1:], 7, np.uint8))

    assert shown.shape == (1, *SHAPE)
    assert (shown[0, 3] == 7).all()
    with pytest.raises(ValueError, match="read-only"):
        shown[0, 3] = 0
    with pytest.raises(ValueError, match="read-only"):
        ensemble.sampled[0, 3] = False


def test_progress_counts():
    ensemble = Ensemble(3, (4, 1, 1))
    tumour = np.array([[200]], np.uint8)
    assert ensemble.n_complete() == 0
    for member, z in [(0, 1), (0, 2), (1, 2), (2, 1), (2, 2)]:
        ensemble.add(member, z, tumour)

    assert ensemble.n_samples().tolist() == [0, 2, 3, 0]
    assert ensemble.n_samples(2).tolist() == [0, 1, 2, 0]
    assert ensemble.complete_members().tolist() == [0, 2]
    assert ensemble.n_complete(2) == 1
    assert ensemble.n_complete(z_indices=[2]) == 3
    assert ensemble.n_complete(z_indices=[1, 2, 3]) == 0
    assert ensemble.mask_voxels().tolist() == [[0, 1, 1, 0], [0, 0, 1, 0], [0, 1, 1, 0]]
    assert ensemble.slice_masks(1).shape == (2, 1, 1)
    assert ensemble.slice_masks(1).all()


def test_voxels_are_counted_above_any_threshold_while_samples_come():
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 256, (3, 2, 6, 6), np.uint8)
    ensemble = Ensemble(2, (2, 6, 6))
    for member, z in [(0, 0), (1, 1), (1, 0), (0, 1), (2, 1)]:
        if member == 2:
            ensemble.grow(3)
        ensemble.add(member, z, levels[member, z])
        for threshold in (0.84, 0.5, 0.3, 0.84):
            there = ensemble.sampled[:, :, np.newaxis, np.newaxis]
            expected = (levels[: len(there)] > threshold * 255) & there
            counts = ensemble.mask_voxels(None, threshold)
            np.testing.assert_array_equal(counts, expected.sum(axis=(2, 3)))
    assert ensemble.wt_mask(0.84, 1).sum() == ensemble.mask_voxels(1, 0.84).sum()


@pytest.mark.parametrize("of", ["probabilities", "masks"])
def test_voxels_of_the_mean_are_counted_as_the_mask_has_them(of):
    ensemble, _, _ = partly_sampled()
    for k in (6, 2, 1, 4):
        for threshold in (0.1, 0.5, 0.9):
            counts = ensemble.voxels_above(threshold, k, of)
            expected = (ensemble.mean_map(k, of) > threshold).sum(axis=(1, 2))
            np.testing.assert_array_equal(counts, expected)
            assert counts[0] == 0 < counts[1:].sum()


def test_probabilities_are_stored_to_the_nearest_level_and_half_is_outside():
    p = np.linspace(0, 1, 2041, dtype=np.float32)
    levels = encode_probability(p)

    assert levels.dtype == np.uint8
    assert np.abs(decode_probability(levels) - p).max() <= 1 / 510 + 1e-7
    np.testing.assert_array_equal(
        encode_probability(decode_probability(np.arange(256, dtype=np.uint8))), np.arange(256)
    )
    edge = np.array([np.nextafter(0.5, 0), 0.5, np.nextafter(np.float32(0.5), 1)], np.float32)
    assert (encode_probability(edge) >= MASK_LEVEL).tolist() == [False, False, True]
    assert encode_probability(np.array([-0.3, 1.2])).tolist() == [0, 255]
    with pytest.raises(ValueError, match="NaN"):
        encode_probability(np.array([0.1, np.nan]))


def test_wrong_samples_and_arguments_are_refused():
    ensemble = Ensemble(2, SHAPE)
    levels = np.zeros(SHAPE[1:], np.uint8)
    for member, z in [(2, 0), (-1, 0), (0, 5), (0, -1)]:
        with pytest.raises(IndexError, match="no member"):
            ensemble.add(member, z, levels)
    with pytest.raises(ValueError, match="float32"):
        ensemble.add(0, 0, levels.astype(np.float32))
    with pytest.raises(ValueError, match="uint8"):
        ensemble.add(0, 0, levels.T)
    for k in (0, 3):
        with pytest.raises(ValueError, match="outside of 1 to 2"):
            ensemble.mean_map(k)
    with pytest.raises(ValueError, match="not of 'mask'"):
        ensemble.mean_map(of="mask")
    with pytest.raises(ValueError, match="threshold"):
        ensemble.wt_mask(1.5)
    with pytest.raises(ValueError, match="do not fit"):
        Ensemble.from_arrays(np.zeros((2, *SHAPE), np.uint8), np.ones((2, 4), bool))
    assert not ensemble.sampled.any()


def test_memory_that_the_machine_does_not_have_is_the_users_message(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise MemoryError

    monkeypatch.setattr(ensemble_module.np, "zeros", refuse)
    with pytest.raises(ParameterError, match=r"1000 samples of 155 x 240 x 240 .* 8\.9 GB"):
        Ensemble(1000, BRATS_SHAPE)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_members_that_are_not_sampled_cost_no_memory():
    def resident_mb():
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    levels = np.ones(BRATS_SHAPE[1:], np.uint8)
    before = resident_mb()
    ensemble = Ensemble(20, BRATS_SHAPE)
    for member in range(20):
        ensemble.add(member, 77, levels)
    ensemble.grow(40)

    assert resident_mb() - before < 150  # two blocks would be 536 MB
    assert ensemble.n_complete() == 20
