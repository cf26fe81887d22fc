"""The cases of a folder, how far each is, and the queue that segments them in the background."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from qtpy.QtCore import QObject, Signal

from napari_diffseg._widgets.found import Found, Look, Wanted, is_to_do, look
from napari_diffseg._widgets.queue_run import Share, iter_case
from napari_diffseg._worker import Job
from napari_diffseg.core.events import Cancelled, Failed, Finished

if TYPE_CHECKING:
    from napari_diffseg._widgets.engine import Engine
    from napari_diffseg._widgets.queue_run import QueueEvent, QueueOptions
    from napari_diffseg.core.brats import CaseFiles
    from napari_diffseg.core.summary import CaseSummary

State = Literal[
    "not run",
    "queued",
    "running",
    "done",
    "other model",
    "other settings",
    "other images",
    "edited",
    "problem",
]


@dataclass(frozen=True)
class Entry:
    """A case of the folder."""

    files: CaseFiles
    state: State = "not run"
    fraction: float = 0.0
    """Of a case that is running."""
    found: Found = Found()
    """What is saved."""
    differences: tuple[str, ...] = ()
    """In what it was drawn differently, by the names of `resume.DrawKey`."""
    problem: str = ""

    @property
    def n_members(self) -> int:
        """Saved samples of this case."""
        return 0 if self.found.other_images else self.found.n_members

    @property
    def summary(self) -> CaseSummary | None:
        """What the saved record says of this case, if there is one."""
        return None if self.found.other_images else self.found.summary

    @property
    def text(self) -> str:
        """How far it is, in a word or two."""
        if self.state == "running":
            return f"running {self.fraction:.0%}"
        if self.state not in ("not run", "done", "edited") or not self.n_members:
            return self.state
        samples = f"{self.n_members} sample{'s' * (self.n_members != 1)}"
        samples += "" if self.found.is_whole else ", some slices"
        return samples if self.state == "not run" else f"{self.state}, {samples}"


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
        self._folder: Path | None = None
        self._results: dict[str, Look] = {}
        self._wanted = Wanted()
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

    def set_cases(
        self, cases: Sequence[CaseFiles], folder: Path, results: Mapping[str, Look]
    ) -> None:
        """List other cases; `results` is what is known of those that are saved in `folder`."""
        self.release()
        self._folder = folder
        self._results = dict(results)
        names = Counter(files.name for files in cases)
        self._entries = [self._find_entry(files, names[files.name]) for files in cases]
        self.changed.emit()

    def set_wanted(self, wanted: Wanted) -> None:
        """Show which results were drawn with the model and the numbers that are chosen now."""
        if wanted == self._wanted:
            return
        self._wanted = wanted
        before = self.entries
        self._entries = [
            entry if entry.state in ("queued", "running", "problem") else self._describe(entry)
            for entry in before
        ]
        if self.entries != before:
            self.changed.emit()

    def look_again(self, name: str | None = None) -> None:
        """Look for results that were saved meanwhile, of one case or of all.

        Those that are waited for or being drawn are looked at when it is their turn.
        """
        self._entries = [
            self._describe(replace(entry, found=self._look_at(entry.files), problem=""))
            if name in (None, entry.files.name)
            and not entry.files.problem
            and entry.state not in ("queued", "running")
            else entry
            for entry in self._entries
        ]
        self.changed.emit()

    @property
    def has_results(self) -> bool:
        """Whether anything is saved that the queue may replace."""
        return any(e.found.n_whole and not e.found.is_edited for e in self._entries)

    def find_others(self) -> dict[str, Found]:
        """Return by case the results of whole volumes that were drawn differently."""
        return {
            entry.files.name: entry.found
            for entry in self._entries
            if self._wanted.is_of_another(entry.found)
        }

    def start(self, options: QueueOptions) -> None:
        """Segment, one after the other, what has fewer saved members than are wanted."""
        if self.is_running:
            return
        self._options = replace(options, may_go=self._may_go)
        self._entries = [
            replace(entry, state="queued") if self._is_to_do(entry, options) else entry
            for entry in self._entries
        ]
        self._go_on()

    def stop(self) -> None:
        """Stop before the next step; what is saved stays."""
        for index, entry in enumerate(self._entries):
            if entry.state == "queued":
                self._entries[index] = self._describe(entry)
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
            self._describe(entry) if entry.state in ("queued", "running") else entry
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
            self._change(found=event)
            return
        if isinstance(event, Failed):
            self._change(state="problem", problem=event.message)
        elif isinstance(event, Finished | Cancelled):
            now = self._describe(self._entries[self._running])
            self._change(state=now.state, differences=now.differences)
        self._go_on()

    def _change(self, **values: object) -> None:
        assert self._running is not None
        before = self._entries[self._running]
        now = replace(before, **values)  # type: ignore[arg-type]
        self._entries[self._running] = now
        if now.text != before.text or now.summary != before.summary:
            self.changed.emit()

    def _is_to_do(self, entry: Entry, options: QueueOptions) -> bool:
        may_replace = options.replaceable.get(entry.files.name)
        return not entry.files.problem and is_to_do(entry.found, self._wanted, may_replace)

    def _describe(self, entry: Entry) -> Entry:
        """Return a case that is not at work with its state."""
        found = entry.found
        state: State = "not run"
        differences: tuple[str, ...] = ()
        if found.other_images:
            state = "other images"
        elif found.is_edited:
            state = "edited"
        elif self._wanted.is_of_another(found):
            differences = self._wanted.find_differences(found)
            state = "other model" if "model_sha256" in differences else "other settings"
        elif self._wanted.is_complete(found):
            state = "done"
        return replace(entry, state=state, differences=differences)

    def _look_at(self, files: CaseFiles) -> Found:
        assert self._folder is not None
        now = look(self._folder, files, self._results.get(files.name))
        self._results[files.name] = now
        return now.found

    def _find_entry(self, files: CaseFiles, n_same_name: int) -> Entry:
        if n_same_name > 1:
            problem = (
                f"{n_same_name} cases are called {files.name}: their results would be mixed up."
            )
            files = replace(files, problem=problem)
        if files.problem:
            return Entry(files, "problem", problem=files.problem)
        return self._describe(Entry(files, found=self._look_at(files)))
