"""Train a model: ``python -m training.train CONFIG --data CACHE --split SPLIT --run FOLDER``.

The run's folder holds everything that is needed to go on after an interruption of any kind: the
same command does it. ``accelerate launch -m training.train ...`` trains with several processes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from napari_diffseg.core.errors import DiffsegError
from napari_diffseg.core.model import DiffusionModel
from napari_diffseg.core.progress import format_time
from napari_diffseg.core.segment import is_out_of_memory
from training.config import format_config
from training.processes import ONE_PROCESS, join_processes
from training.run_setup import Setup, make_trainer, prepare_run
from training.session import run_training

_ADVICE_ON_MEMORY = (
    "The memory ran out. Set run.accumulate=2 (or more), run.recompute_activations=true, or a "
    "smaller run.batch_size; a state that was saved is intact, and with --allow-changes the run "
    "goes on from there."
)


def dry_run(setup: Setup) -> None:
    """Show what a run would do and take one step, without writing anything."""
    config = setup.config
    trainer = make_trainer(setup)
    if not setup.processes.is_main:
        trainer.run_step()
        return
    print(format_config(config))
    network = trainer.network
    print(f"parameters      {_count(network):,}", end="")
    if isinstance(network, DiffusionModel) and network.prior_encoder is not None:
        print(
            f" (prior encoder {_count(network.prior_encoder):,}, "
            + (f"second {_count(network.second_encoder):,}, " if network.second_encoder else "")
            + f"denoiser {_count(network.denoiser):,})",
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
        f"device          {setup.device}, {setup.precision}, {torch.get_num_threads()} threads"
        + (f", {setup.processes.count} processes" if setup.processes.count > 1 else "")
    )
    if setup.resumed_step is not None:
        print(f"run             goes on at step {setup.resumed_step} of {config.run.total_steps}")
    result = trainer.run_step()
    terms = ", ".join(f"{name} {value:.4f}" for name, value in result.terms.items())
    print(f"one step        loss {result.loss:.4f} ({terms}), {result.seconds:.2f} s")
    if peak := _describe_peak_memory(setup.device):
        print(f"memory          {peak}")
    left = config.run.total_steps - (setup.resumed_step or 0)
    print(f"{f'{left} steps':16}at most {format_time(result.seconds * left)}: the first is slow")
    print("Nothing was written.")


def _describe_peak_memory(device: torch.device) -> str:
    """Return the most memory that was taken so far, "" where nothing tells it."""
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 1e9:.1f} GB on the device at most"
    try:
        import resource
    except ImportError:  # on Windows
        return ""
    unit = 1 if sys.platform == "darwin" else 1024
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return f"{peak_bytes / 1e9:.1f} GB at most"


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
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: %(default)s)"
    )
    parser.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        help="insist on going on, or on a new run; without it the folder decides",
    )
    parser.add_argument(
        "--init",
        type=Path,
        metavar="MODEL",
        help="model file whose weights a new run starts from (fine-tuning): of the same network, "
        "or, for the U-Net, of a model with such an encoder",
    )
    parser.add_argument(
        "--init-encoder",
        type=Path,
        metavar="UNET",
        help="file of a trained U-Net, which is the prior encoder that a new run starts from",
    )
    parser.add_argument(
        "--init-second-encoder",
        type=Path,
        metavar="SEGNET",
        help="file of a trained SegNet, which is the second encoder that a new run starts from",
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
    processes = ONE_PROCESS
    try:
        processes, device = join_processes(options.device)
        if options.threads:
            torch.set_num_threads(options.threads)
        setup = prepare_run(options, processes, device)
        if options.dry_run:
            dry_run(setup)
            processes.leave()
            return 0
        return run_training(setup)
    except FloatingPointError as error:  # in all processes alike
        processes.leave()
        if processes.is_main:
            print(f"\n{error}", file=sys.stderr)
        return 1
    except (DiffsegError, OSError) as error:
        print(f"\n{processes.prefix}{error}", file=sys.stderr)
        return 1
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            print(f"\n{processes.prefix}{_ADVICE_ON_MEMORY}", file=sys.stderr)
            return 1
        if not isinstance(error, RuntimeError) or not processes.have_lost_one(error):
            raise
        print(
            f"\n{processes.prefix}Another process has ended, see what it says. The last state in "
            f"{options.run} is intact; the same command goes on from there.",
            file=sys.stderr,
        )
        return 1


if __name__ == "__main__":
    sys.exit(main())
