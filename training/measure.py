"""What the protocol measures of one case's ensemble: per slice, in 3-D, and of its maps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_diffseg.core.brats import Case
from napari_diffseg.core.calibration import compute_calibration, compute_error_detection
from napari_diffseg.core.ensemble import Ensemble
from napari_diffseg.core.levels import MASK_LEVEL, MapKind
from napari_diffseg.core.metrics import compute_dice, compute_scores, compute_volume_ml
from napari_diffseg.core.uncertainty import (
    compute_agreement,
    compute_energy_distance,
    compute_mean_pairwise_dice,
)
from training.members import crop_ensemble, measure_first_members
from training.results import (
    MASKS,
    PROBABILITIES,
    RUN,
    CalibrationRow,
    CaseRow,
    MemberRow,
    SliceRow,
    ThresholdRow,
    TimingRow,
    UncertaintyRow,
)
from training.selective import compute_filtering, compute_soft_dice
from training.thresholds import measure_thresholds

Mask = NDArray[np.bool_]
ZRange = tuple[int, int]


@dataclass(frozen=True)
class CaseMeasurements:
    """All rows of one case."""

    slices: tuple[SliceRow, ...]
    cases: tuple[CaseRow, ...]
    uncertainty: tuple[UncertaintyRow, ...]
    calibration: tuple[CalibrationRow, ...]
    timing: TimingRow | None = None
    members: tuple[MemberRow, ...] = ()
    thresholds: tuple[ThresholdRow, ...] = ()


@dataclass(frozen=True, eq=False)
class _Prediction:
    """A mask (Z, Y, X) of the whole grid, and what it is.

    Its map and the agreement of its members, slice by slice, are those by which slices are ranked;
    without a map (of all single runs but the first) they are not.
    """

    method: str
    member: int | None
    n_samples: int
    mask: Mask
    mean: NDArray[np.float32] | None = None
    entropy: NDArray[np.float32] | None = None
    agreement: tuple[float | None, ...] | None = None


def measure_case(
    case: Case,
    patient: str,
    ensemble: Ensemble,
    brain: Mask,
    z_range: ZRange,
    *,
    whole_volume: bool = False,
) -> CaseMeasurements:
    """Measure an ensemble against the labels of its case.

    Parameters
    ----------
    case
        With labels.
    patient
        Key of the patient, for the bootstrap.
    ensemble
        Complete in `z_range`, or everywhere.
    brain : (Z, Y, X) bool
        The voxels in which maps are judged.
    z_range
        Canonical slices of the protocol, first and one past the last.
    whole_volume
        Whether the 3-D scores are given of all slices as well.
    """
    assert case.wt_truth is not None
    truth = case.wt_truth
    predictions = list(_iter_predictions(ensemble))
    everything = (0, len(truth))
    regions = [z_range, everything] if whole_volume else [z_range]
    uncertainty, calibration = _measure_maps(case, patient, ensemble, brain, z_range)
    here = slice(*z_range)
    cropped = crop_ensemble(ensemble, z_range)
    spacing_mm = case.geometry.spacing_mm
    return CaseMeasurements(
        slices=tuple(
            row
            for z in range(*z_range)
            if truth[z].any()
            for row in _measure_slice(case, patient, truth, brain, predictions, z)
        ),
        cases=tuple(
            _measure_volume(case, patient, truth, prediction, region, whole_volume=bool(number))
            for number, region in enumerate(regions)
            for prediction in predictions
        ),
        uncertainty=tuple(uncertainty),
        calibration=tuple(calibration),
        members=tuple(
            measure_first_members(
                case.name, patient, cropped, truth[here], brain[here], spacing_mm[1:]
            )
        ),
        thresholds=tuple(measure_thresholds(case.name, patient, cropped, truth[here], spacing_mm)),
    )


def _iter_predictions(ensemble: Ensemble) -> Iterator[_Prediction]:
    masks = ensemble.members_uint8() >= MASK_LEVEL
    for member, mask in enumerate(masks):
        first = member == 0
        yield _Prediction(
            RUN,
            member,
            1,
            mask,
            mean=ensemble.mean_map(1) if first else None,
            entropy=ensemble.entropy_map(1) if first else None,
        )
    agreement = compute_agreement(masks).slice_dice
    kinds: tuple[MapKind, ...] = (PROBABILITIES, MASKS)
    for of in kinds:
        maps = ensemble.mean_map(of=of), ensemble.entropy_map(of=of)
        mask = ensemble.wt_mask(of=of)
        yield _Prediction(of, None, ensemble.n_members, mask, *maps, agreement)


def _measure_slice(
    case: Case, patient: str, truth: Mask, brain: Mask, predictions: list[_Prediction], z: int
) -> Iterator[SliceRow]:
    _, y_mm, x_mm = case.geometry.spacing_mm
    for prediction in predictions:
        scores = compute_scores(prediction.mask[z], truth[z], (y_mm, x_mm))
        mean, entropy, agreement = prediction.mean, prediction.entropy, prediction.agreement
        inside = brain[z]
        yield SliceRow(
            case=case.name,
            patient=patient,
            slice=case.geometry.to_source_slice(z),
            method=prediction.method,
            member=prediction.member,
            n_samples=prediction.n_samples,
            dice=scores.dice,
            jaccard=scores.jaccard,
            hd95_mm=scores.hd95_mm,
            empty=scores.empty_prediction,
            predicted_mm2=float(np.count_nonzero(prediction.mask[z]) * y_mm * x_mm),
            truth_mm2=float(np.count_nonzero(truth[z]) * y_mm * x_mm),
            confidence=None if agreement is None else agreement[z],
            soft_dice=None if mean is None else compute_soft_dice(mean[z], prediction.mask[z]),
            mean_entropy=None
            if entropy is None or not inside.any()
            else float(entropy[z][inside].mean()),
        )


def _measure_volume(
    case: Case,
    patient: str,
    truth: Mask,
    prediction: _Prediction,
    region: ZRange,
    *,
    whole_volume: bool,
) -> CaseRow:
    here = slice(*region)
    scores = compute_scores(prediction.mask[here], truth[here], case.geometry.spacing_mm)
    assert scores.predicted_ml is not None
    assert scores.truth_ml is not None
    ends = [case.geometry.to_source_slice(z) for z in (region[0], region[1] - 1)]
    return CaseRow(
        case=case.name,
        patient=patient,
        first_slice=min(ends),
        last_slice=max(ends),
        whole_volume=whole_volume,
        method=prediction.method,
        member=prediction.member,
        n_samples=prediction.n_samples,
        dice=scores.dice,
        jaccard=scores.jaccard,
        hd95_mm=scores.hd95_mm,
        empty=scores.empty_prediction,
        predicted_ml=scores.predicted_ml,
        truth_ml=scores.truth_ml,
        volume_error_ml=scores.predicted_ml - scores.truth_ml,
    )


def _measure_maps(
    case: Case, patient: str, ensemble: Ensemble, brain: Mask, z_range: ZRange
) -> tuple[list[UncertaintyRow], list[CalibrationRow]]:
    """Judge the maps of the first member alone and of the ensemble, of both kinds."""
    assert case.wt_truth is not None
    here = slice(*z_range)
    truth, region = case.wt_truth[here], brain[here]
    masks = ensemble.members_uint8()[:, here] >= MASK_LEVEL
    distance = compute_energy_distance(masks, truth)
    confidence = compute_mean_pairwise_dice(masks)
    uncertainty: list[UncertaintyRow] = []
    curves: list[CalibrationRow] = []
    kinds: tuple[tuple[str, MapKind, int], ...] = (
        (RUN, PROBABILITIES, 1),
        (PROBABILITIES, PROBABILITIES, ensemble.n_members),
        (MASKS, MASKS, ensemble.n_members),
    )
    for method, of, k in kinds:
        mean = ensemble.mean_map(k, of)[here]
        calibration = compute_calibration(mean, truth, region)
        mask, variance = ensemble.wt_mask(k=k, of=of)[here], ensemble.variance_map(k, of)[here]
        detection = compute_error_detection(variance, mask != truth, region)
        filtering = compute_filtering(mask, truth, variance, region)
        entropy = ensemble.entropy_map(k, of)[here][region]
        spread = method != RUN
        uncertainty.append(
            UncertaintyRow(
                case=case.name,
                patient=patient,
                method=method,
                n_samples=k,
                n_voxels=detection.n_voxels,
                n_errors=detection.n_errors,
                ece=calibration.ece,
                brier=calibration.brier,
                error_auroc=detection.auroc,
                error_auprc=detection.auprc,
                error_best_dice=detection.best_dice,
                diversity=distance.diversity if spread else None,
                confidence=confidence if spread else None,
                ged_squared=distance.ged_squared if spread else None,
                filtered_dice=filtering.dice,
                filtered_tp=filtering.true_positives,
                filtered_tn=filtering.true_negatives,
                qu_brats=filtering.score,
                mean_entropy=float(entropy.mean()) if entropy.size else None,
                dice=compute_dice(mask, truth),
                soft_dice=compute_soft_dice(mean, mask),
                predicted_ml=compute_volume_ml(mask, case.geometry.spacing_mm),
            )
        )
        bins = zip(
            calibration.counts, calibration.predicted_sums, calibration.observed_sums, strict=True
        )
        curves.extend(
            CalibrationRow(case.name, patient, method, number, *values)
            for number, values in enumerate(bins)
        )
    return uncertainty, curves
