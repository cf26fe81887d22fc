"""Which case: those in the viewer, or one to open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QMenu, QToolButton

from napari_diffseg._layers import MODALITY_NAMES
from napari_diffseg._widgets.form import ElidedLabel, Form, Row, describe, make_chooser

if TYPE_CHECKING:
    from napari_diffseg.core.brats import Case

_NO_CASE = "No case is open"


class CaseSection(Form):
    """Chooser of the cases that the viewer has, and the ways to open another one."""

    case_chosen = Signal(object)
    folder_wanted = Signal()
    files_wanted = Signal()
    result_wanted = Signal()
    sample_wanted = Signal()
    close_wanted = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._cases: list[Case] = []
        self.chooser = make_chooser()
        self.chooser.activated.connect(self._choose)
        describe(
            self.chooser,
            "Case",
            "The case to segment. Every case that is open in the viewer is listed; choosing one "
            "shows its layers and hides those of the others.",
        )
        self.open_button = QToolButton()
        self.open_button.setObjectName("diffseg_open")
        self.open_button.setText("Open…")
        self.open_button.setPopupMode(QToolButton.ToolButtonPopupMode.MenuButtonPopup)
        self.open_button.clicked.connect(self.folder_wanted)
        describe(
            self.open_button,
            "Open BraTS case",
            "Open BraTS case: choose the folder with its four images (T1, T1ce, T2, FLAIR). "
            "The arrow offers single files, a saved result and the sample case, and closes a case.",
        )
        menu = QMenu(self.open_button)
        self.folder_action = menu.addAction("Case folder…")
        self.folder_action.triggered.connect(self.folder_wanted)
        self.files_action = menu.addAction("Files of a case…")
        self.files_action.triggered.connect(self.files_wanted)
        self.result_action = menu.addAction("Saved result…")
        self.result_action.triggered.connect(self.result_wanted)
        self.sample_action = menu.addAction("Sample case (phantom)")
        self.sample_action.triggered.connect(self.sample_wanted)
        menu.addSeparator()
        self.close_action = menu.addAction("Close case")
        self.close_action.triggered.connect(self.close_wanted)
        self.open_button.setMenu(menu)
        self.info = ElidedLabel()
        self.add_row("Case", Row(self.chooser, self.open_button, stretch=0))
        self.add_row("", self.info)
        self.set_cases([], None)

    def set_cases(self, cases: Sequence[Case], current: Case | None) -> None:
        """List the cases and mark the current one."""
        self._cases = list(cases)
        self.chooser.clear()
        self.chooser.addItems([case.name for case in cases] or [_NO_CASE])
        self.chooser.setEnabled(bool(cases))
        self.close_action.setEnabled(current is not None)
        if current is not None:
            self.chooser.setCurrentIndex(self._cases.index(current))
        self.info.setText("" if current is None else summarise_case(current))
        self.info.setToolTip("" if current is None else describe_case(current))

    def _choose(self, index: int) -> None:
        if index < len(self._cases):
            self.case_chosen.emit(self._cases[index])


def summarise_case(case: Case) -> str:
    """Say in one line what was found."""
    truth = "truth" if case.wt_truth is not None else "no truth"
    return f"{' '.join(MODALITY_NAMES.values())}, {truth}"


def describe_case(case: Case) -> str:
    """Say where the case is from, and what its grid is."""
    z, y, x = case.geometry.shape
    spacing = " × ".join(f"{edge:.3g}" for edge in reversed(case.geometry.spacing_mm))
    folder = case.files.modalities["t1"].parent
    return f"{folder}: {x} × {y} × {z} voxels of {spacing} mm"
