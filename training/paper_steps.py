"""The steps that the paper's table and the cross-validation are made of, each done once."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Final

import torch

from napari_diffseg.core.errors import DiffsegError, ParameterError
from training import evaluate, export, train
from training.case_store import PAPER_SLICES, parse_slices
from training.paper_plan import System, make_settings, make_train_arguments, parse_budget
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
) -> int:
    """Run a command of this package; return its exit code.

    Raises
    ------
    StepError
        Its exit code is none of those that are accepted.
    """
    print(f"== {what}", file=sys.stderr)
    code: int = command.main(arguments)
    if code not in accept:
        raise StepError(what, code)
    return code


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
    first, end = arguments.slices
    options = ["--samples", str(arguments.samples), "--slices", f"{first}:{end}"]
    options += ["--device", arguments.device]
    run_step(f"evaluation of {row}", evaluate, [str(arguments.cases), *places, *options, *model])


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add what is the same for every command that trains by a budget."""
    add = parser.add_argument
    add("cases", type=Path, metavar="CASES_DIR", help="folder of cases with labels")
    add("--work", type=Path, required=True, metavar="WORK", help="for everything that is made")
    add(
        "--budget",
        type=parse_budget,
        default=parse_budget("2h"),
        metavar="TIME",
        help="of all training together, as 90m, 2h or 1d; shared equally (default: 2h)",
    )
    add("--samples", type=int, default=5, metavar="N", help="members (default: %(default)s)")
    add(
        "--slices",
        type=parse_slices,
        default=PAPER_SLICES,
        metavar="A:B",
        help="of the protocol, B not included (default: 80:129, the paper's)",
    )
    add("--device", default="auto", help="default: %(default)s")
    add("--threads", type=int, help="CPU threads of torch")
    add("--workers", type=int, default=2, help="processes that prepare (default: %(default)s)")
    add(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.NAME=VALUE",
        help="change a training setting of every system; can be repeated",
    )


def run_by_budget(name: str, arguments: argparse.Namespace, work: Callable[[], None]) -> int:
    """Do the work; return the exit code, 1: something failed, 130: it was stopped and can go on."""
    # As training.train does for itself: the trial shall be as fast as what it stands for.
    torch.set_flush_denormal(True)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    try:
        if arguments.samples < 1:
            raise ParameterError(f"--samples must be at least 1, not {arguments.samples}.")
        work()
    except (DiffsegError, OSError, FloatingPointError) as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        stopped = isinstance(error, StepError) and error.code >= STOPPED
        return 130 if stopped else 1
    except KeyboardInterrupt:
        print("\nInterrupted; the same command goes on from here.", file=sys.stderr)
        return 130
    return 0
