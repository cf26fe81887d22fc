"""Overlap and distance between two masks: Dice, Jaccard, HD95 and volume, in 2-D and 3-D.

All arrays are in array-axis order ((Y, X) or (Z, Y, X)) and so is `spacing_mm`.

Empty masks, in words (the paper's protocol, `design/evaluation.md`):

- one of the two masks is empty: Dice 0, Jaccard 0, HD95 `None` ("skipped": count it as empty);
- both are empty: they agree, so Dice 1 and Jaccard 1, HD95 `None`. The paper's slices all have a
  non-empty truth, hence this never touches its table. (medpy gives Dice 0 here and raises for the
  other two.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

MM3_PER_ML = 1000.0

VOXELS_PER_POINT = 4
"""Below one surface voxel in this many, looking up points in a tree beats the distance transform.

Measured at 155x240x240: one stray voxel far from a tumour stretches the joint box over the whole
head, where the transform takes over 1 s and the tree 0.1 s. For masks like noise it turns round.
"""


@dataclass(frozen=True)
class SegmentationScores:
    """How well a predicted mask agrees with the truth, on a slice or on a volume.

    Attributes
    ----------
    dice, jaccard : float
        Overlap in [0, 1].
    hd95_mm : float or None
        95th percentile of the surface distances; None when either mask is empty.
    empty_prediction, empty_truth : bool
        Which of the masks has no voxel. The paper's brackets are means over the slices
        with `empty_prediction` False.
    predicted_ml, truth_ml : float or None
        Volumes; None in 2-D, where a mask has an area only.
    """

    dice: float
    jaccard: float
    hd95_mm: float | None
    empty_prediction: bool
    empty_truth: bool
    predicted_ml: float | None
    truth_ml: float | None

    @property
    def volume_error_ml(self) -> float | None:
        """Predicted minus true volume: positive means too large. None in 2-D."""
        if self.predicted_ml is None or self.truth_ml is None:
            return None
        return self.predicted_ml - self.truth_ml


def as_mask(array: NDArray[Any]) -> Mask:
    """Return `array` as a boolean mask: booleans as they are, integers as "not zero".

    Raises
    ------
    TypeError
        For floating-point arrays. A probability map must be thresholded first: taken as a mask
        it would silently mean "p > 0".
    """
    array = np.asarray(array)
    if array.dtype == np.bool_:
        return array
    if np.issubdtype(array.dtype, np.integer):
        not_zero: Mask = array != 0
        return not_zero
    raise TypeError(f"a mask is boolean or integer, not {array.dtype}: threshold it first")


def compute_dice(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Compute the Dice coefficient 2 |A and B| / (|A| + |B|).

    Parameters
    ----------
    a, b : bool or integer arrays of one shape, any number of dimensions

    Returns
    -------
    float
        In [0, 1]. 0 when exactly one mask is empty, 1 when both are.
    """
    intersection, size_a, size_b = _overlap(*_mask_pair(a, b))
    return 2.0 * intersection / (size_a + size_b) if size_a + size_b else 1.0


def compute_jaccard(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Compute the Jaccard index (intersection over union) |A and B| / |A or B|.

    Parameters and empty masks as in `compute_dice`.
    """
    intersection, size_a, size_b = _overlap(*_mask_pair(a, b))
    union = size_a + size_b - intersection
    return intersection / union if union else 1.0


def compute_hd95_mm(a: NDArray[Any], b: NDArray[Any], spacing_mm: Sequence[float]) -> float | None:
    """Compute the 95 % Hausdorff distance as medpy's `hd95` does, which the paper used.

    The surface of a mask is the mask minus its erosion with the face-connected structuring element;
    what lies outside of the array counts as background. The distances from every surface voxel of A
    to the nearest surface voxel of B and from B to A are *pooled*, and the 95th percentile
    (linear interpolation) of the pool is returned.

    Other definitions differ: MONAI and surface-distance take the *larger* of the two directed
    percentiles (hence mostly a larger figure), and surface-distance weights every surface element
    by its area.

    Parameters
    ----------
    a, b : bool or integer arrays of one shape, (Y, X) or (Z, Y, X)
    spacing_mm : sequence of float
        Voxel size in the array's axis order, as long as the array has dimensions.

    Returns
    -------
    float or None
        Millimetres, >= 0; None when either mask is empty: no distance exists, skip and count it.

    Raises
    ------
    ValueError
        For different shapes, for other than 2 or 3 dimensions, or when the spacing does not fit.
    """
    a, b = _mask_pair(a, b)
    if a.ndim not in (2, 3):
        raise ValueError(f"HD95 is defined here for 2-D and 3-D masks, not for {a.ndim}-D")
    spacing = _checked_spacing(spacing_mm, a.ndim)
    if not (a.any() and b.any()):
        return None
    # Both surfaces lie inside of the joint bounding box, so nothing outside of it can be nearest.
    box = _bounding_box(a | b)
    surface_a, surface_b = _surface(a[box]), _surface(b[box])
    pooled = np.concatenate(
        [
            _distances_mm(surface_a, surface_b, spacing),
            _distances_mm(surface_b, surface_a, spacing),
        ]
    )
    return float(np.percentile(pooled, 95))


def compute_volume_ml(mask: NDArray[Any], spacing_mm: Sequence[float]) -> float:
    """Compute the volume of a (Z, Y, X) mask in millilitres."""
    mask = as_mask(mask)
    if mask.ndim != 3:
        raise ValueError(f"a volume needs a (Z, Y, X) mask, not {mask.ndim}-D")
    return int(np.count_nonzero(mask)) * voxel_volume_ml(spacing_mm)


def voxel_volume_ml(spacing_mm: Sequence[float]) -> float:
    """Return the volume of one voxel in millilitres, from its three edges in mm."""
    return float(np.prod(_checked_spacing(spacing_mm, 3))) / MM3_PER_ML


def compute_scores(
    prediction: NDArray[Any], truth: NDArray[Any], spacing_mm: Sequence[float]
) -> SegmentationScores:
    """Compute every score of a predicted mask against the truth, on a slice or a volume.

    Parameters
    ----------
    prediction, truth : bool or integer arrays of one shape, (Y, X) or (Z, Y, X)
    spacing_mm : sequence of float
        Voxel size in the array's axis order.
    """
    prediction, truth = _mask_pair(prediction, truth)
    in_3d = prediction.ndim == 3
    return SegmentationScores(
        dice=compute_dice(prediction, truth),
        jaccard=compute_jaccard(prediction, truth),
        hd95_mm=compute_hd95_mm(prediction, truth, spacing_mm),
        empty_prediction=not prediction.any(),
        empty_truth=not truth.any(),
        predicted_ml=compute_volume_ml(prediction, spacing_mm) if in_3d else None,
        truth_ml=compute_volume_ml(truth, spacing_mm) if in_3d else None,
    )


def _mask_pair(a: NDArray[Any], b: NDArray[Any]) -> tuple[Mask, Mask]:
    a, b = as_mask(a), as_mask(b)
    if a.shape != b.shape:
        raise ValueError(f"masks of different shapes cannot be compared: {a.shape}, {b.shape}")
    return a, b


def _checked_spacing(spacing_mm: Sequence[float], ndim: int) -> tuple[float, ...]:
    spacing = tuple(float(edge) for edge in spacing_mm)
    if len(spacing) != ndim:
        raise ValueError(f"spacing_mm has {len(spacing)} values for {ndim} dimensions")
    if not all(np.isfinite(edge) and edge > 0 for edge in spacing):
        raise ValueError(f"spacing_mm must be positive and finite: {spacing}")
    return spacing


def _overlap(a: Mask, b: Mask) -> tuple[int, int, int]:
    return int(np.count_nonzero(a & b)), int(np.count_nonzero(a)), int(np.count_nonzero(b))


def _bounding_box(mask: Mask) -> tuple[slice, ...]:
    box = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        inside = np.flatnonzero(mask.any(axis=others))
        box.append(slice(int(inside[0]), int(inside[-1]) + 1))
    return tuple(box)


def _surface(mask: Mask) -> Mask:
    from scipy import ndimage

    # The default structure is the face-connected one, the default border value is background.
    surface: Mask = mask & ~ndimage.binary_erosion(mask)
    return surface


def _distances_mm(
    from_surface: Mask, to_surface: Mask, spacing: tuple[float, ...]
) -> NDArray[np.float64]:
    """Distance of every voxel of one surface to the nearest voxel of the other, in mm."""
    n_points = np.count_nonzero(from_surface) + np.count_nonzero(to_surface)
    if n_points * VOXELS_PER_POINT < from_surface.size:
        return _distances_by_tree_mm(from_surface, to_surface, spacing)
    return _distances_by_transform_mm(from_surface, to_surface, spacing)


def _distances_by_tree_mm(
    from_surface: Mask, to_surface: Mask, spacing: tuple[float, ...]
) -> NDArray[np.float64]:
    from scipy.spatial import cKDTree

    tree = cKDTree(np.argwhere(to_surface) * np.asarray(spacing))
    distances_mm, _ = tree.query(np.argwhere(from_surface) * np.asarray(spacing))
    return np.asarray(distances_mm, np.float64)


def _distances_by_transform_mm(
    from_surface: Mask, to_surface: Mask, spacing: tuple[float, ...]
) -> NDArray[np.float64]:
    from scipy import ndimage

    distance_mm = ndimage.distance_transform_edt(~to_surface, sampling=spacing)
    distances: NDArray[np.float64] = distance_mm[from_surface]
    return distances
