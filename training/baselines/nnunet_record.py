"""What nnU-Net's folds have cost, and which of them made a folder of predictions.

Each trained fold has its own files, so that folds can be trained one by one or at the same time.
The folder of the predictions has one record, of exactly the folds that are in use there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from napari_diffseg.core.errors import CaseError
from training.files import write_text

EFFORT_NAME: Final = "effort.json"
"""In the folder of a trained fold, by its trainer; and in the folder of the predictions."""
_HOURS_NAME: Final = "hours.json"
"""Beside it in the fold's folder; an interrupted training has hours, but no effort yet."""
_EFFORT_KEYS: Final = ("parameters", "training_hours", "images_seen")


def add_hours(fold: Path, seconds: float) -> None:
    """Add to the hours that the training of a fold has taken, complete or not at all."""
    path = fold / _HOURS_NAME
    hours = float(_read(path).get("training_hours", 0)) + seconds / 3600
    _write(path, {"training_hours": hours})


def sum_efforts(folds: Sequence[Path]) -> dict[str, Any]:
    """Return parameters, hours and images seen of trained folds, as far as all have them on record.

    Raises
    ------
    CaseError
        A file is damaged.
    """
    efforts = [_read(fold / EFFORT_NAME) | _read(fold / _HOURS_NAME) for fold in folds]
    sums = {
        key: sum(float(effort[key]) for effort in efforts)
        for key in _EFFORT_KEYS
        if efforts and all(key in effort for effort in efforts)
    }
    return {k: f"{v:.4f}" if k == "training_hours" else int(v) for k, v in sums.items()}


def claim_predictions(
    folder: Path, network: str, folds: Sequence[str], effort: dict[str, Any]
) -> None:
    """Make a folder that of the predictions of some folds of a network, or refuse it.

    Raises
    ------
    CaseError
        It has predictions of another network, or of one that is not on record.
    """
    before = _read(folder / EFFORT_NAME).get("network", "a network that is not on record")
    if before != network and any(folder.glob("fold_*/*.npz")):
        raise CaseError(
            f"{folder} has predictions of {before}, not of {network}, and must not have both. "
            "Choose another folder with --out, or delete this one."
        )
    _write(folder / EFFORT_NAME, {"network": network, "folds": sorted(folds), **effort})


def read_effort(folder: Path) -> dict[str, Any]:
    """Return what the training behind predictions has cost; the user may have written some.

    Raises
    ------
    CaseError
        The file is damaged.
    """
    values = _read(folder / EFFORT_NAME)
    return {key: values[key] for key in _EFFORT_KEYS if key in values}


def read_folds(folder: Path) -> list[str] | None:
    """Return which folds of a folder of predictions are in use; None: it is not on record.

    Raises
    ------
    CaseError
        The file is damaged.
    """
    folds = _read(folder / EFFORT_NAME).get("folds")
    return None if folds is None else [str(fold) for fold in folds]


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise CaseError(f"{path} is damaged ({error}). Mend it, or delete it.") from error


def _write(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(values) + "\n")
