"""The paper's table from nothing: ``python -m training.paper_table CASES_DIR --work WORK``.

Every system is trained for the same time, on the same cases and slices, exported, evaluated on the
same other cases, and put into one report (`training.report`). First a short trial measures what a
step of each costs on this machine; the plan that follows from it and from the budget is kept in
WORK, so the same command goes on after any interruption and does nothing twice.

nnU-Net takes part if its package is installed (`training.nnunet`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from napari_diffseg.core.errors import CaseError, ParameterError
from napari_diffseg.core.segment import resolve_device
from training import evaluate, make_split, nnunet, prepare, report, sheet
from training.baselines.nnunet_folders import DATASET
from training.data import load_split
from training.paper_plan import (
    PLAN_NAME,
    SYSTEMS,
    Plan,
    System,
    check_settings,
    make_plan,
    write_plan,
)
from training.paper_steps import (
    add_common_options,
    evaluate_row,
    run_by_budget,
    run_step,
    train_system,
)
from training.sheet import parse_plan

NNUNET: Final = "nnunet"
_NNUNET_EPOCHS: Final = 20
"""nnU-Net lowers its learning rate from epoch to epoch, whatever an epoch is."""


def takes_nnunet(arguments: argparse.Namespace) -> bool:
    """Whether nnU-Net takes part."""
    return bool(arguments.nnunet) and nnunet.is_installed()


def run_nnunet(arguments: argparse.Namespace, split: Path, plan: Plan) -> None:
    """Convert, train for a share of the budget, predict and evaluate with nnU-Net's own package.

    Raises
    ------
    DiffsegError
        One of these failed, or was stopped.
    """
    work = arguments.work / "nnunet"
    place = ["--work", str(work)]
    if not (work / "raw" / DATASET / "dataset.json").exists():
        which = [str(arguments.cases), "--split", str(split), *place]
        which += ["--workers", str(arguments.workers)]
        run_step("conversion", nnunet, ["convert", *which])
    device = str(resolve_device(arguments.device))
    if NNUNET not in plan.total_steps:
        cost = nnunet.time_iteration(work, device)
        print(f"{NNUNET}: {cost:.2f} s an iteration", file=sys.stderr)
        n_iterations = max(1, round(plan.share_s / cost / len(arguments.folds)))
        plan = replace(
            plan,
            seconds_per_step={**plan.seconds_per_step, NNUNET: cost},
            total_steps={**plan.total_steps, NNUNET: n_iterations},
        )
        write_plan(arguments.work / PLAN_NAME, plan)
    epochs = min(_NNUNET_EPOCHS, plan.total_steps[NNUNET])
    length = ["--epochs", str(epochs), "--iterations", str(plan.total_steps[NNUNET] // epochs)]
    options = [*place, *length, "--folds", *arguments.folds, "--device", device]
    run_step("training of nnU-Net", nnunet, ["train", *options])
    run_step("prediction of nnU-Net", nnunet, ["predict", *options])
    evaluate_row(arguments, split, NNUNET, ["--segmenter", str(work / "predictions")])


def measure_curves(arguments: argparse.Namespace, split: Path, model: Path) -> None:
    """Measure the ensemble against the number of members, and of steps.

    Raises
    ------
    StepError
        It failed, or was stopped.
    """
    which = [str(arguments.cases), "--split", str(split), "--checkpoint", str(model)]
    which += ["--device", arguments.device]
    first, end = arguments.slices
    which += ["--slices", f"{first}:{end}"]
    out = str(arguments.work / "members" / "ddpm")
    options = ["--samples", str(arguments.members)]
    run_step("evaluation of many members", evaluate, [*which, *options, "--out", out])
    out = str(arguments.work / "sheets" / "sheet")
    run_step("sheet of steps", sheet, [*which, "--steps", arguments.steps, "--out", out])


def make_paper_table(arguments: argparse.Namespace, systems: Sequence[System]) -> None:
    """Do everything that is still to be done, in an order in which the cheap comes first.

    Raises
    ------
    DiffsegError
        A step failed, or was stopped.
    """
    check_settings(arguments.set, ["run.total_steps"])
    # What is wrong is said at once, not after hours of training.
    if arguments.split is not None and not load_split(arguments.split).validation:
        raise CaseError(f"{arguments.split} has no validation cases to evaluate.")
    if arguments.members < 2:
        raise ParameterError(f"--members must be 2 or more, it is {arguments.members}.")
    work: Path = arguments.work
    (work / "models").mkdir(parents=True, exist_ok=True)
    arguments.cache = work / "cache"
    cache = ["--config", systems[0].config, "--workers", str(arguments.workers)]
    # A case that cannot be used has been reported; if the split needs it, training says so.
    run_step(
        "preparation", prepare, [str(arguments.cases), str(arguments.cache), *cache], accept=(0, 1)
    )
    split: Path = arguments.split or work / "split.json"
    if not split.exists():
        run_step("split", make_split, [str(arguments.cache), str(split)])
    plan = make_plan(arguments, split, systems, 1 if takes_nnunet(arguments) else 0)
    models = {}
    for system in systems:
        model = train_system(arguments, split, system, plan.total_steps[system.name])
        models[system.name] = model
        for row, options in system.rows:
            evaluate_row(arguments, split, row, [system.option, str(model), *options])
    if takes_nnunet(arguments):
        run_nnunet(arguments, split, plan)
    run_step("report", report, [str(work)])
    measure_curves(arguments, split, models["ddpm"])
    run_step("report with curves", report, [str(work)])


def _check_plan(text: str) -> str:
    parse_plan(text)
    return text


def make_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(
        "python -m training.paper_table",
        description="Train, evaluate and compare every system of the paper's table.",
    )
    add_common_options(parser)
    add = parser.add_argument
    add("--split", type=Path, metavar="FILE", help="default: made, and kept in WORK")
    add(
        "--members",
        type=int,
        default=20,
        metavar="N",
        help="of the curves against the number of members (default: %(default)s)",
    )
    add(
        "--steps",
        type=_check_plan,
        default="1:20,2:20,4:20,8:20,16:20,50:5",
        metavar="K:N,...",
        help="of the sheet, as in training.sheet (default: %(default)s)",
    )
    add(
        "--nnunet",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether nnU-Net takes part, if its package is installed (default: yes)",
    )
    add(
        "--folds",
        nargs="+",
        choices=("0", "1", "2", "3", "4", "all"),
        default=["0", "1", "2", "3", "4"],
        help="of nnU-Net, which share its time (default: %(default)s)",
    )
    return parser


def main(argv: Sequence[str] | None = None, systems: Sequence[System] = SYSTEMS) -> int:
    """Make the table; 1: something failed, 130: it was stopped and can go on."""
    arguments = make_parser().parse_args(argv)
    return run_by_budget(
        "training.paper_table", arguments, lambda: make_paper_table(arguments, systems)
    )


if __name__ == "__main__":
    sys.exit(main())
