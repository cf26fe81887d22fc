"""A small list of slices with bars, in two columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QRect, QSize, Qt, Signal
from qtpy.QtGui import QColor, QPalette
from qtpy.QtWidgets import (
    QAbstractItemView,
    QListWidget,
    QListWidgetItem,
    QStyle,
    QStyledItemDelegate,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qtpy.QtCore import QModelIndex
    from qtpy.QtGui import QPainter, QResizeEvent
    from qtpy.QtWidgets import QStyleOptionViewItem

    from napari_diffseg.core.work_list import RankedSlice

N_ROWS, N_COLUMNS = 6, 2
ROW_HEIGHT = 19
FRAME = 8  # what napari's style adds above and below, and some to spare
ACCENT = 3
MARGIN = 5
BAR_HEIGHT = 7
BAR_COLOUR = "#009e73"
"""Bluish green, of Okabe and Ito's colours; mask and truth have two others."""

_Z = Qt.ItemDataRole.UserRole
_NUMBER, _SHARE, _SCORE = (Qt.ItemDataRole.UserRole + i for i in (1, 2, 3))


class SliceList(QListWidget):
    """Emits `chosen` with the canonical index of a slice that the user points at."""

    chosen = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self.setFlow(QListWidget.Flow.TopToBottom)
        self.setWrapping(True)
        self.setUniformItemSizes(True)
        self.setItemDelegate(_BarDelegate(self))
        self.setMouseTracking(True)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        for set_policy in (self.setHorizontalScrollBarPolicy, self.setVerticalScrollBarPolicy):
            set_policy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setFrameShape(QListWidget.Shape.NoFrame)
        self.setFixedHeight(N_ROWS * ROW_HEIGHT + FRAME)
        self.setMinimumWidth(1)
        self.currentItemChanged.connect(self._choose)
        self.itemClicked.connect(self._choose)
        self.itemActivated.connect(self._choose)

    def show_slices(self, slices: Sequence[RankedSlice], unit: str) -> None:
        """Show other slices, without choosing any."""
        self.blockSignals(True)
        self.clear()
        for entry in slices:
            score = format_score(entry.score, unit)
            item = QListWidgetItem(f"slice {entry.slice}: {score}")
            item.setData(_Z, entry.z)
            item.setData(_NUMBER, str(entry.slice))
            item.setData(_SHARE, entry.score / slices[0].score)
            item.setData(_SCORE, score)
            self.addItem(item)
        self.blockSignals(False)

    def mark(self, z: int) -> None:
        """Mark a slice if it is there, without choosing it anew."""
        row = next((row for row in range(self.count()) if self.item(row).data(_Z) == z), -1)
        self.blockSignals(True)
        self.setCurrentRow(row)
        self.blockSignals(False)
        self.viewport().update()

    def step(self, step: int) -> None:
        """Choose the next or previous one; the first if none is marked. It ends at the ends."""
        if self.count():
            row = self.currentRow()
            wanted = 0 if row < 0 else min(max(row + step, 0), self.count() - 1)
            self.setCurrentRow(wanted)

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802 (Qt's name)
        """Share the width between the columns."""
        self.setGridSize(QSize(self.viewport().width() // N_COLUMNS, ROW_HEIGHT))
        super().resizeEvent(event)

    def _choose(self, item: QListWidgetItem | None) -> None:
        if item is not None:
            self.chosen.emit(item.data(_Z))


class _BarDelegate(QStyledItemDelegate):
    """Paints number, bar and score; the marked slice in the theme's colour of selections."""

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex) -> None:
        palette = option.palette
        rect = option.rect.adjusted(0, 1, -MARGIN, -1)
        painter.save()
        is_marked = bool(option.state & QStyle.StateFlag.State_Selected)
        if is_marked or option.state & QStyle.StateFlag.State_MouseOver:
            back = QColor(palette.color(QPalette.ColorRole.Highlight))
            if not is_marked:
                back.setAlphaF(0.4)
            painter.fillRect(rect, back)
        role = QPalette.ColorRole.HighlightedText if is_marked else QPalette.ColorRole.Text
        painter.setPen(palette.color(role))
        if is_marked:
            painter.fillRect(
                QRect(rect.left(), rect.top(), ACCENT, rect.height()), painter.pen().color()
            )
        metrics = option.fontMetrics
        inner = rect.adjusted(MARGIN, 0, -MARGIN, 0)
        number_width, score_width = (
            metrics.horizontalAdvance(text) for text in ("000", "0.00 bit")
        )
        right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        number = QRect(inner.left(), inner.top(), number_width, inner.height())
        painter.drawText(number, right, index.data(_NUMBER))
        score = QRect(inner.right() - score_width, inner.top(), score_width, inner.height())
        painter.drawText(score, right, index.data(_SCORE))
        bar = QRect(number.right() + MARGIN + 2, 0, 0, BAR_HEIGHT)
        bar.setRight(score.left() - MARGIN)
        bar.moveTop(inner.center().y() - BAR_HEIGHT // 2)
        painter.fillRect(bar, QColor(128, 128, 128, 60))
        bar.setWidth(max(round(bar.width() * index.data(_SHARE)), 1))
        painter.fillRect(bar, QColor(BAR_COLOUR))
        painter.restore()


def format_score(score: float, unit: str) -> str:
    """Return a score with its unit: "1.8 mm", "0.31 bit", "0.0083"."""
    digits = {"mm": 1, "bit": 2}.get(unit, 4)
    return f"{score:.{digits}f} {unit}".strip()
