"""Is p honest, and does the uncertainty find the errors? Measured against the truth.

All measures take a `region`, usually the brain: the empty air around it is trivially right and
would make every map look good.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_diffseg.core.metrics import Mask, as_mask


@dataclass(frozen=True)
class Calibration:
    """The reliability curve of a probability map, as sums per bin, so that cases can be pooled.

    Bins have equal widths: bin i of n holds i / n <= p < (i + 1) / n, the last one also p = 1.

    Attributes
    ----------
    counts : tuple of int
        Voxels in each bin.
    predicted_sums : tuple of float
        Sum of p in each bin.
    observed_sums : tuple of int
        Voxels of tumour in each bin.
    squared_error_sum : float
        Sum of (p - truth)^2 over all voxels.
    """

    counts: tuple[int, ...]
    predicted_sums: tuple[float, ...]
    observed_sums: tuple[int, ...]
    squared_error_sum: float

    @property
    def n_voxels(self) -> int:
        """Voxels in all bins."""
        return sum(self.counts)

    @property
    def predicted(self) -> tuple[float | None, ...]:
        """The curve's abscissa: mean p in each bin, None in an empty one."""
        return _ratios(self.predicted_sums, self.counts)

    @property
    def observed(self) -> tuple[float | None, ...]:
        """The curve's ordinate: fraction of tumour in each bin, None in an empty one."""
        return _ratios(self.observed_sums, self.counts)

    @property
    def ece(self) -> float | None:
        """Expected calibration error: mean over voxels of |observed - predicted| of their bin.

        Of the probability of tumour, not of the confidence in the decision max(p, 1 - p).
        None without voxels.
        """
        if not self.n_voxels:
            return None
        pairs = zip(self.observed_sums, self.predicted_sums, strict=True)
        return sum(abs(observed - predicted) for observed, predicted in pairs) / self.n_voxels

    @property
    def brier(self) -> float | None:
        """Brier score: mean of (p - truth)^2, 0 is best. None without voxels."""
        return self.squared_error_sum / self.n_voxels if self.n_voxels else None


@dataclass(frozen=True)
class ErrorDetection:
    """How well an uncertainty map tells wrong voxels from right ones. None where not defined.

    Attributes
    ----------
    auroc : float or None
        Probability that a wrong voxel is more uncertain than a right one, ties counting half.
        None without wrong or without right voxels.
    auprc : float or None
        Average precision: sum over thresholds of precision times gain in recall, without
        interpolation. By chance it is the error rate. None without wrong voxels.
    best_dice, best_threshold : float or None
        Largest Dice between "uncertainty >= threshold" and the error map, and where it is
        reached. Chosen with the truth in hand: an upper limit. None without wrong voxels.
    n_errors, n_voxels : int
    """

    auroc: float | None
    auprc: float | None
    best_dice: float | None
    best_threshold: float | None
    n_errors: int
    n_voxels: int


def compute_calibration(
    probability: NDArray[np.floating],
    truth: NDArray[Any],
    region: Mask | None = None,
    n_bins: int = 15,
) -> Calibration:
    """Compute the reliability curve, ECE and Brier score of a probability map.

    Parameters
    ----------
    probability : float array in [0, 1] of any shape
    truth : bool or integer array of the same shape
    region : bool array of the same shape, optional
        The voxels that count; by default all.
    n_bins : int

    Raises
    ------
    ValueError
        For different shapes or values outside of [0, 1] (NaN included).
    """
    p, tumour = _inside(probability, as_mask(truth), region)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("the probabilities are not all in [0, 1]")
    if n_bins < 1:
        raise ValueError(f"a curve needs bins, not {n_bins}")
    bins = np.minimum((p * n_bins).astype(np.intp), n_bins - 1)
    return Calibration(
        counts=tuple(np.bincount(bins, minlength=n_bins).tolist()),
        predicted_sums=tuple(np.bincount(bins, p, n_bins).tolist()),
        observed_sums=tuple(np.bincount(bins[tumour], minlength=n_bins).tolist()),
        squared_error_sum=float(np.square(p - tumour, dtype=np.float64).sum()),
    )


def pool_calibrations(calibrations: Sequence[Calibration]) -> Calibration:
    """Return the calibration of all voxels of several cases together (bins must be the same)."""
    return Calibration(
        counts=tuple(map(sum, zip(*(c.counts for c in calibrations), strict=True))),
        predicted_sums=tuple(map(sum, zip(*(c.predicted_sums for c in calibrations), strict=True))),
        observed_sums=tuple(map(sum, zip(*(c.observed_sums for c in calibrations), strict=True))),
        squared_error_sum=sum(c.squared_error_sum for c in calibrations),
    )


def compute_error_detection(
    uncertainty: NDArray[np.floating], error: NDArray[Any], region: Mask | None = None
) -> ErrorDetection:
    """Compute AUROC and AUPRC of a per-voxel uncertainty map against the error map.

    Exact, and by ranks: each distinct value of the map is one threshold, so ties are handled as
    the definitions ask. A map of an ensemble has a few thousand values at most; a map of 9 million
    different ones is sorted.

    Parameters
    ----------
    uncertainty : float array of any shape, without NaN
        Variance, entropy or anything else: only its order counts.
    error : bool or integer array of the same shape
        Where the mask differs from the truth.
    region : bool array of the same shape, optional
        The voxels that count; by default all.
    """
    u, wrong = _inside(uncertainty, as_mask(error), region)
    if np.isnan(u).any():
        raise ValueError("the uncertainty contains NaN")
    n_errors, n_voxels = int(np.count_nonzero(wrong)), u.size
    if not n_errors:
        return ErrorDetection(None, None, None, None, 0, n_voxels)
    # One row per threshold, the most uncertain first: how many voxels are found from there on.
    levels, errors_at, all_at = _count_levels(u, wrong)
    errors_found, found = errors_at.cumsum(), all_at.cumsum()
    auprc = float((errors_found / found) @ errors_at) / n_errors
    dice = 2 * errors_found / (n_errors + found)
    best = int(dice.argmax())
    auroc = None
    if n_errors < n_voxels:
        right_at = all_at - errors_at
        # A right voxel is beaten by the errors above it, and half by those that tie with it.
        beaten_by = errors_found - errors_at / 2
        auroc = float(right_at @ beaten_by) / n_errors / (n_voxels - n_errors)
    return ErrorDetection(auroc, auprc, float(dice[best]), float(levels[best]), n_errors, n_voxels)


def _count_levels(
    values: NDArray[Any], wrong: Mask
) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]:
    """Count wrong and all voxels at each distinct value, in descending order of the values."""
    levels, all_at = np.unique(values, return_counts=True)
    wrong_levels, wrong_counts = np.unique(values[wrong], return_counts=True)
    errors_at = np.zeros(len(levels), np.int64)
    errors_at[np.searchsorted(levels, wrong_levels)] = wrong_counts
    return levels[::-1], errors_at[::-1], all_at[::-1]


def _inside(values: NDArray[Any], mask: Mask, region: Mask | None) -> tuple[NDArray[Any], Mask]:
    if values.shape != mask.shape or (region is not None and region.shape != mask.shape):
        raise ValueError(f"map {values.shape}, truth {mask.shape} and region do not fit")
    if region is None:
        return values.ravel(), mask.ravel()
    return values[region], mask[region]


def _ratios(sums: Sequence[float], counts: Sequence[int]) -> tuple[float | None, ...]:
    return tuple(s / n if n else None for s, n in zip(sums, counts, strict=True))
