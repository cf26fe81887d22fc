"""A run before its first step: everything is read and checked, nothing is written."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from napari_diffseg.core.errors import CaseError, ParameterError
from napari_diffseg.core.provenance import ORIGINS
from training.cache_index import check_index
from training.config import TrainingConfig, config_values, find_config, load_config
from training.data import SliceCache, Split, load_split
from training.loop import Trainer, resolve_precision
from training.processes import Processes
from training.run_folder import check_resumable, collect_provenance
from training.validate import Validator
from training.warm_start import InitialWeights, load_initial_weights


@dataclass(frozen=True)
class Setup:
    """What a run needs."""

    config: TrainingConfig
    split: Split
    split_file: Path
    folder: Path
    device: torch.device
    processes: Processes
    cache: SliceCache
    validator: Validator | None
    provenance: dict[str, Any]
    resumed_step: int | None
    """Where the folder's run goes on; None: it begins."""
    init: InitialWeights | None = None
    """The weights that a run that begins starts from."""

    @property
    def precision(self) -> str:
        """Name of the type that the network computes with."""
        autocast = resolve_precision(self.config.run, self.device)
        return "float32" if autocast is None else str(autocast).removeprefix("torch.")


def prepare_run(options: argparse.Namespace, processes: Processes, device: torch.device) -> Setup:
    """Read and check all that a run needs; in all its processes or in none.

    Raises
    ------
    DiffsegError
        If anything is missing, damaged or contradictory.
    """
    with processes.failing_together():
        setup = _read_and_check(options, processes, device)
    seen = {
        "configuration": config_values(setup.config),
        "step of the run's folder": setup.resumed_step,
        "data, code and versions": setup.provenance,
    }
    with processes.failing_together():
        _check_alike(processes.gather(seen))
    return setup


def _read_and_check(
    options: argparse.Namespace, processes: Processes, device: torch.device
) -> Setup:
    config = load_config(find_config(options.config), options.set)
    _check_divisible(config, processes, device)
    split = load_split(options.split)
    if not split.training:
        raise CaseError(f"{options.split}: there is no case for training.")
    names = (*split.training, *split.validation)
    index = check_index(options.data, names, config.preprocessing)
    provenance = collect_provenance(split, index)
    resumed_step = check_resumable(
        options.run,
        config,
        provenance,
        {origin: getattr(options, origin) for origin in ORIGINS},
        resume=options.resume,
        allow_changes=options.allow_changes,
    )
    init = None
    named = bool({options.init, options.init_encoder, options.init_second_encoder} - {None})
    if named and resumed_step is None:
        init = load_initial_weights(
            options.init, config, options.init_encoder, options.init_second_encoder
        )
    if not config.optimiser.train_prior_encoder and resumed_step is None:
        _check_encoders_are_given(config, init)
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
        processes,
        SliceCache(options.data, split.training, config.data, index.context_of(split.training)),
        validator,
        provenance,
        resumed_step,
        init,
    )


def _check_encoders_are_given(config: TrainingConfig, init: InitialWeights | None) -> None:
    """Make sure that what is kept as it is has been trained before."""
    given = {name.partition(".")[0] for name in (init.weights if init is not None else ())}
    for part, option, kind in (
        ("prior_encoder", "--init-encoder", "U-Net"),
        ("second_encoder", "--init-second-encoder", "SegNet"),
    ):
        if getattr(config.model, part) is not None and part not in given:
            raise ParameterError(
                f"optimiser.train_prior_encoder = false keeps the {part.replace('_', ' ')} as it "
                f"is: name the model that it comes from with --init, or the {kind} with {option}."
            )


def make_trainer(setup: Setup) -> Trainer:
    """Return the run's trainer, at the step where it goes on."""
    trainer = Trainer(
        setup.config, setup.folder, setup.cache, setup.device, setup.provenance, setup.processes
    )
    if not trainer.resume() and setup.init is not None:
        trainer.start_from(setup.init)
    return trainer


def _check_divisible(config: TrainingConfig, processes: Processes, device: torch.device) -> None:
    """Make sure that the processes can share a batch, and do what one of them would."""
    if processes.count == 1:
        return
    run = config.run
    if run.batch_size % (run.accumulate * processes.count):
        accumulated = "" if run.accumulate == 1 else f", each in {run.accumulate} parts"
        raise ParameterError(
            f"{processes.count} processes cannot share a batch of {run.batch_size} slices "
            f"equally{accumulated}: run.batch_size, which is that of all processes together, must "
            f"be a multiple of {run.accumulate * processes.count}."
        )
    if config.has_batch_norm and device.type == "cpu":
        raise ParameterError(
            "Batch normalisation is over the whole batch, which several processes can only do on "
            "GPUs: train this network in one process."
        )


def _check_alike(seen: list[dict[str, Any]]) -> None:
    """Make sure that all processes, which may be on several machines, are about the same run."""
    for number, other in enumerate(seen[1:], start=2):
        differing = [what for what, value in seen[0].items() if other[what] != value]
        if differing:
            raise ParameterError(
                f"Process {number} of {len(seen)} has another {', another '.join(differing)} than "
                "the first. All machines need the same checkout, cache and split, and one folder "
                "of the run that they share."
            )
