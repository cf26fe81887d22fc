"""Every system against the ensemble, on the same slices and cases: differences, intervals, p."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from training.bootstrap import Value, sign_flip_p_value, wilcoxon_p_value
from training.cells import Cell, Table, signed_mean
from training.systems import LINES, REFERENCE, Evaluation, Line, describe_missing

_SMALLEST_P: Final = 0.001
"""Smaller ones are printed as less than this."""

Keyed = dict[tuple[str, int | None], Value]
"""A value by case and slice, with its patient."""


@dataclass(frozen=True)
class Measure:
    """What is compared, and where an evaluation has it."""

    name: str
    digits: int
    find: Callable[[Evaluation, Line], Keyed]


def _slice_dice(evaluation: Evaluation, line: Line) -> Keyed:
    return {(r.case, r.slice): (r.patient, r.dice) for r in evaluation.slices_of(line)}


def _slice_hd95(evaluation: Evaluation, line: Line) -> Keyed:
    rows = evaluation.slices_of(line)
    return {(r.case, r.slice): (r.patient, r.hd95_mm) for r in rows if r.hd95_mm is not None}


def _case_dice(evaluation: Evaluation, line: Line) -> Keyed:
    return {(r.case, None): (r.patient, r.dice) for r in evaluation.cases_of(line)}


def _ece(evaluation: Evaluation, line: Line) -> Keyed:
    rows = evaluation.maps_of(line)
    return {(r.case, None): (r.patient, r.ece) for r in rows if r.ece is not None}


def _auroc(evaluation: Evaluation, line: Line) -> Keyed:
    rows = evaluation.maps_of(line)
    return {(r.case, None): (r.patient, r.error_auroc) for r in rows if r.error_auroc is not None}


MEASURES: Final = (
    Measure("Dice", 3, _slice_dice),
    Measure("HD95 (mm)", 2, _slice_hd95),
    Measure("3-D Dice", 3, _case_dice),
    Measure("ECE", 4, _ece),
    Measure("error AUROC", 3, _auroc),
)


def compare(
    measure: Measure, evaluation: Evaluation, line: Line, reference: Evaluation
) -> list[Value]:
    """Return the differences to the ensemble, wherever both have a value."""
    theirs = measure.find(reference, REFERENCE)
    return [
        (patient, value - theirs[key][1])
        for key, (patient, value) in measure.find(evaluation, line).items()
        if key in theirs
    ]


def make_paired_table(found: Mapping[str, Evaluation]) -> Table | None:
    """Return the comparison of every row with the ensemble's; None without the ensemble."""
    reference = found.get(REFERENCE.system)
    if reference is None:
        return None
    head = ["system minus the ensemble", "patients", "slices", *(m.name for m in MEASURES)]
    head.append("Dice, p by swapping")
    lines: list[list[Cell | str]] = []
    for line in LINES:
        evaluation = found.get(line.system)
        if line == REFERENCE:
            continue
        if evaluation is None:
            lines.append(describe_missing(line, len(head)))
            continue
        dice = compare(MEASURES[0], evaluation, line, reference)
        n_patients = len({patient for patient, _ in dice})
        lines.append(
            [
                line.describe(evaluation.n_members),
                Cell(str(n_patients), (("", n_patients),)),
                Cell(str(len(dice)), (("", len(dice)),)),
                *(
                    _cell(compare(measure, evaluation, line, reference), measure.digits)
                    for measure in MEASURES
                ),
                _p_cell(sign_flip_p_value(dice)),
            ]
        )
    return Table("paired", head, lines, _describe(found))


def _cell(differences: list[Value], digits: int) -> Cell:
    if not differences:
        return Cell("-")
    mean, p = signed_mean(differences, digits), wilcoxon_p_value(differences)
    if p is None:
        return mean
    return Cell(f"{mean.text}, p {_say(p)}", (*mean.numbers, ("p", p)))


def _p_cell(p: float | None) -> Cell:
    return Cell("-") if p is None else Cell(_say(p), (("", p),))


def _say(p: float) -> str:
    """Return three decimals; no p is 0."""
    return f"{p:.3f}" if p >= _SMALLEST_P else f"< {_SMALLEST_P:g}"


def _describe(found: Mapping[str, Evaluation]) -> str:
    n = len({row.patient for row in found[REFERENCE.system].slices})
    text = (
        "Mean difference (95 % bootstrap interval over patients), of Dice and HD95 slice by slice "
        "(HD95: where both predict something), of the others case by case. p: two-sided Wilcoxon "
        "signed-rank test over the patients' mean differences, exact for up to 12 patients; by "
        "swapping: the share of all ways to swap the systems patient by patient that give a "
        "difference as large. Not corrected for the number of comparisons. "
        "The patients and slices that are counted are those of Dice and HD95; what is measured "
        "case by case is of all cases, also of those without tumour in these slices."
    )
    if 2 <= n <= 7:
        text += (
            f" With {n} patients no p can be less than {2 / 2**n:.3f}: a small difference cannot "
            "be shown here, whatever it is."
        )
    return text
