"""Dice against the threshold of the mean map, and which threshold other patients recommend."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from napari_diffseg.core.ensemble import Ensemble
from napari_diffseg.core.metrics import compute_dice, compute_volume_ml
from training.results import ThresholdRow

Mask = NDArray[np.bool_]

THRESHOLDS: Final = tuple(k / 20 for k in range(1, 20))
DEFAULT: Final = 0.5
"""Where the paper cuts (Wolleb et al. 2021, section 2.3)."""


def measure_thresholds(
    case: str, patient: str, ensemble: Ensemble, truth: Mask, spacing_mm: Sequence[float]
) -> Iterator[ThresholdRow]:
    """Measure the mask of all members at each threshold.

    Parameters
    ----------
    case, patient
        For the rows.
    ensemble
        Complete in all of its Z slices.
    truth : (Z, Y, X) bool
    spacing_mm
        Of the volume, (z, y, x).
    """
    slices = np.flatnonzero(truth.any(axis=(1, 2)))
    truth_ml = compute_volume_ml(truth, spacing_mm)
    for threshold in THRESHOLDS:
        mask = ensemble.wt_mask(threshold)
        dice = [compute_dice(mask[z], truth[z]) for z in slices]
        yield ThresholdRow(
            case=case,
            patient=patient,
            threshold=threshold,
            n_slices=len(slices),
            dice=float(np.mean(dice)) if dice else None,
            volume_dice=compute_dice(mask, truth),
            predicted_ml=compute_volume_ml(mask, spacing_mm),
            truth_ml=truth_ml,
        )


def mean_dice(rows: Iterable[ThresholdRow]) -> dict[float, float]:
    """Return the mean Dice of all slices by threshold: a case counts as often as it has slices."""
    sums: dict[float, tuple[float, int]] = {}
    for row in rows:
        if row.dice is not None:
            total, n = sums.get(row.threshold, (0.0, 0))
            sums[row.threshold] = (total + row.dice * row.n_slices, n + row.n_slices)
    return {threshold: total / n for threshold, (total, n) in sorted(sums.items())}


def find_best(rows: Iterable[ThresholdRow]) -> float | None:
    """Return the threshold of the highest mean Dice, of equal ones that nearest to one half."""
    dice = mean_dice(rows)
    return max(dice, key=lambda t: (dice[t], -abs(t - DEFAULT)), default=None)


def choose_without_patient(rows: Sequence[ThresholdRow]) -> list[ThresholdRow]:
    """Return each case's row at the threshold that is best for all *other* patients."""
    chosen = []
    for patient in dict.fromkeys(row.patient for row in rows):
        best = find_best(row for row in rows if row.patient != patient)
        chosen += [row for row in rows if row.patient == patient and row.threshold == best]
    return chosen


def volume_ratio(rows: Iterable[ThresholdRow]) -> float | None:
    """Return predicted to true volume of these cases together; None without tumour."""
    rows = list(rows)
    truth_ml = sum(row.truth_ml for row in rows)
    return sum(row.predicted_ml for row in rows) / truth_ml if truth_ml else None
