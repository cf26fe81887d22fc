"""What the first 1, 2, ... members of an ensemble are worth: the curves against n."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from napari_diffseg.core.calibration import compute_calibration, compute_error_detection
from napari_diffseg.core.convergence import compute_convergence
from napari_diffseg.core.ensemble import Ensemble
from napari_diffseg.core.levels import MapKind
from napari_diffseg.core.metrics import compute_scores
from napari_diffseg.core.overlaps import Overlaps
from training.results import MASKS, PROBABILITIES, MemberRow

Mask = NDArray[np.bool_]

KINDS: tuple[MapKind, ...] = (PROBABILITIES, MASKS)


def measure_first_members(
    case: str,
    patient: str,
    ensemble: Ensemble,
    truth: Mask,
    brain: Mask,
    spacing_mm: Sequence[float],
    kinds: Iterable[MapKind] = KINDS,
) -> Iterator[MemberRow]:
    """Measure the first k members of an ensemble for k = 1, 2, ... and each kind of mean.

    Parameters
    ----------
    case, patient
        For the rows.
    ensemble
        Complete in all of its Z slices.
    truth, brain : (Z, Y, X) bool
        Scores are means over the slices with tumour; maps are judged inside the brain of all.
    spacing_mm
        Of the slices, (y, x).
    """
    pair_dice = Overlaps.of_ensemble(ensemble).pair_dice(
        np.arange(ensemble.n_members), ensemble.sampled
    )
    pair_distance = 1 - pair_dice / (2 - pair_dice)  # 1 - IoU
    slices = np.flatnonzero(truth.any(axis=(1, 2)))
    for of in kinds:
        added = compute_convergence(ensemble.members_uint8(), of=of)
        additions = {addition.n_members: addition for addition in added}
        for k in range(1, ensemble.n_members + 1):
            masks = ensemble.wt_mask(k=k, of=of)
            scores = [compute_scores(masks[z], truth[z], spacing_mm) for z in slices]
            calibration = compute_calibration(ensemble.mean_map(k, of), truth, brain)
            variance = ensemble.variance_map(k, of)
            detection = compute_error_detection(variance, masks != truth, brain)
            pairs = np.triu_indices(k, 1)
            addition = additions.get(k)
            yield MemberRow(
                case=case,
                patient=patient,
                method=of,
                n_samples=k,
                n_slices=len(slices),
                dice=_mean(score.dice for score in scores),
                hd95_mm=_mean(score.hd95_mm for score in scores),
                n_empty=sum(score.empty_prediction for score in scores),
                ece=calibration.ece,
                brier=calibration.brier,
                error_auroc=detection.auroc,
                diversity=_mean(pair_distance[pairs]),
                confidence=_mean(pair_dice[pairs]),
                dice_with_before=addition.dice if addition else None,
                monte_carlo_error=addition.monte_carlo_error if addition else None,
            )


def crop_ensemble(ensemble: Ensemble, z_range: tuple[int, int]) -> Ensemble:
    """Return an ensemble of these slices alone."""
    here = slice(*z_range)
    return Ensemble.from_arrays(ensemble.members_uint8()[:, here], ensemble.sampled[:, here])


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
