"""The numbers: volume with its intervals, and the agreement with the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLabel

from napari_diffseg._widgets.form import Form, Row, describe
from napari_diffseg.core.uncertainty import (
    N_LIKELY_HELD,
    N_MEASURED,
    N_RANGE_HELD,
    POSSIBLE_ABOVE,
    SURE_ABOVE,
)
from napari_diffseg.core.verdict import SURE, UNSURE, VERY_UNSURE

if TYPE_CHECKING:
    from napari_diffseg._widgets.agreement import Overlap
    from napari_diffseg.core.uncertainty import LikelyVolume, VolumeInterval

DASH = "–"


class ReadoutSection(Form):
    """Volume, Dice, HD95, Jaccard, and the slices that they are about."""

    def __init__(self) -> None:
        super().__init__()
        self.volume, self.slices = QLabel(DASH), QLabel(DASH)
        self.dice, self.hd95, self.jaccard = QLabel(), QLabel(), QLabel()
        describe(
            self.volume,
            "Volume",
            "Volume of the mask in millilitres. Weighted: the sum of the mean probability, which "
            "is what the volume is on average, without any threshold.",
        )
        self.likely, self.samples = QLabel(DASH), QLabel(DASH)
        describe(
            self.likely,
            "Likely volume",
            "From the volume where the mean probability of two or more samples is above "
            f"{SURE_ABOVE:g} to that where it is above {POSSIBLE_ABOVE:g}. It held the true volume "
            f"of {N_LIKELY_HELD} of {N_MEASURED} patients (5 samples, slices 80 to 128, networks "
            "of five folds that were trained for a shorter time): no guarantee, and other scanners "
            "may differ.",
        )
        describe(
            self.samples,
            "Volumes of the samples",
            "The smallest and the largest of the samples' own volumes (from 39 samples on, 2.5 to "
            "97.5 % of them) and their median, cut at the threshold if that is one of the mean of "
            "the probabilities, otherwise at 0.5. They tell how far the samples differ, not where "
            f"the truth is: that was between them in {N_RANGE_HELD} of the same {N_MEASURED} "
            "patients.",
        )
        self.confidence = QLabel(DASH)
        describe(
            self.confidence,
            "Confidence",
            "Mean Dice over all pairs of samples in view: 1 if all of them are the same. It says "
            "how sure the model is, not that it is right. Below 0.9 look at the slices listed "
            "under “Look here first”; below 0.8 do not rely on the volume without looking. Dice "
            "is lower for small tumours by nature.",
        )
        self.edited = QLabel()
        describe(
            self.edited,
            "Edited",
            "Volume of the mask that you paint on (“Make editable”). All else here is about the "
            "model's.",
        )
        describe(
            self.slices,
            "Slices",
            "The numbers are about these slices: those that have been sampled so far, and those "
            "without brain. They hold a part of the tumour if the mask reaches their end.",
        )
        describe(self.dice, "Dice", "Overlap of mask and truth: 1 is perfect.")
        describe(
            self.hd95,
            "HD95",
            "95 % Hausdorff distance between the outlines of mask and truth, in mm: 0 is perfect. "
            "In 3-D over several slices, in 2-D on a single one.",
        )
        describe(self.jaccard, "Jaccard", "Intersection over union of mask and truth.")
        labels = (self.volume, self.likely, self.samples, self.confidence, self.slices)
        for label in (*labels, self.edited, self.dice, self.hd95, self.jaccard):
            label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.add_row("Sampled", self.slices)
        self.add_row("Volume", self.volume)
        self.add_row("Likely", self.likely)
        self.add_row("Samples", self.samples)
        self.add_row("", self.edited)
        self.add_row("Confidence", self.confidence)
        self.add_row("Truth", Row(self.dice, self.hd95, self.jaccard))
        self.show_overlap(None)
        self.show_distance(None)
        self.show_edited(None)

    def show_volume(
        self,
        volume_ml: float | None,
        interval: VolumeInterval | None,
        expected_ml: float | None = None,
    ) -> None:
        """Show the mask's volume, and the interval over the members if there are several."""
        text = DASH if volume_ml is None else f"<b>{format_ml(volume_ml)} mL</b>"
        if expected_ml is not None:
            text += f" (weighted {format_ml(expected_ml)})"
        self.volume.setText(text)
        self.samples.setText(DASH)
        if interval is not None and interval.n_members > 1:
            span = format_span(interval.low_ml, interval.high_ml)
            kind = "range" if interval.kind == "range" else "95 %"
            median = format_ml(interval.median_ml)
            self.samples.setText(f"{span} mL ({kind} of {interval.n_members}), median {median}")

    def show_likely(self, likely: LikelyVolume | None) -> None:
        """Show the likely volume."""
        if likely is None:
            self.likely.setText(DASH)
        else:
            self.likely.setText(f"{format_span(likely.low_ml, likely.high_ml)} mL")

    def show_edited(self, volume_ml: float | None) -> None:
        """Show the volume of the mask that is painted on; without one there is no such line."""
        self.edited.setText("" if volume_ml is None else f"Edited: {format_ml(volume_ml)} mL")
        self.edited.setVisible(volume_ml is not None)

    def show_confidence(self, confidence: float | None) -> None:
        """Show how much the members agree, and what that means."""
        if confidence is None:
            self.confidence.setText(DASH)
        else:
            self.confidence.setText(f"<b>{confidence:.2f}</b>: {_say_confidence(confidence)}")

    def show_overlap(self, overlap: Overlap | None) -> None:
        """Show Dice and Jaccard."""
        self.dice.setText(_named("Dice", None if overlap is None else f"{overlap.dice:.3f}"))
        jaccard = None if overlap is None else f"{overlap.jaccard:.3f}"
        self.jaccard.setText(_named("Jaccard", jaccard))

    def show_distance(self, hd95_mm: float | None) -> None:
        """Show the HD95."""
        self.hd95.setText(_named("HD95", None if hd95_mm is None else f"{hd95_mm:.1f} mm"))

    def show_slices(self, text: str, *, is_part: bool = False) -> None:
        """Say which slices the numbers are about, and whether the mask goes on beyond them."""
        self.slices.setText(f"{text}: <b>a part of the tumour</b>" if is_part else text)


def _say_confidence(confidence: float) -> str:
    if confidence >= SURE:
        return "samples agree well"
    if confidence >= UNSURE:
        return "samples mostly agree"
    return "samples disagree much" if confidence >= VERY_UNSURE else "samples hardly agree"


def _named(name: str, value: str | None) -> str:
    return f"{name} {DASH if value is None else f'<b>{value}</b>'}"


def format_ml(volume_ml: float) -> str:
    """Return millilitres with three digits or one decimal."""
    return f"{volume_ml:.2f}" if volume_ml < 10 else f"{volume_ml:.1f}"


def format_span(low_ml: float, high_ml: float) -> str:
    """Return an interval of millilitres, without the unit."""
    return f"{format_ml(low_ml)}–{format_ml(high_ml)}"
