"""Every control explains itself, and all of them fit on a small screen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractSlider,
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QRadioButton,
    QScrollArea,
    QScrollBar,
    QWidget,
)

from napari_diffseg.demo import WINDOW_SIZE
from tests.plugin.conftest import Desk

CONTROLS = (QAbstractButton, QAbstractSlider, QAbstractSpinBox, QComboBox)


def test_every_control_has_a_tooltip_and_a_name_for_screen_readers(desk: Desk) -> None:
    controls = [
        control
        for kind in CONTROLS
        for control in desk.widget.findChildren(kind)
        if not isinstance(control, QScrollBar)
        and control.window() is desk.widget.window()  # not the menus that plots never show
    ]
    assert len(controls) > 20
    for control in controls:
        assert control.toolTip(), control
        assert control.accessibleName(), control


def test_the_dock_fits_on_a_laptop(make_desk: Callable[..., Desk], case_folder: Path) -> None:
    desk = make_desk(show=True)
    desk.viewer.window.resize(*WINDOW_SIZE)
    desk.open(case_folder)
    desk.segment()
    scroll = desk.widget.findChild(QScrollArea)
    desk.wait(lambda: scroll.widget().width() > 0)

    def ends_above_the_edge(part: QWidget) -> bool:
        bottom = part.mapTo(scroll.widget(), part.rect().bottomLeft()).y()
        return bool(bottom <= scroll.viewport().height())

    # What is set and what is found are there together; the rest is below, and folds.
    assert ends_above_the_edge(desk.widget.readout)
    desk.click(desk.widget.set_up.button)
    for panel in desk.widget.panels:
        panel.set_open(False)
    desk.wait(lambda: ends_above_the_edge(desk.widget.panels[-1]))
    for panel in (desk.widget.set_up, desk.widget.parameters.advanced, *desk.widget.panels):
        panel.set_open(True)
    desk.qtbot.wait(300)
    assert desk.widget.width() <= WINDOW_SIZE[0] // 3
    assert scroll.horizontalScrollBar().maximum() == 0
    assert scroll.widget().minimumSizeHint().width() <= scroll.viewport().width()


def test_tab_visits_every_control_from_top_to_bottom(
    make_desk: Callable[..., Desk], case_folder: Path
) -> None:
    desk = make_desk(show=True)
    desk.open(case_folder)
    desk.segment()
    dock, column = desk.widget, desk.widget.findChild(QScrollArea).widget()
    dock.window().activateWindow()
    first = dock.findChild(QComboBox)
    first.setFocus()
    desk.wait(first.hasFocus)
    visited: list[QWidget] = []
    while (control := QApplication.focusWidget()) and dock.isAncestorOf(control):
        assert control not in visited
        assert not control.visibleRegion().isEmpty(), "scrolled into view"
        visited.append(control)
        QTest.keyClick(control, Qt.Key.Key_Tab)
    reachable = {
        control
        for kind in CONTROLS
        for control in column.findChildren(kind)
        if control.isVisible()
        and control.isEnabled()
        and control.focusPolicy() & Qt.FocusPolicy.TabFocus
        and not isinstance(control, QRadioButton)  # of a group Tab visits one
    }
    assert len(reachable) > 20
    assert not reachable - set(visited)
    middles = [
        control.mapTo(column, control.rect().center()).y()
        for control in visited
        if column.isAncestorOf(control)
    ]
    assert middles == sorted(middles)
