"""Tells a widget when it is taken out of its window, or the window is closed.

napari stops no worker when a viewer closes, and the x of a dock only takes the widget out of it, so
a widget that has work going on must notice for itself. Only public Qt is used.
"""

from __future__ import annotations

from typing import cast

from qtpy.QtCore import QEvent, QObject, Signal
from qtpy.QtWidgets import QWidget


class Lifetime(QObject):
    """Watches a widget, its parent, and the outermost window that it is in.

    It refers to the widget as its parent only: a child that held its parent in an attribute would
    keep it alive in PySide.
    """

    ended = Signal()
    began = Signal()

    def __init__(self, widget: QWidget) -> None:
        super().__init__(widget)
        self._window: QWidget | None = None
        self._is_closing = False
        widget.installEventFilter(self)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802 (Qt's name)
        """Look at events and let them pass."""
        widget = cast("QWidget", self.parent())
        if watched is widget:
            if event.type() == QEvent.Type.ParentChange:
                if widget.parentWidget() is None:
                    self._watch(None)
                    self.ended.emit()
                else:
                    self._watch(_outermost(widget))
                    self.began.emit()
            elif event.type() == QEvent.Type.Show and widget.parentWidget() is not None:
                self._watch(_outermost(widget))
        elif watched is self._window:
            self._look_at_window(event)
        return False

    def _look_at_window(self, event: QEvent) -> None:
        assert self._window is not None
        if event.type() == QEvent.Type.Close:
            # napari asks the user whether it is meant, and may ignore it. A window that is to be
            # seen is closed only when it hides.
            self._is_closing = self._window.isVisible()
            if not self._is_closing:
                self.ended.emit()
        elif event.type() == QEvent.Type.Hide and self._is_closing and not event.spontaneous():
            # A spontaneous one is that of a window that is minimised after a refused close.
            self._is_closing = False
            self.ended.emit()

    def _watch(self, window: QWidget | None) -> None:
        if window is self._window:
            return
        if self._window is not None:
            self._window.removeEventFilter(self)
        self._window, self._is_closing = window, False
        if window is not None:
            window.installEventFilter(self)


def _outermost(widget: QWidget) -> QWidget:
    """Return the main window, also from inside a floating dock, which is a window of its own."""
    parent = widget.parentWidget()
    return widget if parent is None else _outermost(parent)
