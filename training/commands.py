"""How the commands that go on where they were stopped end."""

from __future__ import annotations

import sys
from collections.abc import Callable

from napari_diffseg.core.errors import DiffsegError

FAILED, INTERRUPTED = 2, 130


def run_resumable(name: str, work: Callable[[], object]) -> int:
    """Do the work; return the exit code: 0, 2 for an error that is told, 130 for Ctrl-C."""
    try:
        work()
    except (DiffsegError, OSError) as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("\nInterrupted; the same command goes on from here.", file=sys.stderr)
        return INTERRUPTED
    return 0
