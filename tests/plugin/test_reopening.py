"""A saved result is opened again: layers, sliders, members; and sampling goes on with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.utils.notifications import notification_manager

from napari_diffseg._layers import find_layers, find_slice
from napari_diffseg._widgets import DiffsegWidget, advice, case_closer, case_desk, exporter
from napari_diffseg._widgets.engine import Engine
from napari_diffseg.core import consensus
from napari_diffseg.core.describe import describe_result
from napari_diffseg.core.errors import ParameterError
from napari_diffseg.core.events import SampleDone
from napari_diffseg.core.export import save_result
from napari_diffseg.core.params import SegmentParams
from napari_diffseg.core.reopen import load_result
from napari_diffseg.core.segment import segment
from napari_diffseg.core.verdict import Verdict
from tests.plugin.conftest import TUMOUR_Z, Desk, SlowMotion, load_tiny, write_synthetic


@pytest.fixture
def saved(make_desk: Callable[..., Desk], case_folder: Path, tmp_path: Path) -> Path:
    """Give the record of a result with three samples, two of which the maps are made of."""
    patch = pytest.MonkeyPatch()
    folder = tmp_path / "results"
    patch.setattr(exporter, "ask_folder", lambda *_: str(folder))
    desk = make_desk()
    desk.open(case_folder)
    desk.widget.parameters.n_samples.setValue(3)
    desk.widget.parameters.seed.setValue(5)
    desk.segment()
    desk.widget.ensemble.members.setValue(2)
    desk.widget.ensemble.threshold.setValue(40)
    desk.click(desk.widget.export.save_button)
    desk.wait(desk.widget.export.save_button.isEnabled)
    patch.undo()
    desk.viewer.layers.clear()
    return folder / "Case_001_diffseg.json"


def reopen(desk: Desk, path: Path) -> None:
    desk.viewer.open(path, plugin="napari-diffseg")


def paint_and_save(
    desk: Desk, case_folder: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Segment a case, paint 16 voxels and save; return the record."""
    monkeypatch.setattr(exporter, "ask_folder", lambda *_: str(folder))
    desk.open(case_folder)
    desk.segment()
    desk.click(desk.widget.export.edit_button)
    desk.layer("edited").data[TUMOUR_Z, :4, :4] = 1
    desk.click(desk.widget.export.save_button)
    desk.wait(desk.widget.export.save_button.isEnabled)
    return folder / "Case_001_diffseg.json"


def test_layers_sliders_and_choices_are_back(make_desk: Callable[..., Desk], saved: Path) -> None:
    desk = make_desk()
    reopen(desk, saved)
    assert desk.roles.count("image") == 4
    assert len(desk.layer("samples").data) == 3
    ensemble, parameters = desk.widget.ensemble, desk.widget.parameters
    assert (ensemble.members.value(), ensemble.members.maximum()) == (2, 3)
    assert ensemble.threshold.value() == 40
    assert (parameters.n_samples.value(), parameters.seed.value()) == (3, 5)
    mean = desk.layer("samples").data[:2].mean(axis=0) / 255
    np.testing.assert_allclose(desk.layer("mean").data, mean, atol=1e-6)
    np.testing.assert_array_equal(desk.layer("mask").data, mean > 0.4)
    between = desk.layer("samples").data[:2].astype(np.float64).var(axis=0) / 255**2
    np.testing.assert_allclose(desk.layer("disagreement").data, between, atol=1e-6)
    record = json.loads(saved.read_text(encoding="utf-8"))
    assert f"{record['volume']['mask_ml']:.2f} mL" in desk.widget.readout.volume.text()
    ensemble.threshold.setValue(80)
    desk.wait(lambda: np.array_equal(desk.layer("mask").data, mean > np.float32(0.8)))


@pytest.fixture
def by_staple(saved: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Save the result anew with a mask by "STAPLE", here the first sample's; return that mask."""
    monkeypatch.setattr(consensus, "_run_staple", lambda masks: masks[0].astype(np.float32))
    result = load_result(saved)
    assert result.ensemble is not None
    record = describe_result(
        result.case, result.ensemble, result.record.run, threshold=0.4, consensus="staple"
    )
    save_result(saved.parent, result.case, result.ensemble, record, samples=True)
    expected = result.ensemble.members_uint8()[0] >= 128
    assert not np.array_equal(expected, result.ensemble.wt_mask(of="masks"))  # the majority's
    return expected


def test_a_mask_by_staple_is_back(
    make_desk: Callable[..., Desk], saved: Path, by_staple: np.ndarray
) -> None:
    desk = make_desk()
    reopen(desk, saved)
    assert desk.widget.ensemble.consensus.currentData() == "staple"
    np.testing.assert_array_equal(desk.layer("mask").data, by_staple)
    desk.widget.ensemble.members.setValue(2)  # STAPLE of these has to be computed first
    desk.wait(lambda: "computing" in desk.widget.ensemble.consensus.currentText())
    desk.wait(lambda: "computing" not in desk.widget.ensemble.consensus.currentText())
    np.testing.assert_array_equal(desk.layer("mask").data, by_staple)


def test_without_simpleitk_a_mask_by_staple_is_shown_as_it_was_saved(
    make_desk: Callable[..., Desk],
    saved: Path,
    by_staple: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(masks: np.ndarray) -> np.ndarray:
        raise ParameterError("STAPLE needs SimpleITK.")

    monkeypatch.setattr(consensus, "_run_staple", refuse)
    desk = make_desk()
    reopen(desk, saved)
    told = "STAPLE needs SimpleITK. The mask is shown as it was saved."
    assert notification_manager.records[-1].message == told
    np.testing.assert_array_equal(desk.layer("mask").data, by_staple)
    assert len(desk.layer("samples").data) == 3
    assert told in desk.widget.run.message.text()
    desk.widget.ensemble.threshold.setValue(80)
    desk.wait(lambda: desk.widget.stage.run.view.threshold == 0.8)
    np.testing.assert_array_equal(desk.layer("mask").data, by_staple)


def test_a_result_of_many_samples_and_a_long_seed_can_be_continued(
    make_desk: Callable[..., Desk], saved: Path
) -> None:
    values = json.loads(saved.read_text(encoding="utf-8"))
    values["run"]["seed"] = 2**31 - 1
    saved.write_text(json.dumps(values), encoding="utf-8")
    desk = make_desk()
    reopen(desk, saved)
    assert desk.widget.parameters.seed.value() == 2**31 - 1
    desk.widget.parameters.n_samples.setValue(4)
    assert desk.widget.run.button.text() == "Add 1 sample"
    desk.widget.parameters.make_room(150)
    desk.widget.parameters.n_samples.setValue(160)
    assert desk.widget.parameters.choices().n_samples == 160


def test_of_a_seed_that_is_too_large_it_is_told(
    make_desk: Callable[..., Desk], saved: Path
) -> None:
    values = json.loads(saved.read_text(encoding="utf-8"))
    values["run"]["seed"] = 2**31
    saved.write_text(json.dumps(values), encoding="utf-8")
    desk = make_desk()
    reopen(desk, saved)
    assert desk.layer("mask").data.any()
    assert "2147483648, is larger than" in desk.widget.run.message.text()
    assert desk.widget.run.button.text() == "Segment"


def test_every_case_keeps_its_own_threshold(
    make_desk: Callable[..., Desk], saved: Path, tmp_path: Path
) -> None:
    desk = make_desk()
    other = desk.open(write_synthetic(tmp_path, "Case_002", seed=2))
    desk.widget.ensemble.threshold.setValue(60)
    desk.segment()
    reopen(desk, saved)
    assert desk.widget.ensemble.view().threshold == 0.4
    desk.widget._desk.choose(other)
    assert desk.widget.ensemble.view().threshold == 0.6
    mask, mean = (
        find_layers(desk.viewer.layers, role=role, case=other)[0].data for role in ("mask", "mean")
    )
    np.testing.assert_array_equal(mask, mean > np.float32(0.6))
    desk.open(write_synthetic(tmp_path, "Case_003", seed=3))
    desk.segment()  # a new one is looked at as the user has chosen last
    assert desk.widget.ensemble.view().threshold == 0.6


def test_a_reopened_result_looks_like_one_that_was_drawn(
    make_desk: Callable[..., Desk], saved: Path
) -> None:
    desk = make_desk()
    overlay = desk.widget.ensemble.overlay
    overlay.setCurrentIndex(overlay.findData("variance"))
    reopen(desk, saved)
    assert (desk.layer("mask").contour, desk.layer("mask").opacity) == (1, 1.0)
    assert desk.layer("variance").visible
    assert not desk.layer("mean").visible
    for role in ("mean", "variance"):
        desk.wait(lambda role=role: desk.layer(role).colorbar.visible)


def test_a_reopened_result_that_is_unsure_says_so(
    make_desk: Callable[..., Desk], saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict = Verdict("Do not rely on this volume.", is_warning=True)
    monkeypatch.setattr(advice, "judge", lambda *_, **__: verdict)
    desk = make_desk()
    message = desk.widget.run.message
    message.show_message("error", "Something else went wrong.")
    reopen(desk, saved)
    desk.wait(lambda: message.text().endswith(verdict.text))
    assert (message.kind, message.text()) == (
        "error",
        f"Something else went wrong. {verdict.text}",
    )
    desk.open(write_synthetic(saved.parent, "Case_002", seed=2))
    assert message.text() == "Something else went wrong."


def test_without_samples_the_warning_of_the_record_is_shown(
    make_desk: Callable[..., Desk], saved: Path
) -> None:
    (saved.parent / "Case_001_samples.nii.gz").unlink()
    values = json.loads(saved.read_text(encoding="utf-8"))
    values["verdict"] = {"text": "Do not rely on this volume.", "is_warning": True}
    saved.write_text(json.dumps(values), encoding="utf-8")
    desk = make_desk()
    reopen(desk, saved)
    message = desk.widget.run.message
    assert message.kind == "warning"
    assert message.text().startswith("Do not rely on this volume. The samples of this result")


def test_a_result_of_a_case_that_is_open_but_not_current_keeps_its_own_threshold_and_slice(
    make_desk: Callable[..., Desk], saved: Path, case_folder: Path, tmp_path: Path
) -> None:
    desk = make_desk()
    case = desk.open(case_folder)
    desk.open(write_synthetic(tmp_path, "Case_002", seed=2))
    desk.go_to(case, 2)
    reopen(desk, saved)
    assert desk.widget._desk.current is case
    assert desk.widget.ensemble.view().threshold == 0.4
    assert desk.widget.stage.run.view.threshold == 0.4
    assert desk.widget.parameters.this_slice.isChecked()
    assert find_slice(desk.viewer.dims, case.geometry) == TUMOUR_Z


def test_what_was_painted_is_back_and_is_saved_again(
    make_desk: Callable[..., Desk],
    case_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = make_desk()
    record_path = paint_and_save(desk, case_folder, tmp_path / "results", monkeypatch)
    painted = desk.layer("edited").data.copy()
    desk.viewer.layers.clear()

    reopen(desk, record_path)
    np.testing.assert_array_equal(desk.layer("edited").data, painted)
    desk.click(desk.widget.export.save_button)
    desk.wait(desk.widget.export.save_button.isEnabled)
    record = json.loads(record_path.read_text(encoding="utf-8"))
    assert record["edited"]["n_added"] == 16


def test_a_result_whose_map_was_deleted_does_not_keep_the_dock_from_opening(
    make_napari_viewer: Any, make_desk: Callable[..., Desk], saved: Path
) -> None:
    viewer = make_napari_viewer()
    viewer.open(saved, plugin="napari-diffseg")
    viewer.layers.remove(find_layers(viewer.layers, role="variance")[0])
    widget = DiffsegWidget(viewer, Engine(load_tiny))
    viewer.window.add_dock_widget(widget, name="Diffusion segmentation")
    assert widget.ensemble.members.maximum() == 3
    widget.ensemble.threshold.setValue(80)


def test_more_samples_continue_the_same_ensemble(
    make_desk: Callable[..., Desk], saved: Path, case_folder: Path
) -> None:
    desk = make_desk()
    reopen(desk, saved)
    case = desk.layer("mask").metadata["diffseg"]["source"]
    desk.go_to(case, TUMOUR_Z)
    before = desk.layer("samples").data.copy()
    desk.widget.parameters.n_samples.setValue(5)
    assert desk.widget.run.button.text() == "Add 2 samples"
    desk.segment()
    assert desk.widget.run.message.kind != "error"  # it may say that the samples disagree
    samples = desk.layer("samples").data
    np.testing.assert_array_equal(samples[:3], before)
    assert samples[3:].any(axis=(1, 2, 3)).all()


def test_added_samples_see_the_slices_as_the_record_says(
    make_desk: Callable[..., Desk], saved: Path
) -> None:
    values = json.loads(saved.read_text(encoding="utf-8"))
    values["run"].update(mirror=True, vary_contrast=True)
    saved.write_text(json.dumps(values), encoding="utf-8")
    desk = make_desk()
    reopen(desk, saved)
    case = desk.layer("mask").metadata["diffseg"]["source"]
    desk.go_to(case, TUMOUR_Z)
    desk.widget.parameters.n_samples.setValue(5)
    desk.segment()
    params = SegmentParams(
        n_samples=2,
        first_member=3,
        n_steps=values["run"]["n_steps"],
        sampler=values["run"]["sampler"],
        seed=5,
        mirror=True,
        vary_contrast=True,
        z_range=(TUMOUR_Z, TUMOUR_Z + 1),
        device="cpu",
    )
    expected = [e for e in segment(case, load_tiny(None), params) if isinstance(e, SampleDone)]
    assert len(expected) == 2
    for sample in expected:
        added = desk.layer("samples").data[sample.member, sample.z]
        np.testing.assert_array_equal(added, sample.probability)


def test_eta_of_a_stochastic_sampler_is_kept(make_desk: Callable[..., Desk], saved: Path) -> None:
    values = json.loads(saved.read_text(encoding="utf-8"))
    values["run"].update(sampler="ddim", eta=0.5)
    saved.write_text(json.dumps(values), encoding="utf-8")
    desk = make_desk()
    reopen(desk, saved)
    case = desk.layer("mask").metadata["diffseg"]["source"]
    desk.go_to(case, TUMOUR_Z)
    for n_samples in (4, 5):  # the second time from the record of the first
        desk.widget.parameters.n_samples.setValue(n_samples)
        desk.segment()
    params = SegmentParams(
        n_samples=2,
        first_member=3,
        n_steps=values["run"]["n_steps"],
        sampler="ddim",
        eta=0.5,
        seed=5,
        z_range=(TUMOUR_Z, TUMOUR_Z + 1),
        device="cpu",
    )
    expected = [e for e in segment(case, load_tiny(None), params) if isinstance(e, SampleDone)]
    for sample in expected:
        added = desk.layer("samples").data[sample.member, sample.z]
        np.testing.assert_array_equal(added, sample.probability)


def test_a_threshold_between_two_places_of_the_slider_is_kept(
    make_desk: Callable[..., Desk], saved: Path
) -> None:
    values = json.loads(saved.read_text(encoding="utf-8"))
    values["maps"]["threshold"] = 0.333
    saved.write_text(json.dumps(values), encoding="utf-8")
    desk = make_desk()
    reopen(desk, saved)
    ensemble = desk.widget.ensemble
    assert ensemble.view().threshold == 0.333
    assert ensemble.threshold_text.text() == "0.333"
    mean = desk.layer("mean").data
    np.testing.assert_array_equal(desk.layer("mask").data, mean > np.float32(0.333))
    ensemble.threshold.setValue(80)
    assert (ensemble.view().threshold, ensemble.threshold_text.text()) == (0.8, "0.80")


def test_a_result_that_is_opened_while_another_case_is_running_can_be_reviewed(
    make_desk: Callable[..., Desk], saved: Path, slow_motion: SlowMotion, tmp_path: Path
) -> None:
    desk = make_desk(slow_motion)
    desk.open(write_synthetic(tmp_path, "Case_002", seed=2))
    desk.click(desk.widget.run.button)
    slow_motion.go(2)
    reopen(desk, saved)
    ensemble = desk.widget.ensemble
    assert ensemble.isEnabled()
    assert ensemble.members.maximum() == 3
    ensemble.threshold.setValue(80)
    opened = find_layers(desk.viewer.layers, role="mask")[-1]
    mean = find_layers(desk.viewer.layers, role="mean")[-1].data
    desk.wait(lambda: np.array_equal(opened.data, mean > np.float32(0.8)))
    slow_motion.go()
    desk.wait_until_ready()
    assert desk.widget.run.status.full_text().startswith("Case_002: Done")
    assert ensemble.isEnabled()


def test_members_of_another_model_are_not_added_to(
    make_desk: Callable[..., Desk], saved: Path
) -> None:
    values = json.loads(saved.read_text(encoding="utf-8"))
    values["run"]["model"].update(sha256="f" * 64, file="other.safetensors")
    saved.write_text(json.dumps(values), encoding="utf-8")
    desk = make_desk()
    reopen(desk, saved)
    desk.widget.parameters.n_samples.setValue(5)
    desk.segment()
    assert "drawn by another model (other.safetensors)" in desk.widget.run.message.text()
    assert len(desk.layer("samples").data) in (3, 5)
    assert not desk.layer("samples").data[3:].any()
    assert desk.widget.run.button.text() == "Segment"


def test_without_samples_the_maps_are_shown_and_it_is_said(
    make_desk: Callable[..., Desk], saved: Path
) -> None:
    (saved.parent / "Case_001_samples.nii.gz").unlink()
    desk = make_desk()
    reopen(desk, saved)
    assert "samples" not in desk.roles
    assert desk.layer("mask").data.any()
    assert desk.layer("disagreement").data.any()
    assert "were not saved" in desk.widget.run.message.text()
    assert desk.layer("mask").contour == 1
    desk.wait(lambda: desk.layer("mean").colorbar.visible)
    assert desk.widget.run.button.text() == "Segment"


@pytest.mark.parametrize("has_samples", [True, False])
def test_a_result_from_before_there_was_a_map_of_disagreement_opens(
    make_desk: Callable[..., Desk], saved: Path, has_samples: bool
) -> None:
    values = json.loads(saved.read_text(encoding="utf-8"))
    for name in ("disagreement",) if has_samples else ("disagreement", "samples"):
        (saved.parent / values["files"].pop(name)).unlink()
    saved.write_text(json.dumps(values), encoding="utf-8")
    desk = make_desk()
    reopen(desk, saved)
    assert desk.layer("mask").data.any()
    assert ("disagreement" in desk.roles) == has_samples  # made of them


def test_it_is_opened_from_the_menu_onto_the_case_that_is_open(
    make_desk: Callable[..., Desk],
    saved: Path,
    case_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(case_desk, "ask_result", lambda *_: str(saved))
    desk = make_desk()
    desk.open(case_folder)
    desk.widget.cases.result_action.trigger()
    desk.wait(lambda: "mask" in desk.roles)
    assert desk.roles.count("image") == 4
    assert desk.widget.ensemble.members.maximum() == 3


def test_samples_that_are_not_saved_are_kept_when_a_result_is_opened(
    make_desk: Callable[..., Desk], saved: Path, case_folder: Path
) -> None:
    desk = make_desk()
    case = desk.open(case_folder)
    desk.widget.parameters.n_samples.setValue(4)
    desk.segment()
    drawn = desk.layer("samples")
    reopen(desk, saved)
    run = desk.widget._runner.find_run(case)
    assert run.ensemble.n_members == 3  # the saved result is what is worked on
    assert drawn in desk.viewer.layers
    assert len(drawn.data) == 4
    assert not drawn.visible
    assert "kept" in desk.widget.run.message.text()
    # A result from a file is still there when another one takes its place.
    shown = len(desk.viewer.layers)
    reopen(desk, saved)
    assert len(desk.viewer.layers) == shown


def test_a_result_without_samples_takes_the_place_of_what_was_drawn(
    make_desk: Callable[..., Desk],
    saved: Path,
    case_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (saved.parent / "Case_001_samples.nii.gz").unlink()
    desk = make_desk()
    case = desk.open(case_folder)
    desk.segment()
    drawn = desk.layer("mask")
    reopen(desk, saved)
    seen = [layer for layer in find_layers(desk.viewer.layers, role="mask") if layer.visible]
    assert len(seen) == 1  # two masks cannot be told apart
    assert seen[0] is not drawn
    assert drawn in desk.viewer.layers
    assert desk.widget._runner.find_run(case) is None
    assert not desk.widget.export.save_button.isEnabled()  # nothing is shown that it would save
    said = desk.widget.run.message.text()
    assert "were not saved" in said
    assert "are kept, hidden" in said
    assert desk.widget.run.button.text() == "Segment"
    asked: list[str] = []
    monkeypatch.setattr(case_closer, "ask", lambda _, text, *__: asked.append(text))
    desk.widget.cases.close_action.trigger()
    assert len(asked) == 1  # what is kept is not thrown away unasked
    assert drawn in desk.viewer.layers


def test_a_result_that_is_opened_while_layers_are_still_coming_is_alone_on_screen(
    make_desk: Callable[..., Desk], slow_motion: SlowMotion, saved: Path, case_folder: Path
) -> None:
    (saved.parent / "Case_001_samples.nii.gz").unlink()
    desk = make_desk(slow_motion)
    desk.open(case_folder)
    desk.click(desk.widget.run.button)
    slow_motion.go(8)
    desk.wait(lambda: desk.widget.stage.layers.is_busy)
    reopen(desk, saved)
    slow_motion.go()
    desk.wait_until_ready()
    desk.wait(lambda: not desk.widget.stage.layers.is_busy)
    for role in ("mask", "mean"):
        found = find_layers(desk.viewer.layers, role=role)
        assert len([layer for layer in found if layer.visible]) == 1, role


def test_a_result_that_is_opened_while_its_own_case_is_running_ends_the_run(
    make_desk: Callable[..., Desk], slow_motion: SlowMotion, saved: Path, case_folder: Path
) -> None:
    desk = make_desk(slow_motion)
    case = desk.open(case_folder)
    desk.click(desk.widget.run.button)
    slow_motion.go(8)
    desk.wait(lambda: "samples" in desk.roles and not desk.widget.stage.layers.is_busy)
    reopen(desk, saved)
    slow_motion.go()
    desk.wait_until_ready()
    run = desk.widget._runner.find_run(case)
    assert run.is_reopened
    of_result = desk.widget.stage.layers.of_run(run)
    assert of_result["mask"].visible
    assert of_result["mean"].visible
    assert "The run of this case was stopped." in desk.widget.run.message.text()
    assert len(of_result["samples"].data) == 3


def test_of_two_edited_masks_the_chosen_one_is_saved(
    make_desk: Callable[..., Desk],
    case_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = make_desk()
    record_path = paint_and_save(desk, case_folder, tmp_path / "results", monkeypatch)
    first = desk.layer("edited")
    reopen(desk, record_path)
    second = next(x for x in find_layers(desk.viewer.layers, role="edited") if x is not first)
    assert "There are several edited masks" in desk.widget.run.message.text()
    for layer, n_voxels in ((first, 5), (second, 2)):
        desk.viewer.layers.selection.active = layer
        layer.data[TUMOUR_Z + 1, 0, :n_voxels] = 1
        edit = desk.widget._exporter.edited.take()
        assert edit is not None
        np.testing.assert_array_equal(edit.mask, layer.data > 0)
        desk.viewer.layers.selection.active = desk.viewer.layers[0]  # to look at something else
        np.testing.assert_array_equal(desk.widget._exporter.edited.take().mask, layer.data > 0)


def test_what_was_opened_is_said_when_it_has_been_read(
    make_desk: Callable[..., Desk], saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(case_desk, "ask_result", lambda *_: str(saved))
    desk = make_desk()
    desk.widget.cases.result_action.trigger()
    desk.wait(lambda: "mask" in desk.roles)
    desk.wait(lambda: not desk.widget._desk.is_opening)
    assert desk.widget.run.status.full_text().startswith("Opened: 3 samples, drawn by ")
    desk.wait_until_ready()
    assert desk.layer("disagreement").colorbar.visible
