"""The paper's table and the table of uncertainty: one row for each system that was evaluated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from napari_diffseg.core.errors import DiffsegError
from training.bootstrap import Value, sign_flip_p_value
from training.cells import format_table, mean_with_interval, score_cell, signed_mean
from training.results import (
    FILES,
    MASKS,
    PROBABILITIES,
    RUN,
    SYSTEMS,
    SettingRow,
    SliceRow,
    TimingRow,
    UncertaintyRow,
    read_rows,
)
from training.selective import compute_aurc

NOT_RUN = "not run"

_PUBLISHED: Final = (
    ("DDPM, 1 run", "0.866 [0.892]", "6.052", "0.795 [0.819]", "31"),
    ("DDPM, ensemble of 5", "0.881 [0.909]", "5.178", "0.819 [0.845]", "34"),
    ("nnU-Net, 5-fold ensemble", "0.891 [0.905]", "5.004", "0.831 [0.845]", "17"),
    ("SegNet, 1 run", "0.839 [0.867]", "7.190", "0.761 [0.786]", "34"),
    ("Bayesian SegNet, 5 runs", "0.838 [0.841]", "13.707", "0.747 [0.749]", "3"),
)
"""Wolleb et al. 2021, Table 1; HD95 in pixels, which are millimetres there."""


@dataclass(frozen=True)
class _Line:
    """A row of the table before it is known who was evaluated."""

    system: str
    text: str
    method: str

    def describe(self, n: int | None) -> str:
        return f"{SYSTEMS[self.system]}{self.text.format(n='n' if n is None else n)}"


_LINES = (
    _Line("ddpm", ", 1 run", RUN),
    _Line("ddpm", ", ensemble of {n}", PROBABILITIES),
    _Line("ddpm", ", ensemble of {n}, of masks as in the paper", MASKS),
    _Line("nnunet", ", ensemble of {n}", PROBABILITIES),
    _Line("segnet", ", 1 run", PROBABILITIES),
    _Line("bayesian_segnet", ", {n} runs", PROBABILITIES),
    _Line("unet", ", 1 run", PROBABILITIES),
    _Line("mc_dropout_unet", ", {n} runs", PROBABILITIES),
)
_REFERENCE = _LINES[1]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `training.evaluate` wrote of one system."""

    folder: Path
    settings: dict[str, str]
    slices: list[SliceRow]
    uncertainty: list[UncertaintyRow]
    timings: list[TimingRow]

    @property
    def n_members(self) -> int:
        """Of the ensemble."""
        return max(row.n_samples for row in self.slices)

    def of_line(self, line: _Line) -> list[SliceRow]:
        """Return the slices of a row of the table; of single runs, the first."""
        return [r for r in self.slices if r.method == line.method and r.member in (None, 0)]


def find_evaluations(folder: Path) -> dict[str, Evaluation]:
    """Return the evaluations in the subfolders of a folder, by system.

    Raises
    ------
    DiffsegError
        A system is there twice, or a file is damaged.
    """
    found: dict[str, Evaluation] = {}
    for path in sorted(folder.glob(f"*/{FILES[SliceRow]}")):
        settings = {row.name: row.value for row in read_rows(path.parent, SettingRow)}
        system = settings.get("system", "ddpm")
        if system not in SYSTEMS:
            raise DiffsegError(f"{path.parent}: {system!r} is none of {', '.join(SYSTEMS)}.")
        if system in found:
            raise DiffsegError(
                f"{found[system].folder} and {path.parent} are both of {SYSTEMS[system]}: "
                "a table has one row for it. Move one away."
            )
        timed = (path.parent / FILES[TimingRow]).exists()
        evaluation = Evaluation(
            path.parent,
            settings,
            read_rows(path.parent, SliceRow),
            read_rows(path.parent, UncertaintyRow),
            read_rows(path.parent, TimingRow) if timed else [],
        )
        if evaluation.slices:
            found[system] = evaluation
    return found


def make_comparison(folder: Path) -> str:
    """Return the tables of all systems in the subfolders as Markdown.

    Raises
    ------
    DiffsegError
        There is no evaluation, or one is damaged.
    """
    found = find_evaluations(folder)
    if not found:
        raise DiffsegError(f"{folder} holds no evaluation. Run `python -m training.evaluate`.")
    parts = [
        "## Segmentation",
        _table_of_systems(found),
        _describe_slices(found),
        "## Uncertainty",
        _table_of_uncertainty(found),
        "## As published, not measured here",
        format_table(["copied from the paper", "Dice", "HD95", "Jaccard", "empty"], _PUBLISHED),
        "Wolleb et al. 2021, Table 1: 1,082 slices of 37 other patients, systems trained on 332. "
        "The figures above are of other patients and other training, so compare rows, not tables.",
    ]
    return "\n\n".join(parts)


def _table_of_systems(found: dict[str, Evaluation]) -> str:
    head = [
        "system",
        "Dice",
        "HD95 (mm)",
        "Jaccard",
        "empty",
        "Dice minus the DDPM ensemble's",
        "p",
        "parameters",
        "training (h)",
        "images seen",
    ]
    lines = []
    for line in _LINES:
        evaluation = found.get(line.system)
        if evaluation is None:
            lines.append([line.describe(None), NOT_RUN, *["-"] * (len(head) - 2)])
            continue
        rows = evaluation.of_line(line)
        full = [row for row in rows if not row.empty]
        distances = [(row.patient, row.hd95_mm) for row in full if row.hd95_mm is not None]
        settings = evaluation.settings
        lines.append(
            [
                line.describe(evaluation.n_members),
                score_cell(rows, full, lambda row: row.dice),
                mean_with_interval(distances, 2),
                score_cell(rows, full, lambda row: row.jaccard),
                str(len(rows) - len(full)),
                *_compare(rows, line, found),
                _with_thousands(settings.get("parameters", "")),
                settings.get("training_hours", "") or "?",
                _with_thousands(settings.get("images_seen", "")),
            ]
        )
    return format_table(head, lines)


def _compare(rows: Sequence[SliceRow], line: _Line, found: dict[str, Evaluation]) -> list[str]:
    """Return difference and p to the ensemble, slice by slice on those that both have."""
    reference = found.get(_REFERENCE.system)
    if reference is None or line == _REFERENCE:
        return ["-", "-"]
    theirs = {(r.case, r.slice): r.dice for r in reference.of_line(_REFERENCE)}
    differences: list[Value] = [
        (row.patient, row.dice - theirs[row.case, row.slice])
        for row in rows
        if (row.case, row.slice) in theirs
    ]
    if not differences:
        return ["-", "-"]
    p = sign_flip_p_value(differences)
    return [signed_mean(differences), "-" if p is None else f"{p:.3f}"]


def _describe_slices(found: dict[str, Evaluation]) -> str:
    seen = {system: {(r.case, r.slice) for r in e.slices} for system, e in found.items()}
    everywhere = set.intersection(*seen.values())
    text = (
        f"Per slice, mean [over non-empty predictions] (95 % bootstrap interval over patients). "
        f"{len(everywhere)} slices with tumour of {len({case for case, _ in everywhere})} cases. "
        "Differences are slice by slice; p by swapping the systems patient by patient."
    )
    others = [SYSTEMS[system] for system in found if seen[system] != everywhere]
    if others:
        text += f"\nNot all systems saw the same slices: more were measured of {', '.join(others)}."
    return text


def _table_of_uncertainty(found: dict[str, Evaluation]) -> str:
    measures: list[tuple[str, Callable[[UncertaintyRow], float | None]]] = [
        ("ECE", lambda row: row.ece),
        ("Brier", lambda row: row.brier),
        ("error AUROC", lambda row: row.error_auroc),
        ("error AUPRC", lambda row: row.error_auprc),
        ("QU-BraTS", lambda row: row.qu_brats),
        ("diversity", lambda row: row.diversity),
        ("GED^2", lambda row: row.ged_squared),
    ]
    lines = []
    for line in _LINES:
        evaluation = found.get(line.system)
        if evaluation is None:
            lines.append([line.describe(None), NOT_RUN, *["-"] * (len(measures) + 2)])
            continue
        rows = [row for row in evaluation.uncertainty if row.method == line.method]
        cells = [
            mean_with_interval(
                [(r.patient, value) for r in rows if (value := measure(r)) is not None], 4
            )
            for _, measure in measures
        ]
        n_members = 1 if line.method == RUN else evaluation.n_members
        lines.append(
            [
                line.describe(evaluation.n_members),
                *cells,
                _aurc(rows, lambda row: row.confidence),
                _aurc(rows, lambda row: None if row.mean_entropy is None else -row.mean_entropy),
                _seconds(evaluation.timings, n_members),
            ]
        )
    head = ["system", *(name for name, _ in measures), "AURC", "AURC by entropy", "s per slice"]
    return (
        format_table(head, lines)
        + "\n\nInside the brain; means over cases (95 % bootstrap interval over patients). Of one "
        "run, the map is p and its variance p (1 - p).\n"
        "QU-BraTS: Dice, lost true positives and lost true negatives while uncertain voxels are "
        "left out; 1 is best.\n"
        "AURC: mean risk (1 - Dice in 3-D) of the most confident cases, by the members' mean "
        "pairwise Dice or by the mean entropy; 0 is best.\n"
        "Times are of the machine and the hour of each evaluation, all members of the row together."
    )


def _aurc(
    rows: Sequence[UncertaintyRow], confidence: Callable[[UncertaintyRow], float | None]
) -> str:
    pairs = [
        (value, 1 - row.dice)
        for row in rows
        if row.dice is not None and (value := confidence(row)) is not None
    ]
    area = compute_aurc(*zip(*pairs, strict=True)) if pairs else None
    return "-" if area is None else f"{area:.4f}"


def _seconds(timings: Sequence[TimingRow], n_members: int) -> str:
    n_slices = sum(row.n_slices * row.n_samples for row in timings)
    if not n_slices:
        return "-"
    return f"{np.sum([row.seconds for row in timings]) / n_slices * n_members:.3f}"


def _with_thousands(text: str) -> str:
    return f"{int(text):,}" if text.isdecimal() else "?"
