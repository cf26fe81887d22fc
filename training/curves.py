"""The curves of a run as one picture: ``python -m training.curves RUN [RUN ...]``.

A run draws it by itself at each validation and at its end; the command is for runs that were
killed in between, or made before.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from napari_diffseg.core.errors import CheckpointError
from training.figures import Curve, Panel, draw_panels
from training.files import write_text

TRAIN_CSV, VALIDATION_CSV = "train.csv", "validation.csv"
CURVES_NAME = "curves.svg"
_MOST_POINTS = 150

_LOSSES = {
    "loss": "loss",
    "loss_mask": "mask",
    "loss_prior": "prior encoder",
    "loss_mse": "MSE",
    "loss_vlb": "VLB",
}
_BEST_BY = "dice_ensemble"
_DICE = {_BEST_BY: "ensemble", "dice_single": "1 run", "dice_prior": "prior encoder"}

Rows = Sequence[Mapping[str, str]]


def draw_curves(folder: Path) -> Path:
    """Draw training loss, validation Dice, agreement and learning rate of a run's folder.

    Raises
    ------
    CheckpointError
        If there is nothing to draw: the folder has no row in either table.
    """
    train, validation = _read(folder / TRAIN_CSV), _read(folder / VALIDATION_CSV)
    if not train and not validation:
        raise CheckpointError(
            f"{folder} has no curves yet: {TRAIN_CSV} and {VALIDATION_CSV} are missing or empty."
        )
    losses = {name: column for column, name in _LOSSES.items()}
    if not any(row.get(column) for row in train for column in list(_LOSSES)[2:]):
        del losses["mask"]  # the only term, so the loss itself
    panels = [
        _make_panel("Training loss", train, losses),
        _make_panel(_title(validation), validation, {name: c for c, name in _DICE.items()}),
        _make_panel("Learning rate", train, {"learning rate": "learning_rate"}),
        _make_panel("Mean Dice between members", validation, {"agreement": "agreement"}),
    ]
    path = folder / CURVES_NAME
    write_text(path, draw_panels(panels))
    return path


def _make_panel(title: str, rows: Rows, columns: Mapping[str, str]) -> Panel:
    """Return a panel of the columns that have values; ``columns`` are by the curves' names."""
    curves: dict[str, Curve] = {}
    for name, column in columns.items():
        points = [(float(row["step"]), float(row[column])) for row in rows if row.get(column)]
        if points:
            curves[name] = _thin(points)
    return Panel(title, "step", curves, markers=len(rows) <= _MOST_POINTS // 3)


def _title(validation: Rows) -> str:
    known = [(float(row[_BEST_BY]), row["step"]) for row in validation if row.get(_BEST_BY)]
    if not known:
        return "Validation Dice"
    dice, step = max(known, key=lambda item: item[0])
    return f"Validation Dice, best {dice:.4f} at step {step}"


def _thin(points: Curve) -> Curve:
    """Return at most 150 points: means of neighbours where there are more."""
    groups = np.array_split(np.asarray(points), min(len(points), _MOST_POINTS))
    return [(float(x), float(y)) for x, y in (group.mean(axis=0) for group in groups)]


def _read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def make_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(
        "python -m training.curves",
        description=f"Draw the curves of runs into their {CURVES_NAME}.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = make_parser().parse_args(arguments)
    try:
        for run in options.runs:
            print(draw_curves(run))
    except (CheckpointError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
