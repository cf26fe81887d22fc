"""Work in the GUI's thread that is cut into pieces, so that the window lives in between."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial

from qtpy.compat import isalive
from qtpy.QtCore import QObject, QTimer
from qtpy.QtWidgets import QWidget

PAUSE_MS = 1  # with 0 Qt calls the next one before it draws or looks at the mouse


class Turns(QObject):
    """Calls functions one after the other, each in a turn of the event loop of its own.

    What a call changes in the parent's window is drawn in the turn after it: Qt would draw before
    it looks at anything else, and the window would stand still for both.
    """

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self._widget = parent
        self._waiting: deque[Callable[[], object]] = deque()
        # What is not drawn at the moment. To hold it would keep a closed window alive, and to let
        # go of it would destroy it, and this with it, amid a call.
        self._window: weakref.ref[QWidget] | None = None
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._call_next)
        self._drawn = QTimer(self)
        self._drawn.setSingleShot(True)
        self._drawn.timeout.connect(self._go_on)

    @property
    def is_waiting(self) -> bool:
        """Whether a function has not been called yet."""
        return bool(self._waiting)

    def add(self, functions: Iterable[Callable[[], object]], pause_ms: int = PAUSE_MS) -> None:
        """Call these after those that are waiting, or, if there are none, after a pause."""
        self._waiting.extend(functions)
        if self._waiting and not self._timer.isActive():
            self._timer.start(pause_ms)

    def finish(self) -> None:
        """Call all that are left now."""
        while self._waiting:
            self._waiting.popleft()()

    def clear(self) -> None:
        """Forget what is left."""
        self._waiting.clear()
        self._timer.stop()
        if self._window is not None:
            _draw_again(self._window)
            self._window = None

    def _call_next(self) -> None:
        if not self._waiting:
            return
        window = self._widget.window() or self._widget
        reference = self._window = weakref.ref(window)
        window.setUpdatesEnabled(False)
        try:
            self._waiting.popleft()()
        finally:
            # Not by a timer of the widget's: it may be closed in between.
            QTimer.singleShot(0, partial(_draw_again, reference))
            self._drawn.start(0)

    def _go_on(self) -> None:
        self._window = None
        if self._waiting and not self._timer.isActive():  # the call may have asked for a pause
            self._timer.start(PAUSE_MS)


def _draw_again(reference: weakref.ref[QWidget]) -> None:
    window = reference()
    if window is not None and isalive(window):
        window.setUpdatesEnabled(True)
