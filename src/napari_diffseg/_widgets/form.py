"""What all sections share: rows whose labels and fields line up, tooltips, accessible names."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, cast

from qtpy.QtCore import QEvent, QSize, Qt, Signal
from qtpy.QtWidgets import (
    QAbstractSlider,
    QAbstractSpinBox,
    QComboBox,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QScrollArea,
    QScrollBar,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

if TYPE_CHECKING:
    from qtpy.QtCore import QObject
    from qtpy.QtGui import QResizeEvent

WIDEST_LABEL = "Samples used"
SPACING = 6

STYLE = """
QSpinBox { min-width: 68px; max-width: 68px; padding: 1px 4px; }
QSpinBox[plain="true"], QDoubleSpinBox[plain="true"]
{ min-width: 46px; max-width: 46px; padding: 1px 4px; }
#diffseg_open { background: rgba(128, 128, 128, 70); border-radius: 2px; }
#diffseg_open { padding: 3px 20px 3px 8px; }
#diffseg_open:hover { background: rgba(128, 128, 128, 120); }
#diffseg_line { background: rgba(128, 128, 128, 120); border: none; max-height: 1px; }
"""
"""napari's spin boxes are 90 pixels wide or more: too wide for three in a row."""


def describe(widget: QWidget, name: str, tooltip: str) -> None:
    """Give a control the name that a screen reader says, and a tooltip (wrapped, as rich text)."""
    widget.setAccessibleName(name)
    widget.setToolTip(f"<qt>{escape(tooltip)}</qt>")


class Form(QWidget):
    """Rows of a label and a field; the labels of all sections are equally wide."""

    def __init__(self) -> None:
        super().__init__()
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setHorizontalSpacing(SPACING)
        self._grid.setVerticalSpacing(SPACING)
        self._grid.setColumnStretch(1, 1)
        self._caption: QLabel | None = None

    def add_row(self, label: str, field: QWidget) -> None:
        """Add a row; the label leads to the field for keyboard and screen reader."""
        row = self._grid.rowCount()
        if label:
            caption = QLabel(label)
            caption.setBuddy(field)
            caption.setToolTip(field.toolTip())
            self._caption = caption
            self._grid.addWidget(caption, row, 0, Qt.AlignmentFlag.AlignVCenter)
        self._grid.addWidget(field, row, 1)

    def event(self, event: QEvent) -> bool:
        """Fit the labels' width to napari's font, which is set after the section is made."""
        occasions = (QEvent.Type.Polish, QEvent.Type.StyleChange, QEvent.Type.FontChange)
        if event.type() in occasions and self._caption is not None:
            self._caption.ensurePolished()
            width = self._caption.fontMetrics().horizontalAdvance(WIDEST_LABEL)
            self._grid.setColumnMinimumWidth(0, width + SPACING)
        return bool(super().event(event))

    def add_wide(self, field: QWidget) -> None:
        """Add a field that takes the whole width."""
        self._grid.addWidget(field, self._grid.rowCount(), 0, 1, 2)


def make_chooser() -> QComboBox:
    """Return a combo box that takes the room there is, however long its entries are."""
    chooser = QComboBox()
    chooser.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
    chooser.setMinimumContentsLength(8)
    return chooser


class Column(QScrollArea):
    """Sections below each other; as wide as they need, scrolling when they are too high.

    The wheel scrolls, also over a slider, a number or a chooser: these take it only while they have
    the focus, which the wheel does not give them.
    """

    def __init__(self, *sections: QWidget) -> None:
        super().__init__()
        content = QWidget()
        layout = QVBoxLayout(content)
        layout.setContentsMargins(8, 4, 8, 4)
        layout.setSpacing(SPACING)
        for section in sections:
            layout.addWidget(section)
        layout.addStretch(1)
        self.setWidget(content)
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        for control in filter(_is_turned_by_wheel, content.findChildren(QWidget)):
            control.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
            control.installEventFilter(self)

    def minimumSizeHint(self) -> QSize:  # noqa: N802 (Qt's name)
        """Return the least width that cuts nothing off."""
        width = self.widget().minimumSizeHint().width()
        bar = self.verticalScrollBar().sizeHint().width()
        frame = 2 * self.frameWidth()  # napari's style draws one, whatever the shape
        return QSize(width + bar + frame, super().minimumSizeHint().height())

    def sizeHint(self) -> QSize:  # noqa: N802 (Qt's name)
        """Ask for no more width than that: the images want it."""
        return QSize(self.minimumSizeHint().width(), self.widget().sizeHint().height())

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802 (Qt's name)
        """Pass on that the sections have another size, and the wheel over what has no focus."""
        if event.type() == QEvent.Type.LayoutRequest:
            self.updateGeometry()
        elif (
            event.type() == QEvent.Type.Wheel
            and _is_turned_by_wheel(watched)
            and not cast("QWidget", watched).hasFocus()
        ):
            event.ignore()  # so that Qt asks its parents, up to this column
            return True
        return bool(super().eventFilter(watched, event))


def _is_turned_by_wheel(watched: QObject) -> bool:
    """Tell whether the wheel would change a value: scroll bars, which Qt has watched, it moves."""
    kinds = (QAbstractSlider, QAbstractSpinBox, QComboBox)
    return isinstance(watched, kinds) and not isinstance(watched, QScrollBar)


class Stack(QWidget):
    """Sections below each other."""

    def __init__(self, *sections: QWidget) -> None:
        super().__init__()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(SPACING)
        for section in sections:
            layout.addWidget(section)


class Row(QWidget):
    """Fields beside each other; the one at `stretch` takes the room that is left."""

    def __init__(self, *fields: QWidget, stretch: int | None = None) -> None:
        super().__init__()
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(SPACING)
        for index, field in enumerate(fields):
            layout.addWidget(field, int(index == stretch))
        if stretch is None:
            layout.addStretch(1)


class Heading(QWidget):
    """A title with a line that runs to the edge."""

    def __init__(self, text: str) -> None:
        super().__init__()
        line = QFrame()
        line.setObjectName("diffseg_line")
        label = QLabel(f"<b>{escape(text)}</b>")
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, SPACING, 0, 0)
        layout.addWidget(label)
        layout.addWidget(line, 1)


class Fold(QWidget):
    """A part that can be folded away under its title."""

    toggled = Signal(bool)

    def __init__(self, title: str, body: QWidget, tooltip: str, *, is_open: bool = False) -> None:
        super().__init__()
        self.body = body
        self.button = QToolButton()
        self.button.setText(title)
        self.button.setCheckable(True)
        self.button.setAutoRaise(True)
        self.button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        describe(self.button, title, tooltip)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(SPACING // 2)
        layout.addWidget(self.button)
        layout.addWidget(body)
        self.button.toggled.connect(self._show_body)
        self.button.setChecked(is_open)
        self._show_body(is_open)

    @property
    def is_open(self) -> bool:
        """Whether the body is to be seen."""
        return bool(self.button.isChecked())

    def set_open(self, is_open: bool) -> None:
        """Fold or unfold."""
        self.button.setChecked(is_open)

    def _show_body(self, is_open: bool) -> None:
        arrow = Qt.ArrowType.DownArrow if is_open else Qt.ArrowType.RightArrow
        self.button.setArrowType(arrow)
        self.body.setVisible(is_open)
        self.toggled.emit(is_open)


class ElidedLabel(QLabel):
    """One line that never asks for more room than there is; the whole text is the tooltip."""

    def __init__(self) -> None:
        super().__init__()
        self._text = ""
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)

    def setText(self, text: str) -> None:  # noqa: N802 (Qt's name)
        """Show a text, cut at the edge if it is too long."""
        self._text = text
        self._elide()

    def full_text(self) -> str:
        """Return the text before it was cut."""
        return self._text

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802 (Qt's name)
        """Cut at the new edge."""
        super().resizeEvent(event)
        self._elide()

    def _elide(self) -> None:
        cut = self.fontMetrics().elidedText(
            self._text, Qt.TextElideMode.ElideRight, max(self.width(), 1)
        )
        super().setText(cut)
        self.setToolTip(escape(self._text) if cut != self._text else "")
