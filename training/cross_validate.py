"""Cross-validation: ``python -m training.cross_validate CASES_DIR --work WORK``.

The patients are divided into folds. For each fold the networks of the bundled model are trained
from nothing on the other patients: U-Net and denoiser (``fast``), then Bayesian SegNet, which is
put beside the U-Net (`training.add_encoder`). So every patient is segmented by networks that have
never seen it, all are put into one report (`training.report`), and choices such as a threshold can
be made without the patients of the validation.

As in `training.paper_table` a budget decides the length, and the same command goes on after any
interruption and does nothing twice. WORK has a folder for each fold.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from napari_diffseg.core.errors import CaseError, DiffsegError
from training import prepare, report
from training.add_encoder import add_encoder
from training.cache_index import read_index
from training.data import load_split
from training.make_split import make_folds
from training.paper_plan import System, make_plan, parse_budget
from training.paper_steps import describe_end, evaluate_row, run_step, train_system
from training.results import FILES, SettingRow, SheetRow, read_rows, write_rows

_RECOMMENDED_STEPS: Final = 2


@dataclass(frozen=True)
class Recipe:
    """What is trained in each fold: the two parts of a model with a second encoder."""

    model: System = System("unet_and_denoiser", "fast", (("ddpm", ()),), "--checkpoint")
    """Evaluated with the other beside its U-Net."""
    segnet: System = System(
        "bayesian_segnet",
        "bayesian_segnet",
        (("bayesian_segnet", ()),),
        settings=("baseline.segnet.channels=[32, 64, 128, 256, 256]",),
    )

    @property
    def systems(self) -> tuple[System, System]:
        """Both."""
        return self.model, self.segnet


def run_fold(
    arguments: argparse.Namespace, split: Path, recipe: Recipe, total_steps: dict[str, int]
) -> None:
    """Train and evaluate what is still to be done of one fold.

    Raises
    ------
    DiffsegError
        Something failed, or was stopped.
    """
    (arguments.work / "models").mkdir(parents=True, exist_ok=True)
    model, segnet = (
        train_system(arguments, split, system, total_steps[system.name])
        for system in recipe.systems
    )
    both = arguments.work / "models" / "both.safetensors"
    if not both.exists():
        add_encoder(model, segnet, both, name="cross-validation", steps=_RECOMMENDED_STEPS)
    for system, path in zip(recipe.systems, (both, segnet), strict=True):
        for row, options in system.rows:
            evaluate_row(arguments, split, row, [system.option, str(path), *options])


def write_folds(arguments: argparse.Namespace) -> list[Path]:
    """Return the split file of each fold; those that are there stay as they are.

    Raises
    ------
    CaseError
        There are too few patients, or the folds that are there are of other patients.
    """
    names, keys = _find_cases(arguments)
    folds = make_folds(names, arguments.folds, arguments.seed, keys)
    paths = [arguments.work / f"fold_{number}" / "split.json" for number in range(len(folds))]
    for path, fold in zip(paths, folds, strict=True):
        text = json.dumps(fold, indent=1) + "\n"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.part")
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, path)
        elif json.loads(path.read_text(encoding="utf-8")) != fold:
            raise CaseError(
                f"{path} is a fold of other cases, another --folds or another --seed, and was "
                "trained by. Choose another --work."
            )
    if others := set(arguments.work.glob("fold_*")) - {path.parent for path in paths}:
        raise CaseError(f"{min(others)} is of a run with more folds. Choose another --work.")
    return paths


def _find_cases(arguments: argparse.Namespace) -> tuple[Sequence[str], dict[str, str]]:
    """Return the cases to divide, and the patient of those whose name does not tell."""
    if arguments.split is None:
        index = read_index(arguments.cache)
        return [*index.cases] if index else [], {}
    keys = json.loads(arguments.split.read_text(encoding="utf-8")).get("patient_key", {})
    return load_split(arguments.split).training, keys


def pool_evaluations(folders: Sequence[Path], out: Path) -> None:
    """Write the rows of all folds as those of one evaluation.

    Settings in which the folds differ are their mean if they are numbers, or how many there are.

    Raises
    ------
    DiffsegError
        A CSV file is missing or damaged.
    """
    out.mkdir(parents=True, exist_ok=True)
    for cls in FILES:
        if cls not in (SettingRow, SheetRow):
            write_rows(out, cls, [row for folder in folders for row in read_rows(folder, cls)])
    settings: dict[str, list[str]] = {}
    for folder in folders:
        for row in read_rows(folder, SettingRow):
            settings.setdefault(row.name, []).append(row.value)
    rows = [SettingRow(name, _summarise(values)) for name, values in settings.items()]
    write_rows(out, SettingRow, rows)


def _summarise(values: Sequence[str]) -> str:
    kinds = Counter(values)
    if len(kinds) == 1:
        return values[0]
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        return f"{len(kinds)} different"
    mean = float(np.mean(numbers))
    return str(round(mean)) if all(n.is_integer() for n in numbers) else f"{mean:.2f}"


def cross_validate(arguments: argparse.Namespace, recipe: Recipe) -> None:
    """Do everything that is still to be done, fold by fold.

    Raises
    ------
    DiffsegError
        A step failed, or was stopped.
    """
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    arguments.cache = work / "cache"
    # Held-out patients must not be seen on the way, so there is no validation.
    arguments.set = ["run.validate_every=0", *arguments.set]
    cache = ["--config", recipe.model.config, "--workers", str(arguments.workers)]
    # A case that cannot be used has been reported; if a fold needs it, training says so.
    where = [str(arguments.cases), str(arguments.cache)]
    run_step("preparation", prepare, [*where, *cache], accept=(0, 1))
    splits = write_folds(arguments)
    n_others = len(recipe.systems) * (len(splits) - 1)
    plan = make_plan(arguments, splits[0], recipe.systems, n_others)
    for number, split in enumerate(splits):
        print(f"== fold {number + 1} of {len(splits)}", file=sys.stderr)
        of_fold: dict[str, Any] = {**vars(arguments), "work": split.parent}
        run_fold(argparse.Namespace(**of_fold), split, recipe, plan.total_steps)
    for system in recipe.systems:
        for row, _ in system.rows:
            folders = [split.parent / "systems" / row for split in splits]
            pool_evaluations(folders, work / "systems" / row)
    run_step("report", report, [str(work)])


def make_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(
        "python -m training.cross_validate",
        description="Train the bundled model's networks once for each fold, and evaluate each on "
        "the patients that it has not seen.",
    )
    add = parser.add_argument
    add("cases", type=Path, metavar="CASES_DIR", help="folder of cases with labels")
    add("--work", type=Path, required=True, metavar="WORK", help="for everything that is made")
    add(
        "--split",
        type=Path,
        metavar="FILE",
        help="divide the training cases of this split, and leave its validation cases alone "
        "(default: divide all cases)",
    )
    add("--folds", type=int, default=5, metavar="K", help="default: %(default)s")
    add("--seed", type=int, default=0, help="decides who is in which fold (default: %(default)s)")
    add(
        "--budget",
        type=parse_budget,
        default=parse_budget("2h"),
        metavar="TIME",
        help="of all training together, as 90m, 2h or 1d; shared equally (default: 2h)",
    )
    add("--samples", type=int, default=5, metavar="N", help="members (default: %(default)s)")
    add("--slices", default="80:129", metavar="A:B", help="of the protocol (default: the paper's)")
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
    return parser


def main(argv: Sequence[str] | None = None, recipe: Recipe | None = None) -> int:
    """Cross-validate; 1: something failed, 130: it was stopped and can go on."""
    arguments = make_parser().parse_args(argv)
    # As training.train does for itself: the trial shall be as fast as what it stands for.
    torch.set_flush_denormal(True)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    try:
        cross_validate(arguments, recipe or Recipe())
    except (DiffsegError, OSError, FloatingPointError) as error:
        return describe_end("training.cross_validate", error)
    except KeyboardInterrupt:
        print("\nInterrupted; the same command goes on from here.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
