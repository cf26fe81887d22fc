"""Work in turns: one call at a time, drawn after it, whatever happens to the dock meanwhile."""

from __future__ import annotations

import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QMainWindow, QWidget

from napari_diffseg._widgets.turns import Turns


class Window(QMainWindow):
    """A window with a dock, of which `drawn` says what had been called at each drawing."""

    def __init__(self) -> None:
        super().__init__()
        self.dock = QWidget()
        self.setCentralWidget(self.dock)
        self.calls: list[str] = []
        self.drawn: list[int] = []

    def paintEvent(self, _event: object) -> None:  # noqa: N802
        self.drawn.append(len(self.calls))

    def call(self, name: str) -> None:
        assert not self.updatesEnabled()
        self.calls.append(name)
        self.update()


@pytest.fixture
def window(qtbot: QtBot) -> Window:
    window = Window()
    qtbot.addWidget(window)
    with qtbot.waitExposed(window, timeout=60_000):
        window.show()
    window.drawn.clear()
    return window


def test_each_call_is_drawn_before_the_next(window: Window, qtbot: QtBot) -> None:
    turns = Turns(window.dock)
    turns.add([lambda name=name: window.call(name) for name in "abc"])
    qtbot.waitUntil(lambda: bool(window.drawn) and window.drawn[-1] == 3, timeout=60_000)
    assert window.calls == ["a", "b", "c"]
    assert {1, 2, 3} <= set(window.drawn)
    assert window.updatesEnabled()


def test_a_window_whose_dock_is_closed_in_a_call_is_drawn_again(
    window: Window, qtbot: QtBot
) -> None:
    turns = Turns(window.dock)

    def close() -> None:
        window.call("close")
        window.takeCentralWidget().deleteLater()

    turns.add([close, lambda: window.call("never")])
    qtbot.waitUntil(lambda: window.updatesEnabled() and window.drawn[-1:] == [1], timeout=60_000)
    assert window.calls == ["close"]


def test_a_window_is_drawn_again_after_a_call_that_failed(window: Window, qtbot: QtBot) -> None:
    turns = Turns(window.dock)

    def fail() -> None:
        window.call("fail")
        raise ValueError("on purpose")

    with qtbot.captureExceptions() as errors:
        turns.add([fail, lambda: window.call("next")])
        qtbot.waitUntil(lambda: window.drawn[-1:] == [2], timeout=60_000)
    assert [str(error[1]) for error in errors] == ["on purpose"]
    assert window.updatesEnabled()


def test_a_window_that_nobody_holds_after_a_call_is_gone_at_once(qtbot: QtBot) -> None:
    held = [Window()]
    gone: list[bool] = []
    held[0].destroyed.connect(lambda: gone.append(True))
    Turns(held[0].dock).add([held.clear, lambda: gone.append(False)])
    with qtbot.captureExceptions() as errors:
        qtbot.waitUntil(lambda: not held, timeout=60_000)
        assert gone == [True]
        qtbot.wait(50)
    assert gone == [True]
    assert not errors
