"""What a result points at: lesions, slices to look at, the volume of every slice; as records."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from napari_diffseg.core.lesions import find_lesions
from napari_diffseg.core.metrics import compute_dice
from napari_diffseg.core.profile import compute_profile
from napari_diffseg.core.record import (
    EditRecord,
    LesionRecord,
    LesionsRecord,
    SliceRecord,
    WorkRecord,
)
from napari_diffseg.core.work_list import rank_slices

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from napari_diffseg.core.brats import Case
    from napari_diffseg.core.ensemble import Ensemble
    from napari_diffseg.core.geometry import Geometry

_NOT_RECORDED = ("largest_z", "centre_yx")  # in canonical voxels, which a reader does not have


def describe_lesions(
    mask: NDArray[np.bool_],
    mean_map: NDArray[np.float32],
    ensemble: Ensemble,
    k: int,
    geometry: Geometry,
) -> LesionsRecord:
    """Describe the connected components of a (Z, Y, X) mask that the first k members made."""
    found = find_lesions(mask, mean_map, ensemble.members_uint8(k), ensemble.sampled[:k], geometry)
    lesions = []
    for lesion in found.lesions:
        values = {key: value for key, value in asdict(lesion).items() if key not in _NOT_RECORDED}
        lesions.append(LesionRecord(**values))
    return LesionsRecord(tuple(lesions), found.n_more, found.more_ml)


def describe_work_list(
    members: NDArray[np.uint8], sampled: NDArray[np.bool_], geometry: Geometry
) -> tuple[WorkRecord, ...]:
    """List the slices on which members disagree, worst first.

    Parameters
    ----------
    members : (S, Z, Y, X) uint8
    sampled : (S, Z) bool
    geometry
        Of the case.
    """
    ranked = rank_slices(members, sampled, geometry)
    return tuple(WorkRecord(entry.slice, entry.score) for entry in ranked.slices)


def add_profile(
    slices: Sequence[SliceRecord],
    mask: NDArray[np.bool_],
    ensemble: Ensemble,
    k: int,
    case: Case,
    members_threshold: float = 0.5,
) -> tuple[SliceRecord, ...]:
    """Return the records of slices with their volumes, by number; members are cut as is said."""
    voxels, sampled = ensemble.mask_voxels(k, members_threshold), ensemble.sampled[:k]
    profile = compute_profile(mask, voxels, sampled, case.geometry, case.wt_truth)
    rows = {number: row for row, number in enumerate(profile.slices)}
    complete = []
    for entry in sorted(slices, key=lambda record: record.slice):
        row = rows[entry.slice]
        has_interval = sampled[:, profile.z[row]].sum() > 1
        complete.append(
            replace(
                entry,
                mask_ml=profile.mask_ml[row],
                low_ml=profile.low_ml[row] if has_interval else None,
                high_ml=profile.high_ml[row] if has_interval else None,
                truth_ml=None if profile.truth_ml is None else profile.truth_ml[row],
            )
        )
    return tuple(complete)


def describe_edit(
    mask: NDArray[np.bool_],
    edited: NDArray[np.bool_],
    copied: NDArray[np.bool_],
    geometry: Geometry,
    run: str,
    earlier: EditRecord | None = None,
) -> EditRecord:
    """Describe what somebody has painted, all masks (Z, Y, X).

    Parameters
    ----------
    mask
        The model's, as it is now.
    edited, copied
        What was painted on, and what it was before. The model's mask may have changed since.
    geometry
        Of the case.
    run
        The run whose mask was copied.
    earlier
        What had been painted before that, in a result that was opened again.
    """
    n_added, n_removed = (0, 0) if earlier is None else (earlier.n_added, earlier.n_removed)
    return EditRecord(
        n_added=n_added + int((edited & ~copied).sum()),
        n_removed=n_removed + int((copied & ~edited).sum()),
        volume_ml=float(edited.sum() * geometry.voxel_volume_ml),
        dice_with_model=compute_dice(edited, mask),
        run=run,
    )
