"""Computes STAPLE off the GUI thread whenever it is what the mask is made by."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, Signal

from napari_diffseg._worker import Task
from napari_diffseg.core.consensus import compute_staple

if TYPE_CHECKING:
    from napari_diffseg._widgets.run import Run
    from napari_diffseg._widgets.stage import Stage
    from napari_diffseg.core.consensus import Staple

PAUSE_WHILE_RUNNING_S = 5.0  # it takes a core, which the sampling wants


class Stapler(QObject):
    """One computation at a time, of the run on stage, and then the newest.

    Emits `computed` when the run has another estimate, `working` when it begins and ends, and
    `failed` with a sentence for the user; what has failed is not tried again on the same samples.
    """

    computed = Signal()
    working = Signal(bool)
    failed = Signal(str)

    def __init__(self, stage: Stage, parent: QObject) -> None:
        super().__init__(parent)
        self._stage = stage
        self._task: Task | None = None
        self._next_s = 0.0
        self._failed: tuple[str, int, int] | None = None
        stage.shown.connect(self._drop)
        for signal in (stage.settled, stage.changed):
            signal.connect(self._compute)
        stage.released.connect(self._drop)

    def _drop(self) -> None:
        if self._task is not None:
            self._task.release()
            self._task = None
            self.working.emit(False)

    def _compute(self) -> None:
        run = self._stage.run
        is_early = self._stage.is_running and time.monotonic() < self._next_s
        if run is None or self._task is not None or is_early or not run.is_sampled.any():
            return
        if self._failed == (run.id, run.view.k, run.n_added):
            return
        votes = run.cut_out_votes()
        if votes is None:
            return
        self._task = Task(compute_staple, votes)
        self._task.done.connect(partial(self._take, run, run.view.k, run.n_added))
        self._task.failed.connect(partial(self._fail, (run.id, run.view.k, run.n_added)))
        self._task.start()
        self.working.emit(True)

    def _take(self, run: Run, k: int, n_added: int, staple: Staple) -> None:
        self._drop()
        self._next_s = time.monotonic() + PAUSE_WHILE_RUNNING_S
        run.set_staple(staple, k, n_added)
        self.computed.emit()

    def _fail(self, key: tuple[str, int, int], error: Exception) -> None:
        self._drop()
        self._failed = key
        self.failed.emit(f"STAPLE could not be computed ({error}). The mask is the majority's.")
