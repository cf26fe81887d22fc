"""A checkpoint of the paper's code, chosen in the dock as a user does it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from qtpy.QtWidgets import QFileDialog

from napari_diffseg._widgets.engine import _load_model
from tests.models import published_state
from tests.plugin.conftest import TUMOUR_Z, Desk


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch) -> Callable[[Desk, Path], None]:
    """Give a function that takes the last entry, "From file…", and answers the dialog."""

    def answer(desk: Desk, path: Path) -> None:
        monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(path), ""))
        chooser = desk.widget.model.chooser
        chooser.activated.emit(chooser.count() - 1)
        assert chooser.currentText() == path.name

    return answer


def test_average_of_the_weights_segments_the_visible_slice(
    make_desk: Callable[..., Desk], case_folder: Path, tmp_path: Path, choose: Any
) -> None:
    name = "emasavedmodel_0.9999_060000.pt"
    torch.save(published_state(), tmp_path / name)
    desk = make_desk(None, _load_model)
    desk.open(case_folder)
    choose(desk, tmp_path / name)
    desk.widget.parameters.n_steps.setValue(2)
    desk.widget.parameters.n_samples.setValue(2)
    desk.segment()
    assert desk.widget.run.message.kind != "error"
    assert desk.layer("samples").data.shape[0] == 2
    assert desk.layer("mean").data[TUMOUR_Z].any()
    assert "1000 steps" in desk.widget.model.chooser.toolTip()  # what it recommends, not what ran


def test_unusable_files_are_named_and_the_weights_themselves_segment(
    make_desk: Callable[..., Desk], case_folder: Path, tmp_path: Path, choose: Any
) -> None:
    torch.save(published_state(), tmp_path / "savedmodel060000.pt")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "object.pt")
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "other.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "savedmodel060000.pt").read_bytes()[:-1000])
    desk = make_desk(None, _load_model)
    desk.open(case_folder)
    desk.widget.parameters.n_steps.setValue(1)
    desk.widget.parameters.n_samples.setValue(1)
    for name, advice in {
        "object.pt": "state_dict()",
        "other.pt": "not a checkpoint of the published",
        "cut.pt": "download it again",
    }.items():
        choose(desk, tmp_path / name)
        desk.segment()
        assert desk.widget.run.message.kind == "error"
        assert name in desk.widget.run.message.text()
        assert advice in desk.widget.run.message.text()
        assert "mean" not in desk.roles
    choose(desk, tmp_path / "savedmodel060000.pt")
    desk.segment()
    assert desk.layer("mean").data[TUMOUR_Z].any()
