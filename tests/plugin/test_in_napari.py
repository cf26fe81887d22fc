"""What a user reaches from napari's own window: a drop, the menus, the sample, the Preferences."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from qtpy.QtCore import QEvent, QMimeData, QObject, QPoint, QPointF, Qt, QTimer, QUrl
from qtpy.QtGui import QAction, QDragEnterEvent, QDropEvent
from qtpy.QtWidgets import (
    QApplication,
    QDialog,
    QDialogButtonBox,
    QFileDialog,
    QListWidget,
    QMainWindow,
    QMenu,
    QRadioButton,
    QSpinBox,
    QWidget,
)

from napari_diffseg._settings import PLUGIN, read_settings
from napari_diffseg._widgets import DiffsegWidget
from napari_diffseg.core.events import StepDone
from tests.plugin.conftest import Desk, SlowMotion, write_synthetic

NAME = "Diffusion segmentation"


@pytest.fixture
def viewer(make_napari_viewer: Any) -> Any:
    return make_napari_viewer()


def main_window() -> QMainWindow:
    (window,) = (w for w in QApplication.topLevelWidgets() if isinstance(w, QMainWindow))
    return window


def find_action(*path: str) -> QAction:
    """Return an entry of the menu bar by the beginnings of its menus' and its own texts."""
    actions = main_window().menuBar().actions()
    for depth, text in enumerate(path, start=1):
        action = next(a for a in actions if a.text().replace("&", "").startswith(text))
        if depth < len(path):
            menu = action.menu()
            assert isinstance(menu, QMenu)
            menu.aboutToShow.emit()  # napari fills its menus when they are opened
            actions = menu.actions()
    return action


class Dialogues(QObject):
    """Answers a dialogue as soon as it is shown."""

    def __init__(self, answer: Callable[[QDialog], None]) -> None:
        super().__init__()
        self._answer = answer
        self.n_seen = 0
        QApplication.instance().installEventFilter(self)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802 (Qt's name)
        if isinstance(watched, QDialog) and event.type() == QEvent.Type.Show:
            self.n_seen += 1
            QTimer.singleShot(0, lambda: self._answer(watched))
        return False


@pytest.fixture
def answer_dialogues() -> Iterator[Callable[[Callable[[QDialog], None]], Dialogues]]:
    """Give a function that answers what napari asks."""
    there: list[Dialogues] = []

    def answer(by: Callable[[QDialog], None]) -> Dialogues:
        there.append(Dialogues(by))
        return there[-1]

    yield answer
    for dialogues in there:
        QApplication.instance().removeEventFilter(dialogues)


def drop(paths: list[Path]) -> None:
    """Drop files or folders on napari's window, as a file manager does."""
    (target,) = (w for w in main_window().findChildren(QWidget) if type(w).__name__ == "QtViewer")
    assert target.acceptDrops()
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
    copy, left = Qt.DropAction.CopyAction, Qt.MouseButton.LeftButton
    nothing = Qt.KeyboardModifier.NoModifier
    for event in (
        QDragEnterEvent(QPoint(50, 50), copy, data, left, nothing),
        QDropEvent(QPointF(50, 50), copy, data, left, nothing),
    ):
        QApplication.sendEvent(target, event)


def test_a_folder_that_is_dropped_becomes_a_case(
    desk: Desk,
    case_folder: Path,
    answer_dialogues: Callable[[Callable[[QDialog], None]], Dialogues],
) -> None:
    def choose_ours(dialogue: QDialog) -> None:
        (ours,) = (b for b in dialogue.findChildren(QRadioButton) if b.text() == NAME)
        ours.click()
        box = dialogue.findChild(QDialogButtonBox)
        desk.click(box.button(QDialogButtonBox.StandardButton.Ok))

    asked = answer_dialogues(choose_ours)  # napari's own reader claims every folder, too
    drop([case_folder])
    desk.wait(lambda: len(desk.roles) == 5)
    assert asked.n_seen == 1
    assert desk.widget.cases.chooser.currentText() == case_folder.name
    assert desk.widget.run.state == "ready"


def test_the_menus_open_the_dock_and_a_case(
    viewer: Any, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (write_synthetic(tmp_path, f"Case_{n:03}", seed=n) for n in (1, 2))
    chosen = iter([str(first), str(second)])
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: next(chosen))

    def find_dock() -> DiffsegWidget | None:
        return main_window().findChild(DiffsegWidget)

    find_action("File", "IO Utilities", "Open BraTS case").trigger()
    assert len(viewer.layers) == 5
    assert find_dock() is None
    find_action("Plugins", NAME).trigger()
    qtbot.waitUntil(lambda: find_dock() is not None, timeout=60_000)
    dock = find_dock()
    assert dock is not None
    assert dock.cases.chooser.currentText() == "Case_001"
    assert find_action("Layers", "Segment", NAME).isEnabled()
    find_action("File", "IO Utilities", "Open BraTS case").trigger()
    assert dock.cases.chooser.currentText() == "Case_002"


def test_the_sample_needs_no_network(viewer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("there is no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    find_action("File", "Open Sample", "Brain phantom").trigger()
    roles = [layer.metadata["diffseg"]["role"] for layer in viewer.layers]
    assert roles == ["image"] * 4 + ["truth"]
    assert {layer.units[0].__str__() for layer in viewer.layers} == {"millimeter"}


def test_a_number_in_the_preferences_is_kept_and_a_new_dock_begins_with_it(
    viewer: Any, qtbot: Any
) -> None:
    find_action("File", "Preferences").trigger()
    (dialogue,) = (d for d in main_window().findChildren(QDialog) if d.findChild(QListWidget))
    pages = dialogue.findChild(QListWidget)
    assert any(NAME in pages.item(row).text() for row in range(pages.count()))
    fields = [
        box for box in dialogue.findChildren(QSpinBox) if (box.minimum(), box.maximum()) == (1, 100)
    ]
    (samples,) = (box for box in fields if box.value() == 5)
    samples.setValue(9)
    dialogue.accept()
    assert read_settings().samples == 9
    _, widget = viewer.window.add_plugin_dock_widget(PLUGIN, NAME)
    assert widget.parameters.n_samples.value() == 9


def test_the_window_lives_while_the_network_works(
    make_desk: Callable[..., Desk], slow_motion: SlowMotion, case_folder: Path
) -> None:
    desk = make_desk(slow_motion)
    desk.open(case_folder)
    desk.click(desk.widget.run.button)
    slow_motion.go(2)  # and then the step after the first one never ends
    desk.wait(lambda: any(isinstance(event, StepDone) for event in slow_motion.events))
    ticks: list[None] = []
    timer = QTimer()
    timer.timeout.connect(lambda: ticks.append(None))
    timer.start(5)
    desk.wait(lambda: len(ticks) > 20)
    timer.stop()
    assert desk.widget.run.state == "running"
    threshold = desk.widget.ensemble.threshold
    desk.qtbot.keyClick(desk.widget.parameters.n_samples, Qt.Key.Key_Up)
    assert desk.widget.parameters.n_samples.value() == 6
    assert threshold.value() == 50
