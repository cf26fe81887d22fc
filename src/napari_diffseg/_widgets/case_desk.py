"""Which cases there are and which one is current: follows the viewer's layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from qtpy.QtCore import QObject, Signal

from napari_diffseg._layers import claim, draw_outline, find_cases, find_layers, get_tag, lock
from napari_diffseg._widgets.open_case import ask_files, ask_folder, ask_result
from napari_diffseg._widgets.opener import Opener

if TYPE_CHECKING:
    from pathlib import Path

    from napari.components import ViewerModel
    from napari.layers import Layer
    from qtpy.QtWidgets import QWidget

    from napari_diffseg._widgets.case_section import CaseSection
    from napari_diffseg._widgets.case_switch import CaseSwitch
    from napari_diffseg.core.brats import Case, CaseFiles


class CaseDesk(QObject):
    """Keeps the section up to date, opens cases, and tells when the current one changes."""

    current_changed = Signal(object)  # Case or None
    closed = Signal(object)  # Case: the last of its images was removed
    reading = Signal(str)
    opened = Signal()
    listed = Signal(object)  # SeveralCases
    failed = Signal(str)

    def __init__(
        self, viewer: ViewerModel, section: CaseSection, switch: CaseSwitch, parent: QWidget
    ) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._section = section
        self._switch = switch
        self._opener = Opener(viewer, self)
        self._cases: list[Case] = []
        self._current: Case | None = None
        section.case_chosen.connect(self.choose)
        section.folder_wanted.connect(self._open_folder)
        section.files_wanted.connect(self._open_files)
        section.result_wanted.connect(self._open_result)
        section.sample_wanted.connect(self._opener.open_sample)
        self._opener.began.connect(self.reading)
        self._opener.opened.connect(self._take_opened)
        self._opener.listed.connect(self.listed)
        self._opener.failed.connect(self.failed)

    @property
    def current(self) -> Case | None:
        """The case that is worked on."""
        return self._current

    def follow_viewer(self) -> None:
        """Begin to follow the layers."""
        for layer in find_layers(self._viewer.layers):
            self._set_up(layer)
        self._viewer.layers.events.inserted.connect(self._take_layer)
        self._viewer.layers.events.removed.connect(self._update)
        self._update()

    def leave_viewer(self) -> None:
        """Follow the layers no more, and forget what is being read."""
        self._viewer.layers.events.inserted.disconnect(self._take_layer)
        self._viewer.layers.events.removed.disconnect(self._update)
        self._opener.release()

    def choose(self, case: Case) -> None:
        """Work on this case: its layers are shown, those of the others hidden."""
        self._switch.look_at(case)
        self._set_current(case)

    @property
    def is_opening(self) -> bool:
        """Whether a case is being read."""
        return self._opener.is_busy

    def open_files(self, files: CaseFiles) -> None:
        """Open a case of a list, or show it if it is open."""
        self._opener.open_paths(files)

    def find_case(self, files: CaseFiles) -> Case | None:
        """Return the case of these files if it is open."""
        return next((case for case in self._cases if case.files == files), None)

    def has_work(self, case: Case) -> bool:
        """Whether somebody paints on a mask of a case, or layers of earlier samples are kept."""
        tags = map(get_tag, find_layers(self._viewer.layers, case=case))
        return any(tag and (tag["role"] == "edited" or tag.get("is_kept")) for tag in tags)

    def open_result(self, path: str, folder: Path | None = None) -> None:
        """Open what was saved of a case, and the case, whose images may be in `folder`."""
        self._opener.open_result(path, folder)

    def close_case(self, case: Case) -> None:
        """Remove the images of a case from the viewer."""
        for layer in find_layers(self._viewer.layers, case=case):
            if tag := get_tag(layer):
                tag.pop("live", None)  # a copy of the mask has the same tag
            self._viewer.layers.remove(layer)

    def _take_opened(self, case: Case) -> None:
        self.choose(case)
        self.opened.emit()

    def _take_layer(self, event: Any) -> None:
        self._set_up(event.value)
        self._update()

    def _set_up(self, layer: Layer) -> None:
        """Do for a layer of ours what a reader cannot."""
        claim(layer)
        lock(layer)
        if (tag := get_tag(layer)) and tag["role"] == "truth":
            draw_outline(layer)

    def _update(self, event: object = None) -> None:  # noqa: ARG002 (napari passes it)
        known, self._cases = self._cases, find_cases(self._viewer.layers)
        if self._cases == known:
            return
        for case in known:
            if case not in self._cases:
                self.closed.emit(case)
        new = [case for case in self._cases if case not in known]
        if new:
            self.choose(new[-1])
        elif self._current in self._cases:
            self._section.set_cases(self._cases, self._current)
        elif self._cases:
            self.choose(self._cases[-1])
        else:
            self._set_current(None)

    def _set_current(self, case: Case | None) -> None:
        changed = case is not self._current
        self._current = case
        self._section.set_cases(self._cases, case)
        if changed:
            self.current_changed.emit(case)

    def _open_folder(self) -> None:
        folder = ask_folder(cast("QWidget", self.parent()))
        if folder:
            self._opener.open_paths(folder)

    def _open_result(self) -> None:
        path = ask_result(cast("QWidget", self.parent()))
        if path:
            self._opener.open_result(path)

    def _open_files(self) -> None:
        files = ask_files(cast("QWidget", self.parent()))
        if files:
            self._opener.open_paths(files)
