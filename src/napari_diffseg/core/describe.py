"""From a case and the members of an ensemble to the record that is kept of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_diffseg.core.brats import Case
from napari_diffseg.core.consensus import ConsensusKind, decide, make_mask, members_threshold
from napari_diffseg.core.ensemble import Ensemble
from napari_diffseg.core.environment import software_versions
from napari_diffseg.core.findings import add_profile, describe_lesions, describe_work_list
from napari_diffseg.core.levels import MASK_LEVEL, MapKind
from napari_diffseg.core.metrics import compute_dice, compute_scores
from napari_diffseg.core.params import SegmentParams
from napari_diffseg.core.record import (
    RECORD_SCHEMA_VERSION,
    CaseRecord,
    MapsRecord,
    MemberRecord,
    ModelRecord,
    ResultRecord,
    RunRecord,
    ScoresRecord,
    SliceRanges,
    SliceRecord,
    StoppingRecord,
    VolumeRecord,
)
from napari_diffseg.core.scan_notes import find_scan_notes
from napari_diffseg.core.uncertainty import (
    LikelyVolume,
    compute_agreement,
    compute_likely_volume,
    compute_volume_interval,
)
from napari_diffseg.core.verdict import judge
from napari_diffseg.core.volume import hash_mask

if TYPE_CHECKING:
    from napari_diffseg.core.checkpoint import LoadedModel
    from napari_diffseg.core.events import Converged, Started
    from napari_diffseg.core.geometry import Geometry

SEEDING = "every member of every slice has its own generator, from (seed, member, slice)"


def describe_model(model: LoadedModel) -> ModelRecord:
    """Make the record of a model."""
    return ModelRecord(
        name=model.card.name,
        file=model.path.name,
        sha256=model.sha256,
        provenance={**model.provenance},
        description=model.card.description,
        encoders=model.network.config.encoders,
    )


def describe_run(
    model: ModelRecord,
    params: SegmentParams,
    started: Started,
    elapsed_s: float | None,
    messages: Sequence[str] = (),
    converged: Converged | None = None,
) -> RunRecord:
    """Make the record of how members were drawn, with what was resolved in the place of "auto".

    Parameters
    ----------
    model
        See `describe_model`.
    params
        What `segment` was given.
    started
        Its first event.
    elapsed_s
        From its last event, `Finished`; None if it did not come so far.
    messages
        Of its `Downgraded` events.
    converged
        If there was such an event.
    """
    return RunRecord(
        model=model,
        sampler=params.sampler,
        n_steps=started.n_steps,
        eta=params.eta if params.sampler == "ddim" else None,
        mirror=started.mirror,
        vary_contrast=started.vary_contrast,
        seed=params.seed,
        seeding=SEEDING,
        first_member=params.first_member,
        device=started.device,
        elapsed_s=elapsed_s,
        messages=tuple(messages),
        stopping=describe_stopping(params, converged),
    )


def describe_stopping(params: SegmentParams, converged: Converged | None) -> StoppingRecord | None:
    """Make the record of whether drawing stopped by itself; None if it was not to."""
    if params.tolerance is None:
        return None
    return StoppingRecord(
        tolerance=params.tolerance,
        max_samples=params.n_samples,
        stable_with=None if converged is None else converged.n_members,
        dice=None if converged is None else converged.dice,
        threshold=params.watched_threshold,
        of=params.watched_of,
    )


def describe_result(
    case: Case,
    ensemble: Ensemble,
    run: RunRecord,
    *,
    threshold: float = 0.5,
    of: MapKind = "probabilities",
    consensus: ConsensusKind = "mean",
    k: int | None = None,
    z_range: tuple[int, int] | None = None,
    judged: NDArray[np.bool_] | None = None,
) -> ResultRecord:
    """Make the whole record of a result.

    Parameters
    ----------
    case, ensemble
        The members, on the grid of the case.
    run
        See `describe_run`.
    threshold, of, consensus, k
        How mask and maps are made of the first k members (`Ensemble`, `consensus`).
    z_range
        Canonical slices that were asked for, first and one past the last; None: all. Everything
        is measured in them.
    judged : (Z,) bool, optional
        Those of them on which the mask can be compared with the truth; all, unless a run was
        stopped. One slice alone is compared in 2-D, as in the paper.
    """
    geometry = case.geometry
    first, end = z_range or (0, geometry.shape[0])
    members = ensemble.members_uint8(k)[:, first:end]
    sampled = ensemble.sampled[: len(members), first:end]
    counted = ensemble.sampled[: len(members)].copy()
    counted[:, :first] = counted[:, end:] = False
    z_indices = np.flatnonzero(sampled.any(axis=0)) + first
    complete = ensemble.complete_members(k, z_indices.tolist()) if len(z_indices) else z_indices
    decision = decide(ensemble, consensus, threshold=threshold, k=k, of=of)
    whole_mask = make_mask(ensemble, decision)
    whole_mask[:first] = whole_mask[end:] = False
    mask = whole_mask[first:end]
    mean_map = ensemble.mean_map(k, of)
    masks: NDArray[np.bool_] = members >= MASK_LEVEL
    agreement = compute_agreement(masks, sampled)
    ends = geometry.to_source_slice(first), geometry.to_source_slice(end - 1)
    counts = np.zeros(geometry.shape[0], bool)
    counts[first:end] = True if judged is None else judged[first:end]
    truth = None
    if case.wt_truth is not None:
        truth = case.wt_truth[first:end] & counts[first:end, np.newaxis, np.newaxis]
    cut = members_threshold(consensus, of, threshold)
    members_ml = ensemble.mask_voxels(k, cut)[complete, first:end].sum(1) * geometry.voxel_volume_ml
    mean_total = float(mean_map[first:end].sum(dtype=np.float64))
    slices = [
        _describe_slice(z, first, mask, truth, agreement.slice_disagreement, case)
        for z in z_indices.tolist()
    ]
    mask_ml = float(np.count_nonzero(mask) * geometry.voxel_volume_ml)
    work_list = describe_work_list(ensemble.members_uint8(k), counted, geometry)
    return ResultRecord(
        schema_version=RECORD_SCHEMA_VERSION,
        software=software_versions(),
        case=describe_case(case),
        run=run,
        maps=MapsRecord(
            n_members=len(members),
            of=of,
            threshold=threshold,
            consensus=consensus,
            closest_member=decision.closest,
            first_slice=min(ends),
            last_slice=max(ends),
            n_sampled_slices=len(z_indices),
            whole_volume=bool(counts.all()),
            judged_slices=describe_ranges(counts, geometry),
            mask_sha256=hash_mask(whole_mask, geometry),
        ),
        volume=_describe_volume(
            mask_ml,
            mean_total * geometry.voxel_volume_ml,
            members_ml.tolist(),
            cut,
            compute_likely_volume(ensemble, geometry.voxel_volume_ml, k, z_indices.tolist()),
        ),
        confidence=agreement.mean_pairwise_dice,
        scores=None
        if truth is None
        else _describe_scores(mask, truth, masks, complete, counts[first:end], case),
        slices=add_profile(slices, whole_mask, ensemble, len(members), case, cut),
        members=tuple(
            MemberRecord(describe_ranges(has, geometry))
            for has in ensemble.sampled[: max(len(members), count_started(ensemble))]
        ),
        work_list=work_list,
        lesions=describe_lesions(whole_mask, mean_map, ensemble, len(members), geometry),
        verdict=judge(
            agreement.mean_pairwise_dice,
            [entry.slice for entry in work_list],
            mask_ml=mask_ml,
            n_with_tumour=int(ensemble.mask_voxels(k)[:, first:end].any(axis=1).sum()),
            n_samples=int(sampled.any(axis=1).sum()),
        ),
    )


def count_started(ensemble: Ensemble) -> int:
    """Return the number of members up to the last one that has a sample."""
    have = np.flatnonzero(ensemble.sampled.any(axis=1))
    return int(have[-1]) + 1 if have.size else 0


def describe_ranges(chosen: NDArray[np.bool_], geometry: Geometry) -> SliceRanges:
    """Return the stretches of (Z,) chosen slices, in the source file's numbers."""
    edges = np.flatnonzero(np.diff(chosen.astype(np.int8), prepend=0, append=0))
    ranges = []
    for first, end in edges.reshape(-1, 2).tolist():
        numbers = geometry.to_source_slice(first), geometry.to_source_slice(end - 1)
        ranges.append((min(numbers), max(numbers)))
    return tuple(sorted(ranges))


def describe_case(case: Case) -> CaseRecord:
    """Make the record of the images, with notes about what may harm the result."""
    geometry = case.geometry
    return CaseRecord(
        name=case.name,
        family=case.files.family,
        files={name: str(path.absolute()) for name, path in case.files.modalities.items()},
        label=None if case.files.label is None else str(case.files.label.absolute()),
        shape_xyz=geometry.source_shape,
        spacing_zyx_mm=geometry.spacing_mm,
        voxel_volume_ml=geometry.voxel_volume_ml,
        source_affine=tuple(tuple(map(float, row)) for row in geometry.source_affine),
        notes=find_scan_notes(case),
        slice_numbers=_find_stretches(geometry.slice_numbers or ()),
        sha256=dict(case.sha256),
        written_ns=case.written_ns,
    )


def _find_stretches(numbers: Sequence[int]) -> SliceRanges:
    """Return the stretches of numbers that follow each other."""
    ordered = np.array(sorted(numbers), np.int64)
    stretches = np.split(ordered, np.flatnonzero(np.diff(ordered) > 1) + 1)
    return tuple((int(part[0]), int(part[-1])) for part in stretches if part.size)


def _describe_volume(
    mask_ml: float,
    expected_ml: float,
    members_ml: Sequence[float],
    cut: float,
    likely: LikelyVolume | None,
) -> VolumeRecord:
    interval = compute_volume_interval(members_ml) if len(members_ml) > 1 else None
    return VolumeRecord(
        mask_ml=float(mask_ml),
        expected_ml=float(expected_ml),
        members_ml=tuple(members_ml),
        members_threshold=cut,
        median_ml=float(np.median(members_ml)) if members_ml else None,
        low_ml=None if interval is None else interval.low_ml,
        high_ml=None if interval is None else interval.high_ml,
        interval=None if interval is None else interval.kind,
        likely_low_ml=None if likely is None else likely.low_ml,
        likely_high_ml=None if likely is None else likely.high_ml,
    )


def _describe_scores(
    mask: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    masks: NDArray[np.bool_],
    complete: NDArray[np.int64],
    judged: NDArray[np.bool_],
    case: Case,
) -> ScoresRecord:
    spacing_mm: tuple[float, ...] = case.geometry.spacing_mm
    used = np.flatnonzero(judged)
    if used.size == 1:
        scores = compute_scores(mask[used[0]], truth[used[0]], spacing_mm[1:])
    else:
        scores = compute_scores(mask, truth, spacing_mm)
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
