"""Puts the list of a folder's cases, the queue and the dock together."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, Signal

from napari_diffseg._settings import read_settings
from napari_diffseg._widgets.case_closer import holds_work
from napari_diffseg._widgets.case_queue import CaseQueue
from napari_diffseg._widgets.case_table import CaseTable
from napari_diffseg._widgets.found import find_record, look_at_all, make_wanted
from napari_diffseg._widgets.questions import ask
from napari_diffseg._widgets.queue_run import QueueOptions
from napari_diffseg._worker import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from napari_diffseg._widgets.case_desk import CaseDesk
    from napari_diffseg._widgets.case_list import CaseList
    from napari_diffseg._widgets.found import Found, Look
    from napari_diffseg._widgets.opener import SeveralCases
    from napari_diffseg._widgets.runner import Runner
    from napari_diffseg.core.brats import Case, CaseFiles
    from napari_diffseg.core.checkpoint import LoadedModel

RESULTS = "diffseg_results"
REPLACE, LEAVE = "Draw anew", "Leave as they are"
STOP = "Stop and open"


class CaseFolder(QObject):
    """The folder of cases that is worked on; none at first.

    Parameters
    ----------
    case_list, desk, runner
        Of the dock.
    make_options
        Called with the folder for results: what the dock says now.
    """

    settled = Signal()
    """A folder has been read, and no case is being opened."""
    told = Signal(str)
    failed = Signal(str)

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
        self._found: SeveralCases | None = None
        self._results: Path | None = None
        self._left: Case | None = None
        self._loading: Task | None = None
        self._looking: Task | None = None
        self._reopening: CaseFiles | None = None
        self.queue = CaseQueue(runner.engine, self)
        self.queue.changed.connect(self._show)
        self._table = CaseTable(case_list)
        self._table.saved.connect(self.told)
        self._table.failed.connect(self.failed)
        desk.listed.connect(self._take)
        desk.opened.connect(self._end_opening)
        desk.failed.connect(self._stay)
        desk.current_changed.connect(self._mark)
        case_list.case_wanted.connect(self._open)
        case_list.start_wanted.connect(self._start)
        case_list.stop_wanted.connect(self._stop)
        case_list.table_wanted.connect(self._save_table)

    @property
    def is_opening_result(self) -> bool:
        """Whether a case of the list is being opened with what is saved of it."""
        return self._reopening is not None

    def release(self) -> None:
        """The dock is going: what is being sampled stops, what is saved stays."""
        self._forget_model()
        self._forget_looking()
        self._table.release()
        self.queue.release()
        self._show()

    def follow_choices(self) -> None:
        """Another model or other numbers were chosen, or the model is known now."""
        if self._results is not None:
            options = self._make_options(self._results)
            self._look_for(options, self._runner.engine.peek(options.recipe.model_path))

    def note_saved(self, folder: Path, name: str) -> None:
        """A result was saved by hand; it may be one of the list's."""
        if self._results is not None and folder.resolve() == self._results.resolve():
            self.queue.look_again(name)

    def _take(self, found: SeveralCases) -> None:
        if self.queue.is_running and found != self._found and not self._may_stop():
            self.settled.emit()
            return
        if self.queue.is_running and found == self._found:
            self._settle()
            return
        self._forget_looking()
        results = read_settings().results_folder or found.folder / RESULTS
        self._looking = Task(look_at_all, results, found.cases)
        self._looking.done.connect(partial(self._list_cases, found, results))
        self._looking.failed.connect(self._fail)
        self._looking.start()

    def _settle(self) -> None:
        self._mark(self._desk.current)
        if self._list.tree.currentItem() is None:
            self._list.go(1)
        if not self._desk.is_opening:
            self.settled.emit()

    def _may_stop(self) -> bool:
        folder = "" if self._found is None else f" of {self._found.folder}"
        text = (
            f"The cases{folder} are still being run. Stop that and open the other folder? "
            "Samples that are saved stay."
        )
        return ask(self._list, text, STOP) == STOP

    def _list_cases(self, found: SeveralCases, results: Path, there: Mapping[str, Look]) -> None:
        self._forget_looking()
        self._forget_model()
        self._found, self._results = found, results
        self.queue.set_cases(found.cases, results, there)
        self._list.info.setText(f"Results: {results}")
        self.follow_choices()
        self._settle()

    def _start(self) -> None:
        """Run all; what is saved is first compared with what the model would draw."""
        assert self._results is not None
        options = self._make_options(self._results)
        engine, path = self._runner.engine, options.recipe.model_path
        self.queue.look_again()
        model = engine.peek(path)
        if model is not None or not self.queue.has_results:
            self._begin(options, model)
            return
        self._loading = Task(engine.load, path)
        self._loading.done.connect(partial(self._begin, options))
        self._loading.failed.connect(self._fail)
        self._loading.start()
        self._show()

    def _begin(self, options: QueueOptions, model: LoadedModel | None) -> None:
        self._loading = None
        self._look_for(options, model)
        others = self.queue.find_others()
        answer = self._ask_about(others) if others else LEAVE
        if answer:
            self.queue.start(replace(options, replaceable=others if answer == REPLACE else {}))
        self._show()

    def _ask_about(self, others: Mapping[str, Found]) -> str:
        n_cases = len(others)
        n_strange = sum(bool(found.other_images) for found in others.values())
        are = "case has a result that was" if n_cases == 1 else "cases have results that were"
        strange = f" or is of other images ({n_strange})" if n_strange else ""
        text = (
            f"{n_cases} {are} drawn with another model or other settings{strange}. Draw anew with "
            "what is chosen now? The files are replaced. What somebody has edited is left alone."
        )
        return ask(self._list, text, REPLACE, LEAVE)

    def _look_for(self, options: QueueOptions, model: LoadedModel | None) -> None:
        wanted = make_wanted(
            options.recipe, options.n_samples, options.tolerance, options.view, model
        )
        self.queue.set_wanted(wanted)

    def _fail(self, error: Exception) -> None:
        self._forget_looking()
        self._forget_model()
        self._show()
        self.failed.emit(str(error))

    def _stop(self) -> None:
        self._forget_model()
        self.queue.stop()

    def _forget_model(self) -> None:
        if self._loading is not None:
            self._loading.release()
            self._loading = None

    def _forget_looking(self) -> None:
        if self._looking is not None:
            self._looking.release()
            self._looking = None

    def _save_table(self) -> None:
        assert self._results is not None
        own: list[str] = []
        others: list[str] = []
        for entry in self.queue.entries:
            (others if entry.found.other_images else own).append(entry.files.name)
        self._table.save(self._results, own, others)

    def _open(self, files: CaseFiles) -> None:
        if self._desk.is_opening:
            return
        before = self._desk.current
        self._left = before if before is not None and before.files != files else None
        result = self._find_result(files)
        if result is None:
            self._desk.open_files(files)
        else:
            self._reopening = files
            self._desk.open_result(str(result), files.modalities["t1"].parent)

    def _find_result(self, files: CaseFiles) -> Path | None:
        """Return the record of what the queue has saved of a case, unless it has a run here."""
        if self._results is None or self._runner.find_run(self._desk.find_case(files)) is not None:
            return None
        saved = any(e.files == files and e.n_members for e in self.queue.entries)
        return find_record(self._results, files) if saved else None

    def _end_opening(self) -> None:
        """Close the case of the list that was looked at before, if all of it is on disk."""
        self._reopening = None
        case, self._left = self._left, None
        if case is None or holds_work(case, self._desk, self._runner):
            return
        if any(entry.files == case.files for entry in self.queue.entries):
            self._desk.close_case(case)

    def _stay(self) -> None:
        """Open at least the images of a case whose result cannot be read."""
        files, self._reopening = self._reopening, None
        if files is None:
            self._left = None
        else:
            self._desk.open_files(files)

    def _mark(self, case: Case | None) -> None:
        if case is not None:
            self._list.set_current(case.files)

    def _show(self) -> None:
        is_running = self.queue.is_running or self._loading is not None
        self._list.set_entries(self.queue.entries, is_running=is_running)
