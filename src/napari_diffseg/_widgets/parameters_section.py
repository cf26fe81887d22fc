"""What to sample: which slices, how many samples, and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QButtonGroup,
    QCheckBox,
    QDoubleSpinBox,
    QLabel,
    QRadioButton,
    QSpinBox,
)

from napari_diffseg._widgets.form import Fold, Form, Row, describe, make_chooser
from napari_diffseg.core.convergence import DEFAULT_TOLERANCE
from napari_diffseg.core.params import MAX_SEED, MAX_TOLERANCE, SAMPLERS, SamplerName

if TYPE_CHECKING:
    from napari_diffseg._settings import Settings
    from napari_diffseg._widgets.engine import ModelReady
    from napari_diffseg._widgets.run import Recipe
    from napari_diffseg.core.geometry import Geometry

Region = Literal["slice", "range", "volume"]

_SHORT_SEED = 99_999
_SHORT_STEPS = len("auto 2")
_WIDER = "QSpinBox { min-width: 68px; max-width: 68px; }"
_LONG = "QSpinBox { min-width: 82px; max-width: 82px; }"

_MAX_SAMPLES = 100
"""More are for results that have as many."""


@dataclass(frozen=True)
class Choices:
    """The state of the section; slice numbers are those of the file, None is recommended."""

    region: Region
    first_slice: int
    last_slice: int
    n_samples: int
    n_steps: int | None
    seed: int
    sampler: SamplerName | None
    device: str
    keep_results: bool
    tolerance: float | None
    """Stop when more samples change the mask no more than this; None: draw all."""


class ParametersSection(Form):
    """Region, samples, steps, seed; sampler and device under Advanced."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._build_region()
        self._build_numbers()
        self._build_advanced()

    def set_defaults(self, settings: Settings) -> None:
        """Begin with what the user prefers."""
        self.n_samples.setValue(settings.samples)
        self.n_steps.setValue(settings.steps)
        if self.device.findText(settings.device) < 0:
            self.device.addItem(settings.device)
        self.device.setCurrentText(settings.device)

    def choices(self) -> Choices:
        """Return what is chosen."""
        regions: dict[QRadioButton, Region] = {
            self.this_slice: "slice",
            self.slice_range: "range",
            self.whole_volume: "volume",
        }
        chosen = next(region for button, region in regions.items() if button.isChecked())
        return Choices(
            region=chosen,
            first_slice=min(self.first.value(), self.last.value()),
            last_slice=max(self.first.value(), self.last.value()),
            n_samples=self.n_samples.value(),
            n_steps=self.n_steps.value() or None,
            seed=self.seed.value(),
            sampler=self.sampler.currentData(),
            device=self.device.currentText(),
            keep_results=self.keep.isChecked(),
            tolerance=self.tolerance.value() / 100 if self.stop.isChecked() else None,
        )

    def show_recipe(self, recipe: Recipe, n_samples: int) -> None:
        """Choose how a saved result was sampled, so that more samples continue it."""
        self.make_room(n_samples)
        self.n_samples.setValue(n_samples)
        self.n_steps.setValue(recipe.n_steps or 0)
        self.seed.setValue(min(recipe.seed, MAX_SEED))
        self.sampler.setCurrentIndex(max(self.sampler.findData(recipe.sampler), 0))

    def make_room(self, n_samples: int) -> None:
        """Let samples be added to so many."""
        most = _MAX_SAMPLES * (n_samples // _MAX_SAMPLES + 1)
        self.n_samples.setMaximum(max(self.n_samples.maximum(), most))

    def show_slices(self, first: int, last: int, *, whole_volume: bool) -> None:
        """Choose the slices that a saved result was asked for."""
        if whole_volume:
            self.whole_volume.setChecked(True)
        elif first == last:
            self.this_slice.setChecked(True)
        else:
            self.slice_range.setChecked(True)
            self.first.setValue(first)
            self.last.setValue(last)

    def set_geometry(self, geometry: Geometry) -> None:
        """Offer the slice numbers that a case has; what was chosen stays, as far as it has it."""
        numbers = [geometry.to_source_slice(z) for z in range(geometry.shape[0])]
        low, high = min(numbers), max(numbers)
        chosen = {self.first.value(), self.last.value()}
        is_chosen = chosen != {self.first.minimum(), self.last.maximum()}
        for box, end in ((self.first, low), (self.last, high)):
            box.blockSignals(True)
            box.setRange(low, high)  # Qt puts a number that is outside to the nearer end
            if not is_chosen:
                box.setValue(end)
            box.blockSignals(False)

    def show_slice(self, number: int | None) -> None:
        """Show the number of the slice on screen."""
        self.this_slice.setText("This slice" if number is None else f"This slice ({number})")

    def show_model(self, model: ModelReady) -> None:
        """Show what the model recommends, and the devices that there are."""
        text = f"auto {model.card.recommended_steps}"
        self.n_steps.setSpecialValueText(text)
        self.n_steps.setStyleSheet(_WIDER if len(text) > _SHORT_STEPS else "")
        self.sampler.setItemText(0, f"recommended ({model.card.recommended_sampler})")
        for device in model.devices:
            if self.device.findText(device) < 0:
                self.device.addItem(device)

    def forget_model(self) -> None:
        """Another model was chosen: what it recommends is not known yet."""
        self.n_steps.setSpecialValueText("auto")
        self.n_steps.setStyleSheet("")
        self.sampler.setItemText(0, "recommended")

    def _build_region(self) -> None:
        self.this_slice = QRadioButton("This slice")
        self.slice_range = QRadioButton("Slices")
        self.whole_volume = QRadioButton("Whole volume")
        self.this_slice.setChecked(True)
        group = QButtonGroup(self)
        for button in (self.this_slice, self.slice_range, self.whole_volume):
            group.addButton(button)
            button.toggled.connect(self.changed)
        describe(
            self.this_slice,
            "This slice",
            "Segment the axial slice on screen. Numbers of slices are those of the file, which "
            "mostly count from the feet up; napari's own slider counts from the top.",
        )
        describe(self.slice_range, "Slices", "Segment the slices between these two, both included.")
        describe(
            self.whole_volume,
            "Whole volume",
            "Segment every slice that shows brain; the slice on screen comes first.",
        )
        self.first, self.last = QSpinBox(), QSpinBox()
        for box, name in ((self.first, "First slice"), (self.last, "Last slice")):
            describe(box, name, f"{name} of the range, as numbered in the file.")
            box.setEnabled(False)
            _make_plain(box)
            box.valueChanged.connect(self.changed)
            self.slice_range.toggled.connect(box.setEnabled)
        self.last.setValue(self.last.maximum())  # all of them, until somebody chooses
        self.add_row("Region", Row(self.this_slice, self.whole_volume))
        self.add_row("", Row(self.slice_range, self.first, QLabel("to"), self.last))

    def _build_numbers(self) -> None:
        self.n_samples = _spin_box(1, _MAX_SAMPLES, 5)
        describe(
            self.n_samples,
            "Samples",
            "How many masks to draw on each slice. Raise it after a run to add samples to the "
            "same ensemble; those that are there are not drawn again.",
        )
        self.n_steps = _spin_box(0, 1000, 0)
        self.n_steps.setSpecialValueText("auto")
        describe(
            self.n_steps,
            "Steps",
            "Sampling steps of each mask. “auto” is what the model's own card recommends. Fewer "
            "steps are faster, and the samples differ less.",
        )
        self.seed = _spin_box(0, MAX_SEED, 0)
        describe(
            self.seed,
            "Seed",
            "Decides the random numbers: the same seed gives the same samples on the same device. "
            "Another seed starts a new run.",
        )
        _make_plain(self.n_steps)
        _make_plain(self.seed)
        steps, seed = QLabel("Steps"), QLabel("Seed")
        self.add_row("Samples", Row(self.n_samples, steps, self.n_steps, seed, self.seed))

    def _build_advanced(self) -> None:
        self.sampler = make_chooser()
        self.sampler.addItem("recommended", None)
        for name in SAMPLERS:
            self.sampler.addItem(name, name)
        describe(
            self.sampler,
            "Sampler",
            "How a mask is drawn from noise. The spread of the samples depends on it, so compare "
            "only maps of one sampler and number of steps.",
        )
        self.device = make_chooser()
        self.device.addItems(["auto", "cpu"])
        describe(
            self.device,
            "Device",
            "“auto” takes the graphics card if there is one. Others are listed once the model is "
            "loaded. When memory runs out the batch is halved, and at last the CPU is taken.",
        )
        self.keep = QCheckBox("Keep results of earlier runs")
        describe(
            self.keep,
            "Keep results of earlier runs",
            "A new run (another model, seed, sampler or number of steps) replaces the layers of "
            "the run before. With this they stay, hidden, beside the new ones.",
        )
        advanced = Form()
        advanced.add_row("Sampler", self.sampler)
        advanced.add_row("Device", self.device)
        advanced.add_row("", self._build_stop())
        advanced.add_row("", self.keep)
        self.advanced = Fold(
            "Advanced",
            advanced,
            "Show sampler, device, when to stop, and what becomes of earlier results.",
        )
        for box in (self.n_samples, self.n_steps, self.seed):
            box.valueChanged.connect(self.changed)
        self.seed.valueChanged.connect(self._fit_seed)
        for chooser in (self.sampler, self.device):
            chooser.currentIndexChanged.connect(self.changed)
        self.add_wide(self.advanced)

    def _fit_seed(self, seed: int) -> None:
        """Make room for a long number; short ones do not take it."""
        self.seed.setStyleSheet(_LONG if seed > _SHORT_SEED else "")

    def _build_stop(self) -> Row:
        self.stop = QCheckBox("Stop when stable")
        describe(
            self.stop,
            "Stop when stable",
            "Draw one sample after the other, on all slices, until two in a row have changed the "
            "mask by no more than this, with the threshold that is chosen when the run begins; for "
            "STAPLE and closest sample it is the majority's mask. Samples is then the most that "
            "are drawn.",
        )
        self.tolerance = QDoubleSpinBox()
        self.tolerance.setRange(0.1, 100 * MAX_TOLERANCE)
        self.tolerance.setSingleStep(0.1)
        self.tolerance.setDecimals(1)
        self.tolerance.setValue(100 * DEFAULT_TOLERANCE)
        self.tolerance.setSuffix(" %")
        self.tolerance.setEnabled(False)
        describe(
            self.tolerance,
            "Tolerance",
            "Largest change of the mask that counts as none: 1 - Dice between the mask with a "
            "sample and without it.",
        )
        _make_plain(self.tolerance)
        self.stop.toggled.connect(self.tolerance.setEnabled)
        self.stop.toggled.connect(self.changed)
        self.tolerance.valueChanged.connect(self.changed)
        return Row(self.stop, self.tolerance)


def _spin_box(low: int, high: int, value: int) -> QSpinBox:
    box = QSpinBox()
    box.setRange(low, high)
    box.setValue(value)
    return box


def _make_plain(box: QAbstractSpinBox) -> None:
    """Take the buttons away, for want of room; keys still work, and the wheel with the focus."""
    box.setButtonSymbols(QAbstractSpinBox.ButtonSymbols.NoButtons)
    box.setProperty("plain", True)
