"""Members as thumbnails in a grid that scrolls: point at one, click one, or use the keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QRect, QSize, Qt, Signal
from qtpy.QtGui import QColor, QImage, QPalette, QPen, QPixmap
from qtpy.QtWidgets import (
    QAbstractItemView,
    QListWidget,
    QListWidgetItem,
    QStyle,
    QStyledItemDelegate,
)

from napari_diffseg._layers import MEMBER_COLOUR
from napari_diffseg._widgets.readout_section import format_ml

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from qtpy.QtCore import QEvent, QModelIndex
    from qtpy.QtGui import QFocusEvent, QKeyEvent, QPainter, QResizeEvent
    from qtpy.QtWidgets import QStyleOptionViewItem

    from napari_diffseg.core.overlaps import Standing

PICTURE = 56
CELL = 68  # as wide as a caption such as "smallest"
N_ROWS = 2
GAP = 3
FRAME = 2

_MEMBER = Qt.ItemDataRole.UserRole
_TITLE, _VOLUME, _NUMBER = (Qt.ItemDataRole.UserRole + i for i in (1, 2, 3))


class MemberList(QListWidget):
    """Emits `pointed` with the member below the mouse or chosen by keys (-1: none), `clicked_on`
    with one that is clicked, and `left` on Escape.
    """

    pointed = Signal(int)
    clicked_on = Signal(int)
    left = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.shown_member: int | None = None
        self.setWrapping(True)
        self.setFlow(QListWidget.Flow.LeftToRight)
        self.setResizeMode(QListWidget.ResizeMode.Adjust)
        self.setUniformItemSizes(True)
        self.setItemDelegate(_PictureDelegate(self))
        self.setMouseTracking(True)
        self.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setFrameShape(QListWidget.Shape.NoFrame)
        self.setMinimumWidth(1)
        self._n_members = 0
        self._fit()
        self.itemEntered.connect(self._point_at)
        self.viewportEntered.connect(self._point_at_none)
        self.itemClicked.connect(self._click)

    @property
    def members(self) -> list[int]:
        """What is shown, in order."""
        return [self.item(row).data(_MEMBER) for row in range(self.count())]

    def make_room(self, n_members: int) -> None:
        """Be as high as so many members need, but not higher than two rows."""
        self._n_members = n_members
        self._fit()

    def show_members(self, standings: Sequence[Standing], voxel_volume_ml: float) -> None:
        """Show these members in this order; pictures come with `show_pictures`."""
        if [one.member for one in standings] != self.members:
            self._fill([one.member for one in standings])
        for row, one in enumerate(standings):
            item = self.item(row)
            volume = f"{format_ml(one.n_voxels * voxel_volume_ml)} mL"
            what = ", ".join(one.characters)
            item.setData(_TITLE, what)
            item.setData(_NUMBER, f"#{one.member + 1}")
            item.setData(_VOLUME, volume if one.is_comparable else f"{volume} …")
            parts = [f"Sample {one.member + 1}", what, volume]
            if one.mean_dice is not None:
                parts.append(f"mean Dice with the others {one.mean_dice:.3f}")
            if not one.is_comparable:
                parts.append("some of its slices are still missing")
            text = ", ".join(part for part in parts if part)
            item.setData(Qt.ItemDataRole.AccessibleTextRole, text)
            item.setToolTip(f"<qt>{text}. Click to show its outline, again to hide it.</qt>")

    def show_pictures(self, pictures: NDArray[np.uint8], ratio: float) -> None:
        """Show (S, size, size, 3) pictures of the members, in their order."""
        size = pictures.shape[1]
        for row, picture in enumerate(pictures):
            image = QImage(picture.data, size, size, 3 * size, QImage.Format.Format_RGB888)
            pixmap = QPixmap.fromImage(image)
            pixmap.setDevicePixelRatio(ratio)
            self.item(row).setData(Qt.ItemDataRole.DecorationRole, pixmap)

    def mark(self, member: int | None) -> None:
        """Mark the member that is shown in the canvas."""
        self.shown_member = member
        self.viewport().update()

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802 (Qt's name)
        """Share the width between the columns."""
        super().resizeEvent(event)
        self._fit()

    def leaveEvent(self, event: QEvent) -> None:  # noqa: N802 (Qt's name)
        """The mouse points at none any more."""
        self._point_at_none()
        super().leaveEvent(event)

    def focusOutEvent(self, event: QFocusEvent) -> None:  # noqa: N802 (Qt's name)
        """The keys point at none any more."""
        self._point_at_none()
        super().focusOutEvent(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:  # noqa: N802 (Qt's name)
        """Arrows point, Return and space click, Escape leaves."""
        item = self.currentItem()
        if event.key() == Qt.Key.Key_Escape:
            self.left.emit()
        elif event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Space):
            if item is not None:
                self.clicked_on.emit(item.data(_MEMBER))
        else:
            super().keyPressEvent(event)
            if self.currentItem() is not item:
                self._point_at(self.currentItem())

    def _fill(self, members: Sequence[int]) -> None:
        current = self.currentItem()
        kept = None if current is None else current.data(_MEMBER)
        self.blockSignals(True)
        self.clear()
        for member in members:
            item = QListWidgetItem()
            item.setData(_MEMBER, member)
            self.addItem(item)
        if kept in members:
            self.setCurrentRow(members.index(kept))
        self.blockSignals(False)

    def _point_at(self, item: QListWidgetItem | None) -> None:
        self.pointed.emit(-1 if item is None else item.data(_MEMBER))

    def _click(self, item: QListWidgetItem) -> None:
        self.clicked_on.emit(item.data(_MEMBER))

    def _point_at_none(self) -> None:
        self.pointed.emit(-1)

    def _fit(self) -> None:
        """Share the width between as many columns as there is room for."""
        width = self.width() - self.verticalScrollBar().sizeHint().width() - 2
        n_columns = max(width // CELL, 1)
        height = PICTURE + 2 * self.fontMetrics().height() + GAP
        n_rows = min(max(-(-self._n_members // n_columns), 1), N_ROWS)
        self.setGridSize(QSize(width // n_columns, height))
        self.setFixedHeight(n_rows * height + 2)


class _PictureDelegate(QStyledItemDelegate):
    """Paints the picture with its number; below, what the member stands out by, and its volume."""

    def sizeHint(self, option: QStyleOptionViewItem, index: QModelIndex) -> QSize:  # noqa: N802, ARG002
        """Return the whole cell."""
        return self.parent().gridSize()

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex) -> None:
        palette, metrics = option.palette, option.fontMetrics
        cell = option.rect
        picture = QRect(cell.center().x() - PICTURE // 2, cell.top() + FRAME, PICTURE, PICTURE)
        painter.save()
        pixmap = index.data(Qt.ItemDataRole.DecorationRole)
        if pixmap is not None:
            painter.drawPixmap(picture, pixmap)
            _paint_number(painter, picture, index.data(_NUMBER) or "")
        is_shown = index.data(_MEMBER) == self.parent().shown_member
        pointed = QStyle.StateFlag.State_MouseOver | QStyle.StateFlag.State_HasFocus
        if is_shown or option.state & pointed:
            colour = MEMBER_COLOUR if is_shown else palette.color(QPalette.ColorRole.Text)
            painter.setPen(QPen(QColor(colour), FRAME))
            painter.drawRect(picture.adjusted(0, 0, -1, -1))
        painter.setPen(palette.color(QPalette.ColorRole.Text))
        line = QRect(cell.left(), picture.bottom() + 1, cell.width() - 2, metrics.height())
        centre = Qt.AlignmentFlag.AlignHCenter | Qt.AlignmentFlag.AlignVCenter
        for role in (_TITLE, _VOLUME):
            text = metrics.elidedText(
                index.data(role) or "", Qt.TextElideMode.ElideRight, line.width()
            )
            painter.drawText(line, centre, text)
            line.translate(0, metrics.height())
        painter.restore()


def _paint_number(painter: QPainter, picture: QRect, number: str) -> None:
    """Paint a number into a corner, to be read on any picture."""
    plate = painter.fontMetrics().boundingRect(number).adjusted(-2, 0, 2, 0)
    plate.moveTopLeft(picture.topLeft())
    painter.fillRect(plate, QColor(0, 0, 0, 160))
    painter.setPen(QColor("white"))
    painter.drawText(plate, Qt.AlignmentFlag.AlignCenter, number)
