"""Guidance that takes a moment to find: what is odd about a scan, how sure a result is."""

from __future__ import annotations

import weakref
from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject

from napari_diffseg._widgets.agreement import compute_confidence
from napari_diffseg._widgets.newest import Newest
from napari_diffseg._worker import Task
from napari_diffseg.core.scan_notes import find_scan_notes
from napari_diffseg.core.verdict import Verdict, judge
from napari_diffseg.core.work_list import rank_slices

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_diffseg._widgets.message_bar import Kind, MessageBar
    from napari_diffseg._widgets.run import Run, View
    from napari_diffseg.core.brats import Case
    from napari_diffseg.core.geometry import Geometry


class Advice(QObject):
    """Shows one banner for each case, once, and a warning with a run whose samples disagree."""

    def __init__(self, message: MessageBar, parent: QObject) -> None:
        super().__init__(parent)
        self._message = message
        self._seen: weakref.WeakSet[Case] = weakref.WeakSet()
        self._case: Case | None = None
        self._shown = ""
        self._verdict = ""
        self._judged: tuple[tuple[str, int], View, bool] | None = None
        self._before: tuple[Kind, str] | None = None
        self._tasks: list[Task] = []
        self._verdicts = Newest(self)
        self._verdicts.done.connect(self._show_verdict)

    def look_at(self, case: Case | None) -> None:
        """Tell what is odd about a case that is looked at for the first time."""
        if case is self._case:
            return
        self._verdicts.release()
        self._forget_banner()
        self._case, self._judged = case, None
        if case is None or case in self._seen:
            return
        self._seen.add(case)
        task = Task(find_scan_notes, case)
        task.done.connect(partial(self._show_notes, case))
        self._start(task)

    def judge_run(self, run: Run) -> None:
        """Warn if the samples of a run that has ended disagree; it is of the case looked at.

        Others are judged when their case is looked at again. What was told and is still so is told
        again only if there are other samples: the user may have closed the message.
        """
        if run.case is not self._case or not run.is_sampled.any():
            return
        samples, before = (run.id, run.n_added), self._judged
        # STAPLE's own mask comes later than the view.
        self._judged = samples, run.view, run.volume_ml() == 0
        if self._judged == before:
            return
        if before is None or before[0] != samples:
            self._withdraw(self._verdict)
            self._verdict = ""
        k = min(run.view.k, run.n_started)
        sampled = run.ensemble.sampled[:k].copy()
        members = run.ensemble.members_uint8(k)  # no copy: nothing is written there any more
        geometry, volume_ml = run.case.geometry, run.volume_ml()
        voxels = run.ensemble.mask_voxels(k).copy()
        confidence = compute_confidence(run)
        self._verdicts.ask(_judge, confidence, members, sampled, geometry, volume_ml, voxels)

    def release(self) -> None:
        """Hear nothing any more of what is being looked at."""
        for task in self._tasks:
            task.release()
        self._tasks.clear()
        self._verdicts.release()
        self._case = None

    def _start(self, task: Task) -> None:
        self._tasks.append(task)
        for signal in (task.done, task.failed):
            signal.connect(partial(self._drop, task))
        task.start()

    def _drop(self, task: Task, _: object) -> None:
        if task in self._tasks:
            self._tasks.remove(task)

    def _show_notes(self, case: Case, notes: tuple[str, ...]) -> None:
        if notes and case is self._case and self._message.text() in ("", self._shown):
            self._add(f"{case.name}: {' '.join(notes)}")

    def _show_verdict(self, verdict: object) -> None:
        if not isinstance(verdict, Verdict):
            return
        text = verdict.text if verdict.is_warning else ""
        if text == self._verdict:
            return
        self._withdraw(self._verdict)
        self._verdict = text
        if text:
            self._add(text)

    def _withdraw(self, verdict: str) -> None:
        """Take back a verdict that holds no more, if it is to be read still."""
        said = self._message.text()
        if not verdict or said != self._shown or verdict not in said:
            return
        rest = said.replace(verdict, "").strip()
        if not rest or (self._before is not None and rest == self._before[1]):
            self._forget_banner()
        else:
            self._shown = rest
            self._message.show_message(self._message.kind, rest)

    def _add(self, text: str) -> None:
        """Show a warning after what is said already: no older message may keep it away."""
        said, kind = self._message.text(), self._message.kind
        if text in said:
            return
        if said != self._shown or not said:
            self._before = (kind, said) if said else None
        self._shown = f"{said} {text}".strip()
        self._message.show_message("error" if said and kind == "error" else "warning", self._shown)

    def _forget_banner(self) -> None:
        if self._shown and self._message.text() == self._shown:
            if self._before is None:
                self._message.clear()
            else:
                self._message.show_message(*self._before)
        self._shown, self._verdict, self._before = "", "", None


def _judge(
    confidence: float | None,
    members: NDArray[np.uint8],
    sampled: NDArray[np.bool_],
    geometry: Geometry,
    mask_ml: float,
    mask_voxels: NDArray[np.int64],
) -> Verdict:
    slices = [entry.slice for entry in rank_slices(members, sampled, geometry).slices]
    return judge(
        confidence,
        slices,
        mask_ml=mask_ml,
        n_with_tumour=int(mask_voxels.any(axis=1).sum()),
        n_samples=int(sampled.any(axis=1).sum()),
    )
