"""Slices ranked by how unsure the members are: discs, for which the answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from napari_diffseg.core.ensemble import Ensemble
from napari_diffseg.core.geometry import Geometry
from napari_diffseg.core.levels import MASK_LEVEL
from napari_diffseg.core.uncertainty import compute_agreement
from napari_diffseg.core.work_list import (
    compute_contour_disagreement_mm,
    compute_mean_uncertainty,
    measure_agreement,
    rank_slices,
)

SIDE = 200


def geometry_of(shape: tuple[int, ...], spacing_mm: float = 1.0) -> Geometry:
    """Return a grid whose file counts its slices upwards, hence against canonical z."""
    z, y, x = shape
    return Geometry.from_affine((x, y, z), np.diag([-spacing_mm, -spacing_mm, 1.0, 1.0]))


def disc(radius: float) -> np.ndarray:
    y, x = np.ogrid[:SIDE, :SIDE]
    return 255 * (np.hypot(y - SIDE / 2, x - SIDE / 2) < radius).astype(np.uint8)


def discs(radii: list[tuple[float, ...]]) -> np.ndarray:
    """Return members (S, Z, Y, X): for each slice the radius that each member gives."""
    return np.stack([[disc(radius) for radius in member] for member in zip(*radii, strict=True)])


def all_sampled(members: np.ndarray) -> np.ndarray:
    return np.ones(members.shape[:2], bool)


def test_the_same_shift_of_the_outline_counts_the_same_whatever_the_size():
    members = discs([(10, 12), (30, 32), (80, 82)])
    sampled = all_sampled(members)

    scores = compute_contour_disagreement_mm(members, sampled, (1.0, 1.0, 1.0))
    plain = compute_agreement(members >= MASK_LEVEL, sampled).slice_disagreement

    np.testing.assert_allclose(scores, 2, rtol=0.06)
    assert plain[0] > 5 * plain[2]  # what the correction is for


def test_a_less_certain_outline_of_a_large_tumour_comes_before_the_border_of_a_speck():
    members = discs([(3, 4), (60, 66), (60, 60)])

    ranked = rank_slices(members, all_sampled(members), geometry_of(members.shape[1:]))

    assert [entry.z for entry in ranked.slices] == [1, 0]  # on slice 2 they agree
    assert (ranked.by, ranked.unit, ranked.n_members) == ("disagreement", "mm", 2)


def test_the_score_is_in_millimetres():
    members = discs([(30, 32)])
    finer = compute_contour_disagreement_mm(members, all_sampled(members), (9.0, 0.5, 0.5))
    coarse = compute_contour_disagreement_mm(members, all_sampled(members), (1.0, 1.0, 1.0))
    np.testing.assert_allclose(finer, coarse / 2)


def test_a_lesion_that_one_of_two_sees_counts_with_its_size():
    members = discs([(0, 20), (0, 5)])
    scores = compute_contour_disagreement_mm(members, all_sampled(members), (1.0, 1.0, 1.0))
    np.testing.assert_allclose(scores, [20 / math.sqrt(2), 5 / math.sqrt(2)], rtol=0.1)


def test_numbers_are_those_of_the_source_file_and_only_what_is_unsure_is_listed():
    members = discs([(10, 10), (10, 14), (0, 0), (10, 12)])
    ranked = rank_slices(members, all_sampled(members), geometry_of(members.shape[1:]))
    assert [(entry.z, entry.slice) for entry in ranked.slices] == [(1, 2), (3, 0)]
    assert ranked.slices[0].score > ranked.slices[1].score > 0


def test_equal_slices_are_listed_in_the_order_of_their_numbers():
    members = discs([(10, 12)] * 3)
    ranked = rank_slices(members, all_sampled(members), geometry_of(members.shape[1:]))
    assert [entry.slice for entry in ranked.slices] == [0, 1, 2]


@pytest.mark.parametrize("by", ["disagreement", "mean_disagreement", "variance", "entropy"])
def test_what_was_not_sampled_does_not_count(by):
    members = discs([(10, 30), (10, 12), (20, 40)])
    sampled = np.array([[1, 1, 0], [0, 1, 0]], bool)
    garbage = members.copy()
    garbage[~sampled] = 200

    ranked = rank_slices(garbage, sampled, geometry_of(members.shape[1:]), by=by)

    assert [entry.z for entry in ranked.slices] == [1]


@pytest.mark.parametrize("of", ["probabilities", "masks"])
def test_scores_of_maps_are_their_means_over_the_brain(of):
    rng = np.random.default_rng(5)
    ensemble = Ensemble(4, (3, 8, 7))
    for member, z in [(0, 0), (1, 0), (2, 0), (0, 1), (2, 1), (3, 1)]:  # nothing on slice 2
        ensemble.add(member, z, rng.integers(0, 256, (8, 7), dtype=np.uint8))
    brain = rng.random((3, 8, 7)) < 0.6
    members, sampled = ensemble.members_uint8(), ensemble.sampled

    variance = compute_mean_uncertainty(members, sampled, "variance", of=of, brain=brain)
    entropy = compute_mean_uncertainty(members, sampled, "entropy", of=of)
    between = compute_mean_uncertainty(members, sampled, "mean_disagreement", of=of, brain=brain)

    for z in range(2):
        expected = ensemble.disagreement_map(of=of)[z][brain[z]].mean()
        assert between[z] == pytest.approx(expected, rel=1e-5)
        expected = ensemble.variance_map(of=of)[z][brain[z]].mean()
        assert variance[z] == pytest.approx(expected, rel=1e-5)
        assert entropy[z] == pytest.approx(ensemble.entropy_map(of=of)[z].mean(), rel=1e-5)
    assert variance[2] == entropy[2] == between[2] == 0


def test_a_slice_on_which_all_stay_just_below_one_half_is_found_by_its_variance():
    members = np.zeros((3, 2, 9, 9), np.uint8)
    members[:, 1, 2:6, 2:6] = MASK_LEVEL - 3
    geometry = geometry_of(members.shape[1:])

    by_masks = rank_slices(members, all_sampled(members), geometry)
    by_variance = rank_slices(members, all_sampled(members), geometry, by="variance")

    assert by_masks.slices == ()
    assert [entry.z for entry in by_variance.slices] == [1]


def test_a_doubt_that_all_members_share_leads_by_variance_and_not_by_disagreement():
    members = np.zeros((2, 2, 9, 9), np.uint8)
    members[:, 0, 2:6, 2:6] = 127  # both unsure
    members[0, 1, 2:4, 2:4] = 200  # one nearly sure that there is something
    geometry = geometry_of(members.shape[1:])

    by_variance = rank_slices(members, all_sampled(members), geometry, by="variance")
    ranked = rank_slices(members, all_sampled(members), geometry, by="mean_disagreement")

    assert [entry.z for entry in by_variance.slices] == [0, 1]
    assert [entry.z for entry in ranked.slices] == [1]
    assert ranked.slices[0].score == pytest.approx((100 / 255) ** 2 * 4 / 81)


def test_a_slice_without_brain_has_no_score():
    members = np.full((2, 1, 4, 4), 100, np.uint8)
    brain = np.zeros((1, 4, 4), bool)
    ranked = rank_slices(
        members, all_sampled(members), geometry_of((1, 4, 4)), by="entropy", brain=brain
    )
    assert ranked.slices == ()
    assert ranked.unit == "bit"


@pytest.mark.parametrize("n_members", [0, 1])
def test_disagreement_takes_two_members(n_members):
    members = np.zeros((n_members, 2, 5, 5), np.uint8)
    ranked = rank_slices(members, all_sampled(members), geometry_of((2, 5, 5)))
    assert ranked.slices == ()


def test_agreement_is_that_of_the_masks_without_the_cut():
    rng = np.random.default_rng(1)
    members = np.zeros((4, 3, 20, 30), np.uint8)
    members[:, :, 4:9, 11:25] = rng.integers(0, 256, (4, 3, 5, 14))
    sampled = rng.random((4, 3)) < 0.8

    assert measure_agreement(members, sampled) == compute_agreement(members >= MASK_LEVEL, sampled)


def test_members_without_any_tumour_agree():
    members = np.zeros((3, 2, 5, 5), np.uint8)
    assert measure_agreement(members, all_sampled(members)).mean_pairwise_dice == 1.0


def test_an_unknown_score_is_refused():
    members = np.zeros((2, 1, 3, 3), np.uint8)
    with pytest.raises(ValueError, match="disagreement or variance or entropy, not by 'colour'"):
        rank_slices(members, all_sampled(members), geometry_of((1, 3, 3)), by="colour")  # type: ignore[arg-type]
