"""Every control explains itself, and all of them fit on a small screen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractSlider,
    QAbstractSpinBox,
    QComboBox,
    QScrollArea,
    QScrollBar,
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
    ]
    assert len(controls) > 20
    for control in controls:
        assert control.toolTip(), control
        assert control.accessibleName(), control


def test_the_dock_fits_on_a_laptop_and_hides_nothing(
    make_desk: Callable[..., Desk], case_folder: Path
) -> None:
    desk = make_desk(show=True)
    desk.viewer.window.resize(*WINDOW_SIZE)
    desk.open(case_folder)
    desk.widget.parameters.advanced.button.click()
    desk.segment()
    scroll = desk.widget.findChild(QScrollArea)
    desk.wait(lambda: scroll.widget().width() > 0)
    assert desk.widget.width() <= WINDOW_SIZE[0] // 3
    assert scroll.verticalScrollBar().maximum() == 0
    assert scroll.horizontalScrollBar().maximum() == 0
    assert scroll.widget().minimumSizeHint().width() <= scroll.viewport().width()
