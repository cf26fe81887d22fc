"""Intervals of a mean when values come in groups: several slices of one patient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

N_DRAWS = 10_000
SEED = 0

Interval = tuple[float, float]
Value = tuple[str, float]
"""The patient, and a number of theirs."""


def bootstrap_interval(values: Sequence[Value]) -> Interval | None:
    """Return the 95 % interval of the mean of all values, by drawing patients with replacement.

    A patient that is drawn brings all of their values. None with fewer than two patients.
    """
    patients = sorted({patient for patient, _ in values})
    if len(patients) < 2:
        return None
    number = {patient: index for index, patient in enumerate(patients)}
    rows = np.array([number[patient] for patient, _ in values])
    sums = np.bincount(rows, [value for _, value in values])
    counts = np.bincount(rows)
    drawn = np.random.default_rng(SEED).integers(0, len(patients), (N_DRAWS, len(patients)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)
