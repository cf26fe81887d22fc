"""What the commands share: exit codes, messages, numbers."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from napari_diffseg.core.errors import CaseError, DiffsegError

if TYPE_CHECKING:
    from napari_diffseg.core.case_files import CaseFiles

_Result = TypeVar("_Result")

OK, SOME_FAILED, CANNOT_RUN, INTERRUPTED, NOBODY_READS = 0, 1, 2, 130, 141


def report(message: str) -> None:
    """Write a line to stderr: stdout is for results."""
    print(message, file=sys.stderr, flush=True)


def explain(error: Exception) -> str:
    """Return what a user should hear of an error."""
    if isinstance(error, DiffsegError):
        return str(error)
    if isinstance(error, MemoryError):
        return "the machine has not enough memory. Choose fewer samples or slices."
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'The output'} cannot be read or written: {error.strerror}."
    return (
        f"unexpected {type(error).__name__}: {error}. Please report this, with what "
        "`napari-diffseg info` prints."
    )


def run_cases(
    cases: Sequence[CaseFiles | CaseError],
    work: Callable[[CaseFiles, str], _Result],
    tell: Callable[[_Result, str], None],
) -> int:
    """Work on each case and tell what came of it; return the exit code.

    One bad case must not cost the user the others: it is reported, and they go on. What goes wrong
    while telling is no fault of the case. Both functions are given the case's title as well.
    """
    n_failed = 0
    for number, files in enumerate(cases, start=1):
        title = f"[{number}/{len(cases)}]"
        try:
            if isinstance(files, CaseError):
                raise files
            title += f" {files.name}"
            result = work(files, title)
        except Exception as error:  # whatever it is, the user hears of it
            report(f"{title} failed: {explain(error)}")
            n_failed += 1
            continue
        tell(result, title)
    if n_failed:
        report(f"{n_failed} of {len(cases)} cases failed.")
    return SOME_FAILED if n_failed else OK


def parse_positive(text: str) -> int:
    """Read a number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def parse_threads(text: str) -> int:
    """Read a number of threads; thousands of them would bring the machine to a halt."""
    n_threads, most = parse_positive(text), 4 * (os.cpu_count() or 1)
    if n_threads > most:
        raise argparse.ArgumentTypeError(f"at most {most} threads make sense here, not {text}")
    return n_threads


def parse_path(text: str) -> Path:
    """Read a path; an empty one (of a variable that is not set) is not the current folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the path is empty; for the current folder give .")
    return Path(text)
