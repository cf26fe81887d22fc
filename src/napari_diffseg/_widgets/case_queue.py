"""The cases of a folder, how far each is, and the queue that segments them in the background."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from qtpy.QtCore import QObject, Signal

from napari_diffseg._widgets.queue_run import Found, Share, find_result, is_to_do, iter_case
from napari_diffseg._worker import Job
from napari_diffseg.core.events import Cancelled, Failed, Finished

if TYPE_CHECKING:
    from napari_diffseg._widgets.engine import Engine
    from napari_diffseg._widgets.queue_run import QueueEvent, QueueOptions
    from napari_diffseg.core.brats import CaseFiles

State = Literal["not run", "queued", "running", "done", "edited", "problem"]


@dataclass(frozen=True)
class Entry:
    """A case of the folder."""

    files: CaseFiles
    state: State = "not run"
    fraction: float = 0.0
    """Of a case that is running."""
    n_members: int = 0
    """Saved ones."""
    is_whole: bool = True
    """Whether these are of the whole volume."""
    problem: str = ""

    @property
    def text(self) -> str:
        """How far it is, in a word or two."""
        if self.state == "running":
            return f"running {self.fraction:.0%}"
        if self.state in ("done", "edited") or (self.state == "not run" and self.n_members):
            samples = f"{self.n_members} sample{'s' * (self.n_members != 1)}"
            samples += "" if self.is_whole else ", some slices"
            return samples if self.state == "not run" else f"{self.state}, {samples}"
        return self.state


class CaseQueue(QObject):
    """Runs one case at a time; nothing of it is put on screen."""

    changed = Signal()
    ended = Signal()

    def __init__(self, engine: Engine, parent: QObject) -> None:
        super().__init__(parent)
        self._engine = engine
        self._entries: list[Entry] = []
        self._options: QueueOptions | None = None
        self._job: Job | None = None
        self._running: int | None = None
        self._found = Found()
        self._may_go = threading.Event()
        self._may_go.set()

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The cases, in their order."""
        return tuple(self._entries)

    @property
    def is_running(self) -> bool:
        """Whether the queue is at work, or waits for a run that goes first."""
        return self._options is not None

    def set_cases(self, cases: Sequence[CaseFiles], folder: Path) -> None:
        """List other cases; `folder` is where results are saved, and may hold some."""
        self.release()
        names = Counter(files.name for files in cases)
        self._entries = [_find_entry(files, folder, names[files.name]) for files in cases]
        self.changed.emit()

    def start(self, options: QueueOptions) -> None:
        """Segment, one after the other, what has fewer saved members than are wanted."""
        if self.is_running:
            return
        self._options = replace(options, may_go=self._may_go)
        for index, entry in enumerate(self._entries):
            if entry.files.problem:
                continue
            found = find_result(options.folder, entry.files.name)
            now = _describe(entry.files, found)
            if is_to_do(found, options.n_samples):
                now = replace(now, state="queued")
            self._entries[index] = now
        self._go_on()

    def stop(self) -> None:
        """Stop before the next step; what is saved stays."""
        for index, entry in enumerate(self._entries):
            if entry.state == "queued":
                self._entries[index] = replace(entry, state="not run")
        if self._job is not None:
            self._job.cancel()
        self.changed.emit()

    def pause(self) -> None:
        """Let another run go first."""
        self._may_go.clear()

    def resume(self) -> None:
        """Go on."""
        self._may_go.set()

    def release(self) -> None:
        """Stop, and hear nothing of it any more."""
        if self._job is not None:
            self._job.release()
            self._job.reported.disconnect(self._take)
        self._job = self._options = self._running = None
        self._entries = [
            replace(entry, state="not run") if entry.state in ("queued", "running") else entry
            for entry in self._entries
        ]

    def _go_on(self) -> None:
        queued = (i for i, entry in enumerate(self._entries) if entry.state == "queued")
        self._running = next(queued, None)
        if self._running is None or self._options is None:
            self._job = self._options = self._running = None
            self.changed.emit()
            self.ended.emit()
            return
        self._change(state="running", fraction=0.0)
        files = self._entries[self._running].files
        self._job = Job(partial(iter_case, files, self._options, self._engine))
        self._job.reported.connect(self._take)
        self._job.start()

    def _take(self, event: QueueEvent) -> None:
        assert self._running is not None
        assert self._options is not None
        if isinstance(event, Share):
            self._change(fraction=event.fraction)
            return
        if isinstance(event, Found):
            self._found = event
            self._change(n_members=event.n_members, is_whole=event.is_whole)
            return
        if isinstance(event, Finished):
            self._change(state="edited" if self._found.is_edited else "done")
        elif isinstance(event, Failed):
            self._change(state="problem", problem=event.message)
        elif isinstance(event, Cancelled):
            self._change(state="not run")
        self._go_on()

    def _change(self, **values: object) -> None:
        assert self._running is not None
        before = self._entries[self._running]
        self._entries[self._running] = replace(before, **values)  # type: ignore[arg-type]
        if self._entries[self._running].text != before.text:
            self.changed.emit()


def _find_entry(files: CaseFiles, folder: Path, n_same_name: int) -> Entry:
    if n_same_name > 1:
        problem = f"{n_same_name} cases are called {files.name}: their results would be mixed up."
        files = replace(files, problem=problem)
    if files.problem:
        return Entry(files, "problem", problem=files.problem)
    return _describe(files, find_result(folder, files.name))


def _describe(files: CaseFiles, found: Found) -> Entry:
    state: State = "edited" if found.is_edited else "done" if found.n_whole else "not run"
    return Entry(files, state, n_members=found.n_members, is_whole=found.is_whole)
