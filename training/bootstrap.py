"""Intervals of a mean when values come in groups: several slices of one patient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

N_DRAWS = 10_000
N_SLOW_DRAWS = 1_000
SEED = 0
_MAX_EXACT = 12

T = TypeVar("T")

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


def bootstrap_statistic(
    values: Sequence[tuple[str, T]], statistic: Callable[[list[T]], float | None]
) -> Interval | None:
    """Return the 95 % interval of any statistic, by drawing patients with their values.

    As `bootstrap_interval`, of fewer draws. Draws for which the statistic is None are left out;
    None with fewer than two patients, or if it always is.
    """
    of_patient: dict[str, list[T]] = {}
    for patient, value in values:
        of_patient.setdefault(patient, []).append(value)
    if len(of_patient) < 2:
        return None
    groups = [*of_patient.values()]
    drawn = np.random.default_rng(SEED).integers(0, len(groups), (N_SLOW_DRAWS, len(groups)))
    results = [statistic([value for i in row for value in groups[i]]) for row in drawn]
    known = [result for result in results if result is not None]
    if not known:
        return None
    low, high = np.percentile(known, (2.5, 97.5))
    return float(low), float(high)


def wilcoxon_p_value(differences: Sequence[Value]) -> float | None:
    """Return the two-sided p of Wilcoxon's signed-rank test over patients' mean differences.

    Exact, ties included, up to 12 patients, SciPy's choice beyond. Patients without a difference
    are left out (Wilcoxon's own way); 1 if fewer than two are left. None with fewer than two
    patients.
    """
    from scipy import stats

    patients = sorted({patient for patient, _ in differences})
    if len(patients) < 2:
        return None
    means = np.array(
        [np.mean([d for patient, d in differences if patient == one]) for one in patients]
    )
    # What differs by rounding alone would tie, or not tie, by chance.
    means = np.round(means[np.abs(means) > 1e-12], 12)
    if len(means) < 2:
        return 1.0
    if len(means) > _MAX_EXACT:
        return float(stats.wilcoxon(means).pvalue)
    # As many draws as there are patterns, and SciPy counts the patterns instead.
    return float(stats.wilcoxon(means, method=stats.PermutationMethod(2**_MAX_EXACT)).pvalue)


def sign_flip_p_value(differences: Sequence[Value]) -> float | None:
    """Return the two-sided p of a mean difference, by swapping the systems patient by patient.

    If neither is better, each patient's differences could as well have the other sign: p is the
    share of sign patterns whose mean is at least as far from 0. All patterns are counted up to 12
    patients (the smallest p of n patients is 2 / 2^n), `N_DRAWS` random ones beyond. None with
    fewer than two patients.
    """
    patients = sorted({patient for patient, _ in differences})
    n = len(patients)
    if n < 2:
        return None
    sums = np.array([sum(d for patient, d in differences if patient == one) for one in patients])
    if n <= _MAX_EXACT:
        signs = (np.arange(2**n)[:, None] >> np.arange(n) & 1) * 2 - 1
        extra = 0
    else:
        signs = np.random.default_rng(SEED).integers(0, 2, (N_DRAWS, n)) * 2 - 1
        extra = 1  # the pattern that was seen is one of them
    as_far = np.abs(signs @ sums) >= abs(sums.sum()) - 1e-12
    return float((as_far.sum() + extra) / (len(signs) + extra))
