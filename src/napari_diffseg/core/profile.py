"""How the tumour's volume is spread over the slices, and how far the members differ there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_diffseg.core.uncertainty import (
    MIN_MEMBERS_FOR_QUANTILES,
    IntervalKind,
    compute_volume_interval,
)

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from napari_diffseg.core.geometry import Geometry


@dataclass(frozen=True)
class SliceProfile:
    """Volumes of the sampled slices, in mL per slice: area times the distance of the slices.

    The tuples have one entry for each slice. The band belongs to each slice by itself: its lower
    edge is no member's profile, and its sum is wider than the interval of the whole volume.

    Attributes
    ----------
    z : tuple of int
        Canonical indices, in the order of `slices`.
    slices : tuple of int
        The source file's numbers, ascending.
    mask_ml : tuple of float
        Of the mask: the thresholded mean.
    low_ml, high_ml : tuple of float
        Over the members that have the slice.
    kind : "range" or "2.5-97.5 %"
        What `low_ml` and `high_ml` are, by the rule of `compute_volume_interval`. The slice with
        the fewest members decides for all.
    n_members : int
        How many members that slice has; 0 when no slice has been sampled.
    truth_ml : tuple of float, or None
        Of the expert labels; None without labels.
    """

    z: tuple[int, ...]
    slices: tuple[int, ...]
    mask_ml: tuple[float, ...]
    low_ml: tuple[float, ...]
    high_ml: tuple[float, ...]
    kind: IntervalKind
    n_members: int
    truth_ml: tuple[float, ...] | None


def compute_profile(
    mask: NDArray[Any],
    mask_voxels: NDArray[np.int64],
    sampled: NDArray[np.bool_],
    geometry: Geometry,
    truth: NDArray[np.bool_] | None = None,
) -> SliceProfile:
    """Compute the profile of the sampled slices: a few milliseconds for a whole volume.

    Parameters
    ----------
    mask : (Z, Y, X) bool, or integers that are not 0 in the mask
    mask_voxels : (S, Z) int
        Mask voxels of each member on each slice: `Ensemble.mask_voxels(k, threshold)`.
    sampled : (S, Z) bool
        `Ensemble.sampled[:k]`.
    geometry
        Of the case.
    truth : (Z, Y, X) bool, optional
    """
    z_indices = np.flatnonzero(sampled.any(axis=0)).tolist()
    z_indices.sort(key=geometry.to_source_slice)
    n_members = int(sampled[:, z_indices].sum(axis=0).min()) if z_indices else 0
    kind: IntervalKind = "2.5-97.5 %" if n_members >= MIN_MEMBERS_FOR_QUANTILES else "range"
    voxel_ml = geometry.voxel_volume_ml
    low_ml, high_ml = [], []
    for z in z_indices:
        members_ml = mask_voxels[sampled[:, z], z] * voxel_ml
        if kind == "range":
            low, high = members_ml.min(), members_ml.max()
        else:
            interval = compute_volume_interval(members_ml)
            low, high = interval.low_ml, interval.high_ml
        low_ml.append(float(low))
        high_ml.append(float(high))
    return SliceProfile(
        z=tuple(z_indices),
        slices=tuple(geometry.to_source_slice(z) for z in z_indices),
        mask_ml=_slice_volumes_ml(mask, z_indices, voxel_ml),
        low_ml=tuple(low_ml),
        high_ml=tuple(high_ml),
        kind=kind,
        n_members=n_members,
        truth_ml=None if truth is None else _slice_volumes_ml(truth, z_indices, voxel_ml),
    )


def _slice_volumes_ml(
    mask: NDArray[Any], z_indices: list[int], voxel_ml: float
) -> tuple[float, ...]:
    return tuple(float(np.count_nonzero(mask[z]) * voxel_ml) for z in z_indices)
