"""Calibration and error detection: hand-counted cases and a brute-force count of pairs."""

from __future__ import annotations

import numpy as np
import pytest

from napari_diffseg.core.calibration import (
    ErrorDetection,
    compute_calibration,
    compute_error_detection,
    pool_calibrations,
)
from napari_diffseg.core.metrics import compute_dice


def brute_force_auroc(uncertainty, error):
    """Count, over all pairs of a wrong and a right voxel, who is more uncertain."""
    won = [
        1.0 if wrong > right else 0.5 if wrong == right else 0.0
        for wrong in uncertainty[error]
        for right in uncertainty[~error]
    ]
    return np.mean(won)


def brute_force_auprc(uncertainty, error):
    """Go down the thresholds one by one: precision times the recall gained."""
    area, recall_before = 0.0, 0.0
    for threshold in sorted(set(uncertainty.ravel().tolist()), reverse=True):
        found = uncertainty >= threshold
        recall = (found & error).sum() / error.sum()
        area += (found & error).sum() / found.sum() * (recall - recall_before)
        recall_before = recall
    return area


@pytest.mark.parametrize("n_levels", [2, 6, 10**6], ids=["two levels", "ties", "all distinct"])
@pytest.mark.parametrize("error_rate", [0.02, 0.5])
def test_detection_agrees_with_brute_force(n_levels, error_rate):
    rng = np.random.default_rng(n_levels)
    error = rng.random((12, 20)) < error_rate
    uncertainty = np.floor(n_levels * (0.7 * rng.random(error.shape) + 0.3 * error)) / n_levels
    uncertainty = uncertainty.astype(np.float32)

    detection = compute_error_detection(uncertainty, error)

    assert detection.auroc == pytest.approx(brute_force_auroc(uncertainty, error), abs=1e-12)
    assert detection.auprc == pytest.approx(brute_force_auprc(uncertainty, error), abs=1e-12)
    dices = [compute_dice(uncertainty >= t, error) for t in np.unique(uncertainty)]
    assert detection.best_dice == pytest.approx(max(dices))
    at_best = uncertainty >= np.float32(detection.best_threshold)
    assert compute_dice(at_best, error) == pytest.approx(detection.best_dice)


def test_detection_in_closed_form():
    error = np.array([True, True, False, False])

    found = compute_error_detection(np.array([0.25, 0.2, 0.1, 0.0]), error)
    assert (found.auroc, found.auprc, found.best_dice) == (1.0, 1.0, 1.0)
    assert found.best_threshold == 0.2
    missed = compute_error_detection(np.array([0.0, 0.1, 0.2, 0.25]), error)
    assert missed.auroc == 0.0
    assert missed.auprc == pytest.approx(1 / 3 * 0.5 + 2 / 4 * 0.5)
    blind = compute_error_detection(np.full(4, 0.1), error)
    assert (blind.auroc, blind.auprc) == (0.5, 0.5)  # as chance


def test_only_the_order_of_the_uncertainty_counts():
    rng = np.random.default_rng(0)
    error = rng.random(500) < 0.1
    variance = rng.integers(0, 20, 500) / 80 + 0.0

    plain = compute_error_detection(variance, error)
    squeezed = compute_error_detection(np.sqrt(variance) - 3, error)

    assert plain.auroc == squeezed.auroc
    assert plain.auprc == squeezed.auprc


def test_detection_inside_a_region_only():
    uncertainty = np.array([[0.2, 0.1, 0.0], [0.0, 0.0, 0.0]])
    error = np.array([[False, True, False], [False, False, False]])
    brain = np.array([[True, True, True], [False, False, False]])

    assert compute_error_detection(uncertainty, error, brain).auroc == 0.5
    assert compute_error_detection(uncertainty, error, brain).n_voxels == 3
    assert compute_error_detection(uncertainty, error).auroc == pytest.approx(4 / 5)


def test_detection_is_not_defined_without_errors_or_without_right_voxels():
    uncertainty = np.array([0.1, 0.2])

    none_wrong = compute_error_detection(uncertainty, np.zeros(2, bool))
    assert none_wrong == ErrorDetection(None, None, None, None, 0, 2)
    all_wrong = compute_error_detection(uncertainty, np.ones(2, bool))
    assert (all_wrong.auroc, all_wrong.auprc, all_wrong.n_errors) == (None, 1.0, 2)


def test_hand_counted_reliability_curve():
    p = np.array([0.1, 0.1, 0.1, 0.1, 0.7, 0.7, 1.0], np.float32)
    tumour = np.array([1, 0, 0, 0, 1, 0, 1], bool)

    curve = compute_calibration(p, tumour, n_bins=4)

    assert curve.counts == (4, 0, 2, 1)
    assert curve.predicted == (pytest.approx(0.1), None, pytest.approx(0.7), 1.0)
    assert curve.observed == (0.25, None, 0.5, 1.0)
    assert curve.ece == pytest.approx((4 * 0.15 + 2 * 0.2) / 7)
    assert curve.brier == pytest.approx((0.81 + 3 * 0.01 + 0.09 + 0.49) / 7)


def test_honest_probabilities_are_calibrated_and_exaggerated_ones_are_not():
    rng = np.random.default_rng(4)
    p = rng.random((100, 100, 20))
    tumour = rng.random(p.shape) < p

    honest = compute_calibration(p, tumour)
    exaggerated = compute_calibration(np.clip(1.6 * p - 0.3, 0, 1), tumour)

    assert honest.ece < 0.01
    assert honest.brier == pytest.approx(1 / 6, abs=0.003)  # the integral of p (1 - p)
    # p is moved by 0.6 |p - 0.5|, and by p or 1 - p where it is clipped.
    knee = 0.3 / 1.6
    moved = 2 * (knee**2 / 2 + 0.6 * (0.5 - knee) ** 2 / 2)
    assert exaggerated.ece == pytest.approx(moved, abs=0.005)


def test_every_level_of_an_ensemble_of_five_has_its_bin():
    p = (np.arange(6) / 5).astype(np.float32)

    curve = compute_calibration(p, np.zeros(6, bool), n_bins=10)

    assert curve.counts == (1, 0, 1, 0, 1, 0, 1, 0, 1, 1)


def test_calibration_inside_a_region_only():
    p = np.array([[0.0, 0.8], [0.0, 0.0]])
    tumour = np.array([[False, False], [False, False]])
    brain = np.array([[False, True], [False, True]])

    assert compute_calibration(p, tumour, brain).ece == pytest.approx(0.4)
    assert compute_calibration(p, tumour).ece == pytest.approx(0.2)
    nothing = compute_calibration(p, tumour, np.zeros((2, 2), bool))
    assert (nothing.ece, nothing.brier, nothing.n_voxels) == (None, None, 0)


def test_pooled_cases_count_by_their_voxels():
    rng = np.random.default_rng(6)
    p, tumour = rng.random(1000), rng.random(1000) < 0.3
    parts = [compute_calibration(p[part], tumour[part]) for part in (slice(300), slice(300, None))]

    pooled, whole = pool_calibrations(parts), compute_calibration(p, tumour)

    assert pooled.counts == whole.counts
    assert pooled.observed_sums == whole.observed_sums
    assert pooled.ece == pytest.approx(whole.ece)
    assert pooled.brier == pytest.approx(whole.brier)


def test_bad_input_is_refused():
    tumour = np.zeros(3, bool)
    for p in ([0.0, 0.5, 1.1], [0.0, -0.1, 0.5], [0.0, np.nan, 0.5]):
        with pytest.raises(ValueError, match=r"not all in \[0, 1\]"):
            compute_calibration(np.array(p), tumour)
    with pytest.raises(ValueError, match="do not fit"):
        compute_calibration(np.zeros(4), tumour)
    with pytest.raises(ValueError, match="do not fit"):
        compute_error_detection(np.zeros(3), tumour, np.ones(2, bool))
    with pytest.raises(ValueError, match="NaN"):
        compute_error_detection(np.array([0.1, np.nan, 0.0]), tumour)
    with pytest.raises(ValueError, match="needs bins"):
        compute_calibration(np.zeros(3), tumour, n_bins=0)
