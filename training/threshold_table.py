"""What the threshold of the mean map is worth, system by system."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from training.cells import NOTHING, Cell, Table, mean_with_interval, number_cell
from training.results import PROBABILITIES, ThresholdRow
from training.systems import LINES, Evaluation, describe_missing
from training.thresholds import DEFAULT, choose_without_patient, find_best, volume_ratio


def make_threshold_table(found: Mapping[str, Evaluation]) -> Table | None:
    """Return what the threshold is worth; None if no evaluation has measured it."""
    if not any(evaluation.thresholds for evaluation in found.values()):
        return None
    head = [
        "system",
        f"Dice at {DEFAULT}",
        "best threshold",
        "Dice there",
        "threshold of the others",
        "Dice with it",
        "volume ratio with it",
    ]
    lines: list[list[Cell | str]] = []
    for line in LINES:
        if line.method != PROBABILITIES:
            continue
        evaluation = found.get(line.system)
        rows = [] if evaluation is None else evaluation.thresholds
        best = find_best(rows)
        if evaluation is None:
            lines.append(describe_missing(line, len(head)))
            continue
        if best is None:  # of a version that did not measure it
            name = line.describe(evaluation.n_members)
            lines.append([name, "not measured", *[NOTHING] * (len(head) - 2)])
            continue
        chosen = choose_without_patient(rows)
        used = sorted({row.threshold for row in chosen})
        lines.append(
            [
                line.describe(evaluation.n_members),
                _cell([row for row in rows if row.threshold == DEFAULT]),
                number_cell(best, 2),
                _cell([row for row in rows if row.threshold == best]),
                " to ".join(dict.fromkeys(f"{t:.2f}" for t in (used[:1] + used[-1:]))) or "-",
                _cell(chosen),
                number_cell(volume_ratio(chosen), 2),
            ]
        )
    notes = (
        "Mean Dice per slice (95 % bootstrap interval over patients). Best: chosen with the truth "
        "of these very slices in hand, so an upper limit. Of the others: each patient's threshold "
        "is the best one for all other patients. Volume ratio: predicted to true, all cases "
        "together."
    )
    return Table("thresholds", head, lines, notes)


def _cell(rows: Sequence[ThresholdRow]) -> Cell:
    return mean_with_interval(
        [(r.patient, r.dice) for r in rows if r.dice is not None for _ in range(r.n_slices)], 3
    )
