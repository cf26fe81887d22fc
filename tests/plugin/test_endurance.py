"""A few of the rounds that `endurance.py` does by the dozen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtWidgets import QApplication

from napari_diffseg._widgets import DiffsegWidget
from napari_diffseg._widgets.engine import Engine
from tests.plugin.conftest import load_tiny, write_synthetic
from tests.plugin.endurance import run_rounds


def test_interrupted_runs_leave_nothing_behind(make_napari_viewer: Any, tmp_path: Path) -> None:
    cases = [write_synthetic(tmp_path, f"Case_{number:03}", seed=number) for number in (1, 2)]
    cases_files = {path.name for path in tmp_path.rglob("*")}

    def open_viewer() -> tuple[Any, DiffsegWidget]:
        viewer = make_napari_viewer()
        widget = DiffsegWidget(viewer, Engine(load_tiny))
        viewer.window.add_dock_widget(widget, name="Diffusion segmentation")
        return viewer, widget

    before, after = run_rounds(5, open_viewer, cases, [tmp_path], seed=0)
    left = [(type(widget).__name__, widget.objectName()) for widget in QApplication.allWidgets()]
    assert after.widgets <= before.widgets, left
    assert after.threads <= before.threads
    assert {Path(name).name for name in after.files} <= cases_files
    assert after.memory_mb < before.memory_mb + 100
