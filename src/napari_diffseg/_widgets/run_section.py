"""The button, how far the run is, and what went wrong."""

from __future__ import annotations

from typing import Literal

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QProgressBar, QPushButton, QVBoxLayout, QWidget

from napari_diffseg._widgets.form import SPACING, ElidedLabel, describe
from napari_diffseg._widgets.message_bar import MessageBar

State = Literal["no case", "ready", "running", "cancelling"]

_PROGRESS_STEPS = 1000


class RunSection(QWidget):
    """One button that is Segment or Cancel, a progress bar, one line of status.

    Attributes
    ----------
    message : MessageBar
        To be placed where nothing moves when it comes.
    """

    start_wanted = Signal()
    cancel_wanted = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._state: State = "no case"
        self.button = QPushButton("Segment")
        self.button.setMinimumHeight(32)
        self.button.clicked.connect(self._click)
        self.progress = QProgressBar()
        self.progress.setRange(0, _PROGRESS_STEPS)
        self.progress.setTextVisible(False)
        self.progress.setFixedHeight(8)
        describe(self.progress, "Progress", "How much of the run is done.")
        self.status = ElidedLabel()
        self.message = MessageBar()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(SPACING)
        for widget in (self.button, self.progress, self.status):
            layout.addWidget(widget)
        self.set_state("no case")

    @property
    def state(self) -> State:
        """What the button does now."""
        return self._state

    def set_state(self, state: State, label: str = "Segment") -> None:
        """Set what the button does; `label` is its text when it starts a run."""
        self._state = state
        text = {"running": "Cancel", "cancelling": "Cancelling …"}.get(state, label)
        self.button.setText(text)
        self.button.setEnabled(state in ("ready", "running"))
        tooltip = {
            "no case": "Open a case first.",
            "running": "Stop before the next step. Samples that are complete stay.",
            "cancelling": "The step that has begun is finished first.",
        }.get(
            state,
            "Draw the samples. Maps and mask are updated with every one. Changing "
            "model, steps, seed, sampler or device starts a new run; more samples or other "
            "slices are added to the run that is there.",
        )
        describe(self.button, text, tooltip)

    def set_progress(self, share: float) -> None:
        """Set how much is done, 0 to 1."""
        self.progress.setValue(round(share * _PROGRESS_STEPS))

    def _click(self) -> None:
        if self._state == "running":
            self.cancel_wanted.emit()
        elif self._state == "ready":
            self.start_wanted.emit()


def format_duration(seconds: float) -> str:
    """Return a duration as a person says it: "8 s", "3 min", "1 h 20 min"."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min"
