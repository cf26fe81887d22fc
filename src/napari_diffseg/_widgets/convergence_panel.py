"""Panel: whether there are enough samples, in one sentence and two curves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtWidgets import QLabel, QVBoxLayout, QWidget

from napari_diffseg._layers import MASK_COLOUR
from napari_diffseg._widgets.form import SPACING
from napari_diffseg._widgets.newest import Newest
from napari_diffseg._widgets.panel import Panel
from napari_diffseg._widgets.plots import make_plot
from napari_diffseg.core.consensus import find_watched
from napari_diffseg.core.convergence import (
    MIN_MEMBERS,
    QUIET_ADDITIONS,
    Addition,
    ConvergenceMeter,
    is_stable,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyqtgraph as pg
    from numpy.typing import NDArray

    from napari_diffseg._widgets.run import Run, View
    from napari_diffseg._widgets.stage import Stage

MAP_COLOUR = "#cc79a7"
TOOLTIP = (
    "How much each further sample changes the mask, and how far the mean map still is off. "
    "Half a per cent counts as no change, or what is set beside Stop when stable."
)


class ConvergencePanel(Panel):
    """Follows the samples that are looked at, the threshold and the tolerance."""

    def __init__(self, stage: Stage) -> None:
        body = QWidget()
        self.answer, self._legend = QLabel(), QLabel()
        for label in (self.answer, self._legend):
            label.setWordWrap(True)
        self._legend.setText(
            f"<span style='color:{MASK_COLOUR}'>●</span> change of the mask "
            f"<span style='color:{MAP_COLOUR}'>●</span> error of the mean map"
        )
        self._column = QVBoxLayout(body)
        self._column.setContentsMargins(0, 0, 0, 0)
        self._column.setSpacing(SPACING)
        self._column.addWidget(self.answer)
        self._column.addWidget(self._legend)
        self.plot: pg.PlotWidget | None = None
        self.additions: tuple[Addition, ...] = ()
        super().__init__(stage, "Is n enough?", body, TOOLTIP)
        self._newest = Newest(self)
        self._newest.done.connect(self._show)
        stage.tolerance_changed.connect(self._answer_again)
        self.clear()

    def refresh(self, run: Run) -> None:
        """Measure a run, in another thread."""
        z_indices = np.flatnonzero(run.is_sampled)
        complete = run.ensemble.complete_members(run.view.k)
        # Not a copy: what is complete is never written again.
        members = run.ensemble.members_uint8()
        self._newest.ask(measure, members, complete, z_indices, run.view)

    def clear(self) -> None:
        """Show nothing."""
        self._newest.release()
        self.additions = ()
        self.answer.setText("Segment first.")
        self._draw()

    def release(self) -> None:
        """Stop what would come later."""
        self._newest.release()

    def _show(self, result: object) -> None:
        if isinstance(result, tuple):
            self.additions = result
            self._answer()
            self._draw()

    def _answer(self) -> None:
        self.answer.setText(describe_convergence(self.additions, self.stage.tolerance))

    def _answer_again(self) -> None:
        if self.additions:
            self._answer()

    def _draw(self) -> None:
        has_curve = len(self.additions) > 1
        self._legend.setVisible(has_curve)
        if self.plot is None:
            if not has_curve:
                return
            self._make_plot()
        assert self.plot is not None
        self.plot.setVisible(has_curve)
        if not has_curve:
            return
        n = [addition.n_members for addition in self.additions]
        change = [100 * (1 - addition.dice) for addition in self.additions]
        error = [100 * addition.monte_carlo_error for addition in self.additions]
        self._mask.setData(n, change)
        self._map.setData(n, error)
        self.plot.setXRange(n[0], n[-1], padding=0.04)
        self.plot.setYRange(0, max(*change, *error, 0.1), padding=0.06)
        step = max(1, round(len(n) / 8))
        self.plot.getAxis("bottom").setTicks([[(at, str(at)) for at in n[::step]]])

    def _make_plot(self) -> None:
        import pyqtgraph as pg

        self.plot = plot = make_plot(
            "Convergence",
            "Over the number of samples, in per cent. Change of the mask: 1 - Dice of the mask "
            "with the last sample and without it. Error of the mean map: its standard error, "
            "where any sample sees a chance of tumour.",
            "Samples",
            "%",
        )

        def make_curve(colour: str) -> pg.PlotDataItem:
            return plot.plot(
                [],
                [],
                pen=pg.mkPen(colour, width=1.5),
                symbol="o",
                symbolSize=5,
                symbolBrush=colour,
                symbolPen=None,
            )

        self._mask, self._map = make_curve(MASK_COLOUR), make_curve(MAP_COLOUR)
        self._column.addWidget(plot)


def measure(
    members: NDArray[np.uint8],
    complete: Sequence[int] | NDArray[np.int64],
    z_indices: NDArray[np.int64],
    view: View,
) -> tuple[Addition, ...]:
    """Compute what each complete member has changed on the sampled slices."""
    threshold, of = find_watched(view.consensus, view.threshold, view.of)
    meter = ConvergenceMeter(z_indices.tolist(), threshold, of)
    for z in z_indices.tolist():
        for member in complete:
            meter.add(z, members[member, z])
    return meter.additions


def describe_convergence(additions: Sequence[Addition], tolerance: float) -> str:
    """Answer in one sentence whether there are enough samples, for a tolerance as 1 - Dice."""
    n = len(additions) + 1
    if n < MIN_MEMBERS:
        there = "One sample" if n == 1 else f"{n} samples"
        return f"{there} cannot tell. Draw {MIN_MEMBERS} or more."
    dices = [addition.dice for addition in additions]
    dice = min(dices[-QUIET_ADDITIONS:])
    change = f"{_say_percent(1 - dice, tolerance)} (Dice {dice:.3f})"
    if is_stable(dices, tolerance):
        return f"{n} samples are enough: one more changes the mask by about {change}."
    return f"Not yet: with {n} samples, one more changes the mask by about {change}."


def _say_percent(change: float, tolerance: float) -> str:
    """Return per cent with one decimal, near the tolerance with as many as tell them apart."""
    percent, limit = 100 * change, 100 * tolerance
    digits = next((n for n in (1, 2) if round(percent, n) != round(limit, n)), 3)
    return f"{percent:.{digits}f} %"
