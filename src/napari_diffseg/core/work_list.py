"""Where to look first: slices ranked by how unsure the ensemble is about them.

Four scores, all of which are 0 where there is nothing to look at:

- ``disagreement``, in mm: 1 - mean pairwise Dice of the members' masks on the slice, corrected for
  the size of what they outline (see `compute_contour_disagreement_mm`);
- ``mean_disagreement``: the mean of the variance between the members, 0 to 0.25;
- ``variance``: the mean of the variance map m (1 - m), 0 to 0.25, which is that between the members
  plus that within each;
- ``entropy``, in bits: the mean of the binary entropy of the mean map m, 0 to 1.

The maps are averaged over the *brain* of the slice. Over the union of the members' masks, a slice
on which every member stays just below 0.5 would have no score at all, although a tumour may have
been missed there; and the smallest specks, which are all border, would come first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from napari_diffseg.core.levels import (
    MASK_LEVEL,
    MapKind,
    total_level,
    write_disagreement,
    write_entropy,
    write_variance,
)
from napari_diffseg.core.uncertainty import Agreement, compute_agreement

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_diffseg.core.geometry import Geometry

MapScore = Literal["mean_disagreement", "variance", "entropy"]
RankBy = Literal["disagreement", "mean_disagreement", "variance", "entropy"]

UNITS: dict[RankBy, str] = {
    "disagreement": "mm",
    "mean_disagreement": "",
    "variance": "",
    "entropy": "bit",
}
"""Units of the scores; a variance of probabilities has none."""


@dataclass(frozen=True)
class RankedSlice:
    """A slice and how much it is worth a look.

    Attributes
    ----------
    z : int
        Canonical index.
    slice : int
        The number that the source file has for it.
    score : float
        Above 0, in the unit of the list.
    """

    z: int
    slice: int
    score: float


@dataclass(frozen=True)
class WorkList:
    """Slices, the least certain first.

    Attributes
    ----------
    by : RankBy
        What they are ranked by.
    unit : str
        Of the scores; empty for a variance.
    n_members : int
        How many members were asked.
    slices : tuple of RankedSlice
        Those with a score above 0: on the others there is nothing to look at.
    """

    by: RankBy
    unit: str
    n_members: int
    slices: tuple[RankedSlice, ...]


def rank_slices(
    members: NDArray[np.uint8],
    sampled: NDArray[np.bool_],
    geometry: Geometry,
    *,
    by: RankBy = "disagreement",
    of: MapKind = "probabilities",
    brain: NDArray[np.bool_] | None = None,
) -> WorkList:
    """Rank the sampled slices by what the members say; of two equal ones the lower number leads.

    Parameters
    ----------
    members : (S, Z, Y, X) uint8
        The members in view, as `Ensemble.members_uint8(k)` gives them.
    sampled : (S, Z) bool
        Which slices each of them has: `Ensemble.sampled[:k]`.
    geometry
        Of the case.
    by
        The score, see the module's text. To disagree, a slice needs two members.
    of
        What the maps are made of.
    brain : (Z, Y, X) bool, optional
        Where maps are averaged (`find_brain`); by default everywhere.
    """
    if by not in get_args(RankBy):
        raise ValueError(f"slices are ranked by {' or '.join(get_args(RankBy))}, not by {by!r}")
    if by == "disagreement":
        scores = compute_contour_disagreement_mm(members, sampled, geometry.spacing_mm)
    else:
        scores = compute_mean_uncertainty(members, sampled, by, of=of, brain=brain)
    ranked = [
        RankedSlice(z, geometry.to_source_slice(z), float(scores[z]))
        for z in np.flatnonzero(scores > 0).tolist()
    ]
    ranked.sort(key=lambda entry: (-entry.score, entry.slice))
    return WorkList(by, UNITS[by], len(members), tuple(ranked))


def measure_agreement(members: NDArray[np.uint8], sampled: NDArray[np.bool_]) -> Agreement:
    """Compute `compute_agreement` of members as levels, without a copy of the empty surroundings.

    Parameters
    ----------
    members : (S, Z, Y, X) uint8
    sampled : (S, Z) bool
    """
    rows, columns = _find_box(members)
    # Slices that were not sampled are left out by `compute_agreement`, whatever they hold.
    return compute_agreement(members[:, :, rows, columns] >= MASK_LEVEL, sampled)


def compute_contour_disagreement_mm(
    members: NDArray[np.uint8],
    sampled: NDArray[np.bool_],
    spacing_mm: tuple[float, float, float],
) -> NDArray[np.float64]:
    """Compute how far apart the members' outlines are on every slice, (Z,) in mm.

    1 - mean pairwise Dice, times the radius of a disc that has the members' mean area.

    The plain 1 - Dice misleads as a guide: outlines that are 1 mm apart give 0.04 on a disc of
    50 mm and 0.4 on one of 4 mm, so that the tips of a tumour and every speck would always come
    first. The disagreeing area itself misleads the other way: the largest slice has the longest
    outline. For two discs with the radii r and r + d, d small, 1 - Dice is d / r; times r it is d,
    whatever the size. So the score is the distance between the outlines of two members, as it
    would be for discs: the size cancels out, and what is left is how well the border is known.
    A lesion of radius r that only a share q of the members sees counts with r sqrt(q), times the
    share of the pairs that differ.

    Parameters
    ----------
    members : (S, Z, Y, X) uint8
    sampled : (S, Z) bool
    spacing_mm : (z, y, x)

    Returns
    -------
    (Z,) float64
        0 where the members agree, and where fewer than two have been sampled.
    """
    agreement = measure_agreement(members, sampled)
    disagreement = np.array([value or 0.0 for value in agreement.slice_disagreement])
    n_samples = sampled.sum(axis=0)
    areas_mm2 = _count_mask_voxels(members, sampled) * (spacing_mm[1] * spacing_mm[2])
    mean_area_mm2 = areas_mm2 / np.maximum(n_samples, 1)
    radius_mm: NDArray[np.float64] = np.sqrt(mean_area_mm2 / math.pi)
    return disagreement * radius_mm


def compute_mean_uncertainty(
    members: NDArray[np.uint8],
    sampled: NDArray[np.bool_],
    which: MapScore,
    *,
    of: MapKind = "probabilities",
    brain: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """Compute the mean of a map over the brain of every slice, (Z,).

    Parameters as in `rank_slices`; 0 where nothing has been sampled and where there is no brain.
    """
    scores = np.zeros(members.shape[1])
    for z in np.flatnonzero(sampled.any(axis=0)):
        has_slice = np.flatnonzero(sampled[:, z])
        levels = members[has_slice, z]
        inside = np.ones(levels.shape[1:], bool) if brain is None else brain[z]
        if not inside.any():
            continue
        scores[z] = _map_slice(levels, which, of)[inside].mean(dtype=np.float64)
    return scores


def _map_slice(levels: NDArray[np.uint8], which: MapScore, of: MapKind) -> NDArray[np.float32]:
    """Make the map (Y, X) of a slice that members (S, Y, X) have."""
    uncertainty = np.empty(levels.shape[1:], np.float32)
    values = levels if of == "probabilities" else levels >= MASK_LEVEL
    sums = values.sum(axis=0, dtype=np.uint32)
    if which == "mean_disagreement" and of == "probabilities":
        squares = np.square(levels, dtype=np.uint16).sum(axis=0, dtype=np.uint32)
        write_disagreement(len(levels), sums, squares, uncertainty)
    else:  # between masks is all that there is
        write = write_entropy if which == "entropy" else write_variance
        write(total_level(len(levels), of), sums, uncertainty)
    return uncertainty


def _count_mask_voxels(members: NDArray[np.uint8], sampled: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Count the mask voxels of all members that have a slice, (Z,)."""
    counts = np.zeros(members.shape[1], np.int64)
    for member, z in np.argwhere(sampled):
        counts[z] += np.count_nonzero(members[member, z] >= MASK_LEVEL)
    return counts


def _find_box(members: NDArray[np.uint8]) -> tuple[slice, slice]:
    """Return the rows and columns in which any member's mask lies."""
    highest = members.max(axis=(0, 1), initial=0)
    box = []
    for axis in (1, 0):
        inside = np.flatnonzero((highest >= MASK_LEVEL).any(axis=axis))
        box.append(slice(int(inside[0]), int(inside[-1]) + 1) if inside.size else slice(0))
    return box[0], box[1]
