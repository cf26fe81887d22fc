"""The spread of an ensemble: hand-counted and closed-form cases."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest

from napari_diffseg.core.ensemble import Ensemble
from napari_diffseg.core.metrics import compute_dice, compute_jaccard
from napari_diffseg.core.uncertainty import (
    MIN_MEMBERS_FOR_QUANTILES,
    EnergyDistance,
    LikelyVolume,
    compute_agreement,
    compute_diversity,
    compute_energy_distance,
    compute_expected_volume_ml,
    compute_likely_volume,
    compute_mean_pairwise_dice,
    compute_monte_carlo_error,
    compute_volume_interval,
)


def row(text: str) -> np.ndarray:
    return np.array([[character == "#" for character in text]])


THREE = np.stack([row("##.."), row("#..."), row("..##")])
"""Dice of the pairs: 2/3, 0, 0; IoU: 1/2, 0, 0."""


def random_masks(n_members: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(3).random((n_members, *shape)) < 0.4


def test_hand_counted_pairs():
    assert compute_mean_pairwise_dice(THREE) == pytest.approx((2 / 3) / 3)
    assert compute_diversity(THREE) == pytest.approx((0.5 + 1 + 1) / 3)


# 13 x 11 is no multiple of a byte or a word: nothing of the padding may be counted.
@pytest.mark.parametrize("shape", [(13, 11), (3, 13, 11), (1, 1), (2, 8, 8)])
def test_pairs_agree_with_the_plain_metrics(shape):
    masks = random_masks(5, shape)
    pairs = list(itertools.combinations(masks, 2))

    expected_dice = np.mean([compute_dice(a, b) for a, b in pairs])
    expected_distance = np.mean([1 - compute_jaccard(a, b) for a, b in pairs])

    assert compute_mean_pairwise_dice(masks) == pytest.approx(expected_dice)
    assert compute_diversity(masks) == pytest.approx(expected_distance)


def test_agreement_of_the_volume_and_of_every_slice():
    masks = random_masks(4, (3, 6, 5))
    masks[:, 1] = False

    agreement = compute_agreement(masks)

    assert agreement.mean_pairwise_dice == pytest.approx(compute_mean_pairwise_dice(masks))
    for z in (0, 2):
        assert agreement.slice_dice[z] == pytest.approx(compute_mean_pairwise_dice(masks[:, z]))
    assert agreement.slice_dice[1] == 1.0  # all say: nothing here
    assert agreement.slice_disagreement[0] == pytest.approx(1 - agreement.slice_dice[0])
    assert agreement.disagreement == pytest.approx(1 - agreement.mean_pairwise_dice)


def test_members_are_compared_on_the_slices_that_both_have():
    masks = random_masks(3, (4, 6, 5))
    sampled = np.array([[1, 1, 0, 1], [1, 0, 0, 1], [0, 1, 0, 1]], bool)
    garbage = masks.copy()
    garbage[~sampled] = True  # what is stored where nothing was sampled must not matter

    agreement = compute_agreement(garbage, sampled)

    assert agreement.slice_dice[0] == pytest.approx(compute_dice(masks[0, 0], masks[1, 0]))
    assert agreement.slice_dice[1] == pytest.approx(compute_dice(masks[0, 1], masks[2, 1]))
    assert agreement.slice_dice[2] is None
    assert agreement.slice_dice[3] == pytest.approx(compute_mean_pairwise_dice(masks[:, 3]))
    common = {(0, 1): [0, 3], (0, 2): [1, 3], (1, 2): [3]}
    expected = [compute_dice(masks[i, zs], masks[j, zs]) for (i, j), zs in common.items()]
    assert agreement.mean_pairwise_dice == pytest.approx(np.mean(expected))


def test_members_without_a_common_slice_cannot_agree():
    masks = random_masks(2, (2, 3, 3))

    agreement = compute_agreement(masks, np.eye(2, dtype=bool))

    assert agreement.mean_pairwise_dice is agreement.disagreement is None
    assert agreement.slice_dice == agreement.slice_disagreement == (None, None)


@pytest.mark.parametrize("n_members", [0, 1])
def test_what_needs_two_members_is_none_with_fewer(n_members):
    masks = random_masks(n_members, (2, 3, 3))

    assert compute_mean_pairwise_dice(masks) is None
    assert compute_diversity(masks) is None
    assert compute_monte_carlo_error(masks) is None
    assert compute_agreement(masks).slice_disagreement == (None, None)


def test_identical_members_have_no_spread():
    same = np.repeat(random_masks(1, (2, 5, 5)), 4, axis=0)

    assert compute_mean_pairwise_dice(same) == 1.0
    assert compute_diversity(same) == 0.0
    assert compute_monte_carlo_error(same) == 0.0
    assert compute_mean_pairwise_dice(np.zeros((4, 2, 2), bool)) == 1.0


def test_energy_distance_counts_accuracy_twice_and_diversity_once():
    truth = row("##..")

    distance = compute_energy_distance(THREE, truth)

    assert distance.distance_to_truth == pytest.approx((0 + 0.5 + 1) / 3)
    assert distance.diversity == pytest.approx(2.5 / 3)
    assert distance.ged_squared == pytest.approx(1.0 - 2.5 / 3)
    # From the definition of the published code: all 9 pairs, three of them with themselves.
    all_pairs = np.mean([1 - compute_jaccard(a, b) for a in THREE for b in THREE])
    assert distance.ged_squared_published == pytest.approx(1.0 - all_pairs)


def test_energy_distance_of_one_member():
    distance = compute_energy_distance(THREE[1:2], row("##.."))

    assert distance == EnergyDistance(0.5, None, 1)
    assert distance.ged_squared is None
    assert distance.ged_squared_published == pytest.approx(1.0)
    with pytest.raises(ValueError, match="no member"):
        compute_energy_distance(THREE[:0], row("##.."))


def test_few_members_give_the_range_of_their_volumes():
    interval = compute_volume_interval([57.3, 55.1, 60.2, 56.0])

    assert interval.kind == "range"
    assert (interval.low_ml, interval.high_ml) == (55.1, 60.2)
    assert interval.median_ml == pytest.approx((56.0 + 57.3) / 2)
    assert interval.n_members == 4
    single = compute_volume_interval([3.0])
    assert (single.low_ml, single.median_ml, single.high_ml) == (3.0, 3.0, 3.0)


def test_many_members_give_quantiles_and_the_two_kinds_meet():
    volumes_ml = np.random.default_rng(0).normal(50, 5, MIN_MEMBERS_FOR_QUANTILES)
    interval = compute_volume_interval(volumes_ml)
    assert interval.kind == "2.5-97.5 %"
    assert interval.low_ml == pytest.approx(volumes_ml.min())
    assert interval.high_ml == pytest.approx(volumes_ml.max())
    assert compute_volume_interval(volumes_ml[1:]).kind == "range"

    wide = compute_volume_interval(np.arange(1, 200))  # 199 volumes, 200 equal shares
    assert (wide.low_ml, wide.median_ml, wide.high_ml) == pytest.approx((5.0, 100.0, 195.0))


def test_interval_covers_what_it_says():
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(400):
        interval = compute_volume_interval(rng.normal(50, 5, MIN_MEMBERS_FOR_QUANTILES))
        quantile = np.array([interval.low_ml, interval.high_ml])
        below = [0.5 * (1 + math.erf((q - 50) / (5 * math.sqrt(2)))) for q in quantile]
        covered.append(below[1] - below[0])

    assert np.mean(covered) == pytest.approx(0.95, abs=0.005)


@pytest.mark.parametrize("volumes_ml", [[], [1.0, np.nan], [[1.0, 2.0]]])
def test_an_interval_needs_volumes(volumes_ml):
    with pytest.raises(ValueError, match="finite volume"):
        compute_volume_interval(volumes_ml)


def test_expected_volume_weighs_voxels_by_their_probability():
    mean_map = np.zeros((2, 10, 10), np.float32)
    mean_map[0, :4], mean_map[1, :2] = 0.25, 1.0

    volume_ml = compute_expected_volume_ml(mean_map, (5.0, 1.0, 2.0))

    assert volume_ml == pytest.approx((40 * 0.25 + 20) * 10 / 1000)


def members_of(*levels: tuple[int, ...]) -> Ensemble:
    """Give an ensemble with these levels side by side on each of two slices."""
    members = np.array(levels, np.uint8)[:, np.newaxis, np.newaxis]
    return Ensemble.from_arrays(np.repeat(members, 2, axis=1))


def test_likely_volume_is_from_the_sure_voxels_to_the_possible_ones():
    # Means 1, 0.92, 0.86, 0.5, 0.14, 0.08 and 0, the same outline in both members.
    ensemble = members_of((255, 240, 220, 129, 40, 20, 0), (255, 230, 220, 129, 30, 20, 0))

    likely = compute_likely_volume(ensemble, 0.01)

    assert likely is not None
    assert (likely.low_ml, likely.high_ml) == pytest.approx((2 * 2 * 0.01, 2 * 5 * 0.01))
    one_slice = compute_likely_volume(ensemble, 0.01, z_indices=[1])
    assert one_slice == LikelyVolume(low_ml=2 * 0.01, high_ml=5 * 0.01)


def test_likely_volume_is_of_the_members_in_use_and_takes_two_of_them():
    ensemble = members_of((255, 255), (255, 255), (0, 255), (0, 255))

    volumes = [compute_likely_volume(ensemble, 1.0, k) for k in (1, 2, 3, 4)]

    assert volumes == [None, LikelyVolume(4.0, 4.0), *[LikelyVolume(2.0, 4.0)] * 2]
    ensemble.grow(5)
    assert compute_likely_volume(ensemble, 1.0) == LikelyVolume(2.0, 4.0)
    one_has_a_gap = Ensemble.from_arrays(
        ensemble.members_uint8(2), np.array([[True, True], [True, False]])
    )
    assert compute_likely_volume(one_has_a_gap, 1.0) is None
    assert compute_likely_volume(one_has_a_gap, 1.0, z_indices=[0]) == LikelyVolume(2.0, 2.0)
    assert compute_likely_volume(Ensemble(2, (2, 1, 2)), 1.0) is None


def test_monte_carlo_error_of_two_members_that_contradict_each_other():
    # s^2 = 1/2 between 0 and 1, so the error of the mean of two is sqrt(1/4).
    members = np.stack([np.zeros((3, 3), bool), np.ones((3, 3), bool)])

    assert compute_monte_carlo_error(members) == pytest.approx(0.5)
    assert compute_monte_carlo_error(members.astype(np.uint8) * 255) == pytest.approx(0.5)
    assert compute_monte_carlo_error(members.astype(np.float32)) == pytest.approx(0.5)


def test_monte_carlo_error_is_the_distance_to_the_true_mean():
    rng = np.random.default_rng(2)
    p, n_members = 0.3, 20
    members = rng.random((n_members, 100, 100)) < p

    claimed = compute_monte_carlo_error(members)
    actual = np.sqrt(np.mean((members.mean(axis=0) - p) ** 2))

    assert claimed == pytest.approx(math.sqrt(p * (1 - p) / n_members), rel=0.02)
    assert claimed == pytest.approx(actual, rel=0.03)


def test_monte_carlo_error_within_a_region():
    members = np.zeros((2, 2, 2), np.uint8)
    members[1, 0, 0] = 255
    region = np.array([[True, True], [False, False]])

    assert compute_monte_carlo_error(members, region) == pytest.approx(math.sqrt(0.25 / 2))
    assert compute_monte_carlo_error(members) == pytest.approx(math.sqrt(0.25 / 4))
    assert compute_monte_carlo_error(members, np.zeros((2, 2), bool)) is None


def test_shapes_that_do_not_fit_are_refused():
    masks = random_masks(2, (2, 3, 3))
    with pytest.raises(ValueError, match="S, Z, Y, X"):
        compute_agreement(masks[:, 0])
    with pytest.raises(ValueError, match="does not fit"):
        compute_agreement(masks, np.ones((2, 3), bool))


def test_records_cannot_be_changed():
    interval = compute_volume_interval([1.0, 2.0])
    with pytest.raises(dataclasses.FrozenInstanceError):
        interval.low_ml = 0.0
