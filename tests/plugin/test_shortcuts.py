"""Keys act on the dock, are listed in it, and leave fields of text alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QShortcut

from tests.plugin.conftest import Desk


def press(desk: Desk, key: Qt.Key, modifier: Qt.KeyboardModifier | None = None) -> None:
    """Press a key while the button of the dock has the focus."""
    desk.widget.run.button.setFocus()
    none = Qt.KeyboardModifier.NoModifier
    desk.qtbot.keyClick(desk.widget.run.button, key, modifier or none)


def test_keys_run_and_show_and_hide(make_desk: Callable[..., Desk], case_folder: Path) -> None:
    desk = make_desk(show=True)
    desk.open(case_folder)
    window = desk.widget.window()
    with desk.qtbot.waitActive(window, timeout=60_000):  # keys need a window with the focus
        window.activateWindow()
    press(desk, Qt.Key.Key_Return, Qt.KeyboardModifier.ControlModifier)
    assert desk.widget.run.state == "running"
    desk.wait_until_ready()
    assert desk.layer("mean").visible
    press(desk, Qt.Key.Key_V)
    assert not desk.layer("mean").visible
    press(desk, Qt.Key.Key_V)
    assert desk.layer("mean").visible
    press(desk, Qt.Key.Key_M)
    assert not desk.layer("mask").visible
    press(desk, Qt.Key.Key_M)
    assert desk.layer("mask").visible


def test_keys_go_through_the_cases(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    monkeypatch.setattr(desk.widget.case_list, "go", steps.append)
    shortcuts = {each.key().toString(): each for each in desk.widget.findChildren(QShortcut)}
    shortcuts["Ctrl+Down"].activated.emit()
    shortcuts["Ctrl+Up"].activated.emit()
    assert steps == [1, -1]


def test_the_map_comes_back_as_the_one_that_was_hidden(desk: Desk) -> None:
    ensemble = desk.widget.ensemble
    ensemble.overlay.setCurrentIndex(1)
    ensemble.toggle_overlay()
    assert ensemble.chosen_overlay() == "none"
    ensemble.toggle_overlay()
    assert ensemble.chosen_overlay() == "variance"


def test_every_key_is_listed_once(desk: Desk) -> None:
    shortcuts = desk.widget.shortcuts
    desk.click(shortcuts.button)
    keys = [keys for keys, _ in shortcuts.entries()]
    assert len(keys) == len(set(keys))
    assert {"V", "M"} <= set(keys)
    assert "Segment, or cancel" in shortcuts.body.text()
