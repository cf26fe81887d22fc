"""One session of a run: from where it goes on to its end, or to a signal."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from importlib.metadata import version

import torch
from torch import nn

from napari_diffseg.core.progress import format_time
from training.files import locked
from training.logs import RunLog, SilentLog
from training.loop import Trainer
from training.previews import draw_preview, save_png
from training.run_folder import write_description
from training.run_setup import Setup, make_trainer
from training.signals import StopRequest
from training.state import BEST_NAME, save_average

_BEST_BY = "dice_ensemble"


def run_training(setup: Setup) -> int:
    """Train to the end or to a signal; return the process's exit code."""
    processes = setup.processes
    with ExitStack() as held:
        with processes.failing_together():
            if processes.is_main:
                setup.folder.mkdir(parents=True, exist_ok=True)
                held.enter_context(locked(setup.folder, "training"))
        with processes.failing_together():
            trainer = make_trainer(setup)
            if processes.is_main:
                _describe_session(trainer, setup)
        with StopRequest(patient=processes.count > 1) as stop:
            with _open_log(trainer, setup) as log:
                finished = _train(trainer, setup, log, stop)
            # Who leaves first ends the others: nobody does while something is being written.
            processes.wait()
            number = max(processes.gather(stop.signal or 0))
    processes.leave()
    return 0 if finished else 128 + (number or signal.SIGTERM)


def _train(trainer: Trainer, setup: Setup, log: RunLog | SilentLog, stop: StopRequest) -> bool:
    """Train, and return whether there is nothing left to do."""
    processes, run = setup.processes, setup.config.run
    _announce(trainer, setup, log)

    def on_validation(trainer: Trainer) -> None:
        _validate(trainer, setup, log, stop)

    # A run that was killed during a validation does it now.
    missed = trainer.is_validation_step() and not log.is_validated(trainer.step)
    if processes.any(missed):
        on_validation(trainer)

    def has_settled() -> bool:
        return bool(run.stop_after) and log.count_since_best(_BEST_BY) >= run.stop_after

    finished = trainer.train(log.on_step, on_validation, lambda: stop() or has_settled())
    stopped = processes.any(stop())
    if processes.any(has_settled()) and not stopped:
        log.say(f"No better validation for {run.stop_after} in a row: the run ends.")
        finished = True
    if finished and not stopped:
        log.say(_describe_end(trainer, log))
        return True
    log.say(f"Stopped at step {trainer.step}; the same command goes on from there.")
    return False


def _validate(trainer: Trainer, setup: Setup, log: RunLog | SilentLog, stop: StopRequest) -> None:
    if setup.validator is None:
        return
    with trainer.ema.applied_to(trainer.network):
        outcome = setup.validator.validate(trainer.network, setup.device, stop, setup.processes)
    if outcome is None or isinstance(log, SilentLog):
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


def _open_log(trainer: Trainer, setup: Setup) -> RunLog | SilentLog:
    run = setup.config.run
    if not setup.processes.is_main:
        return SilentLog()
    return RunLog(setup.folder, trainer.step, run.total_steps, run.log_every)


def _describe_session(trainer: Trainer, setup: Setup) -> None:
    """Write what this session is run with into the folder."""
    session = {
        "from_step": trainer.step,
        "device": str(setup.device),
        "precision": setup.precision,
        "threads": torch.get_num_threads(),
        "processes": setup.processes.count,
    }
    if setup.device.type == "cuda":
        session["gpu"] = torch.cuda.get_device_name(setup.device)
    if setup.processes.count > 1:
        session["accelerate"] = version("accelerate")
    provenance = trainer.record()["provenance"]
    write_description(setup.folder, setup.config, setup.split_file, provenance, session)


def _announce(trainer: Trainer, setup: Setup, log: RunLog | SilentLog) -> None:
    """Say where the run begins, and who takes part."""
    if trainer.step:
        log.say(f"Going on at step {trainer.step}.")
    elif setup.init is not None:
        log.say(f"Starting from the weights of {' and '.join(map(str, setup.init.paths))}.")
    count, before = setup.processes.count, trainer.resumed_processes
    if count > 1:
        share = setup.config.run.batch_size // count
        log.say(f"{count} processes, each with {share} slices of a batch.")
    has_changed = before not in (None, count)
    if has_changed:
        log.say(
            f"The run was saved by {before} of them. Batches and random numbers stay the same, but "
            "sums are made in another order: it is not equal bit by bit."
        )
    has_dropout = any(isinstance(m, nn.Dropout) and m.p > 0 for m in trainer.network.modules())
    if has_dropout and (has_changed or (before is None and count > 1)):
        log.say("Dropout is drawn by each process: it is not that of another number of them.")


def _describe_end(trainer: Trainer, log: RunLog | SilentLog) -> str:
    best = log.best(_BEST_BY)
    text = f"Done: {trainer.step} steps in {format_time(trainer.seconds)}."
    if best is not None:
        text += f" Best Dice of the ensemble {best:.4f}."
    return f"{text} Next: python -m training.export {trainer.folder} MODEL.safetensors"
