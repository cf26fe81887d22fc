"""From a case and the members of an ensemble to the record that is kept of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_diffseg.core.brats import Case
from napari_diffseg.core.ensemble import Ensemble
from napari_diffseg.core.environment import software_versions
from napari_diffseg.core.levels import MASK_LEVEL, MapKind
from napari_diffseg.core.metrics import compute_dice, compute_scores
from napari_diffseg.core.params import SegmentParams
from napari_diffseg.core.record import (
    RECORD_SCHEMA_VERSION,
    CaseRecord,
    MapsRecord,
    ModelRecord,
    ResultRecord,
    RunRecord,
    ScoresRecord,
    SliceRecord,
    VolumeRecord,
)
from napari_diffseg.core.uncertainty import compute_agreement, compute_volume_interval

if TYPE_CHECKING:
    from napari_diffseg.core.checkpoint import LoadedModel
    from napari_diffseg.core.events import Started

SEEDING = "every member of every slice has its own generator, from (seed, member, slice)"

THICK_SLICES_MM = 3.0
UNSTRIPPED_FRACTION = 0.7  # a brain fills about half of the smallest box around it


def describe_run(
    model: LoadedModel,
    params: SegmentParams,
    started: Started,
    elapsed_s: float | None,
    messages: Sequence[str] = (),
) -> RunRecord:
    """Make the record of how members were drawn, with what was resolved in the place of "auto".

    Parameters
    ----------
    model, params
        What `segment` was given.
    started
        Its first event.
    elapsed_s
        From its last event, `Finished`; None if it did not come so far.
    messages
        Of its `Downgraded` events.
    """
    return RunRecord(
        model=ModelRecord(model.card.name, model.path.name, model.sha256, {**model.provenance}),
        sampler=params.sampler,
        n_steps=started.n_steps,
        eta=params.eta if params.sampler == "ddim" else None,
        mirror=started.mirror,
        seed=params.seed,
        seeding=SEEDING,
        first_member=params.first_member,
        device=started.device,
        elapsed_s=elapsed_s,
        messages=tuple(messages),
    )


def describe_result(
    case: Case,
    ensemble: Ensemble,
    run: RunRecord,
    *,
    threshold: float = 0.5,
    of: MapKind = "probabilities",
    k: int | None = None,
    z_range: tuple[int, int] | None = None,
) -> ResultRecord:
    """Make the whole record of a result.

    Parameters
    ----------
    case, ensemble
        The members, on the grid of the case.
    run
        See `describe_run`.
    threshold, of, k
        How mask and maps are made of the first k members (`Ensemble`).
    z_range
        Canonical slices that were asked for, first and one past the last; None: all. Everything
        is measured in them.
    """
    geometry = case.geometry
    first, end = z_range or (0, geometry.shape[0])
    members = ensemble.members_uint8(k)[:, first:end]
    sampled = ensemble.sampled[: len(members), first:end]
    z_indices = np.flatnonzero(sampled.any(axis=0)) + first
    complete = ensemble.complete_members(k, z_indices.tolist()) if len(z_indices) else z_indices
    mask = ensemble.wt_mask(threshold, k, of)[first:end]
    masks: NDArray[np.bool_] = members >= MASK_LEVEL
    agreement = compute_agreement(masks, sampled)
    ends = geometry.to_source_slice(first), geometry.to_source_slice(end - 1)
    truth = None if case.wt_truth is None else case.wt_truth[first:end]
    members_ml = ensemble.mask_voxels(k)[complete, first:end].sum(axis=1) * geometry.voxel_volume_ml
    mean_total = float(ensemble.mean_map(k, of)[first:end].sum(dtype=np.float64))
    slices = [
        _describe_slice(z, first, mask, truth, agreement.slice_disagreement, case)
        for z in z_indices.tolist()
    ]
    return ResultRecord(
        schema_version=RECORD_SCHEMA_VERSION,
        software=software_versions(),
        case=describe_case(case),
        run=run,
        maps=MapsRecord(
            n_members=len(members),
            of=of,
            threshold=threshold,
            first_slice=min(ends),
            last_slice=max(ends),
            n_sampled_slices=len(z_indices),
            whole_volume=(first, end) == (0, geometry.shape[0]),
        ),
        volume=_describe_volume(
            np.count_nonzero(mask) * geometry.voxel_volume_ml,
            mean_total * geometry.voxel_volume_ml,
            members_ml.tolist(),
        ),
        confidence=agreement.mean_pairwise_dice,
        scores=None if truth is None else _describe_scores(mask, truth, masks, complete, case),
        slices=tuple(sorted(slices, key=lambda record: record.slice)),
    )


def describe_case(case: Case) -> CaseRecord:
    """Make the record of the images, with notes about what may harm the result."""
    geometry = case.geometry
    return CaseRecord(
        name=case.name,
        family=case.files.family,
        files={name: str(path) for name, path in case.files.modalities.items()},
        label=None if case.files.label is None else str(case.files.label),
        shape_xyz=geometry.source_shape,
        spacing_zyx_mm=geometry.spacing_mm,
        voxel_volume_ml=geometry.voxel_volume_ml,
        source_affine=tuple(tuple(map(float, row)) for row in geometry.source_affine),
        notes=tuple(_case_notes(case)),
    )


def _case_notes(case: Case) -> list[str]:
    notes = []
    geometry = case.geometry
    filled = np.count_nonzero((case.prior_image != 0).any(axis=0)) / case.prior_image[0].size
    if filled > UNSTRIPPED_FRACTION:
        notes.append(
            f"{filled:.0%} of all voxels differ from 0: the images do not look skull-stripped, as "
            "BraTS is and the model expects."
        )
    if geometry.is_oblique:
        notes.append(
            f"The scan is oblique ({geometry.oblique_degrees:.1f} degrees): slices are those of "
            "the scan, not of the body's axes."
        )
    if geometry.spacing_mm[0] > THICK_SLICES_MM:
        notes.append(
            f"Slices are {geometry.spacing_mm[0]:.1f} mm apart; the model was trained on 1 mm."
        )
    return notes


def _describe_volume(
    mask_ml: float, expected_ml: float, members_ml: Sequence[float]
) -> VolumeRecord:
    interval = compute_volume_interval(members_ml) if members_ml else None
    return VolumeRecord(
        mask_ml=float(mask_ml),
        expected_ml=float(expected_ml),
        members_ml=tuple(members_ml),
        median_ml=None if interval is None else interval.median_ml,
        low_ml=None if interval is None else interval.low_ml,
        high_ml=None if interval is None else interval.high_ml,
        interval=None if interval is None else interval.kind,
    )


def _describe_scores(
    mask: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    masks: NDArray[np.bool_],
    complete: NDArray[np.int64],
    case: Case,
) -> ScoresRecord:
    scores = compute_scores(mask, truth, case.geometry.spacing_mm)
    predicted_ml, truth_ml = (
        float(np.count_nonzero(each) * case.geometry.voxel_volume_ml) for each in (mask, truth)
    )
    return ScoresRecord(
        dice=scores.dice,
        jaccard=scores.jaccard,
        hd95_mm=scores.hd95_mm,
        predicted_ml=predicted_ml,
        truth_ml=truth_ml,
        volume_error_ml=predicted_ml - truth_ml,
        empty_prediction=scores.empty_prediction,
        empty_truth=scores.empty_truth,
        members_dice=tuple(compute_dice(masks[member], truth) for member in complete),
    )


def _describe_slice(
    z: int,
    first: int,
    mask: NDArray[np.bool_],
    truth: NDArray[np.bool_] | None,
    disagreement: Sequence[float | None],
    case: Case,
) -> SliceRecord:
    """Describe canonical slice z; arrays and disagreement begin with canonical slice `first`."""
    _, y_mm, x_mm = case.geometry.spacing_mm
    row = z - first
    return SliceRecord(
        slice=case.geometry.to_source_slice(z),
        mask_mm2=float(np.count_nonzero(mask[row]) * y_mm * x_mm),
        disagreement=disagreement[row],
        dice=None if truth is None else compute_dice(mask[row], truth[row]),
    )
