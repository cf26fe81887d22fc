"""Rows of the evaluation's CSV files: one frozen dataclass a file, written and read here."""

from __future__ import annotations

import csv
import dataclasses
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Final, TypeVar, get_args, get_type_hints

from napari_diffseg.core.errors import DiffsegError

Row = TypeVar("Row")

RUN: Final = "run"
"""A single member, p > 0.5."""
PROBABILITIES: Final = "probabilities"
"""Mean of the members' probabilities."""
MASKS: Final = "masks"
"""Mean of the members' masks, as in the paper."""

SYSTEMS: Final = {
    "ddpm": "DDPM",
    "nnunet": "nnU-Net",
    "segnet": "SegNet",
    "bayesian_segnet": "Bayesian SegNet",
    "unet": "U-Net",
    "mc_dropout_unet": "MC-dropout U-Net",
    "encoders": "DDPM's encoders without diffusion",
}
"""What is compared: the paper's systems, then three more."""


@dataclass(frozen=True)
class SliceRow:
    """A mask on one slice with tumour (``slices.csv``)."""

    case: str
    patient: str
    slice: int
    """Number in the source file, counted from 0."""
    method: str
    member: int | None
    """Which member, for "run"."""
    n_samples: int
    dice: float
    jaccard: float
    hd95_mm: float | None
    """None for an empty prediction."""
    empty: bool
    predicted_mm2: float
    truth_mm2: float
    confidence: float | None = None
    """Mean Dice over pairs of members' masks on this slice; None without two members."""
    soft_dice: float | None = None
    """Of the mean map and its mask; see `training.selective.compute_soft_dice`."""
    mean_entropy: float | None = None
    """Of the mean map inside the brain, in bits."""


@dataclass(frozen=True)
class CaseRow:
    """A mask in 3-D (``cases.csv``)."""

    case: str
    patient: str
    first_slice: int
    last_slice: int
    whole_volume: bool
    method: str
    member: int | None
    n_samples: int
    dice: float
    jaccard: float
    hd95_mm: float | None
    empty: bool
    predicted_ml: float
    truth_ml: float
    volume_error_ml: float


@dataclass(frozen=True)
class UncertaintyRow:
    """What a pair of mean and variance map is worth inside the brain (``uncertainty.csv``)."""

    case: str
    patient: str
    method: str
    n_samples: int
    n_voxels: int
    n_errors: int
    ece: float | None
    brier: float | None
    error_auroc: float | None
    """Of the variance as a detector of wrong voxels; None without any."""
    error_auprc: float | None
    error_best_dice: float | None
    diversity: float | None
    """Mean 1 - IoU over pairs of members' masks."""
    confidence: float | None
    """Mean Dice over the same pairs."""
    ged_squared: float | None
    filtered_dice: float | None = None
    """Of QU-BraTS, as the next three; see `training.selective`."""
    filtered_tp: float | None = None
    filtered_tn: float | None = None
    qu_brats: float | None = None
    mean_entropy: float | None = None
    """Of the mean map inside the brain, in bits."""
    dice: float | None = None
    """3-D, of the same mask and region: what the confidence of a case is compared with."""
    soft_dice: float | None = None
    """Of the mean map and its mask, in 3-D."""
    predicted_ml: float | None = None


@dataclass(frozen=True)
class CalibrationRow:
    """One bin of a reliability curve (``calibration.csv``)."""

    case: str
    patient: str
    method: str
    bin: int
    n_voxels: int
    predicted_sum: float
    """Sum of the mean map."""
    observed_sum: int
    """Voxels of tumour."""


@dataclass(frozen=True)
class MemberRow:
    """What the first ``n_samples`` members of a case are worth (``members.csv``)."""

    case: str
    patient: str
    method: str
    n_samples: int
    n_slices: int
    """With tumour."""
    dice: float | None
    """Mean over these slices, as the next."""
    hd95_mm: float | None
    n_empty: int
    ece: float | None
    """Inside the brain, all slices of the protocol together, as the next two."""
    brier: float | None
    error_auroc: float | None
    diversity: float | None
    confidence: float | None
    dice_with_before: float | None
    """Of the mask with the one of a member less."""
    monte_carlo_error: float | None
    """Standard error of the mean map where any member sees tumour."""


@dataclass(frozen=True)
class ThresholdRow:
    """The mask of all members' mean probability above a threshold (``thresholds.csv``)."""

    case: str
    patient: str
    threshold: float
    n_slices: int
    """With tumour."""
    dice: float | None
    """Mean over these slices."""
    volume_dice: float
    """In 3-D, of all slices of the protocol, as the next two."""
    predicted_ml: float
    truth_ml: float


@dataclass(frozen=True)
class TimingRow:
    """How long a case took (``timings.csv``); on another machine it takes another time."""

    case: str
    patient: str
    n_slices: int
    """Slices that hold brain, in the range."""
    n_samples: int
    seconds: float
    """All members of all these slices, the preparation of the case aside."""


@dataclass(frozen=True)
class SheetRow:
    """The first ``n_samples`` members of a case with a number of steps (``sheet.csv``)."""

    case: str
    patient: str
    steps: int
    n_samples: int
    n_slices: int
    dice: float | None
    """Mean over the slices, as the next."""
    hd95_mm: float | None
    n_empty: int
    ece: float | None
    """Inside the brain, all slices together, as the next two."""
    error_auroc: float | None
    diversity: float | None
    seconds_per_slice: float
    """Of all ``n_samples`` members."""


@dataclass(frozen=True)
class SettingRow:
    """What all rows have in common (``settings.csv``)."""

    name: str
    value: str


FILES: dict[type[Any], str] = {
    SliceRow: "slices.csv",
    CaseRow: "cases.csv",
    UncertaintyRow: "uncertainty.csv",
    CalibrationRow: "calibration.csv",
    MemberRow: "members.csv",
    ThresholdRow: "thresholds.csv",
    TimingRow: "timings.csv",
    SheetRow: "sheet.csv",
    SettingRow: "settings.csv",
}


def write_rows(folder: Path, cls: type[Row], rows: Iterable[Row]) -> Path:
    """Write the CSV file of a row class, complete or not at all; None is an empty field."""
    path = folder / FILES[cls]
    temporary = path.with_name(f".{path.name}.part")
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    try:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(names)
            writer.writerows([_to_text(getattr(row, name)) for name in names] for row in rows)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def read_rows(folder: Path, cls: type[Row]) -> list[Row]:
    """Read the CSV file of a row class.

    Raises
    ------
    DiffsegError
        The file is missing, or a column or a value is not what `write_rows` writes.
    """
    path = folder / FILES[cls]
    hints = get_type_hints(cls)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [
                cls(**{name: _from_text(hints[name], text) for name, text in line.items()})
                for line in csv.DictReader(file)
            ]
    except OSError as error:
        raise DiffsegError(
            f"{path} cannot be read ({error.strerror or error}). "
            "Run `python -m training.evaluate` into this folder first."
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise DiffsegError(
            f"{path} is not what this version of training.evaluate writes ({error!r})."
        ) from error


def _to_text(value: object) -> str:
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, bool) else str(value)


def _from_text(hint: Any, text: str) -> object:
    choices = get_args(hint) or (hint,)
    if NoneType in choices and text == "":
        return None
    kind = next(choice for choice in choices if choice is not NoneType)
    return bool(int(text)) if kind is bool else kind(text)
