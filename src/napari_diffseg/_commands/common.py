"""What the commands share: exit codes, messages, numbers."""

from __future__ import annotations

import argparse
import sys

from napari_diffseg.core.errors import DiffsegError

OK, SOME_FAILED, CANNOT_RUN, INTERRUPTED = 0, 1, 2, 130


def report(message: str) -> None:
    """Write a line to stderr: stdout is for results."""
    print(message, file=sys.stderr, flush=True)


def explain(error: Exception) -> str:
    """Return what a user should hear of an error."""
    if isinstance(error, DiffsegError):
        return str(error)
    if isinstance(error, MemoryError):
        return "the machine has not enough memory. Choose fewer samples or slices."
    return f"unexpected {type(error).__name__}: {error}. Please report this."


def parse_positive(text: str) -> int:
    """Read a number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)
