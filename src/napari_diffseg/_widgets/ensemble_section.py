"""How the ensemble is looked at: members, threshold, kind of map, overlay. Nothing is sampled."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QLabel, QSlider

from napari_diffseg._widgets.form import Form, Row, describe, make_chooser
from napari_diffseg._widgets.run import View
from napari_diffseg.core.consensus import STAPLE_ADVICE, USES_THRESHOLD, has_staple

Overlay = Literal["mean", "variance", "disagreement", "none"]

_PERCENT = 100

CONSENSUS = (
    ("mean", "mean", "where the mean of the samples is above the threshold."),
    ("majority", "majority", "where more than half of the samples' masks are."),
    (
        "STAPLE",
        "staple",
        "samples that agree better with the estimated truth count for more (Warfield et al. 2004).",
    ),
    ("closest sample", "closest", "the one sample that agrees best with all others."),
)


class EnsembleSection(Form):
    """Sliders that act at once."""

    view_changed = Signal()
    overlay_changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.members = _slider(1, 1, 1)
        describe(
            self.members,
            "Samples used",
            "Make maps and mask from the first so many samples. Nothing is drawn anew; "
            "for more, raise Samples and press the button again.",
        )
        self.threshold = _slider(1, _PERCENT - 1, _PERCENT // 2)
        self._exact_threshold = self.threshold.value() / _PERCENT
        self.consensus = make_chooser()
        for text, kind, tooltip in CONSENSUS:
            self.consensus.addItem(text, kind)
            row = self.consensus.count() - 1
            self.consensus.setItemData(row, tooltip, Qt.ItemDataRole.ToolTipRole)
            if kind == "staple" and not has_staple():
                self.consensus.setItemData(row, STAPLE_ADVICE, Qt.ItemDataRole.ToolTipRole)
                self.consensus.model().item(row).setEnabled(False)
        describe(
            self.consensus,
            "Consensus",
            "How one mask is made of the samples. "
            + " ".join(f"{text[0].upper()}{text[1:]}: {tooltip}" for text, _, tooltip in CONSENSUS),
        )
        self._own = View()
        self.members_text, self.threshold_text = _number("100 of 1000"), _number("0.0000")
        self.kind = make_chooser()
        self.kind.addItem("probabilities", "probabilities")
        self.kind.addItem("masks, as in the paper", "masks")
        describe(
            self.kind,
            "Mean of",
            "Make the maps of the samples' probabilities, or of their masks (each sample cut at "
            "0.5 first), as in the paper. With 5 masks the mean has six levels only, and finds "
            "errors worse; variance and disagreement are then the same.",
        )
        self.overlay = make_chooser()
        self.overlay.addItem("mean probability", "mean")
        self.overlay.addItem("variance", "variance")
        self.overlay.addItem("disagreement", "disagreement")
        self.overlay.addItem("outlines only", "none")
        self._hidden: Overlay = "mean"
        describe(
            self.overlay,
            "Overlay",
            "The map that lies over the images. Variance: m (1 - m) of the mean m, which is that "
            "between the samples plus that within each; high where they do not know. Disagreement: "
            "between the samples alone; 0 where all have the same doubt. Both run from 0 to 0.25, "
            "the most that a probability can have.",
        )
        self.add_row("Samples used", Row(self.members, self.members_text, stretch=0))
        self.add_row("Threshold", Row(self.threshold, self.threshold_text, stretch=0))
        self.add_row("Consensus", self.consensus)
        self.add_row("Mean of", self.kind)
        self.add_row("Overlay", self.overlay)
        self.threshold.valueChanged.connect(self._take_threshold)
        for chooser in (self.consensus, self.kind):
            chooser.currentIndexChanged.connect(self._take_choice)
        for slider in (self.members, self.threshold):
            slider.valueChanged.connect(self._change)
        for chooser in (self.consensus, self.kind):
            chooser.currentIndexChanged.connect(self._change)
        self.overlay.currentIndexChanged.connect(self.overlay_changed)
        self._show_numbers()

    def view(self) -> View:
        """Return what is chosen."""
        return View(
            k=self.members.value(),
            threshold=self._exact_threshold,
            of=self.kind.currentData(),
            consensus=self.consensus.currentData(),
        )

    def show_view(self, view: View) -> None:
        """Choose what a result was looked at with, without telling anybody.

        Its threshold holds, also between two places of the slider, until the slider is moved.
        """
        for control in (self.threshold, self.kind, self.consensus):
            control.blockSignals(True)
        self.threshold.setValue(round(view.threshold * _PERCENT))
        self._exact_threshold = view.threshold
        self.kind.setCurrentIndex(self.kind.findData(view.of))
        self.consensus.setCurrentIndex(self.consensus.findData(view.consensus))
        for control in (self.threshold, self.kind, self.consensus):
            control.blockSignals(False)
        self._show_numbers()

    def own_view(self) -> View:
        """Return what the user has chosen last, which `show_view` does not change."""
        return self._own

    def set_threshold(self, threshold: float) -> None:
        """Begin with another threshold than 0.5."""
        self.threshold.setValue(round(threshold * _PERCENT))

    def chosen_overlay(self) -> Overlay:
        """Return the map that is to be seen."""
        overlay: Overlay = self.overlay.currentData()
        return overlay

    def toggle_overlay(self) -> None:
        """Hide the map, or show the one again that was hidden last."""
        shown = self.chosen_overlay()
        if shown != "none":
            self._hidden = shown
        wanted = self._hidden if shown == "none" else "none"
        self.overlay.setCurrentIndex(self.overlay.findData(wanted))

    def set_computing(self, is_computing: bool) -> None:
        """Say in the chooser that STAPLE takes its time; until then the majority is shown."""
        row = self.consensus.findData("staple")
        self.consensus.setItemText(row, "STAPLE (computing …)" if is_computing else "STAPLE")

    def set_members(self, n_members: int, k: int) -> None:
        """Offer the first 1 to `n_members`, and choose `k`, without telling anybody."""
        self.members.blockSignals(True)
        self.members.setRange(1, max(n_members, 1))
        self.members.setValue(k)
        self.members.blockSignals(False)
        self._show_numbers()

    def _take_threshold(self, percent: int) -> None:
        self._exact_threshold = percent / _PERCENT
        self._own = replace(self._own, threshold=self._exact_threshold)

    def _take_choice(self) -> None:
        if self.sender() is self.consensus:
            self._own = replace(self._own, consensus=self.consensus.currentData())
        else:
            self._own = replace(self._own, of=self.kind.currentData())

    def _change(self) -> None:
        self._show_numbers()
        self.view_changed.emit()

    def _show_numbers(self) -> None:
        self.members_text.setText(f"{self.members.value()} of {self.members.maximum()}")
        is_on_slider = self._exact_threshold == self.threshold.value() / _PERCENT
        self.threshold_text.setText(f"{self._exact_threshold:.{2 if is_on_slider else 3}f}")
        uses_threshold = self.consensus.currentData() in USES_THRESHOLD
        self.threshold.setEnabled(uses_threshold)
        self.threshold_text.setEnabled(uses_threshold)
        describe(
            self.threshold,
            "Threshold",
            "The mask is where the mean, or STAPLE's estimate, is above this. 0.5 is the paper's."
            if uses_threshold
            else "This consensus knows no threshold: each sample's own mask is cut at 0.5.",
        )


def _slider(low: int, high: int, value: int) -> QSlider:
    slider = QSlider(Qt.Orientation.Horizontal)
    slider.setRange(low, high)
    slider.setValue(value)
    return slider


def _number(widest: str) -> QLabel:
    label = QLabel()
    label.setFixedWidth(label.fontMetrics().horizontalAdvance(widest))
    label.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
    return label
