"""Several files into their place together: if one cannot be moved, none is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_WAITS_S = (0.1, 0.2, 0.4, 0.8, 1.6)
"""Windows moves no file that a program has open, be it a viewer or a virus scanner."""


def replace_all(files: Sequence[tuple[Path, Path]], earlier: Path) -> None:
    """Move files (from, to) into their place, the last one last; if one fails, all is as before.

    Parameters
    ----------
    files
        Where they are, and where they belong.
    earlier
        An empty folder on the same file system for the files that are there already, of which the
        last one goes first: while it is there, those before it are of one and the same set.

    Raises
    ------
    OSError
        A file cannot be moved.
    """
    there = [to for _, to in reversed(files) if to.is_file() or to.is_symlink()]
    move_all([*((path, earlier / path.name) for path in there), *files])


def move_all(moves: Sequence[tuple[Path, Path]]) -> None:
    """Rename all (from, to) in this order, or, if one fails or somebody interrupts, none.

    Raises
    ------
    OSError
        A file cannot be moved.
    """
    begun: list[tuple[Path, Path]] = []
    try:
        for source, target in moves:
            begun.append((source, target))
            _rename(source, target)
    except BaseException:
        for source, target in reversed(begun):
            if target.exists() and not source.exists():  # the last one may not have moved
                with suppress(OSError):  # so that all others go back
                    _rename(target, source)
        raise


def _rename(source: Path, target: Path) -> None:
    for wait_s in _WAITS_S:
        try:
            source.rename(target)
        except PermissionError:
            time.sleep(wait_s)
        else:
            return
    source.rename(target)
