"""nnU-Net v2 on the same cases: ``python -m training.nnunet {convert,train,predict} ...``.

Needs the package ``nnunetv2`` (``pip install "nnunetv2>=2.8"``) for all but ``convert``. Its
folders (raw, preprocessed, results) are made below WORK, so no environment variable has to be set.
What is done is not done again: a converted case, a prepared dataset, a trained fold, a predicted
case.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from napari_diffseg.core.errors import DiffsegError
from training.baselines.nnunet_dataset import write_dataset
from training.baselines.nnunet_folders import DATASET, PLANS, NnunetFolders
from training.baselines.nnunet_record import (
    EFFORT_NAME,
    add_hours,
    claim_predictions,
    sum_efforts,
)
from training.case_store import choose_cases
from training.commands import run_resumable
from training.data import load_split
from training.files import write_text

_NUMBER = DATASET[len("Dataset") : len("Dataset") + 3]
_TRAINERS = Path(__file__).resolve().parent / "nnunet_trainers"


def make_commands(arguments: argparse.Namespace) -> list[list[str]]:
    """Return the commands of nnU-Net that an action still has to run, in their order."""
    folders, configuration = find_folders(arguments), _configuration(arguments)
    options = f"-tr {_trainer(arguments)} -device {arguments.device.partition(':')[0]}"
    if arguments.action == "train":
        n = min(4, os.cpu_count() or 1)  # nnU-Net's own 8 need more memory than a laptop has
        planned = arguments.configuration
        plan = f"nnUNetv2_plan_and_preprocess -d {_NUMBER} -c {planned} -np {n} -npfp {n}"
        # --c goes on with a fold that was interrupted, or begins it.
        folds = [
            f"nnUNetv2_train {_NUMBER} {configuration} {fold} {options} --c".split()
            for fold in arguments.folds
            if not folders.is_trained(fold)
        ]
        is_prepared = _is_prepared(arguments.work, planned)
        return ([] if is_prepared else [[*plan.split(), "--verify_dataset_integrity"]]) + folds
    predict = f"nnUNetv2_predict -d {_NUMBER} -c {configuration} {options} --save_probabilities"
    places = [*f"{predict} --continue_prediction".split(), "-i", f"{folders.images}"]
    return [
        [*places, "-f", fold, "-o", f"{folders.predicted(fold)}"]
        for fold in arguments.folds
        if not folders.is_predicted(fold)
    ]


def _trainer(arguments: argparse.Namespace) -> str:
    return f"nnUNetTrainer_{arguments.epochs}epochs_{arguments.iterations}iterations"


def _configuration(arguments: argparse.Namespace) -> str:
    """Return the name by which nnU-Net knows the configuration with its batch size."""
    name: str = arguments.configuration
    return name if arguments.batch_size is None else f"{name}_batch{arguments.batch_size}"


def _add_configuration(arguments: argparse.Namespace) -> None:
    """Add the configuration with its batch size to nnU-Net's plans, as nnU-Net's users do."""
    if arguments.batch_size is None:
        return
    path = arguments.work / "preprocessed" / DATASET / f"{PLANS}.json"
    plans = json.loads(path.read_text(encoding="utf-8"))
    if _configuration(arguments) in plans["configurations"]:
        return
    plans["configurations"][_configuration(arguments)] = {
        "inherits_from": arguments.configuration,
        "batch_size": arguments.batch_size,
    }
    write_text(path, json.dumps(plans, indent=4) + "\n")


def find_folders(arguments: argparse.Namespace) -> NnunetFolders:
    """Return where the network that is asked for is, and predicts to."""
    out = getattr(arguments, "out", None) or arguments.work / "predictions"
    return NnunetFolders(arguments.work, _trainer(arguments), _configuration(arguments), out)


def _is_prepared(work: Path, configuration: str) -> bool:
    """Whether nnU-Net has prepared every case of its raw dataset, as it is now."""
    folder = work / "preprocessed" / DATASET
    labels = [*(work / "raw" / DATASET).glob("labelsTr/*")]
    images = [*(work / "raw" / DATASET).glob("imagesTr/*")]
    done = [*(folder / f"{PLANS}_{configuration}").glob("*.pkl")]
    names = {path.name.removesuffix(".nii.gz") for path in labels}
    return (
        (folder / f"{PLANS}.json").exists()
        and bool(names)
        and names == {path.stem for path in done}
        and _find_latest([*labels, *images]) <= min(path.stat().st_mtime_ns for path in done)
    )


def _find_latest(paths: Sequence[Path]) -> int:
    return max((path.stat().st_mtime_ns for path in paths), default=0)


def _check_still_valid(arguments: argparse.Namespace) -> None:
    """Make sure that no fold counts as trained, or goes on, whose cases have changed since."""
    raw = arguments.work / "raw" / DATASET
    changed = _find_latest([*raw.glob("labelsTr/*"), *raw.glob("imagesTr/*")])
    folders = find_folders(arguments)
    for fold in arguments.folds:
        # Also of a fold that was interrupted: later its files say no more what it began with.
        weights = [*folders.trained(fold).glob("checkpoint_*.pth")]
        if any(path.stat().st_mtime_ns < changed for path in weights):
            raise DiffsegError(
                f"{folders.trained(fold)}: this fold was trained before images or labels were "
                "converted anew. Choose another --work, or remove the folder of this fold."
            )


def is_installed() -> bool:
    """Whether nnU-Net's commands are there."""
    return _find_command("nnUNetv2_train") is not None


def _find_command(name: str) -> str | None:
    """Find a command of nnU-Net beside this Python, whose environment need not be active."""
    here = str(Path(sys.executable).parent)
    return shutil.which(name, path=os.pathsep.join([here, os.environ.get("PATH", os.defpath)]))


def run_commands(commands: Sequence[Sequence[str]], work: Path, device: str) -> None:
    """Run nnU-Net's commands, one after the other.

    Parameters
    ----------
    commands, work
        See `make_commands`, and where nnU-Net has its folders.
    device
        "cuda:1" is the second card.

    Raises
    ------
    DiffsegError
        The package is not installed, or a command failed.
    """
    found = {command[0]: _find_command(command[0]) for command in commands}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        raise DiffsegError(
            f"{missing[0]} is not there: nnU-Net is optional. Install it with "
            '`pip install "nnunetv2>=2.8"` into this environment.'
        )
    folders = {f"nnUNet_{name}": str(work / name) for name in ("raw", "preprocessed", "results")}
    folders["nnUNet_extTrainer"] = str(_TRAINERS)
    for command in commands:
        print(" ".join(command), file=sys.stderr)
        line = [str(found[command[0]]), *command[1:]]
        environment = {**os.environ, **folders, **_show_card(device)}
        if code := subprocess.run(line, env=environment, check=False).returncode:
            raise DiffsegError(f"{command[0]} failed with exit code {code}; see above.")


def _show_card(device: str) -> dict[str, str]:
    """Let nnU-Net, which takes the first card that it sees, see this one alone."""
    _, _, index = device.partition(":")
    if not index:
        return {}
    visible = [card for card in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if card]
    if visible and int(index) >= len(visible):
        raise DiffsegError(f"There is no {device}: CUDA_VISIBLE_DEVICES has {len(visible)}.")
    return {"CUDA_VISIBLE_DEVICES": visible[int(index)] if visible else index}


def train(arguments: argparse.Namespace) -> None:
    """Plan and preprocess, train the folds, and keep for each of them how long it took.

    Raises
    ------
    DiffsegError
        The package is not installed, or a command failed.
    """
    _check_still_valid(arguments)
    for command in make_commands(arguments):
        if command[0] != "nnUNetv2_train":
            run_commands([command], arguments.work, arguments.device)
            continue
        _add_configuration(arguments)
        fold = find_folders(arguments).trained(command[3])
        started = time.monotonic()
        try:
            run_commands([command], arguments.work, arguments.device)
        finally:  # what was interrupted has cost its hours, too
            if fold.exists():
                add_hours(fold, time.monotonic() - started)


def predict(arguments: argparse.Namespace) -> Path:
    """Predict what is still to be predicted; return the folder, whose record is of these folds.

    Raises
    ------
    DiffsegError
        A fold has not been trained, the folder is another network's, the package is not installed,
        or a command failed.
    """
    folders = find_folders(arguments)
    _check_still_valid(arguments)
    if untrained := [fold for fold in arguments.folds if not folders.is_trained(fold)]:
        raise DiffsegError(
            f"{folders.trained(untrained[0])}: this fold has not been trained to its end. Run "
            "`python -m training.nnunet train` with the same options."
        )
    effort = sum_efforts([folders.trained(fold) for fold in arguments.folds])
    claim_predictions(folders.predictions, folders.network, arguments.folds, effort)
    for fold in arguments.folds:
        folders.remove_incomplete(fold)
    run_commands(make_commands(arguments), arguments.work, arguments.device)
    return folders.predictions


def time_iteration(work: Path, device: str) -> float:
    """Return the median time of a training iteration in seconds, of a few that are thrown away.

    Raises
    ------
    DiffsegError
        The package is not installed, or a command failed.
    """
    options = ["train", "--work", str(work), "--device", device, "--folds", "0"]
    arguments = make_parser().parse_args([*options, "--epochs", "1", "--iterations", "4"])
    run_commands(make_commands(arguments), work.resolve(), device)
    path = find_folders(arguments).trained("0") / EFFORT_NAME
    return float(json.loads(path.read_text(encoding="utf-8"))["seconds_per_iteration"])


def make_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(
        "python -m training.nnunet", description="nnU-Net v2 on the cases of a split."
    )
    actions = parser.add_subparsers(dest="action", required=True)
    convert = actions.add_parser("convert", help="write the raw dataset; goes on likewise")
    convert.add_argument("cases", type=Path, metavar="CASES_DIR")
    convert.add_argument("--split", type=Path, required=True)
    convert.add_argument(
        "--workers", type=int, default=2, help="processes; each takes about 1 GB (default: 2)"
    )
    train = actions.add_parser("train", help="plan, preprocess and train; goes on when interrupted")
    predict = actions.add_parser("predict", help="predict the validation cases, fold by fold")
    for action in (convert, train, predict):
        action.add_argument("--work", type=Path, required=True, metavar="WORK")
    predict.add_argument(
        "--out", type=Path, metavar="DIR", help="of one network each (default: WORK/predictions)"
    )
    for action in (train, predict):
        action.add_argument(
            "--folds",
            nargs="+",
            choices=("0", "1", "2", "3", "4", "all"),
            default=["0", "1", "2", "3", "4"],
            help="each is a member; all: one network, trained on all cases (default: %(default)s)",
        )
        action.add_argument("--configuration", default="2d", help="default: %(default)s")
        action.add_argument("--epochs", type=int, default=1000, help="default: %(default)s")
        action.add_argument(
            "--iterations", type=int, default=250, help="of an epoch (default: %(default)s)"
        )
        action.add_argument(
            "--batch-size",
            type=_parse_batch_size,
            metavar="N",
            help="slices of an iteration, for more and shorter ones (default: as nnU-Net plans)",
        )
        action.add_argument(
            "--device",
            type=_parse_device,
            default="cuda",
            help="cpu, mps, cuda, or one of several cards: cuda:1 (default: %(default)s)",
        )
    return parser


def _parse_device(text: str) -> str:
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not cpu, mps, cuda or cuda:N")
    return text


def _parse_batch_size(text: str) -> int:
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"a batch has at least 2 slices, not {text!r}")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run an action; 2: it could not be done."""
    arguments = make_parser().parse_args(argv)
    return run_resumable("training.nnunet", lambda: _run_action(arguments))


def _run_action(arguments: argparse.Namespace) -> None:
    if arguments.action == "convert":
        print(_convert(arguments))
        return
    arguments.work = arguments.work.resolve()
    if arguments.action == "train":
        train(arguments)
    else:
        print(predict(arguments))


def _convert(arguments: argparse.Namespace) -> Path:
    from tqdm import tqdm

    split = load_split(arguments.split)
    training, test = (
        choose_cases(arguments.cases, arguments.split, part)[0] if getattr(split, part) else []
        for part in ("training", "validation")
    )
    total, workers = len(training) + len(test), max(1, arguments.workers)
    with tqdm(total=total, unit="case", desc="convert", file=sys.stderr) as bar:
        return write_dataset(training, test, arguments.work / "raw", workers, bar.update)


if __name__ == "__main__":
    sys.exit(main())
