"""How long each system of the paper's table is trained: a budget, shared by measured costs."""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from napari_diffseg.core.errors import ParameterError
from napari_diffseg.core.segment import resolve_device
from training import train
from training.changes import describe_changes
from training.config import config_values, find_config, load_config
from training.data import hash_split, load_split
from training.files import write_text
from training.processes import ONE_PROCESS
from training.run_setup import make_trainer, prepare_run

PLAN_NAME: Final = "plan.json"
_UNITS: Final = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_TRIAL_S: Final = 30.0
_TRIAL_STEPS: Final = (3, 20)
_N_VALIDATIONS: Final = 4


@dataclass(frozen=True)
class System:
    """A network to train, and the rows that are evaluated of it."""

    name: str
    """Of its run, its model file and its evaluation."""
    config: str
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    """Folder of each evaluation, and its extra options."""
    option: str = "--segmenter"
    """How `training.evaluate` is given the model."""
    settings: tuple[str, ...] = ()
    """What differs from the configuration, as ``--set`` takes it."""


DIFFUSION_ROWS: Final = (("ddpm", ()), ("encoders", ("--without-diffusion",)))
"""A diffusion model, and what is left of it without diffusion."""

SYSTEMS: tuple[System, ...] = (
    System("ddpm", "fast", DIFFUSION_ROWS, "--checkpoint"),
    System("segnet", "segnet", (("segnet", ()),)),
    System("bayesian_segnet", "bayesian_segnet", (("bayesian_segnet", ()),)),
    System("unet", "unet", (("unet", ()), ("mc_dropout_unet", ("--sample-dropout",)))),
)


@dataclass(frozen=True)
class Plan:
    """What was decided at the first start, and holds from then on."""

    budget_s: float
    share_s: float
    """Of the training of each system."""
    seconds_per_step: dict[str, float]
    total_steps: dict[str, int]
    settings: dict[str, dict[str, Any]]
    """Configuration of each system that is trained here, before its length is known."""
    split: str
    """SHA-256 of who is trained on and who is evaluated."""


def parse_budget(text: str) -> float:
    """Return seconds of a time such as ``90m``, ``2h`` or ``1.5d``.

    Raises
    ------
    argparse.ArgumentTypeError
        It is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d)", text.strip())
    if match is None or float(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no time like 90m, 2h or 1d")
    return float(match[1]) * _UNITS[match[2]]


def make_plan(
    arguments: argparse.Namespace, split: Path, systems: Sequence[System], n_others: int = 0
) -> Plan:
    """Return the plan in WORK, or time every system and make one.

    Parameters
    ----------
    arguments
        Of `training.paper_table` or `training.cross_validate`, with the slice cache.
    split
        Its patients are trained on, for some steps that are thrown away.
    systems
        What is trained here.
    n_others
        Systems that are trained by others, and get their share as well.

    Raises
    ------
    DiffsegError
        There is a plan for another budget, other settings or another split, or a system cannot be
        trained here.
    """
    path = arguments.work / PLAN_NAME
    settings = {system.name: _resolve(system, arguments.set) for system in systems}
    who = hash_split(load_split(split))
    if path.exists():
        plan = _read_plan(path)
        changes = describe_changes(plan.settings, settings)
        if changes:
            raise ParameterError(
                f"{path} is for other settings, and networks are trained by it. Choose another "
                "--work, or take back what differs:\n  " + "\n  ".join(changes)
            )
        if plan.budget_s != arguments.budget:
            raise ParameterError(
                f"{path} is for a budget of {plan.budget_s:g} s, not {arguments.budget:g} s, and "
                "its systems are trained by it. Choose another --work."
            )
        if plan.split != who:
            raise ParameterError(
                f"{path} is for another split than {split}, and networks are trained on its cases: "
                "they would be evaluated on some of them. Choose another --work."
            )
        return plan
    share_s = arguments.budget / (len(systems) + n_others)
    seconds = {}
    for system in systems:
        seconds[system.name] = measure_step(arguments, split, system)
        print(f"{system.name}: {seconds[system.name]:.2f} s a step", file=sys.stderr)
    steps = {name: max(1, round(share_s / cost)) for name, cost in seconds.items()}
    plan = Plan(arguments.budget, share_s, seconds, steps, settings, who)
    write_plan(path, plan)
    return plan


def check_settings(settings: Sequence[str], decided: Sequence[str]) -> None:
    """Make sure that no ``--set`` is about what the command decides.

    Raises
    ------
    ParameterError
        One is.
    """
    for setting in settings:
        name = setting.partition("=")[0].strip()
        if name in decided:
            raise ParameterError(f"--set {setting}: this command decides {name} by itself.")


def _resolve(system: System, changes: Sequence[str]) -> dict[str, Any]:
    config = load_config(find_config(system.config), [*system.settings, *changes])
    values: dict[str, Any] = json.loads(json.dumps(config_values(config)))
    return values


def _read_plan(path: Path) -> Plan:
    try:
        return Plan(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ParameterError(
            f"{path} is damaged or of another version ({error}). Choose another --work."
        ) from error


def measure_step(arguments: argparse.Namespace, split: Path, system: System) -> float:
    """Return the median time of a training step in seconds; nothing is written."""
    options = train.make_parser().parse_args(make_train_arguments(arguments, split, system, ()))
    device = resolve_device(arguments.device)
    trainer = make_trainer(prepare_run(options, ONE_PROCESS, device))
    with trainer.loading_ahead():
        trainer.run_step()  # the first one is slow
        times: list[float] = []
        fewest, most = _TRIAL_STEPS
        started = time.monotonic()
        while len(times) < fewest or (len(times) < most and time.monotonic() - started < _TRIAL_S):
            times.append(trainer.run_step().seconds)
    return statistics.median(times)


def make_train_arguments(
    arguments: argparse.Namespace, split: Path, system: System, settings: Sequence[str]
) -> list[str]:
    """Return the command line of `training.train` for a system."""
    places: list[object] = ["--data", arguments.cache, "--split", split]
    changes = (*system.settings, *settings, *arguments.set)
    values = [part for setting in changes for part in ("--set", setting)]
    run = arguments.work / "runs" / system.name
    return [
        system.config,
        *map(str, places),
        "--run",
        str(run),
        "--device",
        arguments.device,
        *values,
    ]


def make_settings(system: System, total_steps: int) -> list[str]:
    """Return what a length changes: a short run must not warm up for all of it."""
    warmup = load_config(find_config(system.config)).optimiser.warmup_steps
    return [
        f"run.total_steps={total_steps}",
        f"run.validate_every={-(-total_steps // _N_VALIDATIONS)}",
        f"optimiser.warmup_steps={min(warmup, total_steps // 10)}",
    ]


def write_plan(path: Path, plan: Plan) -> None:
    """Write the plan, complete or not at all."""
    write_text(path, json.dumps(vars(plan), indent=1) + "\n")
