"""Files that are complete or not there at all, and folders that one process works in."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from napari_diffseg.core.errors import DiffsegError


def write_text(path: Path, text: str) -> None:
    """Write a file in UTF-8, or leave what was there: a temporary one beside it takes its place.

    Raises
    ------
    OSError
        It cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path, doing: str) -> Iterator[None]:
    """Keep other processes from working in a folder; the lock ends with the process.

    Parameters
    ----------
    folder
        Where the file "lock" is made.
    doing
        What the other process is doing there, for the message.

    Raises
    ------
    DiffsegError
        If another process has it.
    """
    path = folder / "lock"
    is_of_another_user = path.exists() and not os.access(path, os.W_OK)
    with path.open("rb" if is_of_another_user else "wb") as file:
        if not _try_lock(file):
            raise DiffsegError(f"Another process is {doing} in {folder}. Wait for it, or stop it.")
        yield


def _try_lock(file: BinaryIO) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows: no lock
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # a file system without locks, as Lustre often is
        print(
            f"note: {file.name} cannot be locked ({error.strerror or error}). Take care that no "
            "other process works in this folder.",
            file=sys.stderr,
        )
    return True
