"""Every control explains itself, and all of them fit on a small screen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QWheelEvent
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

from napari_diffseg._widgets.engine import ModelReady
from napari_diffseg.core.describe import describe_model
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


def turn_wheel_over(control: QWidget) -> None:
    """Turn the mouse's wheel one notch down with the pointer over a control.

    Who ignores it passes it to the parent, as Qt does with the events of a real mouse only.
    """
    widget: QWidget | None = control
    while widget is not None:
        event = QWheelEvent(
            QPointF(widget.rect().center()),
            QPointF(widget.mapToGlobal(widget.rect().center())),
            QPoint(),
            QPoint(0, -120),
            Qt.MouseButton.NoButton,
            Qt.KeyboardModifier.NoModifier,
            Qt.ScrollPhase.NoScrollPhase,
            False,
        )
        if QApplication.sendEvent(widget, event) and event.isAccepted():
            return
        widget = widget.parentWidget()


def test_scrolling_the_dock_changes_nothing_but_what_has_the_focus(
    make_desk: Callable[..., Desk], case_folder: Path
) -> None:
    desk = make_desk(show=True)
    desk.viewer.window.resize(1000, 500)
    desk.open(case_folder)
    desk.segment()
    dock = desk.widget
    dock.window().activateWindow()
    dock.run.button.setFocus()
    desk.wait(dock.run.button.hasFocus)
    bar = dock.findChild(QScrollArea).verticalScrollBar()
    desk.wait(lambda: bar.maximum() > 0)
    controls = (
        (dock.ensemble.threshold, dock.ensemble.threshold.value),
        (dock.ensemble.members, dock.ensemble.members.value),
        (dock.ensemble.consensus, dock.ensemble.consensus.currentIndex),
        (dock.parameters.seed, dock.parameters.seed.value),
        (dock.parameters.n_steps, dock.parameters.n_steps.value),
    )
    for control, value in controls:
        before, position = value(), bar.value()
        turn_wheel_over(control)
        assert value() == before, control.accessibleName()
        assert bar.value() > position, "the dock scrolls"
        assert not control.hasFocus()
        bar.setValue(position)
    seed = dock.parameters.seed
    seed.setValue(5)
    seed.setFocus()
    desk.wait(seed.hasFocus)
    turn_wheel_over(seed)
    assert seed.value() == 4


@pytest.mark.parametrize("value", [5, 100])
def test_numbers_are_readable(desk: Desk, case_folder: Path, value: int) -> None:
    desk.open(case_folder)
    parameters = desk.widget.parameters
    parameters.n_samples.setValue(value)
    model = desk.widget._runner.engine.load(None)
    ready = ModelReady(
        replace(model.card, recommended_steps=1000), "", ("cpu",), "cpu", describe_model(model)
    )
    parameters.show_model(ready)
    for box in (parameters.n_samples, parameters.n_steps):
        box.ensurePolished()
        desk.widget.grab()  # lays everything out
        text = box.lineEdit().text()
        room = box.lineEdit().width() - 2  # of the cursor
        assert box.fontMetrics().horizontalAdvance(text) <= room, text
    assert parameters.n_steps.text() == "auto 1000"
