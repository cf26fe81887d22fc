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
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from napari_diffseg.core.brats import discover_cases
from napari_diffseg.core.errors import CaseError
from training import prepare, report
from training.add_encoder import add_encoder
from training.data import Split, load_split
from training.files import write_text
from training.make_split import make_folds
from training.paper_plan import DIFFUSION_ROWS, System, check_settings, make_plan
from training.paper_steps import (
    add_common_options,
    evaluate_row,
    run_by_budget,
    run_step,
    train_system,
)
from training.results import FILES, SettingRow, SheetRow, read_rows, write_rows

FOLDS_NAME: Final = "folds.json"
_RECOMMENDED_STEPS: Final = 2


@dataclass(frozen=True)
class Recipe:
    """What is trained in each fold: the two parts of a model with a second encoder."""

    model: System = System("unet_and_denoiser", "fast", DIFFUSION_ROWS, "--checkpoint")
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


def find_folds(arguments: argparse.Namespace, *, has_failed: bool) -> list[Path]:
    """Return the split file of each fold: those that are there, or new ones.

    Raises
    ------
    CaseError
        There are too few patients, the folds that are there are others than those asked for, or
        new ones would lack a case that is in the folder.
    """
    work: Path = arguments.work
    wanted = None if arguments.split is None else load_split(arguments.split)
    paths = [work / f"fold_{number}" / "split.json" for number in range(arguments.folds)]
    if (work / FOLDS_NAME).exists():
        made = _read(work / FOLDS_NAME)
        asked = {"folds": arguments.folds, "seed": arguments.seed}
        if wanted is not None:
            asked["cases"] = sorted(wanted.training)
        if changed := [name for name, value in asked.items() if made[name] != value]:
            raise CaseError(
                f"{work} is divided into {made['folds']} folds of {len(made['cases'])} cases by "
                f"seed {made['seed']}: another {' and other '.join(changed)} needs another --work."
            )
        if wanted is not None and _divide(arguments, wanted) != [_read(path) for path in paths]:
            raise CaseError(
                f"{arguments.split} says otherwise who is one patient than when the folds of "
                f"{work} were made. Choose another --work."
            )
        return paths
    if wanted is not None:
        split = wanted
    else:
        if has_failed:
            raise CaseError(
                "Some cases cannot be used, see above. Remove them from the folder, or name the "
                "others in a split file (--split): they would be missing from the result."
            )
        # The cache may hold cases of before.
        split = Split(tuple(files.name for files in discover_cases(arguments.cases)), ())
    for path, fold in zip(paths, _divide(arguments, split), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(fold, indent=1) + "\n")
    made = {"folds": arguments.folds, "seed": arguments.seed, "cases": sorted(split.training)}
    write_text(work / FOLDS_NAME, json.dumps(made, indent=1) + "\n")
    return paths


def _divide(arguments: argparse.Namespace, split: Split) -> list[dict[str, Any]]:
    return make_folds(split.training, arguments.folds, arguments.seed, split.patients)


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def pool_evaluations(folders: Sequence[Path], out: Path) -> None:
    """Write the rows of all folds as those of one evaluation.

    Of settings in which the folds differ it says how many there are; hours are those of a fold.

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
    rows = [SettingRow(name, _summarise(name, values)) for name, values in settings.items()]
    write_rows(out, SettingRow, [*rows, SettingRow("folds", str(len(folders)))])


def _summarise(name: str, values: Sequence[str]) -> str:
    if len(set(values)) == 1:
        return values[0]
    if name == "training_hours" and all(values):
        return f"{np.mean([float(value) for value in values]):.2f}"
    return f"{len(set(values))} different"


def cross_validate(arguments: argparse.Namespace, recipe: Recipe) -> None:
    """Do everything that is still to be done, fold by fold.

    Raises
    ------
    DiffsegError
        A step failed, or was stopped.
    """
    check_settings(arguments.set, ["run.total_steps", "run.validate_every", "run.stop_after"])
    if arguments.split is not None:
        load_split(arguments.split)  # what is wrong with it is said at once
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    arguments.cache = work / "cache"
    # Held-out patients must not be seen on the way, so there is no validation.
    arguments.set = ["run.validate_every=0", *arguments.set]
    cache = ["--config", recipe.model.config, "--workers", str(arguments.workers)]
    # A case that cannot be used has been reported; if a fold needs it, training says so.
    where = [str(arguments.cases), str(arguments.cache)]
    code = run_step("preparation", prepare, [*where, *cache], accept=(0, 1))
    splits = find_folds(arguments, has_failed=code != 0)
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
    add_common_options(parser)
    add = parser.add_argument
    add(
        "--split",
        type=Path,
        metavar="FILE",
        help="divide the training cases of this split, and leave its validation cases alone "
        "(default: divide all cases)",
    )
    add("--folds", type=int, default=5, metavar="K", help="default: %(default)s")
    add("--seed", type=int, default=0, help="decides who is in which fold (default: %(default)s)")
    return parser


def main(argv: Sequence[str] | None = None, recipe: Recipe | None = None) -> int:
    """Cross-validate; 1: something failed, 130: it was stopped and can go on."""
    arguments = make_parser().parse_args(argv)
    return run_by_budget(
        "training.cross_validate", arguments, lambda: cross_validate(arguments, recipe or Recipe())
    )


if __name__ == "__main__":
    sys.exit(main())
