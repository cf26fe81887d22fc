"""Work that is worth doing for the newest state only."""

from __future__ import annotations

from collections.abc import Callable

from qtpy.QtCore import QObject, Signal

from napari_diffseg._worker import Task

Call = tuple[Callable[..., object], tuple[object, ...]]


class Newest(QObject):
    """One task at a time; what is asked for meanwhile waits, and only the last of it is done.

    A result that is out of date when it comes is dropped: it may be of another case.
    """

    done = Signal(object)
    """The result of what was asked for last."""

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._task: Task | None = None
        self._next: Call | None = None

    def ask(self, function: Callable[..., object], *args: object) -> None:
        """Call a function in another thread; `done` brings the result."""
        self._next = function, args
        if self._task is None:
            self._start()

    def release(self) -> None:
        """Forget what is under way; `done` does not come any more."""
        self._next = None
        if self._task is not None:
            self._task.release()
            self._task = None

    def _start(self) -> None:
        if self._next is None:
            return
        function, args = self._next
        self._next = None
        self._task = Task(function, *args)
        self._task.done.connect(self._end)
        self._task.failed.connect(self._fail)
        self._task.start()

    def _end(self, result: object) -> None:
        self._task = None
        if self._next is None:
            self.done.emit(result)
        else:
            self._start()

    def _fail(self) -> None:
        self._task = None
        self._start()
