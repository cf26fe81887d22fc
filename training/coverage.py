"""How often an interval of the volume holds the true one, from the CSV files of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Final

from napari_diffseg.core.uncertainty import (
    POSSIBLE_ABOVE,
    SURE_ABOVE,
    compute_volume_interval,
)
from training.cells import NOTHING, Cell, number_cell
from training.results import PROBABILITIES, RUN, CaseRow, ThresholdRow
from training.systems import Evaluation, Line
from training.thresholds import DEFAULT

HEAD: Final = ("truth in members' range", "truth in likely volume", "its width")

NOTES: Final = (
    "Truth in members' range: cases whose true volume lies between those of the members' own "
    "masks. In the likely volume: between those of the voxels whose mean probability is above "
    f"{SURE_ABOVE:g} and above {POSSIBLE_ABOVE:g}. Its width: as a share of the mask's volume, the "
    "median of the cases with a mask; of two that hold the truth as often, the narrower is better."
)


@dataclass(frozen=True)
class Coverage:
    """How many of how many cases have their true volume within an interval."""

    n_held: int
    n_cases: int

    def to_cell(self) -> Cell:
        """Return both numbers."""
        return Cell(f"{self.n_held} of {self.n_cases}", (("", self.n_held), ("of", self.n_cases)))


def make_cells(evaluation: Evaluation, line: Line) -> list[Cell]:
    """Return the cells below `HEAD`; dashes but for the mean of the members' probabilities."""
    if line.method != PROBABILITIES:
        return [Cell(NOTHING)] * len(HEAD)
    counts = (count_in_range(evaluation), count_in_likely(evaluation))
    cells = [Cell(NOTHING) if count is None else count.to_cell() for count in counts]
    return [*cells, number_cell(find_likely_width(evaluation), 2)]


def describe_coverage(evaluation: Evaluation) -> str:
    """Say the same in a sentence, "" where there is nothing to count."""
    parts = []
    if (likely := count_in_likely(evaluation)) is not None:
        width = find_likely_width(evaluation)
        wide = "" if width is None else f" (as wide as {width:.2f} of the mask's volume, median)"
        parts.append(f"in the likely volume of {likely.n_held} of {likely.n_cases} cases{wide}")
    if (spanned := count_in_range(evaluation)) is not None:
        parts.append(f"in the members' own range of {spanned.n_held} of {spanned.n_cases}")
    return f"The true volume lies {', '.join(parts)}." if parts else ""


def count_in_range(evaluation: Evaluation) -> Coverage | None:
    """Count the cases whose true volume lies within the interval that the members' own span.

    That of `compute_volume_interval`, hence of quantiles with many members; of the protocol's
    slices. None where no case has two members.
    """
    members: dict[str, list[CaseRow]] = {}
    for row in evaluation.cases:
        if row.method == RUN and not row.whole_volume:
            members.setdefault(row.case, []).append(row)
    cases = [rows for rows in members.values() if len(rows) > 1]
    if not cases:
        return None
    intervals = [compute_volume_interval([row.predicted_ml for row in rows]) for rows in cases]
    held = [
        interval.low_ml <= rows[0].truth_ml <= interval.high_ml
        for rows, interval in zip(cases, intervals, strict=True)
    ]
    return Coverage(sum(held), len(held))


def count_in_likely(evaluation: Evaluation) -> Coverage | None:
    """Count the cases whose true volume is a likely one (`uncertainty.LikelyVolume`).

    None if no masks were measured at these thresholds.
    """
    low, high = (_by_case(evaluation, threshold) for threshold in (SURE_ABOVE, POSSIBLE_ABOVE))
    cases = low.keys() & high.keys()
    if not cases:
        return None
    held = [
        low[case].predicted_ml <= low[case].truth_ml <= high[case].predicted_ml for case in cases
    ]
    return Coverage(sum(held), len(held))


def find_likely_width(evaluation: Evaluation) -> float | None:
    """Return the median width of the likely volume, as a share of the mask's volume.

    Of the cases with a mask at the usual threshold; None if there is none.
    """
    low, mask, high = (
        _by_case(evaluation, threshold) for threshold in (SURE_ABOVE, DEFAULT, POSSIBLE_ABOVE)
    )
    shares = [
        (high[case].predicted_ml - low[case].predicted_ml) / mask[case].predicted_ml
        for case in low.keys() & mask.keys() & high.keys()
        if mask[case].predicted_ml > 0
    ]
    return median(shares) if shares else None


def _by_case(evaluation: Evaluation, threshold: float) -> dict[str, ThresholdRow]:
    return {row.case: row for row in evaluation.thresholds if row.threshold == threshold}
