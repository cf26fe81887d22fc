"""The steps that the paper's table and the cross-validation are made of, each done once."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Final

from napari_diffseg.core.errors import DiffsegError
from training import evaluate, export, train
from training.paper_plan import System, make_settings, make_train_arguments
from training.state import STATE_NAME, read_record

STOPPED: Final = 128
"""Exit codes from here on are of a command that was stopped, not of one that failed."""


class StepError(DiffsegError):
    """A step failed or was stopped; what it said is above."""

    def __init__(self, what: str, code: int) -> None:
        ended = "was stopped" if code >= STOPPED else f"failed with exit code {code}, see above"
        super().__init__(f"{what} {ended}. The same command goes on from there.")
        self.code = code


def run_step(
    what: str, command: ModuleType, arguments: list[str], accept: Sequence[int] = (0,)
) -> None:
    """Run a command of this package.

    Raises
    ------
    StepError
        Its exit code is none of those that are accepted.
    """
    print(f"== {what}", file=sys.stderr)
    code = command.main(arguments)
    if code not in accept:
        raise StepError(what, code)


def train_system(
    arguments: argparse.Namespace, split: Path, system: System, total_steps: int
) -> Path:
    """Train and export one system, as far as that is still to be done; return its model file.

    Raises
    ------
    StepError
        Training or export failed, or was stopped.
    """
    run = arguments.work / "runs" / system.name
    model: Path = arguments.work / "models" / f"{system.name}.safetensors"
    if model.exists():
        return model
    state = run / STATE_NAME
    if not state.exists() or int(read_record(state)["step"]) < total_steps:
        settings = make_settings(system, total_steps)
        command = make_train_arguments(arguments, split, system, settings)
        run_step(f"training of {system.name}", train, command)
    run_step(f"export of {system.name}", export, [str(run), str(model), "--name", system.name])
    return model


def evaluate_row(
    arguments: argparse.Namespace, split: Path, row: str, model: Sequence[str]
) -> None:
    """Evaluate one row of the table; cases that were measured are not measured again.

    Raises
    ------
    StepError
        It failed, or was stopped.
    """
    places = ["--split", str(split), "--out", str(arguments.work / "systems" / row)]
    options = ["--samples", str(arguments.samples), "--slices", arguments.slices]
    options += ["--device", arguments.device]
    run_step(f"evaluation of {row}", evaluate, [str(arguments.cases), *places, *options, *model])


def describe_end(name: str, error: Exception) -> int:
    """Tell why a command ends early; return its exit code: 1, or 130 if it was stopped."""
    print(f"{name}: error: {error}", file=sys.stderr)
    stopped = isinstance(error, StepError) and error.code >= STOPPED
    return 130 if stopped else 1
