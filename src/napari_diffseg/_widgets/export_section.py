"""What leaves the viewer: files, a report, a mask to paint on. Buttons only; `exporter` acts."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QFileDialog,
    QMenu,
    QPushButton,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_diffseg._widgets.form import SPACING, ElidedLabel, Row, describe


class ExportSection(QWidget):
    """Buttons beside each other, and a line that says where the files are."""

    save_wanted = Signal()
    report_wanted = Signal()
    edit_wanted = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.save_button = QToolButton()
        self.save_button.setObjectName("diffseg_open")
        self.save_button.setText("Save…")
        self.save_button.setPopupMode(QToolButton.ToolButtonPopupMode.MenuButtonPopup)
        self.save_button.clicked.connect(self.save_wanted)
        describe(
            self.save_button,
            "Save result",
            "Save mask, mean, variance and disagreement as NIfTI on the scan's own grid, and how "
            "they were made as JSON. The arrow chooses whether every sample is saved, too.",
        )
        menu = QMenu(self.save_button)
        menu.setToolTipsVisible(True)
        self.samples_action = menu.addAction("With every sample")
        self.samples_action.setCheckable(True)
        self.samples_action.setChecked(True)
        self.samples_action.setToolTip(
            "A result that is opened again can only be sampled further if its samples are there."
        )
        self.save_button.setMenu(menu)
        self.report_button = QPushButton("Report…")
        self.report_button.clicked.connect(self.report_wanted)
        describe(
            self.report_button,
            "Save report",
            "Save a report as one HTML file, which any browser shows without a network: pictures "
            "of the slices to look at, volumes, lesions, and how the result was made.",
        )
        self.edit_button = QPushButton("Make editable")
        self.edit_button.clicked.connect(self.edit_wanted)
        describe(
            self.edit_button,
            "Make editable",
            "Copy the mask into a layer of its own to paint on. Later samples and the sliders do "
            "not change it; Save writes it beside the model's mask, with what was painted. To "
            "begin anew, delete its layer.",
        )
        self.status = ElidedLabel()
        self._can_export = self._is_busy = False
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(SPACING)
        row = Row(self.save_button, self.report_button, self.edit_button)
        for button in (self.report_button, self.edit_button):
            button.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
        layout.addWidget(row)
        layout.addWidget(self.status)
        self._enable()

    @property
    def with_samples(self) -> bool:
        """Whether every sample is to be saved."""
        return bool(self.samples_action.isChecked())

    def set_ready(self, can_export: bool) -> None:
        """Say whether there is something to export."""
        self._can_export = can_export
        self._enable()

    def set_busy(self, text: str) -> None:
        """Something is being written."""
        self._is_busy = True
        self.status.setText(text)
        self._enable()

    def set_done(self, text: str) -> None:
        """It is written, or not."""
        self._is_busy = False
        self.status.setText(text)
        self._enable()

    def set_note(self, text: str) -> None:
        """Say something, unless it is said what is being written."""
        if not self._is_busy:
            self.status.setText(text)

    def _enable(self) -> None:
        for button in (self.save_button, self.report_button):
            button.setEnabled(self._can_export and not self._is_busy)
        self.edit_button.setEnabled(self._can_export)


def ask_folder(parent: QWidget, start: str) -> str:
    """Ask where results go; an empty text when the user thinks better of it."""
    return str(QFileDialog.getExistingDirectory(parent, "Save the result: choose a folder", start))


def ask_report(parent: QWidget, start: str) -> str:
    """Ask for the file of a report; an empty text when the user thinks better of it."""
    name, _ = QFileDialog.getSaveFileName(
        parent, "Save the report", start, "Web page (*.html);;All files (*)"
    )
    return str(name)
