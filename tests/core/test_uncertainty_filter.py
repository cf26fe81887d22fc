"""What is left when uncertain voxels are filtered out, on masks drawn by hand."""

from __future__ import annotations

import numpy as np
import pytest

from napari_diffseg.core.metrics import compute_dice
from napari_diffseg.core.uncertainty_filter import compute_filter_curve, scale_variance

TRUTH = np.array([1, 1, 1, 0, 0, 0], bool)
MASK = np.array([1, 1, 0, 1, 0, 0], bool)
UNCERTAINTY = np.array([0.0, 40.0, 80.0, 60.5, 10.0, 0.0])


def test_curve_by_hand() -> None:
    curve = compute_filter_curve(MASK, TRUTH, UNCERTAINTY)
    assert [scores.tau for scores in curve] == list(range(101))
    nothing = curve[100]
    assert nothing.dice == pytest.approx(compute_dice(MASK, TRUTH))
    assert nothing.filtered == nothing.filtered_true_positives == 0
    assert curve[80] == type(nothing)(80, nothing.dice, 0, 0, 0)  # not *above* 80
    assert curve[79].dice == pytest.approx(4 / 5)
    assert curve[60].dice == 1
    assert curve[60].filtered == pytest.approx(2 / 6)
    assert curve[60].filtered_true_positives == 0
    assert curve[39].filtered_true_positives == pytest.approx(1 / 2)
    assert curve[9].filtered_true_negatives == pytest.approx(1 / 2)


def test_every_limit_is_the_same_as_filtering_by_hand() -> None:
    rng = np.random.default_rng(0)
    mask, truth, region = rng.random((3, 6, 7, 8)) > 0.5
    uncertainty = rng.uniform(0, 100, mask.shape)
    for scores in compute_filter_curve(mask, truth, uncertainty, region)[::7]:
        left = region & (uncertainty <= scores.tau)
        assert scores.dice == pytest.approx(compute_dice(mask & left, truth & left))
        assert scores.filtered == pytest.approx(1 - left.sum() / region.sum())


def test_no_voxels_and_wrong_values() -> None:
    empty = compute_filter_curve(MASK, TRUTH, UNCERTAINTY, np.zeros(6, bool))
    assert (empty[50].dice, empty[50].filtered) == (1, 0)
    for wrong in (np.nan, -1, 101):
        with pytest.raises(ValueError, match="uncertainty"):
            compute_filter_curve(MASK, TRUTH, np.full(6, wrong))


def test_variance_is_scaled_to_a_hundred() -> None:
    np.testing.assert_allclose(scale_variance(np.array([0, 0.25, 0.125])), [0, 100, 50])
