"""What is said of a run while it goes on, and at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_diffseg._layers import describe_slices
from napari_diffseg._widgets.run_section import format_duration

if TYPE_CHECKING:
    from napari_diffseg._widgets.run import Run
    from napari_diffseg.core.events import SampleDone


class RunTexts:
    """Counts the slice samples of the run that was started last, and words what became of it."""

    def __init__(self) -> None:
        # Of slice samples: one member on one slice.
        self._n_drawn = self._n_planned = 0
        self._members: set[int] = set()
        self._drawn_on: set[int] = set()
        self._left_s: float | None = None
        self._stops_early = False

    def start(self, *, stops_early: bool) -> None:
        """Begin anew, before anything is planned."""
        self._n_drawn = 0
        self._stops_early = stops_early

    def plan(self, n_samples: int) -> None:
        """Take how many slice samples are to be drawn."""
        self._n_drawn, self._n_planned = 0, n_samples
        self._members.clear()
        self._drawn_on.clear()
        self._left_s = None

    def take(self, sample: SampleDone) -> None:
        """Count a slice sample."""
        self._n_drawn += 1
        self._members.add(sample.member)
        self._drawn_on.add(sample.z)

    def take_time(self, left_s: float | None) -> None:
        """Take how many seconds are left, as far as is known."""
        self._left_s = left_s

    def describe_progress(self) -> str | None:
        """Say how far the run is; None until it is known how long it takes."""
        if self._left_s is None:
            return None
        most = "at most " if self._stops_early else ""
        text = f"{self._n_drawn} of {most}{self._n_planned} slice samples"
        return f"{text} · {most}{format_duration(self._left_s)} left"

    def describe_cancelled(self) -> str:
        """Say what stays of a run that was cancelled."""
        if not self._n_drawn:
            return "Cancelled before the first sample."
        n = self._n_drawn
        if n == 1:
            return "Cancelled. 1 slice sample was drawn and stays."
        return f"Cancelled. {n} slice samples were drawn and stay."

    def describe_finished(self, run: Run, elapsed_s: float) -> str:
        """Say what was drawn, where, in what time, and whether it was stable."""
        where = describe_slices(sorted(self._drawn_on), run.case.geometry)
        took = format_duration(elapsed_s)
        stable = self._describe_stability(run)
        if stable:
            return f"{stable}, {where}, in {took}."
        n = len(self._members)
        return f"Done in {took}: {n} sample{'s' * (n != 1)}, {where}."

    def explain_nothing_to_do(self, run: Run) -> str:
        """Say why no sample was drawn, and what to do for more."""
        stopping = run.record.stopping if self._stops_early and run.record else None
        if stopping is not None and stopping.stable_with is not None:
            return (
                f"The mask is stable with the {stopping.stable_with} samples that are there. "
                "Untick “Stop when stable” (Advanced) to draw more."
            )
        return (
            "These samples are there already. Raise Samples to add more, or change the seed "
            "to draw others."
        )

    def _describe_stability(self, run: Run) -> str | None:
        """Say with how many samples drawing stopped by itself, if it did."""
        stopping = run.record.stopping if self._stops_early and run.record else None
        if stopping is None:
            return None
        if stopping.stable_with is None:
            most = stopping.max_samples
            return f"Not stable after {most} sample{'s' * (most != 1)}"
        return f"Stable after {stopping.stable_with} of at most {stopping.max_samples} samples"
