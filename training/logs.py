"""The record of a run: CSV files, TensorBoard where it is installed, and a progress bar."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TextIO

from training.curves import TRAIN_CSV, VALIDATION_CSV, draw_curves
from training.loop import StepResult

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TENSORBOARD = "tensorboard"
_BACKGROUND_REDRAW_S = 30.0


class CsvLog:
    """A table that grows row by row; each row has a ``step``.

    A run that was killed may have logged steps that it will take again: rows beyond ``step`` are
    removed first, and so is a row that was cut off.
    """

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        self._columns: list[str] = []
        self.rows: list[dict[str, str]] = []
        if path.exists():
            # What comes after the last line break is a row that was cut off.
            complete, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
            reader = csv.DictReader(complete.splitlines())
            self.rows = [row for row in reader if int(row["step"]) <= step]
            self._columns = list(reader.fieldnames or [])
            self._rewrite()

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a row; None is written as nothing, other columns than before are added."""
        new = [name for name in row if name not in self._columns]
        self.rows.append({name: _format(value) for name, value in row.items()})
        if new:
            self._columns += new
            self._rewrite()
            return
        with self._path.open("a", encoding="utf-8", newline="") as file:
            self._writer(file).writerow(self.rows[-1])

    def _rewrite(self) -> None:
        temporary = self._path.with_name(f"{self._path.name}.tmp")
        with temporary.open("w", encoding="utf-8", newline="") as file:
            writer = self._writer(file)
            writer.writeheader()
            writer.writerows(self.rows)
        os.replace(temporary, self._path)

    def _writer(self, file: TextIO) -> csv.DictWriter[str]:
        return csv.DictWriter(file, self._columns, restval="", lineterminator="\n")


def read_validation(folder: Path, step: int) -> dict[str, float]:
    """Return what a run's folder has on record of the validation at a step; nothing: empty."""
    path = folder / VALIDATION_CSV
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["step"] == str(step):
                return {name: float(text) for name, text in row.items() if text}
    return {}


class RunLog:
    """Everything that a run tells, in its folder and on the terminal; a context manager.

    Parameters
    ----------
    folder
        The run's folder.
    step, total_steps
        Where the run goes on, and where it ends.
    log_every
        Steps whose mean makes one row.
    """

    def __init__(self, folder: Path, step: int, total_steps: int, log_every: int) -> None:
        from tqdm import tqdm

        self._train = CsvLog(folder / TRAIN_CSV, step)
        self._validation = CsvLog(folder / VALIDATION_CSV, step)
        self._folder, self._log_every = folder, log_every
        self._since_last_row: list[StepResult] = []
        self._writer = _open_tensorboard(folder / TENSORBOARD, step)
        interval = 0.1 if sys.stderr.isatty() else _BACKGROUND_REDRAW_S
        self._bar = tqdm(
            total=total_steps, initial=step, unit="step", file=sys.stderr, mininterval=interval
        )
        if self._writer is None:
            self.say("TensorBoard is not installed (extra `training`): CSV files only.")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if self._train.rows:
            draw_curves(self._folder)
        if self._writer is not None:
            self._writer.close()

    def say(self, message: str) -> None:
        """Tell the user something without disturbing the bar."""
        self._bar.write(message, sys.stderr)

    def on_step(self, result: StepResult) -> None:
        """Count a step; every ``log_every``-th one writes the mean since the last row."""
        self._since_last_row.append(result)
        if result.step % self._log_every == 0:
            row = _summarise(self._since_last_row)
            self._since_last_row = []
            self._train.write(row)
            self._write_scalars("train", row)
            self._bar.set_postfix(loss=f"{row['loss']:.4f}", refresh=False)
        self._bar.update()

    def on_validation(
        self, row: Mapping[str, float | None], preview: NDArray[np.uint8] | None
    ) -> None:
        """Write a validation; ``preview`` is (Y, X, 3)."""
        self._validation.write(row)
        self._write_scalars("validation", row)
        if self._writer is not None and preview is not None:
            self._writer.add_image("samples", preview, int(row["step"] or 0), dataformats="HWC")
        draw_curves(self._folder)

    def is_validated(self, step: int) -> bool:
        """Whether the validation of a step is on record."""
        return any(int(row["step"]) == step for row in self._validation.rows)

    def best(self, column: str) -> float | None:
        """Return the highest value of a validation column so far."""
        values = [float(row[column]) for row in self._validation.rows if row.get(column)]
        return max(values, default=None)

    def count_since_best(self, column: str) -> int:
        """Return how many validations followed the (first) best one."""
        values = [float(row[column]) for row in self._validation.rows if row.get(column)]
        return len(values) - 1 - values.index(max(values)) if values else 0

    def _write_scalars(self, group: str, row: Mapping[str, float | None]) -> None:
        if self._writer is None:
            return
        for name, value in row.items():
            if name != "step" and value is not None:
                self._writer.add_scalar(f"{group}/{name}", value, int(row["step"] or 0))


class SilentLog:
    """What processes that write nothing have instead of a :class:`RunLog`; it knows of nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def say(self, message: str) -> None:
        """Tell nobody."""

    def on_step(self, result: StepResult) -> None:
        """Count nothing."""

    def is_validated(self, step: int) -> bool:  # noqa: ARG002
        """Whether a validation is on record: it is not this process that misses one."""
        return True

    def best(self, column: str) -> float | None:  # noqa: ARG002
        """Return None."""
        return None

    def count_since_best(self, column: str) -> int:  # noqa: ARG002
        """Return 0."""
        return 0


def _summarise(results: list[StepResult]) -> dict[str, float]:
    n = len(results)
    last = results[-1]
    row: dict[str, float] = {"step": last.step, "images": last.images}
    row["loss"] = sum(r.loss for r in results) / n
    for name in last.terms:
        row[f"loss_{name}"] = sum(r.terms[name] for r in results) / n
    row["learning_rate"] = last.learning_rate
    row["gradient_norm"] = sum(r.gradient_norm for r in results) / n
    row["step_s"] = sum(r.seconds for r in results) / n
    return row


def _open_tensorboard(folder: Path, step: int) -> Any | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)


def _format(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
