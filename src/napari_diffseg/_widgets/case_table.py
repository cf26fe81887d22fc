"""Saves what the results of the listed cases say as one table, off the GUI thread."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QFileDialog, QWidget

from napari_diffseg._widgets.questions import complete_path
from napari_diffseg._worker import Task
from napari_diffseg.core.errors import DiffsegError
from napari_diffseg.core.summary import TABLE_NAME, read_summaries, save_table


class CaseTable(QObject):
    """Writes one table at a time."""

    saved = Signal(str)
    failed = Signal(str)

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self._parent = parent
        self._task: Task | None = None

    def save(self, results: Path, cases: Collection[str], others: Sequence[str] = ()) -> None:
        """Ask for a file and write the table of these cases, whose results are in a folder.

        `others` are cases under whose names the folder has results of other images.
        """
        if self._task is not None:
            return
        name = ask_table(self._parent, str(results / TABLE_NAME))
        if not name:
            return
        path = complete_path(self._parent, name, ".csv")
        if path is None:
            return
        self._task = Task(_write, path, results, frozenset(cases), others)
        self._task.done.connect(self._finish)
        self._task.failed.connect(self._report)
        self._task.start()

    def release(self) -> None:
        """Hear nothing any more of what is being written; it is written to the end."""
        if self._task is not None:
            self._task.release()
            self._task = None

    def _finish(self, text: str) -> None:
        self._task = None
        self.saved.emit(text)

    def _report(self, error: Exception) -> None:
        self._task = None
        text = str(error)
        if not isinstance(error, DiffsegError):
            text = f"The table cannot be saved ({type(error).__name__}: {error})."
        self.failed.emit(text)


def ask_table(parent: QWidget, start: str) -> str:
    """Ask for the file of a table; an empty text when the user thinks better of it."""
    name, _ = QFileDialog.getSaveFileName(
        parent, "Save the table", start, "Table (*.csv);;All files (*)"
    )
    return str(name)


def _write(path: Path, results: Path, cases: Collection[str], others: Sequence[str]) -> str:
    """Write the table; return what to tell of it."""
    summaries, problems = read_summaries(results, cases)
    problems += tuple(f"The result saved as {name} is of other images." for name in others)
    if not summaries:
        raise DiffsegError(f"{results} holds no result that can be read. {' '.join(problems)}")
    save_table(path, summaries)
    text = f"The table of {len(summaries)} case{'s' * (len(summaries) != 1)} is in {path}."
    return " ".join([text, *(f"{problem} It is not in the table." for problem in problems)])
