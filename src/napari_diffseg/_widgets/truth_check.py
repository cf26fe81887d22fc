"""What the truth says of mask and uncertainty: measured in another thread, said in sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_diffseg.core.calibration import compute_calibration, compute_error_detection
from napari_diffseg.core.preprocessing import find_brain
from napari_diffseg.core.uncertainty_filter import compute_filter_curve, scale_variance

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from napari_diffseg._widgets.run import Run
    from napari_diffseg.core.calibration import Calibration, ErrorDetection
    from napari_diffseg.core.uncertainty_filter import FilteredScores

FAIR_AUROC = 0.7
GOOD_AUROC = 0.9


@dataclass(frozen=True)
class TruthCheck:
    """All of it, of the brain in the slices that can be judged."""

    calibration: Calibration
    detection: ErrorDetection
    curve: tuple[FilteredScores, ...]


def prepare_check(run: Run) -> Callable[[], TruthCheck] | None:
    """Copy what is needed, and return what measures it; None without truth or sample."""
    truth = run.case.wt_truth
    judged = np.flatnonzero(run.evaluated)
    if truth is None or not judged.size:
        return None
    stretch = slice(int(judged[0]), int(judged[-1]) + 1)
    counts = run.evaluated[stretch].copy()
    mean, mask = run.mean[stretch].copy(), run.mask[stretch].copy()
    prior_image, truth = run.case.prior_image[:, stretch], truth[stretch]
    return lambda: check(mean, mask, truth, find_brain(prior_image) & counts[:, None, None])


def check(
    mean: NDArray[np.float32],
    mask: NDArray[np.uint8],
    truth: NDArray[np.bool_],
    brain: NDArray[np.bool_],
) -> TruthCheck:
    """Measure (Z, Y, X) maps against the truth, in the brain."""
    p, tumour, called = mean[brain], truth[brain], mask[brain]
    variance = p * (1 - p)  # as `core.ensemble` explains, for either kind of map
    return TruthCheck(
        compute_calibration(p, tumour),
        compute_error_detection(variance, called != tumour),
        compute_filter_curve(called, tumour, np.clip(scale_variance(variance), 0, 100)),
    )


def describe_detection(detection: ErrorDetection) -> str:
    """Say whether the variance finds the errors."""
    if detection.auroc is None:
        return "The mask has no error here." if not detection.n_errors else "All voxels are wrong."
    if detection.auroc >= GOOD_AUROC:
        verdict = "The variance finds the errors"
    elif detection.auroc >= FAIR_AUROC:
        verdict = "The variance finds part of the errors"
    else:
        verdict = "The variance hardly finds the errors"
    return (
        f"{verdict}: a wrong voxel is more uncertain than a right one in {detection.auroc:.0%} of "
        f"all pairs (AUROC {detection.auroc:.3f})."
    )


def describe_calibration(calibration: Calibration) -> str:
    """Say how far the probabilities are off."""
    if calibration.ece is None:
        return "There is no brain in these slices."
    return (
        f"Over all of the brain the mean probability is off by {100 * calibration.ece:.2g} "
        f"percentage points on average (ECE {calibration.ece:.4f}). On the dashed line it would be "
        "exact."
    )


def describe_filter(scores: FilteredScores, whole: FilteredScores) -> str:
    """Say what is left at a limit."""
    if scores.tau == whole.tau:
        return f"Nothing is hidden: Dice {whole.dice:.3f}."
    return (
        f"Dice of the rest {scores.dice:.3f} (of all {whole.dice:.3f}). Hidden: "
        f"{scores.filtered:.1%} of the brain, {scores.filtered_true_positives:.1%} of the tumour "
        "that was found rightly."
    )
