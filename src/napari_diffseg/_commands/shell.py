"""What a shell may do to a command: streams closed, full or of few letters, and signals."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


def prepare_streams() -> None:
    """Make sure that what is said can be written, whatever letters are in a path.

    A stream that was closed by the shell (``2>&-``) is None in Python; what is said goes nowhere.
    """
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def forget_stdout() -> None:
    """Let stdout lead nowhere, so that Python does not fail once more when it ends.

    (Python's documentation of SIGPIPE.)
    """
    with contextlib.suppress(OSError, ValueError, AttributeError):  # a stream without a file
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, sys.stdout.fileno())
        finally:
            os.close(nowhere)


@contextmanager
def ending_cleanly() -> Iterator[None]:
    """Let SIGTERM, as a cluster sends it, end the process like an exit: nothing half-written stays.

    Only the main thread can have it so; elsewhere nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: object) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
