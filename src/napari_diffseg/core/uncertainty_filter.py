"""Does the rest get better when uncertain voxels are left out? The measures of QU-BraTS.

After Mehta et al. 2022 (QU-BraTS): uncertainty is a number from 0 to 100, voxels that are more
uncertain than a limit tau are filtered out, and the rest is compared with the truth. Good
uncertainty raises the Dice of the rest and filters few voxels that were right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_diffseg.core.metrics import Mask, as_mask

MAX_UNCERTAINTY = 100
MAX_VARIANCE = 0.25


def scale_variance(variance: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return variance in [0, 0.25] as the uncertainty of QU-BraTS in [0, 100]."""
    scaled: NDArray[np.floating] = variance * (MAX_UNCERTAINTY / MAX_VARIANCE)
    return scaled


@dataclass(frozen=True)
class FilteredScores:
    """What is left at one limit.

    Attributes
    ----------
    tau : int
        Voxels with an uncertainty above it are filtered out.
    dice : float
        Of the voxels that are left; 1 if there is no tumour among them, in mask or truth.
    filtered : float
        Share of all voxels that are filtered out.
    filtered_true_positives, filtered_true_negatives : float
        Share of the voxels rightly called tumour, or rightly not, that are filtered out: the price.
    """

    tau: int
    dice: float
    filtered: float
    filtered_true_positives: float
    filtered_true_negatives: float


def compute_filter_curve(
    mask: NDArray[Any],
    truth: NDArray[Any],
    uncertainty: NDArray[np.floating],
    region: Mask | None = None,
) -> tuple[FilteredScores, ...]:
    """Compute the scores at every limit tau = 0, 1, ..., 100; at 100 nothing is filtered out.

    Parameters
    ----------
    mask, truth : bool or integer arrays of one shape
    uncertainty : float array of this shape in [0, 100]
        See `scale_variance`.
    region : bool array, optional
        The voxels that count, usually the brain; by default all.

    Raises
    ------
    ValueError
        For an uncertainty outside of [0, 100], NaN included.
    """
    inside = np.ones(mask.shape, bool) if region is None else region
    u = uncertainty[inside]
    if not ((u >= 0) & (u <= MAX_UNCERTAINTY)).all():
        raise ValueError("the uncertainty is not all in [0, 100]")
    # u > tau and ceil(u) > tau are the same for a whole number tau.
    kind = as_mask(mask)[inside] + 2 * as_mask(truth)[inside].astype(np.intp)
    counts = np.bincount(4 * np.ceil(u).astype(np.intp) + kind, minlength=4 * (MAX_UNCERTAINTY + 1))
    kept = counts.reshape(-1, 4).cumsum(axis=0)
    return tuple(_score(tau, row.tolist(), kept[-1].tolist()) for tau, row in enumerate(kept))


def _score(tau: int, kept: list[int], every: list[int]) -> FilteredScores:
    true_negatives, false_positives, false_negatives, true_positives = kept
    total = 2 * true_positives + false_positives + false_negatives
    return FilteredScores(
        tau=tau,
        dice=2 * true_positives / total if total else 1.0,
        filtered=_share_lost(sum(kept), sum(every)),
        filtered_true_positives=_share_lost(true_positives, every[3]),
        filtered_true_negatives=_share_lost(true_negatives, every[0]),
    )


def _share_lost(kept: int, every: int) -> float:
    return 1 - kept / every if every else 0.0
