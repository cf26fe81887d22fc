"""What the spread of an ensemble says: agreement, diversity, volumes, and whether n is enough.

Members come as boolean masks, (S, Y, X) or (S, Z, Y, X). Two empty masks agree (Dice 1, IoU 1), as
everywhere in `metrics`. What needs two members is `None` with fewer.

How honest a map is, and whether it finds the errors, is measured in `calibration`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_diffseg.core.ensemble import Ensemble
from napari_diffseg.core.metrics import Mask, as_mask, compute_jaccard, voxel_volume_ml

MIN_MEMBERS_FOR_QUANTILES = 39
"""From here on a volume interval is one of quantiles, below it is the range.

The range of S independent draws covers (S - 1) / (S + 1) of their distribution on average: 95 %
takes 39 draws. With fewer, "2.5-97.5 %" would promise more than the members can tell.
"""

IntervalKind = Literal["range", "2.5-97.5 %"]

SURE_ABOVE = 0.9
"""The likely volume begins with the voxels whose mean probability is above this."""

POSSIBLE_ABOVE = 0.1
"""It ends with all whose mean probability is above this.

From 0.9 to 0.1 it held the true volume of `N_LIKELY_HELD` of `N_MEASURED` patients (79 %), and of 5
of the 6 validation patients; it is about as wide as the mask's volume is large (the median). From
0.95 to 0.05, 1.24 times as wide as that, it would have held 53 (91 %) and 5.
"""

N_MEASURED = 58
"""Patients of whom it was counted how often an interval holds the true volume, one case each.

Five folds, each patient segmented by 5 members of networks that had not seen it and were trained
for a shorter time than the bundled model; slices 80 to 128, where 3 of them have no tumour
(docs/results-cross-validation/data/systems/ddpm: cases.csv and thresholds.csv;
tests/training/test_coverage.py counts again).
"""

N_LIKELY_HELD = 46
"""Of those, patients whose true volume lies within the likely volume (see `POSSIBLE_ABOVE`)."""

N_RANGE_HELD = 19
"""Of those, patients whose true volume lies within the range of the members' own volumes."""


@dataclass(frozen=True)
class Agreement:
    """How much the members of an ensemble agree, over all slices and slice by slice.

    Attributes
    ----------
    mean_pairwise_dice : float or None
        Mean Dice over all pairs of members, in [0, 1]: the confidence of a case.
    slice_dice : tuple of (float or None), one for each z
        The same on each slice.
    """

    mean_pairwise_dice: float | None
    slice_dice: tuple[float | None, ...]

    @property
    def disagreement(self) -> float | None:
        """1 - mean pairwise Dice."""
        return None if self.mean_pairwise_dice is None else 1 - self.mean_pairwise_dice

    @property
    def slice_disagreement(self) -> tuple[float | None, ...]:
        """1 - mean pairwise Dice for each z: what a work list ranks by."""
        return tuple(None if dice is None else 1 - dice for dice in self.slice_dice)


@dataclass(frozen=True)
class VolumeInterval:
    """The volume of a tumour over the members of an ensemble, in millilitres.

    Attributes
    ----------
    median_ml, low_ml, high_ml : float
    kind : "range" or "2.5-97.5 %"
        What `low_ml` and `high_ml` are; to be shown with them.
    n_members : int
    """

    median_ml: float
    low_ml: float
    high_ml: float
    kind: IntervalKind
    n_members: int


@dataclass(frozen=True)
class LikelyVolume:
    """Where the true volume is likely to be, by the mean probability, in millilitres.

    Attributes
    ----------
    low_ml, high_ml : float
        Of the voxels whose mean probability is above `SURE_ABOVE`, and above `POSSIBLE_ABOVE`.
    """

    low_ml: float
    high_ml: float


@dataclass(frozen=True)
class EnergyDistance:
    """Generalised energy distance of an ensemble to one rater, with d = 1 - IoU (Kohl et al. 2018).

    With one rater the rater's own spread is 0, so that diversity alone lowers the distance: read
    it beside `distance_to_truth`.

    Attributes
    ----------
    distance_to_truth : float
        Mean d between a member and the truth, in [0, 1].
    diversity : float or None
        Mean d over pairs of *different* members; None for a single one.
    n_members : int
    """

    distance_to_truth: float
    diversity: float | None
    n_members: int

    @property
    def ged_squared(self) -> float | None:
        """2 E[d(S, Y)] - E[d(S, S')], unbiased: comparable between ensembles of any size."""
        if self.diversity is None:
            return None
        return 2 * self.distance_to_truth - self.diversity

    @property
    def ged_squared_published(self) -> float:
        """The same as most published code computes it: the pairs of a member with itself count too.

        It is larger by diversity / n_members, hence falls with the ensemble's size by itself.
        """
        diversity = self.diversity or 0.0
        return 2 * self.distance_to_truth - diversity * (self.n_members - 1) / self.n_members


def compute_mean_pairwise_dice(masks: NDArray[Any]) -> float | None:
    """Compute the mean Dice over all pairs of members of (S, ...) masks; None with fewer than 2."""
    return _mean_or_none(_compute_pair_dice(masks))


def compute_agreement(masks: NDArray[Any], sampled: Mask | None = None) -> Agreement:
    """Compute the mean pairwise Dice of the members, over the volume and on every slice.

    Parameters
    ----------
    masks : (S, Z, Y, X) bool
    sampled : (S, Z) bool, optional
        Which slices each member has; by default all. Two members are compared on the slices that
        both have, and a slice that fewer than two have is None.
    """
    masks = as_mask(masks)
    if masks.ndim != 4:
        raise ValueError(f"members are (S, Z, Y, X), not {masks.shape}")
    n_members, n_slices = masks.shape[:2]
    if sampled is None:
        sampled = np.ones((n_members, n_slices), bool)
    if sampled.shape != (n_members, n_slices):
        raise ValueError(f"sampled {sampled.shape} does not fit members {masks.shape}")
    first, second = np.triu_indices(n_members, 1)
    both = sampled[first] & sampled[second]
    intersections, totals = _pairwise_voxels(masks)
    pair_dice = _dice(np.where(both, intersections, 0).sum(1), np.where(both, totals, 0).sum(1))
    comparable = both.any(axis=1)
    slice_pair_dice = _dice(intersections, totals)
    return Agreement(
        mean_pairwise_dice=_mean_or_none(pair_dice[comparable]),
        slice_dice=tuple(_mean_or_none(slice_pair_dice[both[:, z], z]) for z in range(n_slices)),
    )


def compute_diversity(masks: NDArray[Any]) -> float | None:
    """Compute the mean of 1 - IoU over all pairs of members of (S, ...) masks; None below 2."""
    dice = _compute_pair_dice(masks)
    return _mean_or_none(1 - dice / (2 - dice))


def compute_energy_distance(masks: NDArray[Any], truth: NDArray[Any]) -> EnergyDistance:
    """Compute the generalised energy distance of (S, ...) masks to the truth (...)."""
    if not len(masks):
        raise ValueError("there is no member")
    distances = [1 - compute_jaccard(mask, truth) for mask in masks]
    return EnergyDistance(float(np.mean(distances)), compute_diversity(masks), len(masks))


def compute_volume_interval(volumes_ml: Sequence[float] | NDArray[np.floating]) -> VolumeInterval:
    """Compute median and interval of the members' volumes.

    Quantiles (of the kind that treats S draws as S + 1 equal shares) from
    `MIN_MEMBERS_FOR_QUANTILES` members on, the range before that; the two meet there.

    Raises
    ------
    ValueError
        Without a volume, or when one is not finite.
    """
    volumes = np.asarray(volumes_ml, np.float64)
    if volumes.ndim != 1 or not volumes.size or not np.isfinite(volumes).all():
        raise ValueError(f"an interval needs one finite volume per member: {volumes_ml}")
    kind: IntervalKind = "range" if volumes.size < MIN_MEMBERS_FOR_QUANTILES else "2.5-97.5 %"
    shares = (0.0, 1.0) if kind == "range" else (0.025, 0.975)
    low_ml, high_ml = np.quantile(volumes, shares, method="weibull")
    return VolumeInterval(
        float(np.median(volumes)), float(low_ml), float(high_ml), kind, volumes.size
    )


def compute_likely_volume(
    ensemble: Ensemble,
    voxel_volume_ml: float,
    k: int | None = None,
    z_indices: Sequence[int] | None = None,
) -> LikelyVolume | None:
    """Compute from which to which volume the tumour is likely to have.

    The members' own volumes tell how far the samples differ, and seldom hold the truth
    (`N_RANGE_HELD`): where all members draw the same outline, each may still be unsure of it. The
    mean probability knows both. It is always that of the members' *probabilities*, also where the
    maps on screen are made of their masks: that is what was measured.

    Parameters
    ----------
    ensemble, k
        The first k members; at each slice those of them that have it, as in the mean map.
    voxel_volume_ml : float
    z_indices : sequence of int, optional
        The slices that count; by default every slice that any member has.

    Returns
    -------
    LikelyVolume or None
        None with fewer than two members that have all these slices. One sample's probabilities
        would do for the arithmetic, but are surer than they should be: cut at 1/15 and 14/15, they
        hold the truth of 39 of the same patients, those of five members that of 52.
    """
    if ensemble.n_complete(k, z_indices) < 2:
        return None
    chosen = slice(None) if z_indices is None else list(z_indices)
    low, high = (
        float(ensemble.voxels_above(threshold, k)[chosen].sum() * voxel_volume_ml)
        for threshold in (SURE_ABOVE, POSSIBLE_ABOVE)
    )
    return LikelyVolume(low, high)


def compute_expected_volume_ml(
    mean_map: NDArray[np.floating], spacing_mm: Sequence[float]
) -> float:
    """Compute the probability-weighted volume in mL: the sum of the (Z, Y, X) mean map."""
    return float(mean_map.sum(dtype=np.float64)) * voxel_volume_ml(spacing_mm)


def compute_monte_carlo_error(members: NDArray[Any], region: Mask | None = None) -> float | None:
    """Compute the standard error of the mean map: how far it still is from that of many members.

    The root mean square over voxels of s / sqrt(S), where s^2 is the unbiased variance *between*
    the members. It falls with 1 / sqrt(S).

    Parameters
    ----------
    members : (S, ...) bool masks, floats in [0, 1], or uint8 levels (0..255 for [0, 1])
    region : (...) bool, optional
        The voxels that count, for example the brain; by default all.

    Returns
    -------
    float or None
        In the unit of probability; None with fewer than two members or an empty region.
    """
    n_members = len(members)
    inside = np.ones(members.shape[1:], bool) if region is None else region
    if n_members < 2 or not inside.any():
        return None
    scale = 255.0 if members.dtype == np.uint8 else 1.0
    # Levels and masks are summed as integers: exact, and several times quicker.
    exact = members.dtype.kind != "f"
    total: NDArray[Any] = np.zeros(np.count_nonzero(inside), np.uint32 if exact else np.float64)
    total_of_squares = total.copy()
    for member in members:
        values = (member.ravel() if region is None else member[inside]).astype(total.dtype)
        total += values
        values *= values
        total_of_squares += values
    squares = total_of_squares - np.square(total, dtype=np.float64) / n_members
    variance = np.maximum(squares, 0).mean() / (n_members - 1)
    return float(np.sqrt(variance / n_members)) / scale


def _compute_pair_dice(masks: NDArray[Any]) -> NDArray[np.float64]:
    """Dice of every pair of (S, ...) masks, (pairs,): the whole of each mask as one slice."""
    intersections, totals = _pairwise_voxels(as_mask(masks)[:, np.newaxis])
    return _dice(intersections[:, 0], totals[:, 0])


def _pairwise_voxels(masks: Mask) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count |A and B| and |A| + |B| for all pairs of (S, Z, ...) masks, each (pairs, Z).

    On packed bits: a pair at 155x240x240 takes 0.2 ms.
    """
    n_members, n_slices = masks.shape[:2]
    n_voxels = math.prod(masks.shape[2:])  # not -1, which cannot be told without members
    packed = np.packbits(masks.reshape(n_members, n_slices, n_voxels), axis=-1)
    n_bytes = packed.shape[-1]
    words = np.zeros((n_members, n_slices, -(-n_bytes // 8) * 8), np.uint8)
    words[..., :n_bytes] = packed
    bits = words.view(np.uint64)
    sizes = np.bitwise_count(bits).sum(axis=-1, dtype=np.int64)
    first, second = np.triu_indices(n_members, 1)
    intersections = np.zeros((len(first), n_slices), np.int64)
    for pair, (i, j) in enumerate(zip(first, second, strict=True)):
        intersections[pair] = np.bitwise_count(bits[i] & bits[j]).sum(axis=-1)
    return intersections, sizes[first] + sizes[second]


def _dice(intersections: NDArray[np.int64], totals: NDArray[np.int64]) -> NDArray[np.float64]:
    dice: NDArray[np.float64] = np.where(totals == 0, 1, 2 * intersections / np.maximum(totals, 1))
    return dice


def _mean_or_none(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if values.size else None
