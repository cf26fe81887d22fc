"""Figures of the evaluations: what is against what, as panels, from the rows of their CSV files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from training.cells import Cell, Table, number_cell
from training.figures import Panel
from training.ranking import CONFIDENCES, compute_risk_coverage, rank_slices
from training.results import MASKS, PROBABILITIES, MemberRow, SheetRow
from training.systems import LINES, Evaluation
from training.thresholds import THRESHOLDS, mean_dice, volume_ratio

SHOWN_MEMBERS: Final = (1, 2, 3, 5, 10, 20, 50, 100)
"""Rows of the table of numbers of members; the figure has all of them."""
_SHOWN_BESIDE_STEPS: Final = (1, 2, 5, 20)


@dataclass(frozen=True)
class Plot:
    """A figure before it is drawn."""

    name: str
    caption: str
    panels: Sequence[Panel]
    columns: int = 3


# ------------------------------------------------------------------------------- systems compared


def plot_patients(found: Mapping[str, Evaluation]) -> Plot:
    """Return every patient's Dice, system by system, the smallest tumour first."""
    sizes: dict[str, float] = {}
    slices: dict[str, dict[str, float]] = {}
    volumes: dict[str, dict[str, float]] = {}
    for line in LINES:
        evaluation = found.get(line.system)
        if evaluation is None or line.method == MASKS:
            continue
        name = line.describe(evaluation.n_members)
        rows = evaluation.slices_of(line)
        slices[name] = _mean_by_patient((row.patient, row.dice) for row in rows)
        cases = evaluation.cases_of(line)
        volumes[name] = _mean_by_patient((row.patient, row.dice) for row in cases)
        sizes |= {p: sum(row.truth_mm2 for row in rows if row.patient == p) for p in slices[name]}
    order = sorted(sizes, key=lambda patient: sizes[patient])

    def curves(values: Mapping[str, Mapping[str, float]]) -> dict[str, list[tuple[float, float]]]:
        return {
            name: [(float(i), dice[p]) for i, p in enumerate(order, start=1) if p in dice]
            for name, dice in values.items()
        }

    return Plot(
        "patients",
        "Each patient's Dice, the mean over slices and in 3-D; patients from the smallest to the "
        "largest tumour.",
        [
            Panel("Dice, mean over slices", "patient, by tumour size", curves(slices)),
            Panel("Dice in 3-D", "patient, by tumour size", curves(volumes)),
        ],
        columns=2,
    )


def _mean_by_patient(values: Iterable[tuple[str, float]]) -> dict[str, float]:
    of_patient: dict[str, list[float]] = {}
    for patient, value in values:
        of_patient.setdefault(patient, []).append(value)
    return {patient: float(np.mean(each)) for patient, each in of_patient.items()}


def plot_reliability(found: Mapping[str, Evaluation]) -> Plot:
    """Return the reliability curve of each system, all voxels of all cases together."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for line in LINES:
        evaluation = found.get(line.system)
        rows = [] if evaluation is None else evaluation.calibration
        rows = [row for row in rows if row.method == line.method]
        if evaluation is None or not rows:
            continue
        sums = np.zeros((max(row.bin for row in rows) + 1, 3))
        for row in rows:
            sums[row.bin] += (row.n_voxels, row.predicted_sum, row.observed_sum)
        curves[line.describe(evaluation.n_members)] = [
            (predicted / n, observed / n) for n, predicted, observed in sums if n
        ]
    gaps = {name: [(p, seen - p) for p, seen in curve] for name, curve in curves.items()}
    return Plot(
        "reliability",
        "Reliability of the mean maps inside the brain: the share of tumour among voxels of equal "
        "probability, and its distance from that probability (below 0: too sure of tumour).",
        [
            Panel("reliability", "mean probability", curves, diagonal=True),
            Panel("observed minus predicted", "mean probability", gaps),
        ],
        columns=2,
    )


def plot_thresholds(found: Mapping[str, Evaluation]) -> Plot:
    """Return Dice and predicted volume of each system against the threshold."""
    slices: dict[str, list[tuple[float, float]]] = {}
    volumes: dict[str, list[tuple[float, float]]] = {}
    ratios: dict[str, list[tuple[float, float]]] = {}
    for line in LINES:
        evaluation = found.get(line.system)
        if line.method != PROBABILITIES or evaluation is None or not evaluation.thresholds:
            continue
        name = line.describe(evaluation.n_members)
        slices[name] = [*mean_dice(evaluation.thresholds).items()]
        for threshold in THRESHOLDS:
            rows = [row for row in evaluation.thresholds if row.threshold == threshold]
            dice = float(np.mean([row.volume_dice for row in rows]))
            volumes.setdefault(name, []).append((threshold, dice))
            ratio = volume_ratio(rows)
            if ratio is not None:
                ratios.setdefault(name, []).append((threshold, ratio))
    return Plot(
        "thresholds",
        "Dice and predicted volume against the threshold of the mean map.",
        [
            Panel("Dice, mean over slices", "threshold", slices),
            Panel("Dice in 3-D", "threshold", volumes),
            Panel("predicted to true volume", "threshold", ratios),
        ],
    )


def plot_risk_coverage(found: Mapping[str, Evaluation]) -> Plot:
    """Return the mean Dice of the slices that are kept when the least sure ones are given away."""
    panels = []
    for name, confidence in CONFIDENCES:
        curves = {}
        for line in LINES:
            evaluation = found.get(line.system)
            if evaluation is None or line.method == MASKS:
                continue
            items = rank_slices(evaluation.slices_of(line))
            curve = compute_risk_coverage(items, confidence)
            if curve:
                curves[line.describe(evaluation.n_members)] = curve
        panels.append(Panel(f"Dice kept, by {name}", "share of slices kept", curves))
    return Plot(
        "risk_coverage",
        "Mean Dice of the slices that remain when the least confident ones are left to a human, by "
        "three measures of confidence. A measure is good where the curve falls from left to right.",
        panels,
    )


# ------------------------------------------------------------------------------ members and steps

_MEMBER_MEASURES: Final[tuple[tuple[str, int, Callable[[MemberRow], float | None]], ...]] = (
    ("Dice", 4, lambda row: row.dice),
    ("HD95 (mm)", 2, lambda row: row.hd95_mm),
    ("ECE", 4, lambda row: row.ece),
    ("error AUROC", 4, lambda row: row.error_auroc),
    ("diversity", 4, lambda row: row.diversity),
    ("Dice with one member less", 4, lambda row: row.dice_with_before),
    ("Monte-Carlo error", 4, lambda row: row.monte_carlo_error),
)
_PER_SLICE: Final = ("Dice", "HD95 (mm)")


def summarise_members(
    rows: Iterable[MemberRow], name: str, value: Callable[[MemberRow], float | None]
) -> dict[int, float]:
    """Return a measure by the number of members: a mean over slices, or over cases.

    Means over slices are those of the table: a case counts as often as it has slices.
    """
    sums: dict[int, tuple[float, float]] = {}
    for row in rows:
        number = value(row)
        if number is None:
            continue
        weight = float(row.n_slices) if name in _PER_SLICE else 1.0
        if name == "HD95 (mm)":
            weight -= row.n_empty
        total, weights = sums.get(row.n_samples, (0.0, 0.0))
        sums[row.n_samples] = (total + weight * number, weights + weight)
    return {n: total / weights for n, (total, weights) in sorted(sums.items()) if weights}


def plot_members(evaluations: Sequence[Evaluation]) -> Plot:
    """Return every measure against the number of members."""
    panels = []
    for title, _, value in _MEMBER_MEASURES[:-1]:
        curves = {}
        for name, rows in _split_members(evaluations):
            summary = summarise_members(rows, title, value)
            curves[name] = [(float(n), number) for n, number in summary.items()]
        panels.append(Panel(title, "members", curves, log_x=True))
    return Plot(
        "members",
        "The first n members of one evaluation, n = 1, 2, 3 ... Dice and HD95 are means over "
        "slices, the others over cases.",
        panels,
    )


def make_member_tables(evaluations: Sequence[Evaluation]) -> list[Table]:
    """Return the same as tables, a table for each evaluation and kind of mean."""
    tables = []
    head = ["members", *(name for name, _, _ in _MEMBER_MEASURES)]
    for title, rows in _split_members(evaluations):
        columns = [
            (digits, summarise_members(rows, name, value))
            for name, digits, value in _MEMBER_MEASURES
        ]
        counts = [n for n in SHOWN_MEMBERS if n in columns[0][1]]
        lines: list[list[Cell | str]] = [
            [Cell(str(n), (("", n),)), *(number_cell(c.get(n), digits) for digits, c in columns)]
            for n in counts
        ]
        name = "members_" + "".join(c if c.isalnum() else "_" for c in title.lower())
        tables.append(Table(name, [f"{title}: members", *head[1:]], lines))
    return tables


def _split_members(evaluations: Sequence[Evaluation]) -> list[tuple[str, list[MemberRow]]]:
    kinds = {PROBABILITIES: "of probabilities", MASKS: "of masks"}
    groups = []
    for evaluation in evaluations:
        for method, text in kinds.items():
            rows = [row for row in evaluation.members if row.method == method]
            if rows and evaluation.n_members > 1:
                groups.append((f"{evaluation.title}, {text}", rows))
    return groups


def plot_steps(rows: Sequence[SheetRow], name: str) -> Plot:
    """Return every measure of a sheet against the number of steps, and Dice against the time."""
    steps = sorted({row.steps for row in rows})
    counts = [n for n in _SHOWN_BESIDE_STEPS if any(row.n_samples == n for row in rows)]
    measures: list[tuple[str, Callable[[SheetRow], float | None]]] = [
        ("Dice", lambda row: row.dice),
        ("HD95 (mm)", lambda row: row.hd95_mm),
        ("ECE", lambda row: row.ece),
        ("error AUROC", lambda row: row.error_auroc),
        ("diversity", lambda row: row.diversity),
        ("s per slice", lambda row: row.seconds_per_slice),
    ]

    def mean(k: int, n: int, value: Callable[[SheetRow], float | None]) -> float | None:
        of_these = [value(r) for r in rows if (r.steps, r.n_samples) == (k, n)]
        known = [number for number in of_these if number is not None]
        return float(np.mean(known)) if known else None

    panels = []
    for title, value in measures:
        curves = {}
        for n in counts:
            pairs = [(float(k), mean(k, n, value)) for k in steps]
            curve = [(k, number) for k, number in pairs if number is not None]
            if curve:
                curves["1 member" if n == 1 else f"{n} members"] = curve
        panels.append(Panel(title, "steps", curves, log_x=True, log_y=title == "s per slice"))
    return Plot(
        f"{name}_steps",
        "The same against the number of steps, one curve for each number of members.",
        panels,
    )
