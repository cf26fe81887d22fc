"""The estimate of the remaining time, with a clock that a test turns."""

from __future__ import annotations

import numpy as np
import pytest

from napari_diffseg.core.events import Downgraded, SampleDone, Started, StepDone
from napari_diffseg.core.progress import Progress, format_time


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def started(n_slices: int = 2, n_members: int = 5, n_steps: int = 4) -> Started:
    z_indices, members = tuple(range(n_slices)), tuple(range(n_members))
    return Started(z_indices, members, n_steps, "cpu", 5, n_slices * n_members * n_steps)


def test_remaining_time_follows_the_work_done() -> None:
    clock = Clock()
    progress = Progress(clock)
    clock.now = 5  # reading the files is not part of the pace
    progress.update(started())
    assert progress.remaining_s is None
    for step in (1, 2, 3, 4):
        clock.now += 1
        progress.update(StepDone(step, 4, 5))
    assert progress.fraction == pytest.approx(0.5)
    assert progress.remaining_s == pytest.approx(4)
    assert progress.elapsed_s == pytest.approx(9)
    assert "0:09, 0:04 left" in progress.describe()


def test_batch_that_is_repeated_counts_once() -> None:
    progress = Progress(Clock())
    progress.update(started(n_slices=1))
    progress.update(StepDone(1, 4, 5))
    progress.update(StepDone(2, 4, 5))
    progress.update(Downgraded("memory ran out", "cpu", 2))
    assert progress.fraction == 0
    for _ in range(2):
        for step in (1, 2, 3, 4):
            progress.update(StepDone(step, 4, 2))
        for member in (0, 1):
            progress.update(SampleDone(member, 0, np.zeros((2, 2), np.uint8)))
    assert progress.fraction == pytest.approx(0.8)
    assert "4/5 slice samples" in progress.describe()


def test_times_are_readable() -> None:
    assert [format_time(s) for s in (0.4, 59.6, 754, 3661)] == ["0:00", "1:00", "12:34", "1:01:01"]
