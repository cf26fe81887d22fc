"""Saves what is on screen, off the GUI thread: writing whole volumes takes seconds."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, Signal

from napari_diffseg._layers import LOCKED_HELP
from napari_diffseg._widgets.edited import EditedMask
from napari_diffseg._widgets.export_section import ask_folder, ask_report
from napari_diffseg._widgets.questions import REPLACE, ask, complete_path
from napari_diffseg._widgets.saved_files import SavedFiles
from napari_diffseg._widgets.snapshot import report_snapshot, save_snapshot, take_snapshot
from napari_diffseg._worker import Task
from napari_diffseg.core.errors import DiffsegError
from napari_diffseg.core.export import report_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_diffseg._widgets.export_section import ExportSection
    from napari_diffseg._widgets.snapshot import Snapshot
    from napari_diffseg._widgets.stage import Stage


class Exporter(QObject):
    """Writes one thing at a time, of the run on stage."""

    saved = Signal(object, str)
    """The folder that a result was saved in, and the name of its case."""
    failed = Signal(str)

    def __init__(self, stage: Stage, section: ExportSection) -> None:
        super().__init__(section)
        self._stage = stage
        self._section = section
        self.edited = EditedMask(stage, self)
        self.edited.looked_at.connect(self._note_locked)
        self._task: Task | None = None
        self._folder = ""  # the last one that was chosen
        self._files = SavedFiles()
        section.save_wanted.connect(self._save)
        section.edit_wanted.connect(self._edit)
        section.report_wanted.connect(self._report)
        for signal in (stage.shown, stage.changed):
            signal.connect(self._follow)
        stage.released.connect(self.release)

    def release(self) -> None:
        """Hear nothing any more of what is being written; it is written to the end."""
        if self._task is not None:
            self._task.release()
            self._task = None
            self._section.set_done("")

    def _follow(self) -> None:
        run = self._stage.run
        self._section.set_ready(
            run is not None and run.record is not None and bool(run.is_sampled.any())
        )

    def _save(self) -> None:
        folder = ask_folder(self._section, self._folder)
        snapshot = self._take_snapshot()
        if not folder or snapshot is None:
            return
        self._folder = folder
        question = self._files.ask_what(snapshot, Path(folder))
        if question and not ask(self._section, question, REPLACE):
            self._section.set_note("Nothing was saved.")
            return
        save = partial(save_snapshot, samples=self._section.with_samples)
        name = snapshot.case.name
        tell = partial(self._tell_files, name)
        self._start(Task(save, snapshot, Path(folder)), f"Saving {name} …", tell)

    def _report(self) -> None:
        snapshot = self._take_snapshot()
        if snapshot is None:
            return
        start = report_path(Path(self._folder), snapshot.case.name)
        name = ask_report(self._section, str(start))
        if not name:
            return
        path = complete_path(self._section, name, ".html", ".htm")
        if path is None:
            self._section.set_note("Nothing was saved.")
            return
        self._folder = str(path.parent)
        self._start(
            Task(report_snapshot, snapshot, path), "Writing the report …", self._tell_report
        )

    def _edit(self) -> None:
        self._section.set_note(self.edited.make())

    def _note_locked(self, is_mask: bool) -> None:
        """Say beside “Make editable” what it is for, while the mask is chosen."""
        said = self._section.status.full_text()
        if is_mask and not said:
            self._section.set_note(LOCKED_HELP)
        elif not is_mask and said == LOCKED_HELP:
            self._section.set_note("")

    def _take_snapshot(self) -> Snapshot | None:
        run = self._stage.run
        return None if run is None else take_snapshot(run, self.edited.take())

    def _start(self, task: Task, text: str, tell: Callable[[object], str]) -> None:
        if self._task is not None:
            return
        self._task = task
        task.done.connect(partial(self._finish, tell))
        task.failed.connect(self._report_failure)
        self._section.set_busy(text)
        task.start()

    def _finish(self, tell: Callable[[object], str], result: object) -> None:
        self._task = None
        self._section.set_done(tell(result))

    def _report_failure(self, error: Exception) -> None:
        self._task = None
        self._section.set_done("Nothing was saved.")
        text = str(error)
        if not isinstance(error, DiffsegError):
            text = f"The result cannot be saved ({type(error).__name__}: {error})."
        self.failed.emit(text)

    def _tell_files(self, name: str, result: object) -> str:
        assert isinstance(result, dict)
        paths: list[Path] = [*result.values()]
        folder = paths[0].parent
        left_over = self._files.find_left_over(folder, name, paths)
        self._files.note(paths)
        self.saved.emit(folder, name)
        text = f"Saved {len(paths)} files in {folder}."
        return f"{text} From an earlier result: {', '.join(left_over)}." if left_over else text

    def _tell_report(self, result: object) -> str:
        assert isinstance(result, Path)
        self._files.note([result])
        return f"Report: {result}"
