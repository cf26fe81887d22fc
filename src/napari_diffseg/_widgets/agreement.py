"""How the mask agrees with the truth on the slices that have been sampled: plain functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_diffseg.core.metrics import compute_dice, compute_hd95_mm, compute_jaccard

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_diffseg._widgets.run import Run


@dataclass(frozen=True, eq=False)
class Comparison:
    """Mask and truth on the same slices, cut out so that nobody else writes into them.

    Attributes
    ----------
    mask, truth : (Y, X) bool for one slice, otherwise (n, Y, X)
    spacing_mm
        As many values as the masks have axes.
    """

    mask: NDArray[np.bool_]
    truth: NDArray[np.bool_]
    spacing_mm: tuple[float, ...]


@dataclass(frozen=True)
class Overlap:
    """The scores that are quick."""

    dice: float
    jaccard: float


def cut_out(run: Run) -> Comparison | None:
    """Copy mask and truth of a run from the first to the last slice that can be judged.

    None without truth or without a sample. Slices in between that cannot be judged are left empty
    in both. A single slice is compared in 2-D, as in the paper.
    """
    truth = run.case.wt_truth
    evaluated = np.flatnonzero(run.evaluated)
    if truth is None or not evaluated.size:
        return None
    spacing = run.case.geometry.spacing_mm
    if evaluated.size == 1:
        z = int(evaluated[0])
        return Comparison(run.mask[z].astype(bool), truth[z], spacing[1:])
    stretch = slice(int(evaluated[0]), int(evaluated[-1]) + 1)
    counts = run.evaluated[stretch, np.newaxis, np.newaxis]
    return Comparison(run.mask[stretch].view(bool) & counts, truth[stretch] & counts, spacing)


def compute_confidence(run: Run) -> float | None:
    """Compute the mean pairwise Dice of the members in view, from voxels that are counted already.

    None with fewer than two members that have a slice in common.
    """
    sampled = run.ensemble.sampled
    members = np.flatnonzero(sampled[: run.view.k].any(axis=1))
    dice = run.overlaps.pair_dice(members, sampled)[np.triu_indices(len(members), 1)]
    dice = dice[~np.isnan(dice)]
    return float(dice.mean()) if dice.size else None


def compute_overlap(comparison: Comparison) -> Overlap:
    """Compute Dice and Jaccard: a few milliseconds for a whole volume."""
    return Overlap(
        compute_dice(comparison.mask, comparison.truth),
        compute_jaccard(comparison.mask, comparison.truth),
    )


def compute_distance_mm(comparison: Comparison) -> float | None:
    """Compute the HD95: up to a second, so not in the GUI's thread."""
    return compute_hd95_mm(comparison.mask, comparison.truth, comparison.spacing_mm)
