"""The paper's table and the tables of uncertainty: one row for each system that was evaluated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from napari_diffseg.core.errors import DiffsegError
from training.cells import (
    Cell,
    Table,
    format_table,
    mean_with_interval,
    number_cell,
    score_cell,
)
from training.coverage import HEAD, NOTES, make_cells
from training.known_patients import describe_known_patients
from training.paired import make_paired_table
from training.ranking import make_ranking_table
from training.results import SYSTEMS, CalibrationRow, TimingRow, UncertaintyRow
from training.systems import LINES, PUBLISHED, Evaluation, describe_missing, find_evaluations
from training.threshold_table import make_threshold_table

_MEASURES: Final[tuple[tuple[str, Callable[[UncertaintyRow], float | None]], ...]] = (
    ("ECE", lambda row: row.ece),
    ("Brier", lambda row: row.brier),
    ("error AUROC", lambda row: row.error_auroc),
    ("error AUPRC", lambda row: row.error_auprc),
    ("error Dice", lambda row: row.error_best_dice),
    ("QU-BraTS", lambda row: row.qu_brats),
    ("diversity", lambda row: row.diversity),
    ("GED^2", lambda row: row.ged_squared),
)


def make_sections(found: Mapping[str, Evaluation]) -> list[tuple[str, list[Table]]]:
    """Return the tables of all systems, with the heading of each group."""
    paired, thresholds = make_paired_table(found), make_threshold_table(found)
    return [
        ("Segmentation", [_table_of_systems(found)]),
        ("In 3-D", [_table_of_volumes(found)]),
        ("Against the ensemble", [] if paired is None else [paired]),
        ("Threshold", [] if thresholds is None else [thresholds]),
        ("Uncertainty", [_table_of_uncertainty(found)]),
        (
            "Which slices, and which cases, need a human?",
            [make_ranking_table(found, of_slices=yes) for yes in (True, False)],
        ),
    ]


RANKING_NOTES: Final = (
    "First slices, then cases in 3-D. AURC: mean risk (1 - Dice) of the most confident ones, over "
    "all shares that could be kept; 0 is best (95 % bootstrap interval over patients). Confidence: "
    "the members' mean pairwise Dice; the soft Dice of the mean map and its mask (2402.10665); the "
    "mean entropy inside the brain, the lower the surer. rho: Spearman's correlation of confidence "
    "and Dice; at equal size: given the predicted size, since large tumours have a high Dice and "
    "members that agree."
)


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
    parts: list[str] = []
    for heading, tables in make_sections(found):
        if tables:
            parts += [f"## {heading}", *(table.to_markdown() for table in tables)]
    return "\n\n".join([*parts, RANKING_NOTES, make_published()])


def make_published() -> str:
    """Return the paper's own figures, marked as such."""
    return "\n\n".join(
        [
            "## As published, not measured here",
            format_table(["copied from the paper", "Dice", "HD95", "Jaccard", "empty"], PUBLISHED),
            "Wolleb et al. 2021, Table 1: 1,082 slices of 37 other patients, systems trained on "
            "332. The figures above are of other patients and other training, so compare rows, not "
            "tables.",
        ]
    )


def _table_of_systems(found: Mapping[str, Evaluation]) -> Table:
    head = [
        "system",
        "Dice",
        "HD95 (mm)",
        "Jaccard",
        "empty",
        "parameters",
        "training (h)",
        "images seen",
    ]
    lines: list[list[Cell | str]] = []
    for line in LINES:
        evaluation = found.get(line.system)
        if evaluation is None:
            lines.append(describe_missing(line, len(head)))
            continue
        rows = evaluation.slices_of(line)
        full = [row for row in rows if not row.empty]
        distances = [(row.patient, row.hd95_mm) for row in full if row.hd95_mm is not None]
        settings = evaluation.settings
        lines.append(
            [
                line.describe(evaluation.n_members),
                score_cell(rows, full, lambda row: row.dice),
                mean_with_interval(distances, 2),
                score_cell(rows, full, lambda row: row.jaccard),
                Cell(str(len(rows) - len(full)), (("", len(rows) - len(full)),)),
                _count(settings.get("parameters", "")),
                _hours(settings.get("training_hours", "")),
                _count(settings.get("images_seen", "")),
            ]
        )
    return Table("segmentation", head, lines, _describe_slices(found))


def _describe_slices(found: Mapping[str, Evaluation]) -> str:
    seen = {system: {(r.case, r.slice) for r in e.slices} for system, e in found.items()}
    everywhere = set.intersection(*seen.values())
    text = (
        f"Per slice, mean [over non-empty predictions] (95 % bootstrap interval over patients). "
        f"{len(everywhere)} slices with tumour of {len({case for case, _ in everywhere})} cases. "
        "Empty predictions count Dice 0 and Jaccard 0 and have no HD95."
    )
    others = [SYSTEMS[system] for system in found if seen[system] != everywhere]
    if others:
        text += f"\nNot all systems saw the same slices: more were measured of {', '.join(others)}."
    for system, evaluation in found.items():
        if warning := describe_known_patients(evaluation.settings):
            text += f"\n{SYSTEMS[system]} was {warning}"
    if "nnunet" not in found:
        text += (
            "\nnnU-Net is a package of its own: `pip install nnunetv2`, then `python -m "
            "training.nnunet` as in training/README.md."
        )
    return text


def _table_of_volumes(found: Mapping[str, Evaluation]) -> Table:
    measures = ("3-D Dice", "3-D HD95 (mm)", "volume error (mL)", "absolute (mL)", "empty")
    head = ["system", *measures, *HEAD]
    lines: list[list[Cell | str]] = []
    where = set()
    for line in LINES:
        evaluation = found.get(line.system)
        rows = [] if evaluation is None else evaluation.cases_of(line)
        if evaluation is None or not rows:
            lines.append(describe_missing(line, len(head)))
            continue
        where |= {(row.first_slice, row.last_slice) for row in rows}
        n_empty = sum(row.empty for row in rows)
        lines.append(
            [
                line.describe(evaluation.n_members),
                mean_with_interval([(r.patient, r.dice) for r in rows], 3),
                mean_with_interval(
                    [(r.patient, r.hd95_mm) for r in rows if r.hd95_mm is not None], 2
                ),
                mean_with_interval([(r.patient, r.volume_error_ml) for r in rows], 1),
                mean_with_interval([(r.patient, abs(r.volume_error_ml)) for r in rows], 1),
                Cell(str(n_empty), (("", n_empty),)),
                *make_cells(evaluation, line),
            ]
        )
    slices = " and ".join(f"{first} to {last}" for first, last in sorted(where)) or "?"
    notes = (
        f"Means over cases (95 % bootstrap interval over patients), of slices {slices} of each "
        "case, those without tumour included. Volume error: predicted minus true.\n"
        f"{NOTES}"
    )
    return Table("volumes", head, lines, notes)


def _table_of_uncertainty(found: Mapping[str, Evaluation]) -> Table:
    head = ["system", "ECE, pooled", *(name for name, _ in _MEASURES), "s per slice"]
    lines: list[list[Cell | str]] = []
    for line in LINES:
        evaluation = found.get(line.system)
        if evaluation is None:
            lines.append(describe_missing(line, len(head)))
            continue
        rows = evaluation.maps_of(line)
        curve = [row for row in evaluation.calibration if row.method == line.method]
        lines.append(
            [
                line.describe(evaluation.n_members),
                number_cell(pool_ece(curve), 4),
                *(
                    mean_with_interval(
                        [(r.patient, value) for r in rows if (value := measure(r)) is not None], 4
                    )
                    for _, measure in _MEASURES
                ),
                number_cell(_seconds(evaluation.timings, evaluation.n_members_of(line)), 3),
            ]
        )
    notes = (
        "Inside the brain; means over cases (95 % bootstrap interval over patients); ECE, pooled: "
        "all voxels of all cases together. Of one run, the map is p and its variance p (1 - p).\n"
        "Errors are looked for by the variance map; error Dice: its overlap with the error map at "
        "the best threshold, chosen with the truth in hand.\n"
        "QU-BraTS: Dice, lost true positives and lost true negatives while uncertain voxels are "
        "left out; 1 is best.\n"
        "Diversity: mean 1 - IoU of pairs of members; GED^2 to the one rater that there is, so "
        "read it beside the diversity.\n"
        "Times are of the machine and the hour of each evaluation, all members of the row together."
    )
    return Table("uncertainty", head, lines, notes)


def pool_ece(rows: Sequence[CalibrationRow]) -> float | None:
    """Return the expected calibration error of all voxels of all cases together."""
    gaps = np.zeros(max((row.bin for row in rows), default=-1) + 1)
    for row in rows:
        gaps[row.bin] += row.observed_sum - row.predicted_sum
    n_voxels = sum(row.n_voxels for row in rows)
    return float(np.abs(gaps).sum() / n_voxels) if n_voxels else None


def _seconds(timings: Sequence[TimingRow], n_members: int) -> float | None:
    n_slices = sum(row.n_slices * row.n_samples for row in timings)
    if not n_slices:
        return None
    return float(np.sum([row.seconds for row in timings])) / n_slices * n_members


def _count(text: str) -> Cell:
    return Cell(f"{int(text):,}", (("", int(text)),)) if text.isdecimal() else Cell("?")


def _hours(text: str) -> Cell:
    try:
        return number_cell(float(text), 2)
    except ValueError:
        return Cell("?")
