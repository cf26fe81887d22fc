"""The export section: what is on screen goes into files, without the window waiting for it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from napari_diffseg._widgets import exporter, questions
from napari_diffseg._widgets.found import Found
from napari_diffseg._widgets.saved_files import has_other_slices
from napari_diffseg.core.geometry import Geometry
from napari_diffseg.core.volume import to_source_grid
from tests.plugin.conftest import TUMOUR_Z, Desk


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the folder that the user chooses in the dialogue."""
    chosen = tmp_path / "results"
    monkeypatch.setattr(exporter, "ask_folder", lambda *_: str(chosen))
    return chosen


@dataclass
class Dialog:
    """Stands for the user whom questions are asked."""

    asked: list[str] = field(default_factory=list)
    answers: list[bool] = field(default_factory=list)
    """Whether to do it, one for each question to come."""

    def __call__(self, _: object, question: str, choice: str) -> str:
        self.asked.append(question)
        return choice if self.answers.pop(0) else ""


@pytest.fixture
def dialog(monkeypatch: pytest.MonkeyPatch) -> Dialog:
    """Give the one who answers the export section's questions."""
    dialog = Dialog()
    for module in (exporter, questions):
        monkeypatch.setattr(module, "ask", dialog)
    return dialog


def save(desk: Desk) -> None:
    desk.click(desk.widget.export.save_button)
    desk.wait(desk.widget.export.save_button.isEnabled)


def test_there_is_nothing_to_export_before_a_run(desk: Desk, case_folder: Path) -> None:
    section = desk.widget.export
    buttons = (section.save_button, section.report_button, section.edit_button)
    assert not any(button.isEnabled() for button in buttons)
    desk.open(case_folder)
    assert not any(button.isEnabled() for button in buttons)
    desk.segment()
    assert all(button.isEnabled() for button in buttons)


def test_save_writes_what_is_on_screen(desk: Desk, case_folder: Path, folder: Path) -> None:
    case = desk.open(case_folder)
    desk.segment()
    desk.widget.ensemble.members.setValue(3)
    desk.widget.ensemble.threshold.setValue(30)
    desk.wait(desk.layer("mask").data.any)
    save(desk)
    names = {path.name for path in folder.iterdir()}
    maps = ("mask", "mean", "variance", "disagreement", "samples")
    parts = (*(f"{name}.nii.gz" for name in maps), "diffseg.json")
    assert names == {f"Case_001_{part}" for part in parts}
    for role in ("mask", "mean", "variance", "disagreement"):
        image = nib.load(folder / f"Case_001_{role}.nii.gz")
        expected = to_source_grid(desk.layer(role).data, case.geometry)
        np.testing.assert_array_equal(np.asanyarray(image.dataobj), expected)
    record = json.loads((folder / "Case_001_diffseg.json").read_text(encoding="utf-8"))
    assert (record["maps"]["n_members"], record["maps"]["threshold"]) == (3, 0.3)
    assert (record["maps"]["first_slice"], record["maps"]["last_slice"]) == (5, 5)
    assert record["run"]["seed"] == 0
    assert record["run"]["elapsed_s"] > 0
    assert record["run"]["model"]["sha256"]
    assert len(record["members"]) == 5
    volume = f"{record['volume']['mask_ml']:.2f} mL"
    desk.wait(lambda: volume in desk.widget.readout.volume.text())
    assert f"{record['scores']['dice']:.3f}" in desk.widget.readout.dice.text()
    hd95 = f"{record['scores']['hd95_mm']:.1f} mm"
    desk.wait(lambda: hd95 in desk.widget.readout.hd95.text())
    assert str(folder) in desk.widget.export.status.full_text()


def test_the_samples_are_left_out_when_they_are_not_wanted(
    desk: Desk, case_folder: Path, folder: Path
) -> None:
    desk.open(case_folder)
    desk.segment()
    desk.widget.export.samples_action.trigger()
    save(desk)
    assert not (folder / "Case_001_samples.nii.gz").exists()


def test_a_cancelled_dialogue_writes_nothing(
    desk: Desk, case_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "ask_folder", lambda *_: "")
    desk.open(case_folder)
    desk.segment()
    desk.click(desk.widget.export.save_button)
    assert desk.widget.export.status.full_text() == ""
    assert desk.widget.export.save_button.isEnabled()


def test_a_folder_that_cannot_be_written_is_named(
    desk: Desk, case_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(exporter, "ask_folder", lambda *_: str(tmp_path / "file" / "out"))
    desk.open(case_folder)
    desk.segment()
    save(desk)
    assert "cannot be made" in desk.widget.run.message.text()
    assert desk.widget.export.status.full_text() == "Nothing was saved."


def test_the_report_is_written_where_the_user_says(
    desk: Desk, case_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "ask_report", lambda *_: str(tmp_path / "out" / "page"))
    desk.open(case_folder)
    desk.segment()
    desk.click(desk.widget.export.report_button)
    desk.wait(desk.widget.export.report_button.isEnabled)
    text = (tmp_path / "out" / "page.html").read_text(encoding="utf-8")
    assert "<h1>Case_001</h1>" in text
    assert "page.html" in desk.widget.export.status.full_text()


def test_an_edited_mask_is_saved_beside_the_models_and_said_to_be_edited(
    desk: Desk, case_folder: Path, folder: Path
) -> None:
    case = desk.open(case_folder)
    desk.segment()
    desk.click(desk.widget.export.edit_button)
    layer = desk.layer("edited")
    assert desk.viewer.layers.selection.active is layer
    assert layer.mode == "paint"
    mask = desk.layer("mask").data.copy()
    layer.data[2, :3, :5] = 1
    desk.widget.parameters.n_samples.setValue(6)
    desk.segment()  # later samples leave it alone
    desk.click(desk.widget.export.edit_button)  # and it is not copied again
    edited = mask > 0
    edited[2, :3, :5] = True
    np.testing.assert_array_equal(desk.layer("edited").data, edited)
    save(desk)
    image = nib.load(folder / "Case_001_edited.nii.gz")
    expected = to_source_grid(edited, case.geometry)
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), expected)
    record = json.loads((folder / "Case_001_diffseg.json").read_text(encoding="utf-8"))
    assert record["edited"]["n_added"] >= 15
    assert record["edited"]["run"] == layer.metadata["diffseg"]["edited_run"]
    assert record["files"]["edited"] == "Case_001_edited.nii.gz"


def test_only_what_was_painted_counts_as_edited(
    desk: Desk, case_folder: Path, folder: Path
) -> None:
    case = desk.open(case_folder)
    desk.segment()
    section, readout = desk.widget.export, desk.widget.readout
    assert not readout.edited.isVisibleTo(desk.widget)
    desk.click(section.edit_button)
    at_first = desk.layer("edited").data.copy()
    desk.widget.ensemble.threshold.setValue(20)
    desk.wait(lambda: not np.array_equal(desk.layer("mask").data, at_first))
    desk.click(section.edit_button)  # nothing was painted: the mask as it is now
    copied = desk.layer("mask").data > 0
    np.testing.assert_array_equal(desk.layer("edited").data > 0, copied)
    voxel_ml = case.geometry.voxel_volume_ml
    desk.wait(lambda: f"{copied.sum() * voxel_ml:.2f} mL" in readout.edited.text())
    assert readout.edited.isVisibleTo(desk.widget)
    save(desk)
    path = folder / "Case_001_diffseg.json"
    assert json.loads(path.read_text(encoding="utf-8"))["edited"] is None
    assert not (folder / "Case_001_edited.nii.gz").exists()

    layer = desk.layer("edited")
    layer.brush_size, layer.n_edit_dimensions = 1, 3
    empty = np.argwhere(~copied[TUMOUR_Z])[:2]
    for y, x in empty:
        layer.paint((TUMOUR_Z, y, x), 1)
    with_two = f"{(copied.sum() + 2) * voxel_ml:.2f} mL"
    desk.wait(lambda: with_two in readout.edited.text())
    layer.undo()
    with_one = f"{(copied.sum() + 1) * voxel_ml:.2f} mL"
    desk.wait(lambda: with_one in readout.edited.text())
    desk.widget.ensemble.threshold.setValue(80)
    desk.wait(lambda: desk.layer("mask").data.sum() < copied.sum())
    desk.click(section.edit_button)
    assert "delete its layer to begin anew" in section.status.full_text()
    save(desk)
    edit = json.loads(path.read_text(encoding="utf-8"))["edited"]
    assert (edit["n_added"], edit["n_removed"]) == (1, 0)  # and not what the threshold has done
    assert edit["volume_ml"] == pytest.approx((copied.sum() + 1) * voxel_ml)
    desk.viewer.layers.remove(layer)
    assert not readout.edited.isVisibleTo(desk.widget)


def test_nothing_better_is_replaced_unasked(
    desk: Desk, case_folder: Path, folder: Path, dialog: Dialog
) -> None:
    asked = dialog.asked
    record = folder / "Case_001_diffseg.json"
    status = desk.widget.export.status
    desk.open(case_folder)
    desk.segment()
    desk.click(desk.widget.export.edit_button)
    for column in range(2):  # who paints and saves in turn is not asked
        desk.layer("edited").data[2, 0, column] = 1
        save(desk)
    assert not asked
    assert json.loads(record.read_text(encoding="utf-8"))["edited"]["n_added"] == 2

    desk.viewer.layers.remove(desk.layer("edited"))
    before = record.read_bytes()
    dialog.answers = [False, True]
    save(desk)
    assert asked == ["Replace the result with 5 samples of some slices (edited by hand)?"]
    assert record.read_bytes() == before
    assert status.full_text() == "Nothing was saved."
    save(desk)
    assert json.loads(record.read_text(encoding="utf-8"))["edited"] is None
    assert status.full_text().endswith("From an earlier result: Case_001_edited.nii.gz.")

    save(desk)  # what has as many samples is replaced, as ever
    desk.widget.parameters.seed.setValue(1)
    desk.widget.parameters.n_samples.setValue(2)
    desk.segment()
    dialog.answers = [False]
    save(desk)
    assert asked[2:] == ["Replace the result with 5 samples of some slices?"]


def test_other_slices_and_other_images_are_not_replaced_unasked(
    desk: Desk, case_folder: Path, folder: Path, dialog: Dialog
) -> None:
    asked, dialog.answers = dialog.asked, [True, True]
    record = folder / "Case_001_diffseg.json"
    desk.open(case_folder)
    parameters = desk.widget.parameters
    parameters.n_samples.setValue(2)

    def segment(first: int, last: int, seed: int) -> None:
        parameters.seed.setValue(seed)
        parameters.show_slices(first, last, whole_volume=False)
        desk.segment()

    segment(4, 6, 0)
    save(desk)
    segment(3, 6, 1)
    save(desk)  # all slices that were there, and one more
    assert not asked
    segment(5, 6, 2)
    save(desk)
    assert asked == ["Replace the result with 2 samples of some slices?"]

    values = json.loads(record.read_text(encoding="utf-8"))
    elsewhere = {
        name: path.replace("Case_001_t", "Case_009_t").replace("Case_001_f", "Case_009_f")
        for name, path in values["case"]["files"].items()
    }
    values["case"]["files"] = elsewhere
    values["case"]["sha256"]["flair"] = "0" * 64
    record.write_text(json.dumps(values), encoding="utf-8")
    save(desk)
    assert asked[1:] == [
        "Replace the result with 2 samples of some slices, which is of other images, "
        f"{elsewhere['t1']} among them?"
    ]


def test_a_name_without_an_ending_replaces_nothing_unasked(
    desk: Desk,
    case_folder: Path,
    tmp_path: Path,
    dialog: Dialog,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dialog.answers = [False, True]
    typed = [tmp_path / "mine", tmp_path / "mine", tmp_path / "sub-01.v2", tmp_path / "x.HTM"]
    names = iter(typed)
    monkeypatch.setattr(exporter, "ask_report", lambda *_: str(next(names)))
    there = tmp_path / "mine.html"
    there.write_text("precious", encoding="utf-8")
    desk.open(case_folder)
    desk.segment()
    for expected in ("precious", "<!DOCTYPE html>", "<!DOCTYPE html>", "<!DOCTYPE html>"):
        desk.click(desk.widget.export.report_button)
        desk.wait(desk.widget.export.report_button.isEnabled)
        assert there.read_text(encoding="utf-8").startswith(expected)
    assert dialog.asked == ["Replace mine.html?"] * 2
    assert (tmp_path / "sub-01.v2.html").exists()
    assert (tmp_path / "x.HTM").exists()


def test_what_another_program_wrote_is_not_replaced_unasked(
    desk: Desk, case_folder: Path, folder: Path, dialog: Dialog
) -> None:
    asked, dialog.answers = dialog.asked, [False, False]
    mask = folder / "Case_001_mask.nii.gz"
    desk.open(case_folder)
    desk.segment()
    folder.mkdir(exist_ok=True)
    mask.write_bytes(b"of somebody else")
    save(desk)
    assert asked == ["Replace Case_001_mask.nii.gz, which belongs to no saved result?"]
    assert mask.read_bytes() == b"of somebody else"

    mask.unlink()
    save(desk)
    save(desk)
    image: Any = nib.load(mask)
    painted = np.asarray(image.dataobj).copy()
    painted[0, 0, 0] = 1 - painted[0, 0, 0]
    nib.save(nib.Nifti1Image(painted, image.affine), mask)
    before = mask.read_bytes()
    save(desk)
    assert asked[1:] == [
        "Replace the result with 5 samples of some slices, whose mask has been edited in another "
        "program?"
    ]
    assert mask.read_bytes() == before


def test_a_result_of_the_new_images_is_not_replaced_unasked_by_one_of_the_old(
    desk: Desk, case_folder: Path, folder: Path, dialog: Dialog
) -> None:
    dialog.answers = [False]
    case = desk.open(case_folder)
    desk.segment()
    save(desk)
    record = folder / "Case_001_diffseg.json"
    values = json.loads(record.read_text(encoding="utf-8"))
    values["case"]["sha256"]["flair"] = "0" * 64  # as if another program had segmented new images
    record.write_text(json.dumps(values), encoding="utf-8")
    assert case.sha256["flair"] != "0" * 64
    save(desk)
    (asked,) = dialog.asked
    assert asked.endswith("which is of images that have been changed since?")


def test_an_edited_mask_without_a_record_is_not_replaced_unasked(
    desk: Desk, case_folder: Path, folder: Path, dialog: Dialog
) -> None:
    dialog.answers = [False]
    desk.open(case_folder)
    desk.segment()
    desk.click(desk.widget.export.edit_button)
    desk.layer("edited").data[TUMOUR_Z, :4, :4] = 1
    edited = folder / "Case_001_edited.nii.gz"
    folder.mkdir()
    edited.write_bytes(b"of somebody else")
    save(desk)
    assert dialog.asked == ["Replace Case_001_edited.nii.gz, which belongs to no saved result?"]
    assert edited.read_bytes() == b"of somebody else"


def test_slices_that_a_stack_does_not_have_are_not_lost() -> None:
    geometry = Geometry((4, 4, 5), np.eye(4), 3, nib.Nifti1Header(), (60, 65, 70, 75, 80))
    judged = np.array([geometry.to_source_slice(z) in (65, 70, 75) for z in range(5)])
    snapshot: Any = SimpleNamespace(case=SimpleNamespace(geometry=geometry), judged=judged)
    snapshot.is_whole = False
    assert not has_other_slices(Found(2, False, ((65, 75),)), snapshot)
    assert has_other_slices(Found(2, False, ((65, 80),)), snapshot)
    assert has_other_slices(Found(2, True, ((60, 80),)), snapshot)
    assert not has_other_slices(Found(), snapshot)
