"""Gets ready for a run while the user still looks at the images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, QTimer, Signal

from napari_diffseg._widgets.newest import Newest

if TYPE_CHECKING:
    from pathlib import Path

    from napari_diffseg._widgets.runner import Runner
    from napari_diffseg.core.brats import Case

WAIT_MS = 300  # the images are drawn first


class WarmUp(QObject):
    """Loads the model and prepares the images of a case that is open, in another thread.

    What goes wrong is not told here: a run meets it again, and tells it.
    """

    done = Signal()
    """A run of the case would begin at once."""

    def __init__(self, runner: Runner, parent: QObject) -> None:
        super().__init__(parent)
        self._runner = runner
        self._wanted: tuple[Case, Path | None] | None = None
        self._newest = Newest(self)
        self._newest.done.connect(self._end)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._start)

    def look_at(self, case: Case | None, model_path: Path | None) -> None:
        """Get ready for this case and model, soon; without a case for nothing any more."""
        self._timer.stop()
        self._wanted = None if case is None else (case, model_path)
        if case is not None:
            self._timer.start(WAIT_MS)

    def release(self) -> None:
        """Begin nothing any more."""
        self._timer.stop()
        self._wanted = None
        self._newest.release()

    def _start(self) -> None:
        if self._wanted is not None and not self._runner.is_running:
            self._newest.ask(self._runner.engine.get_ready, *self._wanted)

    def _end(self, case: Case) -> None:
        if self._wanted is None or self._wanted[0] is not case:  # it was closed meanwhile
            self._runner.engine.forget_case(case)
        else:
            self.done.emit()
