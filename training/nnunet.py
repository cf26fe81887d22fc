"""nnU-Net v2 on the same cases: ``python -m training.nnunet {convert,train,predict} ...``.

Needs the package ``nnunetv2`` (``pip install nnunetv2``) for all but ``convert``. Its folders
(raw, preprocessed, results) are made below WORK, so no environment variable has to be set.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from napari_diffseg.core.errors import DiffsegError
from training.baselines.nnunet import DATASET, EFFORT_NAME, add_hours, write_dataset
from training.case_store import choose_cases

_NUMBER = DATASET[len("Dataset") : len("Dataset") + 3]


def make_commands(arguments: argparse.Namespace) -> list[list[str]]:
    """Return the commands of nnU-Net that an action runs, in their order."""
    work, configuration = arguments.work, arguments.configuration
    trainer, device = _trainer(arguments.epochs), arguments.device
    if arguments.action == "train":
        plan = f"nnUNetv2_plan_and_preprocess -d {_NUMBER} -c {configuration}"
        # --c goes on with a fold that was interrupted, or begins it.
        train = f"nnUNetv2_train {_NUMBER} {configuration} FOLD -tr {trainer} -device {device} --c"
        folds = [train.replace("FOLD", str(fold)).split() for fold in arguments.folds]
        return [[*plan.split(), "--verify_dataset_integrity"], *folds]
    predict = f"nnUNetv2_predict -d {_NUMBER} -c {configuration} -tr {trainer} -device {device}"
    predict += " --save_probabilities"
    images, out = work / "raw" / DATASET / "imagesTs", work / "predictions"
    return [
        [*predict.split(), "-f", f"{fold}", "-i", f"{images}", "-o", f"{out / f'fold_{fold}'}"]
        for fold in arguments.folds
    ]


def _trainer(epochs: int) -> str:
    if epochs == 1000:
        return "nnUNetTrainer"
    return f"nnUNetTrainer_{epochs}epoch{'s' if epochs > 1 else ''}"


def run_commands(commands: Sequence[Sequence[str]], work: Path) -> None:
    """Run nnU-Net's commands, one after the other.

    Raises
    ------
    DiffsegError
        The package is not installed, or a command failed.
    """
    missing = [command[0] for command in commands if shutil.which(command[0]) is None]
    if missing:
        raise DiffsegError(
            f"{missing[0]} is not there: nnU-Net is optional. Install it with "
            "`pip install nnunetv2` into this environment."
        )
    folders = {f"nnUNet_{name}": str(work / name) for name in ("raw", "preprocessed", "results")}
    for command in commands:
        print(" ".join(command), file=sys.stderr)
        if code := subprocess.run(command, env={**os.environ, **folders}, check=False).returncode:
            raise DiffsegError(f"{command[0]} failed with exit code {code}; see above.")


def make_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(
        "python -m training.nnunet", description="nnU-Net v2 on the cases of a split."
    )
    actions = parser.add_subparsers(dest="action", required=True)
    convert = actions.add_parser("convert", help="write the raw dataset")
    convert.add_argument("cases", type=Path, metavar="CASES_DIR")
    convert.add_argument("--split", type=Path, required=True)
    train = actions.add_parser("train", help="plan, preprocess and train; goes on when interrupted")
    predict = actions.add_parser("predict", help="predict the validation cases, fold by fold")
    for action in (convert, train, predict):
        action.add_argument("--work", type=Path, required=True, metavar="WORK")
    for action in (train, predict):
        action.add_argument("--folds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
        action.add_argument("--configuration", default="2d", help="default: %(default)s")
        action.add_argument(
            "--epochs",
            type=int,
            choices=(1, 5, 10, 20, 50, 100, 250, 500, 750, 1000, 2000, 4000, 8000),
            default=1000,
            help="those that nnU-Net has a trainer for (default: %(default)s)",
        )
        action.add_argument("--device", choices=("cpu", "cuda", "mps"), default="cuda")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run an action; 2: it could not be done."""
    arguments = make_parser().parse_args(argv)
    work: Path = arguments.work
    try:
        if arguments.action == "convert":
            training, test = (
                choose_cases(arguments.cases, arguments.split, part)[0]
                for part in ("training", "validation")
            )
            print(write_dataset(training, test, work / "raw"))
            return 0
        started = time.monotonic()
        try:
            run_commands(make_commands(arguments), work.resolve())
        finally:  # what was interrupted has cost its hours, too
            if arguments.action == "train":
                add_hours(work / "predictions" / EFFORT_NAME, time.monotonic() - started)
        if arguments.action == "predict":
            print(work / "predictions")
    except (DiffsegError, OSError) as error:
        print(f"training.nnunet: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted; the same command goes on from here.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
