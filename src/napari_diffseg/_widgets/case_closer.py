"""Closing a case, which lets go of its images and samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QObject

from napari_diffseg._widgets.questions import ask

if TYPE_CHECKING:
    from napari_diffseg._widgets.case_desk import CaseDesk
    from napari_diffseg._widgets.case_section import CaseSection
    from napari_diffseg._widgets.runner import Runner
    from napari_diffseg.core.brats import Case

CLOSE = "Close"


class CaseCloser(QObject):
    """Closes the current case when the user wants it, and asks before anything is lost."""

    def __init__(self, section: CaseSection, desk: CaseDesk, runner: Runner) -> None:
        super().__init__(section)
        self._section = section
        self._desk = desk
        self._runner = runner
        section.close_wanted.connect(self._close)

    def _close(self) -> None:
        case = self._desk.current
        if case is None:
            return
        text = f"Close {case.name}? Samples and edits of it that you have not saved are lost."
        if not holds_work(case, self._desk, self._runner) or ask(self._section, text, CLOSE):
            self._desk.close_case(case)


def holds_work(case: Case, desk: CaseDesk, runner: Runner) -> bool:
    """Whether a case has samples that are from no file, or layers that hold somebody's work."""
    run = runner.find_run(case)
    is_drawn = run is not None and run.has_own_samples
    return is_drawn or runner.running_case is case or desk.has_work(case)
