"""A real viewer with the dock, a small case on disk, a tiny model, a run in slow motion."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import npe2
import numpy as np
import pytest
from napari import settings as napari_settings
from napari.viewer import Viewer
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QWidget

from napari_diffseg._layers import find_layers, slice_position_mm
from napari_diffseg._widgets import DiffsegWidget
from napari_diffseg._widgets.engine import Engine
from napari_diffseg.core.brats import Case, load_case
from napari_diffseg.core.checkpoint import LoadedModel
from napari_diffseg.core.events import Event, StepDone
from napari_diffseg.core.segment import segment
from tests.core.case_files import NAMES_2017, write_case
from tests.core.synthetic import synthetic_case
from tests.models import tiny_model

AFFINE = np.array([[-1, 0, 0, 90], [0, -1, 0, 126], [0, 0, 1, -72], [0, 0, 0, 1]], float)
TUMOUR_Z = 6  # canonical; slices 2 to 9 of 12 hold brain


def write_synthetic(folder: Path, name: str = "Case_001", seed: int = 0) -> Path:
    """Write a synthetic case as a BraTS 2017 folder; return the folder."""
    case = synthetic_case(seed=seed)
    names = ("t1", "t1ce", "t2", "flair")
    # Canonical z runs to inferior, the file's to superior, as in BraTS.
    images = {n: case.prior_image[i].T[:, :, ::-1].copy() for i, n in enumerate(names)}
    assert case.labels is not None
    images["seg"] = case.labels.T[:, :, ::-1].copy()
    return write_case(folder / name, name, NAMES_2017, images=images, affine=AFFINE)


def load_tiny(path: Path | None) -> LoadedModel:
    """Load the tiny model, whatever file is asked for."""
    return tiny_model()


@pytest.fixture
def plugins() -> npe2.PluginManager:
    """Give the plugins that are installed here."""
    manager = npe2.PluginManager.instance()
    manager.discover()
    return manager


@pytest.fixture(autouse=True)
def own_preferences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep the tests away from the Preferences of whoever runs them."""
    napari_settings._clear_plugin_settings_cache()
    folder = tmp_path / "preferences"
    folder.mkdir()
    monkeypatch.setattr(napari_settings, "_CFG_PATH", str(folder / "settings.yaml"))
    yield
    napari_settings._clear_plugin_settings_cache()


@pytest.fixture
def case_folder(tmp_path: Path) -> Path:
    """Give the folder of a case with ground truth."""
    return write_synthetic(tmp_path)


@pytest.fixture
def case(case_folder: Path) -> Case:
    """Give the case, loaded."""
    return load_case(case_folder)


@dataclass
class SlowMotion:
    """`segment()`, one event at a time: the run waits until it is let go on."""

    permits: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    events: list[Event] = field(default_factory=list)

    def __call__(self, *args: Any) -> Iterator[Event]:
        for event in segment(*args):
            assert self.permits.acquire(timeout=120), "nobody let the run go on"
            self.events.append(event)
            yield event

    def go(self, n_events: int = 100_000) -> None:
        """Let so many events happen."""
        self.permits.release(n_events)

    @property
    def n_steps(self) -> int:
        """Steps that have been done."""
        return sum(isinstance(event, StepDone) for event in self.events)


@pytest.fixture
def slow_motion() -> Iterator[SlowMotion]:
    """Give a run in slow motion; at the end of the test it is let go."""
    slow = SlowMotion()
    yield slow
    slow.go()


@dataclass
class Desk:
    """What a user has in front of him."""

    viewer: Viewer
    widget: DiffsegWidget
    qtbot: Any

    def open(self, folder: Path) -> Case:
        """Open a case and go to a slice with tumour."""
        self.viewer.open(folder, plugin="napari-diffseg")
        case = find_layers(self.viewer.layers, role="image")[-1].metadata["diffseg"]["source"]
        self.go_to(case, TUMOUR_Z)
        return case

    def go_to(self, case: Case, z: int) -> None:
        """Show a canonical slice."""
        axis = self.viewer.dims.ndim - 3
        self.viewer.dims.set_point(axis, slice_position_mm(case.geometry, z))

    def click(self, control: QWidget) -> None:
        """Click with the mouse."""
        self.qtbot.mouseClick(control, Qt.MouseButton.LeftButton)

    def segment(self) -> None:
        """Click the button and wait until the run has ended."""
        self.click(self.widget.run.button)
        assert self.widget.run.state == "running"
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Wait until a run can be started, and all of the last one is on screen."""
        self.wait(lambda: self.widget.run.state == "ready")
        self.wait(lambda: not self.widget.stage.layers.is_busy)

    def wait(self, condition: Callable[[], bool]) -> None:
        """Wait for something; the limit is generous, for busy machines."""
        self.qtbot.waitUntil(condition, timeout=60_000)

    def layer(self, role: Any) -> Any:
        """Return the one layer with this role."""
        (layer,) = find_layers(self.viewer.layers, role=role)
        return layer

    @property
    def roles(self) -> list[str]:
        """What our layers are, lowest first."""
        return [layer.metadata["diffseg"]["role"] for layer in find_layers(self.viewer.layers)]


@pytest.fixture
def make_desk(make_napari_viewer: Any, qtbot: Any) -> Iterator[Callable[..., Desk]]:
    """Give a function that opens a viewer with the dock in it, driving a tiny model.

    Drawing takes most of the time, so windows are shown only where that matters. At the end the
    viewer is closed and nothing holds it, so that napari's fixture can see leaks.
    """
    desks: list[Desk] = []

    def make(segment: Any = None, load_model: Any = None, *, show: bool = False) -> Desk:
        viewer = make_napari_viewer(show=show)
        engine = Engine(load_model or load_tiny, segment)
        widget = DiffsegWidget(viewer, engine)
        viewer.window.add_dock_widget(widget, name="Diffusion segmentation", area="right")
        desks.append(Desk(viewer, widget, qtbot))
        return desks[-1]

    yield make
    for desk in desks:
        if desk.viewer is not None:
            desk.viewer.close()
        vars(desk).clear()


@pytest.fixture
def desk(make_desk: Callable[..., Desk]) -> Desk:
    """Give a viewer with the dock."""
    return make_desk()
