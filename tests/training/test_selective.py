from __future__ import annotations

import numpy as np
import pytest

from training.selective import compute_aurc, compute_filtering, compute_soft_dice


def test_certain_and_right_is_the_best_score() -> None:
    truth = np.array([1, 1, 0, 0], bool)
    everything = np.ones(4, bool)
    result = compute_filtering(truth, truth, np.zeros(4), everything)
    assert (result.dice, result.true_positives, result.true_negatives) == (1, 0, 0)
    assert result.score == 1


def test_uncertain_error_is_filtered_out() -> None:
    truth = np.array([1, 1, 0, 0], bool)
    mask = np.array([1, 0, 0, 0], bool)  # the second voxel is missed
    variance = np.array([0, 0.125, 0, 0], np.float32)
    result = compute_filtering(mask, truth, variance, np.ones(4, bool))
    # Up to 49 % the error is left out (Dice 1), from 50 % on it counts (Dice 2/3).
    assert result.dice == pytest.approx((49.5 + 50.5 * 2 / 3) / 100)
    assert (result.true_positives, result.true_negatives) == (0, 0)


def test_uncertain_right_voxels_cost() -> None:
    truth = np.array([1, 1, 0, 0], bool)
    variance = np.array([0.25, 0, 0.25, 0], np.float32)
    result = compute_filtering(truth, truth, variance, np.ones(4, bool))
    assert result.true_positives == pytest.approx(0.5 * 99.5 / 100)
    assert result.true_negatives == pytest.approx(0.5 * 99.5 / 100)


def test_filtering_looks_inside_the_region_alone() -> None:
    truth = np.array([1, 0, 0], bool)
    mask = np.array([1, 0, 1], bool)
    inside = np.array([1, 1, 0], bool)
    assert compute_filtering(mask, truth, np.zeros(3), inside).dice == 1
    empty = compute_filtering(~mask & False, ~mask & False, np.zeros(3), inside)
    assert empty.dice == 1


def test_area_under_risk_and_coverage() -> None:
    risks = [0.1, 0.2, 0.6]
    best = compute_aurc([0.9, 0.8, 0.1], risks)
    worst = compute_aurc([0.1, 0.8, 0.9], risks)
    assert best == pytest.approx((0.1 + 0.15 + 0.3) / 3)
    assert worst == pytest.approx((0.6 + 0.4 + 0.3) / 3)
    # Equal confidences say nothing: the mean risk, in whatever order they come.
    assert compute_aurc([0.5] * 3, risks) == pytest.approx(0.3)
    assert compute_aurc([0.5] * 3, risks[::-1]) == pytest.approx(0.3)
    assert compute_aurc([0.5], [0.1]) is None


def test_soft_dice_is_the_dice_that_a_map_expects() -> None:
    p = np.array([1.0, 0.6, 0.4, 0.0])
    assert compute_soft_dice(p, p > 0.5) == pytest.approx(2 * 1.6 / (2.0 + 2))
    sure = np.array([1.0, 0.0])
    assert compute_soft_dice(sure, sure > 0.5) == 1
    # An empty mask is sure only if nothing was ever suspected.
    assert compute_soft_dice(np.array([0.4, 0.0]), np.zeros(2, bool)) == 0
    assert compute_soft_dice(np.zeros(2), np.zeros(2, bool)) == 1
