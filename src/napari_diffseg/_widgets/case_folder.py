"""Puts the list of a folder's cases, the queue and the dock together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QObject

from napari_diffseg._settings import read_settings
from napari_diffseg._widgets.case_queue import CaseQueue
from napari_diffseg._widgets.queue_run import QueueOptions
from napari_diffseg.core.export import RECORD, output_paths

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from napari_diffseg._widgets.case_desk import CaseDesk
    from napari_diffseg._widgets.case_list import CaseList
    from napari_diffseg._widgets.opener import SeveralCases
    from napari_diffseg._widgets.runner import Runner
    from napari_diffseg.core.brats import Case, CaseFiles

RESULTS = "diffseg_results"


class CaseFolder(QObject):
    """The folder of cases that is worked on; none at first.

    Parameters
    ----------
    case_list, desk, runner
        Of the dock.
    make_options
        Called with the folder for results when the queue is started: what the dock says now.
    """

    def __init__(
        self,
        case_list: CaseList,
        desk: CaseDesk,
        runner: Runner,
        make_options: Callable[[Path], QueueOptions],
    ) -> None:
        super().__init__(case_list)
        self._list = case_list
        self._desk = desk
        self._runner = runner
        self._make_options = make_options
        self._results: Path | None = None
        self._left: Case | None = None
        self.queue = CaseQueue(runner.engine, self)
        self.queue.changed.connect(self._show)
        desk.listed.connect(self._take)
        desk.opened.connect(self._make_room)
        desk.failed.connect(self._stay)
        desk.current_changed.connect(self._mark)
        case_list.case_wanted.connect(self._open)
        case_list.start_wanted.connect(self._start)
        case_list.stop_wanted.connect(self.queue.stop)

    def release(self) -> None:
        """The dock is going: what is being sampled stops, what is saved stays."""
        self.queue.release()
        self._show()

    def _take(self, found: SeveralCases) -> None:
        self._results = read_settings().results_folder or found.folder / RESULTS
        self.queue.set_cases(found.cases, self._results)
        self._list.info.setText(f"Results: {self._results}")
        self._mark(self._desk.current)
        if self._list.tree.currentItem() is None:
            self._list.go(1)

    def _start(self) -> None:
        assert self._results is not None
        self.queue.start(self._make_options(self._results))

    def _open(self, files: CaseFiles) -> None:
        if self._desk.is_opening:
            return
        before = self._desk.current
        self._left = before if before is not None and before.files != files else None
        result = self._find_result(files)
        if result is None:
            self._desk.open_files(files)
        else:
            self._desk.open_result(str(result))

    def _find_result(self, files: CaseFiles) -> Path | None:
        """Return the record of what the queue has saved of a case, unless it has a run here."""
        if self._results is None or self._runner.find_run(self._desk.find_case(files)) is not None:
            return None
        saved = any(e.files == files and e.n_members for e in self.queue.entries)
        return output_paths(self._results, files.name)[RECORD] if saved else None

    def _make_room(self) -> None:
        """Close the case of the list that was looked at before, if all of it is on disk."""
        case, self._left = self._left, None
        if case is None or self._runner.running_case is case or self._desk.is_edited(case):
            return
        run = self._runner.find_run(case)
        if run is not None and (run.is_unsaved or not run.is_reopened):
            return
        if any(entry.files == case.files for entry in self.queue.entries):
            self._desk.close_case(case)

    def _stay(self) -> None:
        self._left = None

    def _mark(self, case: Case | None) -> None:
        if case is not None:
            self._list.set_current(case.files)

    def _show(self) -> None:
        self._list.set_entries(self.queue.entries, is_running=self.queue.is_running)
