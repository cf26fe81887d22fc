"""Is it worth leaving uncertain voxels, or uncertain cases, to a human?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_diffseg.core.uncertainty_filter import (
    MAX_UNCERTAINTY,
    compute_filter_curve,
    scale_variance,
)

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
    # float32 may be a little more than the largest variance
    uncertainty = np.clip(scale_variance(variance.astype(np.float64)), 0, MAX_UNCERTAINTY)
    curve = compute_filter_curve(mask, truth, uncertainty, region)
    return Filtering(
        _mean_height([at.dice for at in curve]),
        _mean_height([at.filtered_true_positives for at in curve]),
        _mean_height([at.filtered_true_negatives for at in curve]),
    )


def compute_soft_dice(mean: NDArray[np.floating[Any]], mask: Mask) -> float:
    """Compute the soft Dice confidence of a mask, in [0, 1], 1 is sure (Borges et al., 2402.10665).

    2 sum(p m) / (sum(p) + sum(m)) for a map p and its mask m: the Dice that the map itself expects,
    nearly, for any system that gives probabilities. 0 for an empty mask, unless the map is 0 as
    well, which is 1.
    """
    total = float(mean.sum(dtype=np.float64)) + np.count_nonzero(mask)
    return 2 * float(mean[mask].sum(dtype=np.float64)) / total if total else 1.0


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


def _mean_height(curve: Sequence[float]) -> float:
    return float(np.trapezoid(curve) / (len(curve) - 1))
