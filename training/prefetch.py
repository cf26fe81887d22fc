"""The next step's batch is prepared while a device takes the present step."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

_T = TypeVar("_T")


class Prefetcher(Generic[_T]):
    """Loads one step ahead in a thread, which ends with the ``with`` block.

    Parameters
    ----------
    load
        What belongs to a step (from 0); a pure function, so it is the same however it is loaded.
    end
        Steps from here on are not loaded ahead.
    """

    def __init__(self, load: Callable[[int], _T], end: int) -> None:
        self._load, self._end = load, end
        self._executor = ThreadPoolExecutor(1, "prefetch")
        self._ahead: dict[int, Future[_T]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._executor.shutdown(cancel_futures=True)

    def take(self, step: int) -> _T:
        """Return what belongs to a step, and begin to load the next one.

        Errors in loading a step are raised here, when that step is taken.
        """
        future = self._ahead.pop(step, None) or self._executor.submit(self._load, step)
        value = future.result()
        if step + 1 < self._end:
            self._ahead = {step + 1: self._executor.submit(self._load, step + 1)}
        return value
