"""Is it worth leaving uncertain voxels, or uncertain cases, to a human?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

N_THRESHOLDS = 101
MAX_VARIANCE = 0.25

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Filtering:
    """The measures of QU-BraTS (Mehta et al. 2022, 2112.10074), as areas in [0, 1].

    Voxels that are more uncertain than a threshold are left out, for thresholds 0, 1, ..., 100 %
    of the largest possible variance; each area is a mean over the thresholds (trapezoids).

    Attributes
    ----------
    dice : float
        Dice of what is left, 1 is best. Where nothing is left of both masks it is 1.
    true_positives, true_negatives : float
        Share of the correct voxels that are lost, 0 is best.
    """

    dice: float
    true_positives: float
    true_negatives: float

    @property
    def score(self) -> float:
        """The mean of all three, 1 is best."""
        return (self.dice + (1 - self.true_positives) + (1 - self.true_negatives)) / 3


def compute_filtering(
    mask: Mask, truth: Mask, variance: NDArray[np.floating[Any]], region: Mask
) -> Filtering:
    """Compute the measures of QU-BraTS for arrays of one shape; variance is in [0, 0.25]."""
    mask, truth = mask[region], truth[region]
    percent = variance[region].astype(np.float64) / MAX_VARIANCE * (N_THRESHOLDS - 1)
    # The first threshold at which a voxel is kept; float32 must not push 50.0000001 to the next.
    kept_from = np.clip(np.ceil(percent - 1e-4), 0, N_THRESHOLDS - 1).astype(np.intp)

    def count(where: Mask) -> NDArray[np.int64]:
        counts: NDArray[np.int64] = np.bincount(kept_from[where], minlength=N_THRESHOLDS).cumsum()
        return counts

    tp, tn = count(mask & truth), count(~mask & ~truth)
    wrong = count(mask != truth)
    total = 2 * tp + wrong
    dice = np.where(total > 0, 2 * tp / np.maximum(total, 1), 1.0)
    lost_tp, lost_tn = (
        1 - kept / max(int(kept[-1]), 1) if kept[-1] else 0 * kept for kept in (tp, tn)
    )
    return Filtering(*(_mean_height(curve) for curve in (dice, lost_tp, lost_tn)))


def compute_aurc(confidences: Sequence[float], risks: Sequence[float]) -> float | None:
    """Return the area under the risk-coverage curve, 0 is best; None with fewer than two cases.

    The mean, over k = 1 .. n, of the mean risk of the k most confident cases (Geifman et al. 2019,
    1805.08206). Cases of equal confidence share their risk, so their order does not matter.
    """
    if len(confidences) < 2:
        return None
    values, risk = np.asarray(confidences, np.float64), np.asarray(risks, np.float64)
    _, group = np.unique(-values, return_inverse=True)
    shared = (np.bincount(group, risk) / np.bincount(group))[group]
    ordered = shared[np.argsort(-values, kind="stable")]
    return float(np.mean(ordered.cumsum() / np.arange(1, len(ordered) + 1)))


def _lost(kept: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray((kept[-1] - kept) / max(int(kept[-1]), 1))


def _mean_height(curve: NDArray[Any]) -> float:
    return float((curve[1:] + curve[:-1]).mean() / 2)
