"""What runs in other threads lets go of what it has worked on."""

from __future__ import annotations

import gc
import threading
import warnings
import weakref
from typing import Any

import pytest

from napari_diffseg._worker import Task


class Large:
    """Something that must not be kept, such as the images of a case."""


def test_a_task_lets_go_of_its_arguments(qtbot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Two workers whose `catch_warnings` overlap: the second one restores what the first had set.
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    first_is_in, first_may_end, second_may_end = (threading.Event() for _ in range(3))
    large = Large()
    ended = []

    def work(_: Large) -> str:
        first_is_in.set()
        assert first_may_end.wait(60)
        return "first"

    first = Task(work, large)
    second = Task(lambda: second_may_end.wait(60))
    for task in (first, second):
        task.done.connect(ended.append)
    first.start()
    qtbot.waitUntil(first_is_in.is_set, timeout=60_000)
    second.start()
    first_may_end.set()
    qtbot.waitUntil(lambda: "first" in ended, timeout=60_000)
    second_may_end.set()
    qtbot.waitUntil(lambda: len(ended) == 2, timeout=60_000)
    kept = weakref.ref(large)
    del large
    gc.collect()
    assert kept() is None


def test_a_task_that_fails_tells_it(qtbot: Any, caplog: pytest.LogCaptureFixture) -> None:
    def fail(number: int) -> None:
        raise ValueError(f"{number} is odd")

    task = Task(fail, 3)
    failed: list[Exception] = []
    task.failed.connect(failed.append)
    task.start()
    qtbot.waitUntil(lambda: bool(failed), timeout=60_000)
    assert str(failed[0]) == "3 is odd"
    assert "a task stopped with an error" in caplog.text
