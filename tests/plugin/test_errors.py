"""What goes wrong is told in the widget and as a notification, and the widget is ready again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from napari.utils.notifications import Notification, notification_manager
from qtpy.QtWidgets import QFileDialog

from napari_diffseg.core.errors import CheckpointError
from napari_diffseg.core.segment import segment
from tests.core.case_files import write_nifti
from tests.plugin.conftest import Desk, load_tiny, write_synthetic


@pytest.fixture
def notes() -> Iterator[list[Notification]]:
    """Give the notifications that napari was asked to show."""
    shown: list[Notification] = []
    notification_manager.notification_ready.connect(shown.append)
    yield shown
    notification_manager.notification_ready.disconnect(shown.append)


def test_a_runtime_error_in_the_sampler_reaches_the_user(
    make_desk: Callable[..., Desk], case_folder: Path, notes: list[Notification]
) -> None:
    def broken(*args: Any) -> Any:
        events = segment(*args)
        yield next(events)
        yield next(events)
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    desk = make_desk(broken)
    desk.open(case_folder)
    desk.segment()
    assert desk.widget.run.message.kind == "error"
    assert "mat1 and mat2" in desk.widget.run.message.text()
    assert any("mat1 and mat2" in note.message for note in notes)
    assert desk.widget.run.button.isEnabled()
    desk.widget._runner._engine._segment = segment
    desk.segment()  # and it works again
    assert "mat1 and mat2" not in desk.widget.run.message.text()
    assert desk.layer("mean").data.any()


def test_a_runtime_error_inside_of_the_network_reaches_the_user(
    make_desk: Callable[..., Desk], case_folder: Path
) -> None:
    import torch

    def load(path: Path | None) -> Any:
        model = load_tiny(path)

        def fail(*args: object) -> None:
            raise RuntimeError("CUDA error: device-side assert triggered")

        model.network.denoiser.register_forward_pre_hook(fail)
        return model

    assert torch is not None
    desk = make_desk(None, load)
    desk.open(case_folder)
    desk.segment()
    assert "device-side assert" in desk.widget.run.message.text()


def test_a_model_that_cannot_be_read_is_named(
    make_desk: Callable[..., Desk], case_folder: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    from napari_diffseg.core.checkpoint import load_checkpoint

    path = tmp_path / "broken.safetensors"
    path.write_bytes(b"no model")
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(path), ""))
    desk = make_desk(None, lambda path: load_checkpoint(path) if path else load_tiny(path))
    desk.open(case_folder)
    desk.segment()
    mean = desk.layer("mean").data.copy()
    chooser = desk.widget.model.chooser
    chooser.activated.emit(chooser.count() - 1)
    assert chooser.currentText() == "broken.safetensors"
    desk.segment()
    assert "broken.safetensors" in desk.widget.run.message.text()
    assert (desk.layer("mean").data == mean).all()  # what was there is not lost
    chooser.activated.emit(0)
    desk.widget.parameters.n_samples.setValue(6)
    desk.segment()
    assert desk.layer("samples").data.shape[0] == 6


def test_the_model_is_named_when_the_bundled_one_is_missing(
    make_desk: Callable[..., Desk], case_folder: Path
) -> None:
    def load(path: Path | None) -> Any:
        raise CheckpointError("The bundled model is missing from this installation.")

    desk = make_desk(None, load)
    desk.open(case_folder)
    desk.segment()
    assert desk.widget.run.message.text().startswith("The bundled model is missing")


def test_a_slice_without_brain_says_so(desk: Desk, case_folder: Path) -> None:
    case = desk.open(case_folder)
    desk.go_to(case, 0)
    desk.segment()
    assert "no brain" in desk.widget.run.message.text()
    assert "mean" not in desk.roles


def test_too_many_samples_for_the_memory_say_so(
    desk: Desk, case_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_diffseg.core import ensemble

    def refuse(*_: object) -> None:
        raise MemoryError

    desk.open(case_folder)
    desk.segment()
    desk.widget.parameters.n_samples.setValue(100)
    with monkeypatch.context() as patch:
        patch.setattr(ensemble.np, "zeros", refuse)
        desk.click(desk.widget.run.button)
    assert "Choose fewer samples" in desk.widget.run.message.text()
    assert desk.widget.run.state == "ready"
    desk.widget.parameters.n_samples.setValue(6)
    desk.segment()
    assert desk.layer("samples").data.shape[0] == 6


def test_the_button_opens_a_case(
    desk: Desk, case_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not desk.widget.run.button.isEnabled()
    assert "Open a case" in desk.widget.run.status.full_text()
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(case_folder))
    desk.click(desk.widget.cases.open_button)
    desk.wait(lambda: len(desk.roles) == 5)
    assert desk.widget.cases.chooser.currentText() == "Case_001"
    assert desk.widget.run.button.isEnabled()
    desk.click(desk.widget.cases.open_button)  # the same again: it is chosen, not doubled
    desk.wait(lambda: not desk.widget._desk._opener.is_busy)
    assert len(desk.roles) == 5


def test_files_can_be_opened_and_the_sample_too(
    desk: Desk, case_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = sorted(str(path) for path in case_folder.iterdir())
    monkeypatch.setattr(QFileDialog, "getOpenFileNames", lambda *_: (files, ""))
    desk.widget.cases.files_action.trigger()
    desk.wait(lambda: len(desk.roles) == 5)
    desk.widget.cases.sample_action.trigger()
    desk.wait(lambda: len(desk.roles) == 10)
    assert desk.widget.cases.chooser.currentText().startswith("Phantom")


def test_a_missing_modality_is_shown(
    desk: Desk, case_folder: Path, monkeypatch: pytest.MonkeyPatch, notes: list[Notification]
) -> None:
    (case_folder / "Case_001_t1ce.nii.gz").unlink()
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(case_folder))
    desk.click(desk.widget.cases.open_button)
    desk.wait(lambda: bool(desk.widget.run.message.text()))
    assert "t1ce is missing" in desk.widget.run.message.text()
    assert any("t1ce is missing" in note.message for note in notes)
    assert not desk.viewer.layers
    desk.click(desk.widget.run.message.close_button)
    assert desk.widget.run.message.text() == ""


def test_a_damaged_file_is_shown(
    desk: Desk, case_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = case_folder / "Case_001_t2.nii.gz"
    path.write_bytes(path.read_bytes()[:200])
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(case_folder))
    desk.click(desk.widget.cases.open_button)
    desk.wait(lambda: "Case_001_t2.nii.gz" in desk.widget.run.message.text())


def test_an_oblique_scan_is_pointed_out(desk: Desk, tmp_path: Path) -> None:
    import nibabel as nib
    import numpy as np

    folder = write_synthetic(tmp_path)
    tilt = np.eye(4)
    tilt[1:3, 1:3] = [[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]]
    for path in folder.iterdir():
        image = nib.load(path)
        write_nifti(path, np.asarray(image.dataobj), tilt @ image.affine)
    desk.open(folder)
    desk.wait(lambda: "oblique (11.5 degrees)" in desk.widget.run.message.text())
    assert desk.widget.run.message.kind == "warning"
