"""Panel: the slices to look at first. A click or a key goes there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, QTimer
from qtpy.QtGui import QKeySequence, QShortcut
from qtpy.QtWidgets import QLabel, QStackedWidget, QToolButton, QVBoxLayout, QWidget

from napari_diffseg._widgets.form import SPACING, Row, describe, make_chooser
from napari_diffseg._widgets.newest import Newest
from napari_diffseg._widgets.panel import Panel
from napari_diffseg._widgets.slice_list import SliceList
from napari_diffseg.core.preprocessing import find_brain
from napari_diffseg.core.work_list import RankBy, WorkList, rank_slices

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_diffseg._widgets.run import Run
    from napari_diffseg._widgets.stage import Stage
    from napari_diffseg.core.brats import Case
    from napari_diffseg.core.levels import MapKind

N_SHOWN = 12
WHILE_RUNNING_MS = 5000  # a list that changes under the mouse is of no use

CHOICES: dict[RankBy, str] = {
    "disagreement": "distance of the outlines",
    "mean_disagreement": "mean disagreement",
    "variance": "mean variance",
    "entropy": "mean entropy",
}
TOOLTIP = (
    "The slices on which the samples agree least. A click, the arrow keys, or N and Shift+N go "
    "there."
)


class WorkListPanel(Panel):
    """Slices ranked by how unsure the samples are, the worst first."""

    def __init__(self, stage: Stage) -> None:
        self.by = make_chooser()
        for by, text in CHOICES.items():
            self.by.addItem(text, by)
        describe(
            self.by,
            "Rank slices by",
            "Distance of the outlines: how far apart two samples draw the border, in mm; that is "
            "1 - Dice corrected for the size of the tumour, which alone would always put the "
            "smallest first. The others are means of maps over the brain. Disagreement: the "
            "variance between the samples. Variance and entropy: of the mean of the samples; they "
            "also find what all samples leave just below 0.5.",
        )
        self.by.currentIndexChanged.connect(self._update)
        self.previous, self.next = QToolButton(), QToolButton()
        for button, arrow, name, keys, step in (
            (self.previous, Qt.ArrowType.UpArrow, "Previous in the list", "Shift+N", -1),
            (self.next, Qt.ArrowType.DownArrow, "Next in the list", "N", 1),
        ):
            button.setArrowType(arrow)
            describe(button, name, f"{name}; key {keys}, when the dock was clicked last.")
            button.clicked.connect(lambda _=False, step=step: self._step(step))
        self.list = SliceList()
        describe(self.list, "Slices to look at first", TOOLTIP)
        self.note = QLabel()
        self.note.setWordWrap(True)
        self.note.setAlignment(Qt.AlignmentFlag.AlignTop)
        self._pages = QStackedWidget()
        self._pages.addWidget(self.list)
        self._pages.addWidget(self.note)
        self._pages.setFixedHeight(self.list.height())
        self.work_list: WorkList | None = None
        body = QWidget()
        column = QVBoxLayout(body)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(SPACING // 2)
        column.addWidget(Row(self.by, self.previous, self.next, stretch=0))
        column.addWidget(self._pages)
        super().__init__(stage, "Look here first", body, TOOLTIP, is_open=True)
        self._ranking = Newest(self)
        self._ranking.done.connect(self._show)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._update_unless_used)
        self.list.chosen.connect(stage.go_to_slice)
        stage.changed.connect(self._update_later)
        self._add_keys("N", "Next slice of the list", 1)
        self._add_keys("Shift+N", "Previous slice of the list", -1)

    def refresh(self, run: Run) -> None:
        """Rank the slices anew, in another thread."""
        self._timer.stop()
        k = run.view.k
        # A view of the members is enough: slices in `sampled` are not written any more.
        self._ranking.ask(
            _rank,
            run.ensemble.members_uint8(k),
            run.ensemble.sampled[:k].copy(),
            run.case,
            self.by.currentData(),
            run.view.of,
        )

    def clear(self) -> None:
        """Show that there is nothing to look at yet."""
        self._timer.stop()
        self._ranking.release()
        self.work_list = None
        self.list.show_slices((), "")
        self._say("Segment slices to see here which of them to look at first.")

    def show_slice(self, z: int) -> None:
        """Mark the slice if it is in the list."""
        self.list.mark(z)

    def release(self) -> None:
        """Stop what would come later."""
        self._timer.stop()
        self._ranking.release()

    def _add_keys(self, keys: str, text: str, step: int) -> None:
        shortcut = QShortcut(QKeySequence(keys), self.stage.parent())
        shortcut.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
        shortcut.setWhatsThis(text)
        shortcut.activated.connect(lambda: self._step(step))

    def _update_later(self) -> None:
        if self.is_open and self.stage.is_running and not self._timer.isActive():
            self._timer.start(WHILE_RUNNING_MS)

    def _update_unless_used(self) -> None:
        if self.list.underMouse():
            self._update_later()
        else:
            self._update()

    def _show(self, result: object) -> None:
        if self._run is None or not isinstance(result, WorkList):
            return
        self.work_list = result
        shown = result.slices[:N_SHOWN]
        self.list.show_slices(shown, result.unit)
        visible = self.stage.visible_z
        if visible is not None:
            self.list.mark(visible)
        if shown:
            self._pages.setCurrentWidget(self.list)
        elif "disagreement" in result.by and result.n_members < 2:
            self._say("One sample cannot disagree with another: take two or more.")
        else:
            self._say("The samples agree on every slice.")
        for button in (self.previous, self.next):
            button.setEnabled(bool(shown))

    def _say(self, text: str) -> None:
        self.note.setText(text)
        self._pages.setCurrentWidget(self.note)

    def _step(self, step: int) -> None:
        """Go to the next or previous entry; from a slice that is not listed, to the first."""
        if self._run is None:
            return
        self.set_open(True)
        self.list.step(step)


def _rank(
    members: NDArray[np.uint8],
    sampled: NDArray[np.bool_],
    case: Case,
    by: RankBy,
    of: MapKind,
) -> WorkList:
    brain = None if by == "disagreement" else find_brain(case.prior_image)
    return rank_slices(members, sampled, case.geometry, by=by, of=of, brain=brain)
