"""The cases of a folder as a list: what is done, the next one, and the queue's button."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QHeaderView,
    QPushButton,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_diffseg._widgets.form import SPACING, ElidedLabel, Fold, Row, describe

if TYPE_CHECKING:
    from napari_diffseg._widgets.case_queue import Entry
    from napari_diffseg.core.brats import CaseFiles

_LIST_HEIGHT = 130


class CaseList(Fold):
    """Hidden until a folder with several cases has been opened."""

    case_wanted = Signal(object)  # CaseFiles
    start_wanted = Signal()
    stop_wanted = Signal()

    def __init__(self) -> None:
        self._entries: tuple[Entry, ...] = ()
        self._is_running = False
        self.tree = QTreeWidget()
        self.tree.setColumnCount(2)
        self.tree.setHeaderHidden(True)
        self.tree.setRootIsDecorated(False)
        self.tree.setUniformRowHeights(True)
        self.tree.setFixedHeight(_LIST_HEIGHT)
        self.tree.header().setStretchLastSection(False)
        self.tree.header().setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        self.tree.header().setSectionResizeMode(1, QHeaderView.ResizeMode.ResizeToContents)
        self.tree.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.tree.itemClicked.connect(self._choose)
        self.tree.itemActivated.connect(self._choose)
        describe(self.tree, "Cases", "The cases of the folder. A click or Enter opens one.")
        self.previous, self.next = QPushButton("Previous"), QPushButton("Next")
        describe(self.previous, "Previous case", "Open the case before the current one.")
        describe(self.next, "Next case", "Open the case after the current one.")
        self.previous.clicked.connect(lambda: self.go(-1))
        self.next.clicked.connect(lambda: self.go(1))
        self.run_button = QPushButton("Run all")
        self.run_button.clicked.connect(self._run)
        self.info = ElidedLabel()
        body = QWidget()
        layout = QVBoxLayout(body)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(SPACING)
        layout.addWidget(self.tree)
        layout.addWidget(Row(self.previous, self.next, self.run_button, stretch=2))
        layout.addWidget(self.info)
        super().__init__("Cases", body, "Show the cases of the folder, and run all of them.")
        self.hide()
        self._show_button()

    def set_entries(self, entries: Sequence[Entry], *, is_running: bool) -> None:
        """Show the cases and how far they are."""
        is_new = [e.files.name for e in entries] != [e.files.name for e in self._entries]
        self._entries, self._is_running = tuple(entries), is_running
        if is_new:
            self.tree.clear()
            self.tree.addTopLevelItems(
                [QTreeWidgetItem([entry.files.name, ""]) for entry in entries]
            )
            self.set_open(True)
        for index, entry in enumerate(entries):
            item = self.tree.topLevelItem(index)
            assert item is not None
            item.setText(1, entry.text)
            item.setToolTip(0, entry.problem or entry.files.name)
            item.setToolTip(1, entry.problem)
        n_done = sum(entry.state in ("done", "edited") for entry in entries)
        self.button.setText(f"Cases ({n_done} of {len(entries)} done)" if entries else "Cases")
        self.setVisible(bool(entries))
        self._show_button()

    def set_current(self, files: CaseFiles | None) -> None:
        """Mark the case that is worked on."""
        for index, entry in enumerate(self._entries):
            if files is not None and entry.files.modalities == files.modalities:
                self.tree.setCurrentItem(self.tree.topLevelItem(index))
                return
        self.tree.setCurrentItem(None)

    def go(self, step: int) -> None:
        """Open the next case that can be opened, or, with -1, the one before."""
        item = self.tree.currentItem()
        index = -1 if item is None else self.tree.indexOfTopLevelItem(item)
        if item is None and step < 0:
            return
        index += step
        while 0 <= index < len(self._entries):
            if not self._entries[index].files.problem:
                self.case_wanted.emit(self._entries[index].files)
                return
            index += step

    def _choose(self, item: QTreeWidgetItem) -> None:
        entry = self._entries[self.tree.indexOfTopLevelItem(item)]
        if not entry.files.problem:
            self.case_wanted.emit(entry.files)

    def _run(self) -> None:
        (self.stop_wanted if self._is_running else self.start_wanted).emit()

    def _show_button(self) -> None:
        if self._is_running:
            self.run_button.setText("Stop")
            describe(
                self.run_button,
                "Stop",
                "Stop before the next step. Samples that are saved stay.",
            )
        else:
            self.run_button.setText("Run all")
            describe(
                self.run_button,
                "Run all",
                "Segment the whole volume of every case that is not done, with the model and the "
                "numbers below, while you review others. Each sample is saved when it is "
                "complete. A run that you start yourself goes first.",
            )
