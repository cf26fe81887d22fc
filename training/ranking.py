"""Which slices, and which cases, need a human? Confidence against Dice, system by system."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from training.bootstrap import bootstrap_statistic
from training.cells import Cell, Table, number_cell
from training.results import SliceRow, UncertaintyRow
from training.selective import compute_aurc
from training.systems import LINES, Evaluation, describe_missing

_MIN_FOR_CORRELATION = 4


@dataclass(frozen=True)
class Ranked:
    """A slice or a case: how good it is, and how sure its system was, the surest highest."""

    patient: str
    dice: float
    size: float
    """Predicted, in whatever unit."""
    agreement: float | None
    soft_dice: float | None
    certainty: float | None
    """Mean entropy, with a minus."""


CONFIDENCES: Final[tuple[tuple[str, Callable[[Ranked], float | None]], ...]] = (
    ("pairwise Dice", lambda item: item.agreement),
    ("soft Dice", lambda item: item.soft_dice),
    ("entropy", lambda item: item.certainty),
)


def rank_slices(rows: Sequence[SliceRow]) -> list[Ranked]:
    """Return the slices of a row of the table."""
    return [
        Ranked(
            r.patient,
            r.dice,
            r.predicted_mm2,
            r.confidence,
            r.soft_dice,
            None if r.mean_entropy is None else -r.mean_entropy,
        )
        for r in rows
    ]


def rank_cases(rows: Sequence[UncertaintyRow]) -> list[Ranked]:
    """Return the cases of a row of the table, as far as they were measured in 3-D."""
    return [
        Ranked(
            r.patient,
            r.dice,
            r.predicted_ml or 0.0,
            r.confidence,
            r.soft_dice,
            None if r.mean_entropy is None else -r.mean_entropy,
        )
        for r in rows
        if r.dice is not None
    ]


def make_ranking_table(found: Mapping[str, Evaluation], *, of_slices: bool) -> Table:
    """Return AURC and rank correlations of slices or of cases."""
    lines: list[list[Cell | str]] = []
    what = "slices" if of_slices else "cases"
    head = ["system", what, "AURC, best possible", "AURC, at random"]
    head += [f"AURC by {name}" for name, _ in CONFIDENCES]
    head += [f"rho, {name}" for name, _ in CONFIDENCES[:2]]
    head += [f"rho at equal size, {name}" for name, _ in CONFIDENCES[:2]]
    for line in LINES:
        evaluation = found.get(line.system)
        if evaluation is None:
            lines.append(describe_missing(line, len(head)))
            continue
        if of_slices:
            items = rank_slices(evaluation.slices_of(line))
        else:
            items = rank_cases(evaluation.maps_of(line))
        dice = [item.dice for item in items]
        best = compute_aurc(dice, [1 - value for value in dice])
        chance = compute_aurc([0.0] * len(dice), [1 - value for value in dice])
        lines.append(
            [
                line.describe(evaluation.n_members),
                Cell(str(len(items)), (("", len(items)),)),
                number_cell(best, 4),
                number_cell(chance, 4),
                *(_aurc(items, confidence) for _, confidence in CONFIDENCES),
                *(_correlate(items, confidence) for _, confidence in CONFIDENCES[:2]),
                *(
                    _correlate(items, confidence, at_equal_size=True)
                    for _, confidence in CONFIDENCES[:2]
                ),
            ]
        )
    return Table(f"ranking_of_{what}", head, lines)


def compute_risk_coverage(
    items: Sequence[Ranked], confidence: Callable[[Ranked], float | None]
) -> list[tuple[float, float]]:
    """Return (share of the items that are kept, their mean Dice), the most confident first.

    Items of equal confidence are kept together; empty if any item has no confidence.
    """
    values = [confidence(item) for item in items]
    if not items or None in values:
        return []
    order = np.argsort(-np.asarray(values, np.float64), kind="stable")
    sure = np.asarray(values, np.float64)[order]
    mean = np.cumsum([items[i].dice for i in order]) / np.arange(1, len(items) + 1)
    last_of_group = np.flatnonzero(np.append(sure[1:] != sure[:-1], True))
    return [((i + 1) / len(items), float(mean[i])) for i in last_of_group]


def _aurc(items: Sequence[Ranked], confidence: Callable[[Ranked], float | None]) -> Cell:
    values = [(item.patient, (confidence(item), 1 - item.dice)) for item in items]
    pairs = [(patient, (sure, risk)) for patient, (sure, risk) in values if sure is not None]

    def area(chosen: Sequence[tuple[float, float]]) -> float | None:
        return compute_aurc(*zip(*chosen, strict=True)) if chosen else None

    value = area([pair for _, pair in pairs])
    cell = number_cell(value, 4)
    interval = bootstrap_statistic(pairs, area)
    if value is None or interval is None:
        return cell
    low, high = interval
    return Cell(
        f"{cell.text} ({low:.4f} to {high:.4f})", (*cell.numbers, ("low", low), ("high", high))
    )


def _correlate(
    items: Sequence[Ranked],
    confidence: Callable[[Ranked], float | None],
    *,
    at_equal_size: bool = False,
) -> Cell:
    values = [(confidence(item), item.dice, item.size) for item in items]
    known = [value for value in values if value[0] is not None]
    if not known:
        return number_cell(None, 2)
    sure, dice, size = (np.asarray(column, np.float64) for column in zip(*known, strict=True))
    rho = compute_partial(sure, dice, size) if at_equal_size else compute_spearman(sure, dice)
    return number_cell(rho, 2)


def compute_spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    """Return Spearman's rank correlation; None for fewer than four values, or equal ones."""
    from scipy.stats import rankdata

    if len(a) < _MIN_FOR_CORRELATION or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    rho: Any = np.corrcoef(rankdata(a), rankdata(b))[0, 1]
    return float(rho)


def compute_partial(
    a: NDArray[np.float64], b: NDArray[np.float64], given: NDArray[np.float64]
) -> float | None:
    """Return the partial rank correlation of two variables given a third.

    Large tumours have a high Dice and members that agree, so size alone makes the two go together;
    this is what is left without it. None where it is not defined.
    """
    rho, with_a, with_b = (compute_spearman(*pair) for pair in ((a, b), (a, given), (b, given)))
    if rho is None or with_a is None or with_b is None:
        return None
    rest = (1 - with_a**2) * (1 - with_b**2)
    return None if rest < 1e-12 else float((rho - with_a * with_b) / np.sqrt(rest))
