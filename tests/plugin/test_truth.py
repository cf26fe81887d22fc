"""The run against the labels: errors in the canvas, the filter, and what the numbers say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_diffseg._layers import find_layers
from napari_diffseg._widgets.truth_check import describe_detection
from napari_diffseg._widgets.truth_panel import NO_LABELS, TruthPanel
from napari_diffseg.core.calibration import ErrorDetection
from napari_diffseg.core.metrics import compute_dice
from tests.plugin.conftest import TUMOUR_Z, Desk


def open_panel(desk: Desk) -> TruthPanel:
    panel = next(p for p in desk.widget.panels if isinstance(p, TruthPanel))
    desk.click(panel.button)
    return panel


def run_volume(desk: Desk) -> None:
    desk.widget.parameters.whole_volume.click()
    desk.widget.parameters.n_samples.setValue(3)
    desk.segment()


def expected_errors(run, truth: np.ndarray) -> np.ndarray:
    mask = run.mask.astype(bool)
    errors = np.where(mask & ~truth, 1, np.where(truth & ~mask, 2, 0))
    errors[~run.evaluated] = 0
    return errors


def test_errors_follow_the_threshold_and_go_with_the_box(desk: Desk, case_folder: Path) -> None:
    case = desk.open(case_folder)
    panel = open_panel(desk)
    run_volume(desk)
    run = desk.widget._runner.find_run(case)
    assert "errors" not in desk.roles
    panel.errors.click()
    desk.wait(
        lambda: np.array_equal(desk.layer("errors").data, expected_errors(run, case.wt_truth))
    )
    first = desk.layer("errors").data.copy()
    assert {1, 2} <= set(np.unique(first))

    desk.widget.ensemble.threshold.setValue(20)
    # The slice on screen at once, the others soon.
    shown = desk.layer("errors").data[TUMOUR_Z]
    np.testing.assert_array_equal(shown, expected_errors(run, case.wt_truth)[TUMOUR_Z])
    desk.wait(
        lambda: np.array_equal(desk.layer("errors").data, expected_errors(run, case.wt_truth))
    )
    assert not np.array_equal(desk.layer("errors").data, first)

    panel.errors.click()
    assert not desk.layer("errors").visible
    panel.errors.click()
    assert desk.layer("errors").visible
    desk.viewer.layers.remove(desk.layer("errors"))
    desk.widget.ensemble.threshold.setValue(50)
    assert not panel.errors.isChecked()
    assert "errors" not in desk.roles


def test_filter_hides_uncertain_voxels_and_tells_the_dice_of_the_rest(
    desk: Desk, case_folder: Path
) -> None:
    case = desk.open(case_folder)
    panel = open_panel(desk)
    run_volume(desk)
    run = desk.widget._runner.find_run(case)
    desk.wait(lambda: panel.check is not None)
    assert panel.rest.text().startswith("Nothing is hidden: Dice ")
    panel.limit.setValue(40)
    assert panel.errors.isChecked()
    hidden = 400 * run.variance > 40
    assert hidden.any()
    desk.wait(lambda: np.array_equal(desk.layer("errors").data == 3, hidden))
    brain = (case.prior_image != 0).any(axis=0) & run.evaluated[:, None, None]
    rest = brain & ~hidden
    dice = compute_dice(run.mask.astype(bool) & rest, case.wt_truth & rest)
    desk.wait(lambda: f"Dice of the rest {dice:.3f}" in panel.rest.text())
    assert f"Hidden: {hidden.sum() / brain.sum():.1%} of the brain" in panel.rest.text()
    assert "AUROC" in panel.detection.text()
    assert "ECE" in panel.calibration.text()
    assert panel.plot is not None


def test_a_case_without_labels_says_so(desk: Desk, case_folder: Path) -> None:
    (label,) = case_folder.glob("*seg*")
    label.unlink()
    desk.open(case_folder)
    panel = open_panel(desk)
    run_volume(desk)
    assert panel.note.text() == NO_LABELS
    assert not panel.errors.isEnabled()
    assert not panel.limit.isEnabled()
    assert not find_layers(desk.viewer.layers, role="errors")


@pytest.mark.parametrize(
    ("auroc", "text"),
    [
        (0.97, "The variance finds the errors: a wrong voxel is more uncertain"),
        (0.8, "The variance finds part of the errors"),
        (0.5, "The variance hardly finds the errors"),
        (None, "The mask has no error here."),
    ],
)
def test_error_detection_in_words(auroc: float | None, text: str) -> None:
    n_errors = 0 if auroc is None else 5
    detection = ErrorDetection(auroc, None, None, None, n_errors, 100)
    assert describe_detection(detection).startswith(text)
