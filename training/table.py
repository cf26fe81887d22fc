"""The tables of an evaluation, from its CSV files alone: ``python -m training.table DIR``.

Of a folder of evaluations, one subfolder for each system, it makes the paper's table
(`training.comparison`).

Means over slices are the paper's (Table 1): brackets leave out slices with an empty prediction,
which otherwise count Dice 0 and Jaccard 0, and never have a HD95. Intervals are percentile
bootstraps over *patients*: slices of one patient are no independent observations.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from napari_diffseg.core.errors import DiffsegError
from training.cells import (
    Cell,
    format_table,
    mean_with_interval,
    number_cell,
    score_cell,
    signed_mean,
)
from training.comparison import make_comparison, pool_ece
from training.coverage import describe_coverage
from training.known_patients import describe_known_patients
from training.results import (
    FILES,
    MASKS,
    PROBABILITIES,
    RUN,
    CalibrationRow,
    CaseRow,
    SliceRow,
    UncertaintyRow,
)
from training.systems import find_evaluations, read_evaluation

AnyRow = TypeVar("AnyRow", SliceRow, CaseRow)


def make_report(folder: Path) -> str:
    """Return all tables as Markdown.

    Raises
    ------
    DiffsegError
        A CSV file is missing or damaged, or holds no slice with tumour.
    """
    evaluation = read_evaluation(folder)
    slices, cases = evaluation.slices, evaluation.cases
    if not slices:
        raise DiffsegError(f"{folder}: no slice has tumour, so there is no table.")
    parts = [
        _describe(evaluation.settings, slices),
        _table_of_slices(slices),
        _differences(slices),
        _table_of_cases([row for row in cases if not row.whole_volume]),
        describe_coverage(evaluation),
        _table_of_cases([row for row in cases if row.whole_volume]),
        _table_of_maps(evaluation.uncertainty, evaluation.calibration),
    ]
    return "\n\n".join(part for part in parts if part)


def _describe(settings: dict[str, str], slices: Sequence[SliceRow]) -> str:
    n_cases, n_patients = len({r.case for r in slices}), len({r.patient for r in slices})
    n_slices = len({(r.case, r.slice) for r in slices})
    get = settings.get
    return (
        f"{n_slices} slices with tumour among slices {get('slices', '?')}; cases: {n_cases}, "
        f"patients: {n_patients}.\n"
        f"Model: {get('model', '?')} (sha256 {get('model_sha256', '?')[:12]}), "
        f"{get('sampler', '?')}, {get('steps', '?')} steps, seed {get('seed', '?')}."
        + (f"\nThe model was {warning}" if (warning := describe_known_patients(settings)) else "")
    )


def _methods(rows: Iterable[AnyRow]) -> list[tuple[str, list[AnyRow]]]:
    """Return the lines of a table: name and rows."""
    rows = list(rows)
    n = max(row.n_samples for row in rows)
    lines = [
        ("1 run", [row for row in rows if row.method == RUN and row.member == 0]),
        (f"1 run, mean of {n}", [row for row in rows if row.method == RUN]),
        (f"ensemble of {n}, of probabilities", [r for r in rows if r.method == PROBABILITIES]),
        (f"ensemble of {n}, of masks as in the paper", [r for r in rows if r.method == MASKS]),
    ]
    return [line for line in lines if n > 1 or line[0] != "1 run, mean of 1"]


def _table_of_slices(rows: Sequence[SliceRow]) -> str:
    lines: list[list[Cell | str]] = []
    for name, of_method in _methods(rows):
        full = [row for row in of_method if not row.empty]
        distances = [(r.patient, r.hd95_mm) for r in full if r.hd95_mm is not None]
        n_runs = len({row.member for row in of_method})
        n_empty = (len(of_method) - len(full)) / n_runs
        lines.append(
            [
                name,
                score_cell(of_method, full, lambda row: row.dice),
                mean_with_interval(distances, 2),
                score_cell(of_method, full, lambda row: row.jaccard),
                f"{n_empty:g}",
            ]
        )
    head = ["per slice", "Dice", "HD95 (mm)", "Jaccard", "empty"]
    return (
        format_table(head, lines)
        + "\n\nMean [over non-empty predictions] (95 % bootstrap interval over patients). "
        "HD95: over non-empty predictions."
    )


def _differences(rows: Sequence[SliceRow]) -> str:
    """Compare ensembles with single runs slice by slice, which no difference of patients blurs."""
    n = max(row.n_samples for row in rows)
    if n == 1:
        return "One member: no ensemble to compare."
    runs: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        if row.method == RUN:
            runs.setdefault((row.case, row.slice), []).append(row.dice)
    lines: list[list[Cell | str]] = []
    for method in (PROBABILITIES, MASKS):
        of_method = [row for row in rows if row.method == method]
        first, mean = (
            [(r.patient, r.dice - float(of_runs(runs[r.case, r.slice]))) for r in of_method]
            for of_runs in (lambda dice: dice[0], np.mean)
        )
        lines.append([f"of {method}", signed_mean(first), signed_mean(mean)])
    return format_table(["Dice of the ensemble minus", "1 run", f"mean of {n} runs"], lines)


def _table_of_cases(rows: Sequence[CaseRow]) -> str:
    if not rows:
        return ""
    runs, ensemble = (
        [row for row in rows if row.method == RUN and row.member == 0],
        [row for row in rows if row.method == PROBABILITIES],
    )
    masks = [row for row in rows if row.method == MASKS]
    lines = [
        [
            soft.case,
            f"{run.dice:.3f}",
            f"{soft.dice:.3f}",
            f"{hard.dice:.3f}",
            "-" if soft.hd95_mm is None else f"{soft.hd95_mm:.1f}",
            f"{soft.truth_ml:.1f}",
            f"{soft.volume_error_ml:+.1f}",
        ]
        for run, soft, hard in zip(runs, ensemble, masks, strict=True)
    ]
    distances = [row.hd95_mm for row in ensemble if row.hd95_mm is not None]
    lines.append(
        [
            "mean",
            *(f"{np.mean([row.dice for row in each]):.3f}" for each in (runs, ensemble, masks)),
            f"{np.mean(distances):.1f}" if distances else "-",
            f"{np.mean([row.truth_ml for row in ensemble]):.1f}",
            f"{np.mean([abs(row.volume_error_ml) for row in ensemble]):.1f} (absolute)",
        ]
    )
    first = rows[0]
    where = (
        "whole volume"
        if first.whole_volume
        else (f"slices {first.first_slice} to {first.last_slice}")
    )
    n = max(row.n_samples for row in rows)
    head = [
        f"3-D, {where}",
        "Dice, 1 run",
        f"Dice, {n} of probabilities",
        f"Dice, {n} of masks",
        "HD95 (mm)",
        "truth (mL)",
        "volume error (mL)",
    ]
    return format_table(head, lines)


def _table_of_maps(rows: Sequence[UncertaintyRow], curves: Sequence[CalibrationRow]) -> str:
    n = max(row.n_samples for row in rows)
    names = {RUN: "1 run, p and p(1 - p)", PROBABILITIES: f"{n} probabilities", MASKS: f"{n} masks"}
    lines: list[list[Cell | str]] = []
    for method, name in names.items():
        of_method = [row for row in rows if row.method == method]
        lines.append(
            [
                name,
                _mean(row.ece for row in of_method),
                number_cell(pool_ece([row for row in curves if row.method == method]), 4),
                _mean(row.brier for row in of_method),
                _mean(row.error_auroc for row in of_method),
                _mean(row.error_auprc for row in of_method),
                _mean(row.diversity for row in of_method),
                _mean(row.confidence for row in of_method),
            ]
        )
    head = [
        "maps inside the brain",
        "ECE",
        "ECE, pooled",
        "Brier",
        "error AUROC",
        "error AUPRC",
        "diversity",
        "confidence",
    ]
    return (
        format_table(head, lines)
        + "\n\nMeans over cases; pooled: all voxels of all cases together. Errors are looked for "
        "by the variance map.\nDiversity: mean 1 - IoU of pairs of members; confidence: mean Dice."
    )


def _mean(values: Iterable[float | None]) -> str:
    defined = [value for value in values if value is not None]
    return f"{np.mean(defined):.4f}" if defined else "-"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables of a folder that `training.evaluate` wrote, or of all such subfolders."""
    parser = argparse.ArgumentParser(prog="python -m training.table", description=main.__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR")
    try:
        folder = parser.parse_args(argv).folder
        is_one = (folder / FILES[SliceRow]).exists() or not find_evaluations(folder)
        print(make_report(folder) if is_one else make_comparison(folder))
    except DiffsegError as error:
        print(f"training.table: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
