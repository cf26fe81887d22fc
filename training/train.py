"""Train a model: ``python -m training.train CONFIG --data CACHE --split SPLIT --run FOLDER``.

The run's folder holds everything that is needed to go on after an interruption of any kind: the
same command does it.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from napari_diffseg.core.checkpoint import LoadedModel
from napari_diffseg.core.errors import CaseError, DiffsegError
from napari_diffseg.core.model import DiffusionModel
from napari_diffseg.core.progress import format_time
from napari_diffseg.core.segment import resolve_device
from training.cache_index import check_index
from training.config import TrainingConfig, find_config, format_config, load_config
from training.data import SliceCache, Split, load_split
from training.logs import RunLog
from training.loop import Trainer, resolve_precision
from training.previews import draw_preview, save_png
from training.run_folder import (
    check_resumable,
    collect_provenance,
    locked,
    write_description,
)
from training.signals import StopRequest
from training.state import BEST_NAME, save_average
from training.validate import Validator
from training.warm_start import load_initial_model

_BEST_BY = "dice_ensemble"


@dataclass(frozen=True)
class Setup:
    """A run before its first step: everything is read and checked, nothing is written."""

    config: TrainingConfig
    split: Split
    split_file: Path
    folder: Path
    device: torch.device
    cache: SliceCache
    validator: Validator | None
    provenance: dict[str, Any]
    resumed_step: int | None
    """Where the folder's run goes on; None: it begins."""
    init: LoadedModel | None = None
    """The model whose weights a run that begins starts from."""


def prepare_run(options: argparse.Namespace) -> Setup:
    """Read and check all that a run needs.

    Raises
    ------
    DiffsegError
        If anything is missing, damaged or contradictory.
    """
    config = load_config(find_config(options.config), options.set)
    split = load_split(options.split)
    if not split.training:
        raise CaseError(f"{options.split}: there is no case for training.")
    device = resolve_device(options.device)
    names = (*split.training, *split.validation)
    index = check_index(options.data, names, config.preprocessing)
    provenance = collect_provenance(split, index)
    resumed_step = check_resumable(
        options.run,
        config,
        provenance,
        resume=options.resume,
        allow_changes=options.allow_changes,
    )
    init = None
    if options.init is not None and resumed_step is None:
        init = load_initial_model(options.init, config)
    validator = None
    if split.validation and config.run.validate_every:
        validator = Validator(
            options.data,
            index.context_of(split.validation),
            config.run,
            sample_dropout=config.baseline is not None and config.baseline.sample_dropout,
        )
    return Setup(
        config,
        split,
        options.split,
        options.run,
        device,
        SliceCache(options.data, split.training, config.data, index.context_of(split.training)),
        validator,
        provenance,
        resumed_step,
        init,
    )


def make_trainer(setup: Setup) -> Trainer:
    """Return the run's trainer, at the step where it goes on."""
    trainer = Trainer(setup.config, setup.folder, setup.cache, setup.device, setup.provenance)
    if not trainer.resume() and setup.init is not None:
        trainer.start_from(setup.init)
    return trainer


def run_training(setup: Setup) -> int:
    """Train to the end or to a signal; return the process's exit code."""
    setup.folder.mkdir(parents=True, exist_ok=True)
    with locked(setup.folder):
        trainer = make_trainer(setup)
        session = {
            "from_step": trainer.step,
            "device": str(setup.device),
            "precision": _describe_precision(setup),
            "threads": torch.get_num_threads(),
        }
        write_description(setup.folder, setup.config, setup.split_file, setup.provenance, session)
        run = setup.config.run
        log = RunLog(setup.folder, trainer.step, run.total_steps, run.log_every, run.batch_size)
        with log, StopRequest() as stop:
            if trainer.step:
                log.say(f"Going on at step {trainer.step}.")
            elif setup.init is not None:
                log.say(f"Starting from the weights of {setup.init.path}.")

            def on_validation(trainer: Trainer) -> None:
                _validate(trainer, setup, log, stop)

            # A run that was killed during a validation does it now.
            if trainer.is_validation_step() and not log.is_validated(trainer.step):
                on_validation(trainer)

            def has_settled() -> bool:
                return bool(run.stop_after) and log.count_since_best(_BEST_BY) >= run.stop_after

            finished = trainer.train(log.on_step, on_validation, lambda: stop() or has_settled())
            if has_settled() and not stop():
                log.say(f"No better validation for {run.stop_after} in a row: the run ends.")
                finished = True
            if finished and not stop():
                log.say(_describe_end(trainer, log))
                return 0
            log.say(f"Stopped at step {trainer.step}; the same command goes on from there.")
            return 128 + (stop.signal or signal.SIGTERM)


def _validate(trainer: Trainer, setup: Setup, log: RunLog, stop: StopRequest) -> None:
    if setup.validator is None:
        return
    with trainer.ema.applied_to(trainer.network):
        outcome = setup.validator.validate(trainer.network, setup.device, stop)
    if outcome is None:
        return
    result, shown = outcome
    preview = draw_preview(*shown)
    save_png(setup.folder / "previews" / f"step_{trainer.step:07d}.png", preview)
    best = log.best(_BEST_BY)
    is_best = best is None or result.dice_ensemble > best
    if is_best:
        save_average(setup.folder / BEST_NAME, trainer.ema, trainer.record())
    log.on_validation(result.as_row(trainer.step), preview)
    own = "" if result.dice_prior is None else f", prior encoder {result.dice_prior:.4f}"
    log.say(
        f"step {trainer.step}: Dice of 1 run {result.dice_single:.4f}, ensemble of "
        f"{setup.config.run.validation_samples} {result.dice_ensemble:.4f}{own}"
        + (" (best so far)" if is_best else "")
    )


def _describe_end(trainer: Trainer, log: RunLog) -> str:
    best = log.best(_BEST_BY)
    text = f"Done: {trainer.step} steps in {format_time(trainer.seconds)}."
    if best is not None:
        text += f" Best Dice of the ensemble {best:.4f}."
    return f"{text} Next: python -m training.export {trainer.folder} MODEL.safetensors"


def dry_run(setup: Setup) -> None:
    """Show what a run would do and take one step, without writing anything."""
    config = setup.config
    print(format_config(config))
    trainer = make_trainer(setup)
    network = trainer.network
    print(f"parameters      {_count(network):,}", end="")
    if isinstance(network, DiffusionModel) and network.prior_encoder is not None:
        print(
            f" (prior encoder {_count(network.prior_encoder):,}, "
            f"denoiser {_count(network.denoiser):,})",
            end="",
        )
    print()
    tumour = setup.cache.has_tumour
    print(
        f"training        {len(setup.cache)} slices of {len(setup.split.training)} cases, "
        f"{tumour.mean():.0%} with tumour, window {setup.cache.window}"
    )
    n_validation = 0 if setup.validator is None else len(setup.validator)
    print(f"validation      {n_validation} slices of {len(setup.split.validation)} cases")
    print(
        f"device          {setup.device}, {_describe_precision(setup)}, "
        f"{torch.get_num_threads()} threads"
    )
    if setup.resumed_step is not None:
        print(f"run             goes on at step {setup.resumed_step} of {config.run.total_steps}")
    result = trainer.run_step()
    terms = ", ".join(f"{name} {value:.4f}" for name, value in result.terms.items())
    print(f"one step        loss {result.loss:.4f} ({terms}), {result.seconds:.2f} s")
    left = config.run.total_steps - (setup.resumed_step or 0)
    print(f"{f'{left} steps':16}at most {format_time(result.seconds * left)}: the first is slow")
    print("Nothing was written.")


def _describe_precision(setup: Setup) -> str:
    autocast = resolve_precision(setup.config.run, setup.device)
    return "float32" if autocast is None else str(autocast).removeprefix("torch.")


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def make_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(
        "python -m training.train", description="Train a model, or go on with a run."
    )
    parser.add_argument(
        "config", help="TOML file, or the name of a shipped one (fast, paper, segnet ...)"
    )
    parser.add_argument("--data", type=Path, required=True, help="cache of training.prepare")
    parser.add_argument("--split", type=Path, required=True, help="JSON file of the split")
    parser.add_argument("--run", type=Path, required=True, help="folder of this run")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        help="insist on going on, or on a new run; without it the folder decides",
    )
    parser.add_argument(
        "--init",
        type=Path,
        metavar="MODEL",
        help="model file of the same network, whose weights a new run starts from (fine-tuning)",
    )
    parser.add_argument(
        "--allow-changes", action="store_true", help="go on with other settings than before"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.NAME=VALUE",
        help="change a setting, as in --set run.batch_size=8; can be repeated",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="show everything, take one step, write nothing"
    )
    parser.add_argument("--threads", type=int, help="CPU threads of torch")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 1 for an error, 128 + a signal's number."""
    options = make_parser().parse_args(arguments)
    # Denormal numbers make a CPU many times slower. Threads that torch starts later inherit this.
    torch.set_flush_denormal(True)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        setup = prepare_run(options)
        if options.dry_run:
            dry_run(setup)
            return 0
        return run_training(setup)
    except (DiffsegError, FloatingPointError, OSError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
