"""Panel: the volume of every slice, the members' band around it, and where the viewer is."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import QEvent, Qt, QTimer
from qtpy.QtGui import QMouseEvent
from qtpy.QtWidgets import QLabel, QSizePolicy, QVBoxLayout, QWidget

from napari_diffseg._layers import MASK_COLOUR, TRUTH_COLOUR
from napari_diffseg._widgets.form import describe
from napari_diffseg._widgets.panel import Panel
from napari_diffseg._widgets.plots import PLOT_HEIGHT, make_plot, text_colour
from napari_diffseg._widgets.readout_section import DASH, format_ml
from napari_diffseg._worker import Task
from napari_diffseg.core.profile import SliceProfile, compute_profile

if TYPE_CHECKING:
    import pyqtgraph as pg
    from numpy.typing import NDArray
    from qtpy.QtCore import QObject

    from napari_diffseg._widgets.run import Run
    from napari_diffseg._widgets.stage import Stage

EVERY_MS = 150  # samples and the threshold change it more often than anybody can look
FEWEST_SLICES = 20  # a single slice is not drawn over the whole width
AXIS_WIDTH = 34  # fixed: the plot must not jump when a number gets longer
BAND_OPACITY = 0.35
TOOLTIP = (
    "Volume of the tumour on every slice, in mL: the mask (blue line), the samples, cut as for "
    "Volume (band: smallest to largest, from 39 samples on 2.5 to 97.5 % of them), and the truth "
    "(orange, dashed). The upright line is the slice that you see. Click or drag to go to another "
    "one."
)


class ProfilePanel(Panel):
    """Follows samples and threshold as they change; a click goes to the slice."""

    def __init__(self, stage: Stage) -> None:
        body = QWidget()
        self._column = QVBoxLayout(body)
        self._column.setContentsMargins(0, 0, 0, 0)
        self._column.setSpacing(0)
        self.values = QLabel(DASH)
        self.values.setAlignment(Qt.AlignmentFlag.AlignRight)
        # Its longest text must not make the whole column wider.
        self.values.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        describe(self.values, "Volume of this slice", "The plot's values on the slice you see.")
        self._gap = QWidget()
        self._gap.setFixedHeight(PLOT_HEIGHT)
        self._column.addWidget(self._gap)
        self._column.addWidget(self.values)
        self.plot: pg.PlotWidget | None = None
        self.profile: SliceProfile | None = None
        super().__init__(stage, "Volume per slice", body, TOOLTIP, is_open=True)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._update)
        stage.changed.connect(self._update_soon)
        # Importing the plots takes a third of a second, which the window must not stand still for.
        self._import = Task(importlib.import_module, "pyqtgraph")
        self._import.done.connect(self._make_plot)
        self._import.start()

    def refresh(self, run: Run) -> None:
        """Draw the run's profile."""
        self._timer.stop()
        if self.plot is None:
            return
        k = run.view.k
        self.profile = profile = compute_profile(
            run.mask,
            run.member_voxels(),
            run.ensemble.sampled[:k],
            run.case.geometry,
            run.case.wt_truth,
        )
        slices, mask_ml = np.array(profile.slices), np.array(profile.mask_ml)
        low_ml, high_ml = np.array(profile.low_ml), np.array(profile.high_ml)
        self._band.setOpts(x=slices, y0=low_ml, y1=high_ml, width=1)
        self._mask.setData(*_as_steps(slices, mask_ml))
        truth_ml = np.array([] if profile.truth_ml is None else profile.truth_ml)
        self._truth.setData(*_as_steps(slices[: len(truth_ml)], truth_ml))
        first, last = self._ends(run)
        self.plot.setXRange(first - 0.5, last + 0.5, padding=0)
        highest = max(0.0, *high_ml, *mask_ml, *truth_ml)
        self.plot.setYRange(0, 1.05 * highest or 1, padding=0)
        visible = self.stage.visible_z
        if visible is not None:
            self.show_slice(visible)

    def clear(self) -> None:
        """Show an empty plot."""
        self._timer.stop()
        self.profile = None
        self.values.setText(DASH)
        if self.plot is not None:
            nothing = np.array([])
            self._band.setOpts(x=nothing, y0=nothing, y1=nothing, width=1)
            for line in (self._mask, self._truth):
                line.setData([], [])
            self._cursor.hide()

    def show_slice(self, z: int) -> None:
        """Put the cursor there, and say what the plot says of it."""
        run = self.stage.run
        if run is None or self.plot is None or self.profile is None:
            return
        number = run.case.geometry.to_source_slice(z)
        self._cursor.setPen(color=text_colour(self))
        self._cursor.setPos(number)
        self._cursor.show()
        self.values.setText(_describe(self.profile, number))

    def release(self) -> None:
        """Stop what would come later."""
        self._timer.stop()
        self._import.release()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802 (Qt's name)
        """Go where the plot is clicked, and follow while the mouse is dragged."""
        uses = (QEvent.Type.MouseButtonPress, QEvent.Type.MouseMove)
        if (
            isinstance(event, QMouseEvent)
            and event.type() in uses
            and event.buttons() & Qt.MouseButton.LeftButton
        ):
            self._go_to(event)
            return True
        return bool(super().eventFilter(watched, event))

    def changeEvent(self, event: QEvent) -> None:  # noqa: N802 (Qt's name)
        """Keep the cursor in the colour of the text."""
        super().changeEvent(event)
        if event.type() in (QEvent.Type.PaletteChange, QEvent.Type.StyleChange) and self.plot:
            self._cursor.setPen(color=text_colour(self))

    def _make_plot(self) -> None:
        import pyqtgraph as pg
        from qtpy.QtGui import QColor

        plot = make_plot("Volume per slice", TOOLTIP, "", "mL")
        plot.getAxis("left").setWidth(AXIS_WIDTH)
        band = QColor(MASK_COLOUR)
        band.setAlphaF(BAND_OPACITY)
        self._band = pg.BarGraphItem(x=[], y0=[], y1=[], width=1, pen=pg.mkPen(None), brush=band)
        self._mask = pg.PlotDataItem(pen=pg.mkPen(MASK_COLOUR, width=1.5), connect="finite")
        dashed = pg.mkPen(TRUTH_COLOUR, width=1.5, style=Qt.PenStyle.DashLine)
        self._truth = pg.PlotDataItem(pen=dashed, connect="finite")
        self._cursor = pg.InfiniteLine(angle=90)
        self._cursor.hide()
        for item in (self._band, self._truth, self._mask, self._cursor):
            plot.addItem(item)
        plot.viewport().installEventFilter(self)
        plot.viewport().setCursor(Qt.CursorShape.PointingHandCursor)
        self._column.replaceWidget(self._gap, plot)
        self._gap.deleteLater()
        self.plot = plot
        self._update()

    def _update_soon(self) -> None:
        if self.is_open and not self._timer.isActive():
            self._timer.start(EVERY_MS)

    def _ends(self, run: Run) -> tuple[int, int]:
        """Return the first and last slice number to draw: what was asked for, and some around."""
        geometry = run.case.geometry
        wanted = np.flatnonzero(run.asked | run.is_sampled)
        first, last = sorted(geometry.to_source_slice(int(z)) for z in (wanted[0], wanted[-1]))
        missing = max(FEWEST_SLICES - (last - first + 1), 0)
        all_ends = sorted(geometry.to_source_slice(z) for z in (0, geometry.shape[0] - 1))
        first = max(first - missing // 2, all_ends[0])
        last = min(first + max(FEWEST_SLICES - 1, last - first), all_ends[1])
        return first, last

    def _go_to(self, mouse: QMouseEvent) -> None:
        run, plot = self.stage.run, self.plot
        if run is None or plot is None:
            return
        geometry = run.case.geometry
        at = plot.plotItem.vb.mapSceneToView(plot.mapToScene(mouse.position().toPoint())).x()
        first, last = self._ends(run)
        numbers = np.array([geometry.to_source_slice(z) for z in range(geometry.shape[0])])
        away = np.abs(numbers - np.clip(at, first, last))
        self.stage.go_to_slice(int(np.argmin(away)))


def _as_steps(
    slices: NDArray[np.int64], values: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a line that is level over each slice and broken where slices are missing."""
    breaks = np.flatnonzero(np.diff(slices) > 1) + 1
    x = np.insert(np.stack([slices - 0.5, slices + 0.5], axis=1).ravel(), 2 * breaks, np.nan)
    y = np.insert(np.repeat(values, 2), 2 * breaks, np.nan)
    return x, y


def _describe(profile: SliceProfile, number: int) -> str:
    if number not in profile.slices:
        return f"{number}: not sampled"
    at = profile.slices.index(number)
    text = f"{number}: {_coloured(profile.mask_ml[at], MASK_COLOUR)} mL"
    if profile.n_members > 1:
        low, high = format_ml(profile.low_ml[at]), format_ml(profile.high_ml[at])
        text += f" ({low}–{high}, {profile.kind} of {profile.n_members})"
    if profile.truth_ml is not None:
        text += f", truth {_coloured(profile.truth_ml[at], TRUTH_COLOUR)}"
    return text


def _coloured(volume_ml: float, colour: str) -> str:
    # The colour beside the number, not of it: both are too pale for text on a light ground.
    return f"<span style='color: {colour}'>■</span> <b>{format_ml(volume_ml)}</b>"
