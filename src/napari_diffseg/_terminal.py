"""What the command line says: the progress line, a result in two lines, the environment."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self, TextIO

from napari_diffseg.core.errors import CheckpointError
from napari_diffseg.core.events import Event, Started
from napari_diffseg.core.progress import Progress, format_time
from napari_diffseg.core.provenance import find_records, sum_effort

if TYPE_CHECKING:
    from napari_diffseg.core.checkpoint import LoadedModel
    from napari_diffseg.core.record import ResultRecord

_REDRAW_S = 0.1
_CLEAR = "\r\x1b[K"


class ProgressLine:
    """One line that is redrawn on a terminal; elsewhere, in a log, one line when sampling starts.

    A context manager, which leaves the terminal without the line.
    """

    def __init__(self, title: str, stream: TextIO | None = None) -> None:
        self._title = title
        self._stream = sys.stderr if stream is None else stream
        self._on_terminal = self._stream.isatty()
        self._progress = Progress()
        self._drawn_at = 0.0

    def __enter__(self) -> Self:
        self._draw()
        return self

    def __exit__(self, *_: object) -> None:
        if self._on_terminal:
            self._stream.write(_CLEAR)
            self._stream.flush()

    def update(self, event: Event) -> None:
        """Take note of an event and show it."""
        self._progress.update(event)
        if isinstance(event, Started) and not self._on_terminal:
            self._stream.write(
                f"{self._title}: {len(event.z_indices)} slices x {len(event.members)} samples x "
                f"{event.n_steps} steps on {event.device}\n"
            )
            self._stream.flush()
        if time.monotonic() - self._drawn_at > _REDRAW_S:
            self._draw()

    def tell(self, text: str) -> None:
        """Write a line that stays, above the one that is redrawn."""
        self._stream.write(f"{_CLEAR if self._on_terminal else ''}{text}\n")
        self._stream.flush()
        self._draw()

    def _draw(self) -> None:
        if not self._on_terminal:
            return
        self._drawn_at = time.monotonic()
        text = f"{self._title}  {self._progress.describe()}"
        self._stream.write(_CLEAR + text[: shutil.get_terminal_size().columns - 1])
        self._stream.flush()


def summarise(record: ResultRecord, paths: Mapping[str, Path]) -> str:
    """Return a result in two lines: what it says, and where it is."""
    volume, scores = record.volume, record.scores
    parts = [f"{volume.mask_ml:.1f} mL"]
    if volume.likely_low_ml is not None:
        parts[0] += f", likely {volume.likely_low_ml:.1f} to {volume.likely_high_ml:.1f}"
    if volume.interval is not None and record.maps.n_members > 1:
        # Not "mask (low to high)": the mask of the mean need not lie between the members' masks.
        kind = "" if volume.interval == "range" else f" {volume.interval}"
        interval = f"{volume.low_ml:.1f} to {volume.high_ml:.1f}"
        parts[0] += f" ({len(volume.members_ml)} samples{kind}: {interval})"
    if not record.maps.whole_volume:
        parts[0] += _say_where(record)
    if record.confidence is not None:
        parts.append(f"confidence {record.confidence:.3f}")
    if scores is not None:
        parts.append(f"Dice {scores.dice:.3f}")
        parts.append("no HD95" if scores.hd95_mm is None else f"HD95 {scores.hd95_mm:.1f} mm")
    stopping = record.run.stopping
    if stopping is not None and stopping.stable_with is not None:
        parts.append(f"stable after {stopping.stable_with} of {stopping.max_samples} samples")
    elif stopping is not None:
        parts.append(f"not stable after {stopping.max_samples} samples")
    if record.run.elapsed_s is not None:
        parts.append(f"sampled in {format_time(record.run.elapsed_s)}")
    first, *others = paths.values()
    rest = "".join(f", {path.name.removeprefix(record.case.name)}" for path in others)
    return f"{record.case.name}: {', '.join(parts)}\n  {first}{rest}"


def _say_where(record: ResultRecord) -> str:
    first, last = record.maps.first_slice, record.maps.last_slice
    where = f"slice {first}" if first == last else f"slices {first} to {last}"
    return f" in {where}{' (a part of the tumour)' if record.is_part else ''}"


def describe_environment() -> str:
    """Return versions and devices, one a line."""
    from napari_diffseg.core.environment import describe_platform, list_devices, software_versions

    lines = [f"{name:16}{version}" for name, version in software_versions().items()]
    lines.append(f"{'system':16}{describe_platform()}")
    for index, device in enumerate(list_devices()):
        chosen = "  (auto)" if index == 0 else ""
        lines.append(f"{'' if index else 'devices':16}{device.name}: {device.description}{chosen}")
    return "\n".join(lines)


def describe_bundled_model() -> str:
    """Return what comes with the package, or that it is missing."""
    from napari_diffseg.core.checkpoint import bundled_checkpoint, load_checkpoint

    try:
        return describe_model(load_checkpoint(bundled_checkpoint()), "bundled model")
    except CheckpointError as error:
        return f"{'bundled model':16}none: {error}"


def _describe_encoders(model: LoadedModel) -> str:
    encoders = model.network.config.encoders
    if not encoders:
        return "none: the images enter the denoiser at every step"
    return " and, for every second sample, ".join(encoders) + ", run once per slice"


def describe_model(model: LoadedModel, title: str) -> str:
    """Return name, file, hash, recommendation and provenance of a model, one a line."""
    n_parameters = sum(parameter.numel() for parameter in model.network.parameters())
    window_y, window_x = model.preprocessing.window
    rows = [
        (title, model.card.name),
        ("  file", str(model.path)),
        ("  sha256", model.sha256),
        ("  size", f"{n_parameters / 1e6:.1f} M parameters, slices of {window_y} x {window_x}"),
        ("  encoders", _describe_encoders(model)),
        (
            "  recommended",
            f"{model.card.recommended_sampler}, {model.card.recommended_steps} steps"
            + (", every second sample mirrored" if model.card.mirror_members else "")
            + (", contrast varied between samples" if model.card.vary_contrast else ""),
        ),
    ]
    if model.card.description:
        rows.append(("  about", model.card.description))
    effort, indent = sum_effort(model.provenance), "  "
    if effort is not None and len(find_records(model.provenance)) > 1:
        took = f"{effort.images:,} images in {effort.seconds / 3600:.2f} h, with all it began from"
        rows.append(("  trained on", f"{took}; the last run alone:"))
        indent = "    "
    rows += [
        (f"{indent}{name}", str(value))
        for name, value in sorted(model.provenance.items())
        if not isinstance(value, dict)  # whole configurations: for the JSON record, not for a line
    ]
    return "\n".join(f"{name:16}{' ' * (len(name) > 15)}{text}" for name, text in rows)
