"""Stopping a run in an orderly way when it is told to (Ctrl-C, a batch system's SIGTERM)."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import Any, Self


class StopRequest:
    """Remembers the first SIGINT or SIGTERM; the second one acts as it always does.

    A context manager; call it to ask whether the run should stop.

    Parameters
    ----------
    patient
        Whether a second one is nothing new. Under a launcher it is not a user's wish: the launcher
        passes on what it is sent, which a batch system has sent to every process before.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self.signal: int | None = None
        self._patient = patient
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def __call__(self) -> bool:
        """Whether a signal came."""
        return self.signal is not None

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is not None:
            return
        self.signal = number
        if self._patient:
            sys.stderr.write("\nStopping after this step.\n")
            return
        self._restore()
        sys.stderr.write("\nStopping after this step; once more to stop at once.\n")

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
