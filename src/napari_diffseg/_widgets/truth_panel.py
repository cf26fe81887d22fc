"""Panel: the run against the expert labels. Errors in the canvas, and whether p is honest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QCheckBox, QLabel, QSlider, QVBoxLayout, QWidget

from napari_diffseg._widgets.error_overlay import (
    FALSE_NEGATIVE_COLOUR,
    FALSE_POSITIVE_COLOUR,
    FILTERED_COLOUR,
    ErrorOverlay,
)
from napari_diffseg._widgets.form import SPACING, Row, describe
from napari_diffseg._widgets.newest import Newest
from napari_diffseg._widgets.panel import Panel
from napari_diffseg._widgets.plots import make_plot
from napari_diffseg._widgets.truth_check import (
    TruthCheck,
    describe_calibration,
    describe_detection,
    describe_filter,
    prepare_check,
)
from napari_diffseg.core.uncertainty_filter import MAX_UNCERTAINTY

if TYPE_CHECKING:
    import pyqtgraph as pg

    from napari_diffseg._widgets.run import Run
    from napari_diffseg._widgets.stage import Stage

CURVE_COLOUR = "#56b4e9"
LINE_COLOUR = "#808080"  # to be seen on dark and on light
SQUARE_HEIGHT = 160
NO_LABELS = "This case has no labels."
FEWEST_VOXELS = 20  # a bin with less says nothing, and its point would jump about
TOOLTIP = "Compare mask and uncertainty with the expert labels, if the case has some."


class TruthPanel(Panel):
    """Errors, the filter of QU-BraTS, the reliability curve."""

    def __init__(self, stage: Stage) -> None:
        body = QWidget()
        self.note = _text()
        self.errors = QCheckBox("Show errors")
        describe(
            self.errors,
            "Show errors",
            "Colour what is too much (in the mask, not in the labels) and what is missed (in the "
            "labels, not in the mask).",
        )
        legend = QLabel(
            f"<span style='color:{FALSE_POSITIVE_COLOUR}'>■</span> too much "
            f"<span style='color:{FALSE_NEGATIVE_COLOUR}'>■</span> missed "
            f"<span style='color:{FILTERED_COLOUR}'>■</span> hidden"
        )
        self.limit = QSlider(Qt.Orientation.Horizontal)
        self.limit.setRange(0, MAX_UNCERTAINTY)
        self.limit.setValue(MAX_UNCERTAINTY)
        self.limit.setPageStep(10)
        describe(
            self.limit,
            "Hide above this uncertainty",
            "Leave out voxels that are more uncertain than this, from 0 to 100 (the variance "
            "divided by 0.25), as QU-BraTS does. Good uncertainty raises the Dice of the rest and "
            "hides little of what was right.",
        )
        self.limit_value = QLabel()
        self.limit_value.setMinimumWidth(28)
        caption = QLabel("Hide above")
        caption.setBuddy(self.limit)
        caption.setToolTip(self.limit.toolTip())
        self.rest, self.detection, self.calibration = _text(), _text(), _text()
        self._content = QWidget()
        self._column = QVBoxLayout(self._content)
        for widget in (
            self.errors,
            legend,
            Row(caption, self.limit, self.limit_value, stretch=1),
            self.rest,
            self.detection,
            self.calibration,
        ):
            self._column.addWidget(widget)
        layout = QVBoxLayout(body)
        for each in (layout, self._column):
            each.setContentsMargins(0, 0, 0, 0)
            each.setSpacing(SPACING)
        layout.addWidget(self.note)
        layout.addWidget(self._content)
        self.plot: pg.PlotWidget | None = None
        self.check: TruthCheck | None = None
        super().__init__(stage, "Against the truth", body, TOOLTIP)
        self._newest = Newest(self)
        self._newest.done.connect(self._show_check)
        self.overlay = ErrorOverlay(stage, self)
        self.errors.toggled.connect(self.overlay.show)
        self.overlay.deleted.connect(lambda: self.errors.setChecked(False))
        self.limit.valueChanged.connect(self._change_limit)
        self.clear()

    def refresh(self, run: Run) -> None:
        """Measure a run, in another thread."""
        self._tell_labels(has_labels=run.case.wt_truth is not None)
        measure = prepare_check(run)
        if measure is None:
            self._newest.release()
            self._show_check(None)
        else:
            self._newest.ask(measure)

    def clear(self) -> None:
        """Show nothing."""
        run = self.stage.run
        self._tell_labels(has_labels=run is None or run.case.wt_truth is not None)
        self._newest.release()
        self._show_check(None)

    def release(self) -> None:
        """Stop what would come later."""
        self._newest.release()

    def _tell_labels(self, *, has_labels: bool) -> None:
        self.note.setText("" if has_labels else NO_LABELS)
        self.note.setVisible(not has_labels)
        self._content.setEnabled(has_labels)

    def _change_limit(self, tau: int) -> None:
        if tau < MAX_UNCERTAINTY:
            self.errors.setChecked(True)
        self.overlay.set_limit(tau)
        self._show_rest()

    def _show_rest(self) -> None:
        tau = self.limit.value()
        self.limit_value.setText(str(tau))
        curve = None if self.check is None else self.check.curve
        self.rest.setText("" if curve is None else describe_filter(curve[tau], curve[-1]))

    def _show_check(self, result: object) -> None:
        self.check = result if isinstance(result, TruthCheck) else None
        self._show_rest()
        if self.check is None:
            self.detection.setText("")
            self.calibration.setText("")
            if self.plot is not None:
                self._curve.setData([], [])
            return
        self.detection.setText(describe_detection(self.check.detection))
        self.calibration.setText(describe_calibration(self.check.calibration))
        if self.plot is None:
            self._make_plot()
        calibration = self.check.calibration
        points = [
            (predicted, observed)
            for predicted, observed, count in zip(
                calibration.predicted, calibration.observed, calibration.counts, strict=True
            )
            if predicted is not None and observed is not None and count >= FEWEST_VOXELS
        ]
        self._curve.setData([x for x, _ in points], [y for _, y in points])

    def _make_plot(self) -> None:
        import pyqtgraph as pg

        self.plot = make_plot(
            "Reliability",
            "Of the voxels to which the mean gives a probability (across), the share that is "
            "tumour (upwards), in 15 bins of at least 20 voxels. Below the dashed line the mean "
            "promises too much tumour, above it too little.",
            "Mean probability",
            "Tumour",
        )
        self.plot.setFixedHeight(SQUARE_HEIGHT)
        dashed = pg.mkPen(LINE_COLOUR, style=Qt.PenStyle.DashLine)
        self.plot.plot([0, 1], [0, 1], pen=dashed)
        self._curve = self.plot.plot(
            [],
            [],
            pen=pg.mkPen(CURVE_COLOUR, width=1.5),
            symbol="o",
            symbolSize=5,
            symbolBrush=CURVE_COLOUR,
            symbolPen=None,
        )
        for set_range in (self.plot.setXRange, self.plot.setYRange):
            set_range(0, 1, padding=0.03)
        self._column.addWidget(self.plot)


def _text() -> QLabel:
    label = QLabel()
    label.setWordWrap(True)
    return label
