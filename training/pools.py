"""Processes that each do a part of a long list."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Final

LOST_PROCESS: Final = (
    "a process was ended from outside, probably for lack of memory: run the command again with "
    "fewer --workers."
)


@contextmanager
def open_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Give fresh processes, and begin nothing more once the block is left."""
    # A forked one can hang in a library that has threads.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
