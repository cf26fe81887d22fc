"""Closing the dock or the viewer, and deleting layers, while a run is going on."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from qtpy.QtCore import QThreadPool
from qtpy.QtGui import QHideEvent
from qtpy.QtWidgets import QApplication, QDockWidget

from napari_diffseg._layers import find_layers
from napari_diffseg._widgets import DiffsegWidget
from napari_diffseg._widgets.engine import Engine
from napari_diffseg.core.events import Cancelled, SampleDone
from tests.plugin.conftest import Desk, SlowMotion, load_tiny, write_synthetic


@pytest.fixture(params=[False])
def running(
    request: pytest.FixtureRequest,
    make_desk: Callable[..., Desk],
    slow_motion: SlowMotion,
    case_folder: Path,
) -> Desk:
    """Give a desk in the middle of a run over the whole volume; the parameter shows its window."""
    desk = make_desk(slow_motion, show=request.param)
    desk.open(case_folder)
    desk.widget.parameters.whole_volume.click()
    desk.widget.parameters.n_steps.setValue(20)
    desk.click(desk.widget.run.button)
    n_events = 1 + 20 + 15  # a first batch of slices, and some steps of the second
    slow_motion.go(n_events)
    desk.wait(lambda: len(slow_motion.events) == n_events and "mean" in desk.roles)
    return desk


in_a_window = pytest.mark.parametrize("running", [True], indirect=True, ids=["window"])


class SpontaneousHide(QHideEvent):
    """What a window is sent when it is minimised."""

    def spontaneous(self) -> bool:
        return True


def dock_of(desk: Desk) -> QDockWidget:
    dock = desk.widget.parentWidget()
    assert isinstance(dock, QDockWidget)
    return dock


def wait_for_threads(slow_motion: SlowMotion) -> None:
    slow_motion.go()
    assert QThreadPool.globalInstance().waitForDone(60_000)


def assert_was_cancelled(slow_motion: SlowMotion, n_steps: int) -> None:
    wait_for_threads(slow_motion)
    assert isinstance(slow_motion.events[-1], Cancelled)
    assert slow_motion.n_steps <= n_steps + 1


@in_a_window
def test_closing_the_dock_stops_the_run(running: Desk, slow_motion: SlowMotion) -> None:
    n_steps = slow_motion.n_steps
    title_bar = dock_of(running).titleBarWidget()
    running.click(title_bar.close_button)
    assert_was_cancelled(slow_motion, n_steps)
    running.qtbot.wait(50)
    assert "mean" in running.roles  # what was drawn stays
    running.viewer.layers.remove(running.layer("mean"))


@in_a_window
def test_closing_a_floating_dock_stops_the_run(running: Desk, slow_motion: SlowMotion) -> None:
    n_steps = slow_motion.n_steps
    dock = dock_of(running)
    dock.setFloating(True)
    running.qtbot.wait(50)
    assert running.widget.run.state == "running"
    running.click(dock.titleBarWidget().close_button)
    assert_was_cancelled(slow_motion, n_steps)


def test_a_closed_widget_is_not_kept(running: Desk, slow_motion: SlowMotion) -> None:
    widget = weakref.ref(running.widget)
    running.viewer.window.remove_dock_widget(running.widget)
    wait_for_threads(slow_motion)
    running.widget = None  # type: ignore[assignment]
    running.qtbot.wait(50)
    gc.collect()
    assert widget() is None


def test_a_widget_that_is_docked_again_works(
    running: Desk, slow_motion: SlowMotion, tmp_path: Path
) -> None:
    running.viewer.window.remove_dock_widget(running.widget)
    wait_for_threads(slow_motion)
    running.viewer.window.add_dock_widget(running.widget, name="again")
    running.open(write_synthetic(tmp_path, "Case_002"))
    assert running.widget.cases.chooser.count() == 2
    running.segment()
    assert len(find_layers(running.viewer.layers, role="mean")) == 2


def test_a_dock_that_is_opened_anew_goes_on_with_what_the_old_one_left(
    running: Desk, slow_motion: SlowMotion
) -> None:
    running.viewer.window.remove_dock_widget(running.widget)
    wait_for_threads(slow_motion)
    slow_motion.events.clear()
    run = running.layer("mean").metadata["diffseg"]["run"]
    before = running.layer("samples").data.copy()
    drawn = before.any(axis=(2, 3))
    assert drawn.any()
    running.widget = widget = DiffsegWidget(running.viewer, Engine(load_tiny, slow_motion))
    running.viewer.window.add_dock_widget(widget, name="new")
    assert widget.ensemble.isEnabled()
    assert "mL" in widget.readout.volume.text()
    assert widget.export.save_button.isEnabled()
    assert widget.parameters.whole_volume.isChecked()
    assert widget.parameters.n_steps.value() == 20
    widget.parameters.n_samples.setValue(2)
    running.segment()
    assert running.roles.count("mean") == 1
    assert running.layer("mean").metadata["diffseg"]["run"] == run
    samples = running.layer("samples").data
    np.testing.assert_array_equal(samples[: len(before)][drawn[: len(samples)]], before[drawn])
    new = {(e.member, e.z) for e in slow_motion.events if isinstance(e, SampleDone)}
    assert new
    assert not new & {*map(tuple, np.argwhere(drawn).tolist())}


def test_a_dock_that_is_opened_anew_begins_anew_with_another_seed(
    running: Desk, slow_motion: SlowMotion
) -> None:
    running.viewer.window.remove_dock_widget(running.widget)
    wait_for_threads(slow_motion)
    run = running.layer("mean").metadata["diffseg"]["run"]
    running.widget = DiffsegWidget(running.viewer, Engine(load_tiny))
    running.viewer.window.add_dock_widget(running.widget, name="new")
    running.widget.parameters.seed.setValue(1)
    running.segment()
    assert running.roles.count("mean") == 1
    assert running.layer("mean").metadata["diffseg"]["run"] != run


def test_hiding_the_dock_does_not_stop_the_run(running: Desk, slow_motion: SlowMotion) -> None:
    dock_of(running).hide()
    slow_motion.go()
    running.wait_until_ready()
    assert running.widget.run.status.full_text().startswith("Done")


@in_a_window
def test_closing_the_viewer_stops_the_run(running: Desk, slow_motion: SlowMotion) -> None:
    n_steps = slow_motion.n_steps
    running.viewer.close()
    assert_was_cancelled(slow_motion, n_steps)


@in_a_window
def test_a_window_that_the_user_wants_to_keep_keeps_the_run(
    running: Desk, slow_motion: SlowMotion, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What napari does when its question "close window?" is answered by "cancel".
    window = running.viewer.window._qt_window
    with monkeypatch.context() as patch:
        patch.setattr(type(window), "closeEvent", lambda _, event: event.ignore())
        assert not window.close()
    assert window.isVisible()
    QApplication.sendEvent(window, SpontaneousHide())
    slow_motion.go()
    running.wait_until_ready()
    assert running.widget.run.status.full_text().startswith("Done")
    assert running.widget.ensemble.threshold.isEnabled()


@pytest.mark.parametrize(
    "role", ["samples", "mean", "variance", "disagreement", "mask", "truth", "image"]
)
def test_a_layer_can_be_deleted_during_a_run(
    running: Desk, slow_motion: SlowMotion, role: str
) -> None:
    layers = running.viewer.layers
    layers.remove(find_layers(layers, role=role)[0])  # type: ignore[arg-type]
    n_left = running.roles.count(role)
    slow_motion.go()
    running.wait_until_ready()
    assert running.widget.run.status.full_text().startswith("Done")
    assert running.roles.count(role) == n_left  # it does not come back by itself
    running.widget.ensemble.threshold.setValue(30)
    running.widget.ensemble.members.setValue(2)
    running.qtbot.wait(100)


def test_a_deleted_result_comes_back_with_the_next_samples(desk: Desk, case_folder: Path) -> None:
    desk.open(case_folder)
    desk.segment()
    mean = desk.layer("mean").data.copy()
    desk.viewer.layers.remove(desk.layer("mean"))
    desk.widget.parameters.n_samples.setValue(6)
    desk.segment()
    assert (desk.layer("mean").data != mean).any()


def test_removing_a_case_stops_its_run(running: Desk, slow_motion: SlowMotion) -> None:
    n_steps = slow_motion.n_steps
    running.viewer.layers.clear()
    slow_motion.go()
    running.wait(lambda: running.widget.run.state == "no case")
    assert slow_motion.n_steps <= n_steps + 1
    assert not running.viewer.layers
    assert not running.widget.ensemble.isEnabled()


def test_layers_can_be_renamed_and_others_added_during_a_run(
    running: Desk, slow_motion: SlowMotion
) -> None:
    running.layer("mean").name = "mine"
    own = running.viewer.add_image(np.ones((12, 40, 36)), name="Mean probability · Case_001")
    slow_motion.go()
    running.wait_until_ready()
    assert running.layer("mean").name == "mine"
    assert running.layer("mean").data.any()
    assert (own.data == 1).all()
    assert own.name == "Mean probability · Case_001"
    assert own.visible


def test_a_second_case_while_the_first_is_running(
    running: Desk, slow_motion: SlowMotion, tmp_path: Path
) -> None:
    own = running.viewer.add_image(np.ones((3, 3)))
    first = find_layers(running.viewer.layers, role="image")[0].metadata["diffseg"]["source"]
    second = running.open(write_synthetic(tmp_path, "Case_002", seed=1))
    shown = [layer for layer in find_layers(running.viewer.layers, case=first) if layer.visible]
    assert not shown
    assert own.visible
    assert running.widget.run.state == "running"
    slow_motion.go()
    running.wait_until_ready()
    (mean,) = find_layers(running.viewer.layers, role="mean")
    assert mean.metadata["diffseg"]["source"] is first
    assert mean.data.any(axis=(1, 2)).sum() == 8
    assert not running.widget.ensemble.isEnabled()  # the second one has no run yet
    running.widget.cases.chooser.activated.emit(0)
    assert running.widget.ensemble.isEnabled()
    assert mean.visible
    assert not any(layer.visible for layer in find_layers(running.viewer.layers, case=second))
