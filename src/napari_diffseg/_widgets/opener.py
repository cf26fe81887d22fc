"""Opens cases off the GUI thread: reading takes seconds, and the window must not freeze."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Signal

from napari_diffseg._layers import TAG, activate_image, find_cases
from napari_diffseg._sample_data import phantom_folder
from napari_diffseg._worker import Task
from napari_diffseg.core.errors import CaseError, DiffsegError

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_diffseg._layers import LayerData
    from napari_diffseg.core.brats import Case, CaseFiles


@dataclass(frozen=True)
class SeveralCases:
    """A folder and the cases in it."""

    folder: Path
    cases: tuple[CaseFiles, ...]


class Opener(QObject):
    """Reads one case at a time and adds its layers to the viewer."""

    began = Signal(str)
    opened = Signal(object)  # Case; also one that was open before
    listed = Signal(object)  # SeveralCases: of a folder that was opened
    failed = Signal(str)

    def __init__(self, viewer: ViewerModel, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._task: Task | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a case is being read."""
        return self._task is not None

    def open_paths(self, paths: str | Sequence[str] | CaseFiles) -> None:
        """Open the case of a folder or of files, unless it is open; or list those of a folder."""
        known = [case.files for case in find_cases(self._viewer.layers)]
        self._start(Task(_load_unless_known, paths, known), "Reading the case …")

    def open_result(self, path: str, folder: Path | None = None) -> None:
        """Open a saved result, with its case unless that is open; the images may be in `folder`."""
        known = find_cases(self._viewer.layers)
        self._start(Task(_load_result, path, known, folder), "Reading the result …")

    def open_sample(self) -> None:
        """Open the sample case, unless it is open."""
        known = [case.files for case in find_cases(self._viewer.layers)]
        task = Task(_load_unless_known, str(phantom_folder()), known)
        self._start(task, "Reading the sample case …")

    def release(self) -> None:
        """Hear nothing any more of what is being read."""
        if self._task is not None:
            self._task.release()
            self._task = None

    def _start(self, task: Task, text: str) -> None:
        if self._task is not None:
            return
        self._task = task
        task.done.connect(self._add)
        task.failed.connect(self._report)
        self.began.emit(text)
        task.start()

    def _add(self, result: list[LayerData] | CaseFiles | SeveralCases) -> None:
        from napari.layers import Layer

        self._task = None
        if isinstance(result, SeveralCases):
            self.listed.emit(result)
            return
        if isinstance(result, list):
            for data, parameters, kind in result:
                self._viewer.add_layer(Layer.create(data, parameters, kind))
            case = result[0][1]["metadata"][TAG]["source"]
            activate_image(self._viewer.layers, case)
            self.opened.emit(case)
            return
        for case in find_cases(self._viewer.layers):
            if case.files == result:
                self.opened.emit(case)

    def _report(self, error: Exception) -> None:
        self._task = None
        text = str(error)
        if not isinstance(error, DiffsegError):
            text = f"The case cannot be opened ({type(error).__name__}: {error})."
        self.failed.emit(text)


def _load_unless_known(paths: str | Sequence[str] | CaseFiles, known: list[CaseFiles]) -> Any:
    from napari_diffseg._reader import load_layers
    from napari_diffseg.core.brats import CaseFiles, discover_case, discover_cases

    if isinstance(paths, CaseFiles):
        return paths if paths in known else load_layers(paths)
    try:
        files = discover_case(paths)
    except CaseError:
        cases = discover_cases(paths) if isinstance(paths, str) and Path(paths).is_dir() else []
        if sum(bool(case.modalities) for case in cases) < 2:  # not folders that cannot be read
            raise
        return SeveralCases(Path(str(paths)), tuple(cases))
    return files if files in known else load_layers(files)


def _load_result(path: str, known: list[Case], folder: Path | None) -> Any:
    from napari_diffseg._reader import load_result_layers

    return load_result_layers(path, known, folder)
