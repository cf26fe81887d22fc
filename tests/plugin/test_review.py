"""Sliders, choices and numbers: they act at once, on what is there, and sample nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.layers import Labels
from qtpy.QtCore import QPoint, Qt

from napari_diffseg._layers import find_layers
from napari_diffseg._widgets.members_panel import MembersPanel
from napari_diffseg._widgets.profile_panel import ProfilePanel
from napari_diffseg.core.events import Finished, SampleDone, Started, StepDone
from napari_diffseg.core.metrics import compute_dice, compute_hd95_mm, compute_jaccard
from tests.plugin.conftest import TUMOUR_Z, Desk, SlowMotion, load_tiny


@pytest.fixture(params=[False])
def reviewed(
    request: pytest.FixtureRequest,
    make_desk: Callable[..., Desk],
    slow_motion: SlowMotion,
    case_folder: Path,
) -> Desk:
    """Give a desk after a run of five samples on one slice; `slow_motion` counts what is drawn.

    The parameter says whether the window is shown.
    """
    slow_motion.go()
    desk = make_desk(slow_motion, show=request.param)
    desk.open(case_folder)
    desk.segment()
    slow_motion.events.clear()
    return desk


in_a_window = pytest.mark.parametrize("reviewed", [True], indirect=True, ids=["window"])


def drag(desk: Desk, slider: Any, share: float) -> None:
    """Drag the handle of a slider with the mouse to a share of its width."""
    width, middle = slider.width(), slider.height() // 2
    span = max(slider.maximum() - slider.minimum(), 1)
    start = int(8 + (width - 16) * (slider.value() - slider.minimum()) / span)
    end = int(8 + (width - 16) * share)
    left = Qt.MouseButton.LeftButton
    desk.qtbot.mousePress(slider, left, pos=QPoint(start, middle))
    for x in np.linspace(start, end, 8).astype(int):
        desk.qtbot.mouseMove(slider, QPoint(int(x), middle))
    desk.qtbot.mouseRelease(slider, left, pos=QPoint(end, middle))


@in_a_window
def test_the_members_slider_takes_the_first_k_without_sampling(
    reviewed: Desk, slow_motion: SlowMotion
) -> None:
    drag(reviewed, reviewed.widget.ensemble.members, 0.3)
    k = reviewed.widget.ensemble.members.value()
    assert 1 <= k < 5
    samples = reviewed.layer("samples").data[:k] / 255
    reviewed.wait(lambda: np.allclose(reviewed.layer("mean").data, samples.mean(axis=0), atol=1e-6))
    np.testing.assert_array_equal(reviewed.layer("mask").data, samples.mean(axis=0) > 0.5)
    between = reviewed.layer("disagreement").data
    np.testing.assert_allclose(between, samples.var(axis=0), atol=1e-6)
    assert reviewed.widget.ensemble.members_text.text() == f"{k} of 5"
    assert not slow_motion.events


@in_a_window
def test_the_threshold_slider_acts_on_the_visible_slice_at_once(
    reviewed: Desk, slow_motion: SlowMotion
) -> None:
    mean = reviewed.layer("mean").data
    before = reviewed.layer("mask").data.sum()
    drag(reviewed, reviewed.widget.ensemble.threshold, 0.8)
    threshold = reviewed.widget.ensemble.threshold.value() / 100
    assert threshold > 0.6
    # no event loop has run since
    np.testing.assert_array_equal(
        reviewed.layer("mask").data[TUMOUR_Z], mean[TUMOUR_Z] > np.float32(threshold)
    )
    assert reviewed.layer("mask").data.sum() < before
    assert not slow_motion.events


def test_the_threshold_acts_on_all_slices_when_the_slider_rests(
    desk: Desk, case_folder: Path
) -> None:
    desk.open(case_folder)
    desk.widget.parameters.whole_volume.click()
    desk.segment()
    desk.widget.ensemble.threshold.setValue(80)
    mean = desk.layer("mean").data
    desk.wait(lambda: np.array_equal(desk.layer("mask").data, mean > np.float32(0.8)))


def test_mean_of_masks_as_in_the_paper(reviewed: Desk) -> None:
    reviewed.widget.ensemble.kind.setCurrentIndex(1)
    masks = reviewed.layer("samples").data >= 128
    reviewed.wait(lambda: np.allclose(reviewed.layer("mean").data, masks.mean(axis=0)))
    for role in ("variance", "disagreement"):
        np.testing.assert_allclose(reviewed.layer(role).data, masks.var(axis=0), atol=1e-6)


def test_the_overlay_choice_shows_one_map(reviewed: Desk) -> None:
    shown = []
    maps = ("mean", "variance", "disagreement")
    for index in range(4):
        reviewed.widget.ensemble.overlay.setCurrentIndex(index)
        shown.append([role for role in maps if reviewed.layer(role).visible])
        assert reviewed.layer("mask").visible
    assert shown == [["mean"], ["variance"], ["disagreement"], []]


def test_maps_have_a_colour_bar_and_masks_are_outlines(reviewed: Desk) -> None:
    for role in ("mean", "variance", "disagreement"):
        assert reviewed.layer(role).colorbar.visible
    assert reviewed.layer("mask").contour == reviewed.layer("truth").contour == 1


def paint(desk: Desk, layer: Labels, *, value: int = 1) -> None:
    """Try to paint in the middle of the slice on screen, as napari's brush does."""
    desk.viewer.layers.selection.active = layer
    layer.mode = "paint"
    if layer.mode == "paint":
        layer.paint((TUMOUR_Z, 20, 18), value)


def test_mask_and_truth_cannot_be_painted_on(reviewed: Desk) -> None:
    case, before = reviewed.layer("mask").metadata["diffseg"]["source"], {}
    status = reviewed.widget.export.status
    assert not status.full_text()
    reviewed.viewer.layers.selection.active = reviewed.layer("mask")
    assert "Make editable" in status.full_text()
    reviewed.viewer.layers.selection.active = find_layers(reviewed.viewer.layers, role="image")[-1]
    assert not status.full_text()
    panel = next(p for p in reviewed.widget.panels if isinstance(p, MembersPanel))
    reviewed.click(panel.button)
    panel.agreement.click()
    panel.list.clicked_on.emit(0)
    reviewed.wait(lambda: {"agreement", "member"} <= {*reviewed.roles})
    for new_run in (False, True):  # which gives the same layers other arrays
        if new_run:
            reviewed.widget.parameters.seed.setValue(1)
            reviewed.segment()
        for role in ("mask", "truth", "agreement", "member"):
            for layer in find_layers(reviewed.viewer.layers, role=role):
                before[role] = layer.data.copy()
                for value in (0, 1):
                    paint(reviewed, layer, value=value)
                np.testing.assert_array_equal(layer.data, before[role])
                assert "Make editable" in reviewed.viewer.help  # napari's status bar
    assert case.wt_truth is not None
    reviewed.layer("truth").data[:] = 0  # by a script, or before the dock was there
    np.testing.assert_array_equal(case.wt_truth, before["truth"])
    reviewed.click(reviewed.widget.export.edit_button)
    edited = reviewed.layer("edited")
    for value in (0, 1):
        paint(reviewed, edited, value=value)
        assert edited.data[TUMOUR_Z, 20, 18] == value


def test_a_colour_bar_that_was_hidden_stays_hidden(reviewed: Desk) -> None:
    reviewed.layer("mean").colorbar.visible = False
    reviewed.widget.parameters.seed.setValue(1)
    reviewed.segment()
    assert not reviewed.layer("mean").colorbar.visible
    assert reviewed.layer("variance").colorbar.visible


def test_volume_with_the_interval_over_members(reviewed: Desk) -> None:
    samples = reviewed.layer("samples").data
    voxels = (samples >= 128).sum(axis=(1, 2, 3)) / 1000  # 1 mm voxels
    mask_ml = reviewed.layer("mask").data.sum() / 1000
    readout = reviewed.widget.readout
    assert f"{mask_ml:.2f} mL" in readout.volume.text()
    assert f"{voxels.min():.2f}–{voxels.max():.2f} mL (range of 5)" in readout.samples.text()


def test_likely_volume_follows_the_samples_used_and_nothing_else(reviewed: Desk) -> None:
    ensemble, readout = reviewed.widget.ensemble, reviewed.widget.readout
    run = reviewed.widget.stage.run
    assert run is not None
    levels = run.ensemble.members_uint8()
    ramp = np.linspace(0, 255, levels[0, 0].size).reshape(levels.shape[2:])
    (z,) = np.flatnonzero(run.is_sampled)
    for member, share in enumerate((1.0, 0.85, 0.7, 0.55, 0.4)):
        run.ensemble.add(member, int(z), (share * ramp).astype(np.uint8))

    def likely(k: int) -> str:
        mean = levels[:k].mean(axis=0) / 255
        sure, possible = ((mean > threshold).sum() / 1000 for threshold in (0.9, 0.1))
        return f"{sure:.2f}–{possible:.2f} mL"

    assert len({likely(2), likely(4), likely(5)}) == 3
    ensemble.members.setValue(4)
    reviewed.wait(lambda: readout.likely.text() == likely(4))
    assert "46 of 58 patients" in readout.likely.toolTip()
    assert "19 of the same 58" in readout.samples.toolTip()
    ensemble.members.setValue(2)
    reviewed.wait(lambda: readout.likely.text() == likely(2))
    ensemble.kind.setCurrentIndex(ensemble.kind.findData("masks"))
    ensemble.threshold.setValue(84)
    reviewed.wait(lambda: "range of 2" in readout.samples.text())
    assert readout.likely.text() == likely(2)
    ensemble.members.setValue(1)
    reviewed.wait(lambda: readout.likely.text() == readout.samples.text() == "–")
    ensemble.members.setValue(5)
    reviewed.wait(lambda: readout.likely.text() == likely(5))


def test_the_samples_are_cut_where_the_mask_is(reviewed: Desk) -> None:
    samples = reviewed.layer("samples").data
    ensemble, readout = reviewed.widget.ensemble, reviewed.widget.readout
    panel = next(p for p in reviewed.widget.panels if isinstance(p, ProfilePanel))
    reviewed.wait(lambda: panel.profile is not None)
    ensemble.threshold.setValue(84)
    voxels = (samples > 0.84 * 255).sum(axis=(1, 2, 3)) / 1000
    span = f"{voxels.min():.2f}–{voxels.max():.2f} mL (range of 5)"
    assert voxels.max() != (samples >= 128).sum(axis=(1, 2, 3)).max() / 1000
    reviewed.wait(lambda: span in readout.samples.text())
    assert f"median {np.median(voxels):.2f}" in readout.samples.text()
    highest = pytest.approx(voxels.max())
    reviewed.wait(lambda: panel.profile is not None and panel.profile.high_ml[0] == highest)
    ensemble.kind.setCurrentIndex(ensemble.kind.findData("masks"))
    voxels = (samples >= 128).sum(axis=(1, 2, 3)) / 1000
    span = f"{voxels.min():.2f}–{voxels.max():.2f} mL (range of 5)"
    reviewed.wait(lambda: span in readout.samples.text())


def test_agreement_with_the_truth_is_shown_for_the_slice(reviewed: Desk) -> None:
    readout = reviewed.widget.readout
    truth = reviewed.layer("truth").data[TUMOUR_Z]
    mask = reviewed.layer("mask").data[TUMOUR_Z]
    assert f"{compute_dice(mask, truth):.3f}" in readout.dice.text()
    assert f"{compute_jaccard(mask, truth):.3f}" in readout.jaccard.text()
    distance = compute_hd95_mm(mask, truth, (1.0, 1.0))
    reviewed.wait(lambda: f"{distance:.1f} mm" in readout.hd95.text())
    assert readout.slices.text() == "slice 5"


def test_agreement_follows_the_threshold(reviewed: Desk) -> None:
    truth = reviewed.layer("truth").data[TUMOUR_Z]
    reviewed.widget.ensemble.threshold.setValue(20)
    mask = reviewed.layer("mean").data[TUMOUR_Z] > np.float32(0.2)
    readout = reviewed.widget.readout
    reviewed.wait(lambda: f"{compute_dice(mask, truth):.3f}" in readout.dice.text())
    distance = compute_hd95_mm(mask, truth, (1.0, 1.0))
    reviewed.wait(lambda: f"{distance:.1f} mm" in readout.hd95.text())


def test_a_whole_volume_is_compared_in_3d_with_the_slices_without_brain(
    desk: Desk, case_folder: Path
) -> None:
    desk.open(case_folder)
    desk.widget.parameters.whole_volume.click()
    desk.segment()
    truth, mask = desk.layer("truth").data, desk.layer("mask").data
    readout = desk.widget.readout
    assert readout.slices.text() == "slices 0–11"
    desk.wait(lambda: f"{compute_dice(mask, truth):.3f}" in readout.dice.text())
    distance = compute_hd95_mm(mask, truth, (1.0, 1.0, 1.0))
    desk.wait(lambda: f"{distance:.1f} mm" in readout.hd95.text())


def test_without_truth_there_are_dashes(desk: Desk, case_folder: Path) -> None:
    (case_folder / "Case_001_seg.nii.gz").unlink()
    desk.open(case_folder)
    desk.segment()
    assert desk.roles.count("truth") == 0
    assert desk.widget.readout.dice.text() == "Dice –"
    assert "mL" in desk.widget.readout.volume.text()


def test_a_perfect_model_has_dice_1(make_desk: Callable[..., Desk], case_folder: Path) -> None:
    def oracle(case: Any, model: Any, params: Any, cancel: Any, prepared: Any) -> Any:
        zs = [z for z in range(*params.z_range) if z in prepared.z_indices]
        yield Started(tuple(zs), tuple(params.members), 1, "cpu", 1, len(zs) * len(params.members))
        for z in zs:
            for member in params.members:
                yield StepDone(1, 1, 1)
                yield SampleDone(member, z, case.wt_truth[z] * np.uint8(255))
        yield Finished(0.1)

    desk = make_desk(oracle, load_tiny)
    desk.open(case_folder)
    desk.widget.parameters.whole_volume.click()
    desk.segment()
    assert "1.000" in desk.widget.readout.dice.text()
    assert "1.000" in desk.widget.readout.jaccard.text()
    desk.wait(lambda: "0.0 mm" in desk.widget.readout.hd95.text())
    assert not desk.layer("variance").data.any()


def test_which_layer_is_active_does_not_change(desk: Desk, case_folder: Path) -> None:
    desk.open(case_folder)
    flair = next(layer for layer in desk.viewer.layers if layer.name.startswith("FLAIR"))
    desk.viewer.layers.selection.active = flair
    desk.segment()
    assert desk.viewer.layers.selection.active is flair
