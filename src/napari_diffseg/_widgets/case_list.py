"""The cases of a folder as a list: what is done, the next one, and the queue's button."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QHeaderView,
    QPushButton,
    QStyle,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_diffseg._widgets.case_row import (
    describe_state,
    describe_volume,
    show_interval,
    show_volume,
    sort_key,
)
from napari_diffseg._widgets.form import SPACING, ElidedLabel, Fold, Row, describe

if TYPE_CHECKING:
    from napari_diffseg._widgets.case_queue import Entry
    from napari_diffseg.core.brats import CaseFiles

_LIST_HEIGHT = 150
_CASE, _STATE, _VOLUME, _INTERVAL, _MARK = range(5)
_MARK_WIDTH, _ICON = 22, 14


class CaseList(Fold):
    """Hidden until a folder with several cases has been opened."""

    case_wanted = Signal(object)  # CaseFiles
    start_wanted = Signal()
    stop_wanted = Signal()
    table_wanted = Signal()

    def __init__(self) -> None:
        self._entries: tuple[Entry, ...] = ()  # in the order of the rows
        self._listed: tuple[Entry, ...] = ()
        self._current: CaseFiles | None = None
        self._is_running = False
        self.tree = _make_tree()
        self.tree.itemClicked.connect(self._choose)
        self.tree.itemActivated.connect(self._choose)
        self.previous, self.next = QPushButton("Previous"), QPushButton("Next")
        describe(self.previous, "Previous case", "Open the case before the current one.")
        describe(self.next, "Next case", "Open the case after the current one.")
        self.previous.clicked.connect(lambda: self.go(-1))
        self.next.clicked.connect(lambda: self.go(1))
        self.run_button = QPushButton("Run all")
        self.run_button.clicked.connect(self._run)
        self.unsure_first = QCheckBox("Least sure first")
        describe(
            self.unsure_first,
            "Least sure first",
            "Order the cases by confidence, the mean Dice of all pairs of samples, from low to "
            "high. Those without one come last.",
        )
        self.unsure_first.toggled.connect(self._order)
        self.table_button = QPushButton("Save table…")
        describe(
            self.table_button,
            "Save table",
            "Save what the results of these cases say as one CSV file: volume and interval, "
            "confidence, verdict, scores, and how each was made.",
        )
        self.info = ElidedLabel()
        body = QWidget()
        layout = QVBoxLayout(body)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(SPACING)
        layout.addWidget(self.tree)
        layout.addWidget(Row(self.previous, self.next, self.run_button, stretch=2))
        layout.addWidget(Row(self.unsure_first, QWidget(), self.table_button, stretch=1))
        layout.addWidget(self.info)
        super().__init__("Cases", body, "Show the cases of the folder, and run all of them.")
        self.table_button.clicked.connect(self.table_wanted)
        self.hide()
        self._show_button()

    def set_entries(self, entries: Sequence[Entry], *, is_running: bool) -> None:
        """Show the cases and how far they are."""
        is_new = [e.files.name for e in entries] != [e.files.name for e in self._listed]
        self._listed, self._is_running = tuple(entries), is_running
        if is_new:
            self.tree.clear()
            self.tree.addTopLevelItems([_make_item() for _ in entries])
            self.set_open(True)
        self._order()
        n_done = sum(entry.state in ("done", "edited") for entry in entries)
        self.button.setText(f"Cases ({n_done} of {len(entries)} done)" if entries else "Cases")
        self.table_button.setEnabled(any(entry.n_members for entry in entries))
        self.setVisible(bool(entries))
        self._show_button()

    def set_current(self, files: CaseFiles | None) -> None:
        """Mark the case that is worked on."""
        self._current = files
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

    def _order(self) -> None:
        """Fill the rows in the order that is chosen; the current case stays marked."""
        entries = self._listed
        if self.unsure_first.isChecked():
            entries = tuple(sorted(entries, key=sort_key))
        is_moved = [e.files for e in entries] != [e.files for e in self._entries]
        self._entries = entries
        for index, entry in enumerate(entries):
            item = self.tree.topLevelItem(index)
            assert item is not None
            self._fill(item, entry)
        if is_moved:
            self.set_current(self._current)

    def _fill(self, item: QTreeWidgetItem, entry: Entry) -> None:
        item.setText(_CASE, entry.files.name)
        item.setText(_STATE, entry.text)
        item.setText(_VOLUME, show_volume(entry))
        item.setText(_INTERVAL, show_interval(entry))
        item.setToolTip(_CASE, _wrap(entry.problem or entry.files.name))
        item.setToolTip(_STATE, _wrap(describe_state(entry)))
        for number in (_VOLUME, _INTERVAL):
            item.setToolTip(number, _wrap(describe_volume(entry)))
        is_warned = entry.summary is not None and entry.summary.warning
        verdict = entry.summary.verdict if is_warned and entry.summary is not None else ""
        if item.toolTip(_MARK) != _wrap(verdict):
            item.setToolTip(_MARK, _wrap(verdict))
            item.setData(_MARK, Qt.ItemDataRole.AccessibleTextRole, verdict)
            icon = self.style().standardIcon(QStyle.StandardPixmap.SP_MessageBoxWarning)
            item.setData(_MARK, Qt.ItemDataRole.DecorationRole, icon if verdict else None)

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
                "complete. A run that you start yourself goes first. It asks before it replaces "
                "what was drawn with another model or other settings.",
            )


def _make_tree() -> QTreeWidget:
    tree = QTreeWidget()
    tree.setHeaderLabels(["Case", "State", "mL", "Interval", ""])
    tree.headerItem().setTextAlignment(_VOLUME, Qt.AlignmentFlag.AlignRight)
    tree.setRootIsDecorated(False)
    tree.setUniformRowHeights(True)
    tree.setFixedHeight(_LIST_HEIGHT)
    tree.setIconSize(QSize(_ICON, _ICON))  # rows with a mark are as high as those without
    header = tree.header()
    header.setStretchLastSection(False)
    header.setMinimumSectionSize(_MARK_WIDTH)
    header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
    header.setSectionResizeMode(_CASE, QHeaderView.ResizeMode.Stretch)
    header.setSectionResizeMode(_MARK, QHeaderView.ResizeMode.Fixed)
    header.resizeSection(_MARK, _MARK_WIDTH)
    tree.setTextElideMode(Qt.TextElideMode.ElideMiddle)
    describe(
        tree,
        "Cases",
        "The cases of the folder. A click or Enter opens one. The volume is that of the mask, the "
        "interval what the samples' own volumes span; a mark means that the result should not be "
        "relied on.",
    )
    return tree


def _make_item() -> QTreeWidgetItem:
    item = QTreeWidgetItem()
    item.setTextAlignment(_VOLUME, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
    return item


def _wrap(text: str) -> str:
    """Return a tooltip that is broken into lines."""
    return f"<qt>{escape(text)}</qt>" if text else ""
