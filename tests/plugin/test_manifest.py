"""What the manifest promises exists, and opening the plugin does not wait for torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import npe2
import pytest
from qtpy.QtWidgets import QFileDialog

from napari_diffseg._widgets import open_case
from tests.plugin.conftest import Desk

PLUGIN = "napari-diffseg"


@pytest.fixture
def manifest(plugins: npe2.PluginManager) -> npe2.PluginManifest:
    return plugins.get_manifest(PLUGIN)


def test_the_manifest_is_valid_and_its_commands_can_be_imported(
    manifest: npe2.PluginManifest,
) -> None:
    manifest.validate_imports()


def test_every_contribution_is_there(manifest: npe2.PluginManifest) -> None:
    contributions = manifest.contributions
    assert [reader.accepts_directories for reader in contributions.readers] == [True]
    assert [sample.key for sample in contributions.sample_data] == ["phantom"]
    assert [widget.display_name for widget in contributions.widgets] == ["Diffusion segmentation"]
    assert {item.command for items in contributions.menus.values() for item in items} == {
        f"{PLUGIN}.open_case",
        f"{PLUGIN}.open_widget",
    }


def test_napari_opens_the_widget_by_its_name(make_napari_viewer: Any) -> None:
    viewer = make_napari_viewer()
    dock, widget = viewer.window.add_plugin_dock_widget(PLUGIN, "Diffusion segmentation")
    assert type(widget).__name__ == "DiffsegWidget"
    assert dock.isVisibleTo(dock.parentWidget())


def test_the_sample_case_is_a_whole_case(make_napari_viewer: Any) -> None:
    viewer = make_napari_viewer()
    viewer.open_sample(PLUGIN, "phantom")
    roles = [layer.metadata["diffseg"]["role"] for layer in viewer.layers]
    assert roles == ["image"] * 4 + ["truth"]
    assert viewer.layers[-1].data.any()


def test_the_menu_opens_a_case(
    desk: Desk, case_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(case_folder))
    open_case.open_case_dialog(desk.viewer)
    assert len(desk.roles) == 5


def test_a_dialogue_that_is_closed_opens_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: "")
    open_case.open_case_dialog(desk.viewer)
    desk.click(desk.widget.cases.open_button)
    assert not desk.viewer.layers


def test_opening_case_and_widget_does_not_import_torch(case_folder: Path) -> None:
    # At its end threads still read the case: only napari's own end of the program waits for them.
    code = f"""
import os, sys
from napari.components import ViewerModel
from qtpy.QtWidgets import QApplication
from napari_diffseg._reader import get_reader
from napari_diffseg._widgets import DiffsegWidget, warm_up
warm_up.WAIT_MS = 600_000  # what gets ready for a run imports torch, in a thread of its own
application = QApplication([])
viewer = ViewerModel()
widget = DiffsegWidget(viewer)
widget.show()
for data, parameters, kind in get_reader({str(case_folder)!r})({str(case_folder)!r}):
    getattr(viewer, "add_" + kind)(data, **parameters)
application.processEvents()
assert widget.run.state == "ready"
assert "torch" not in sys.modules, "torch"
os._exit(0)
"""
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=300)
