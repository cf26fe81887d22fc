"""Tables of numbers: cells that a person reads and a program can read as well."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from training.bootstrap import Value, bootstrap_interval
from training.results import SliceRow

NOTHING = "-"


@dataclass(frozen=True)
class Cell:
    """What a table prints, and the numbers in it.

    Attributes
    ----------
    text : str
    numbers : tuple of (str, float)
        Each with what it is, which follows the column's name in the CSV file; "" for the number
        that the column is named after.
    """

    text: str
    numbers: tuple[tuple[str, float], ...] = ()

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Table:
    """A table with its name, which is that of its CSV file, and what a reader should know."""

    name: str
    head: Sequence[str]
    lines: Sequence[Sequence[Cell | str]]
    notes: str = ""

    def to_markdown(self) -> str:
        """Return the table, and its notes below it."""
        table = format_table(self.head, self.lines)
        return f"{table}\n\n{self.notes}" if self.notes else table

    def to_csv(self) -> str:
        """Return the table with a column for each number, as exact as it was computed."""
        columns = [
            (place, part)
            for place in range(len(self.head))
            for part in _find_parts([line[place] for line in self.lines])
        ]
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([f"{self.head[place]} {part or ''}".strip() for place, part in columns])
        writer.writerows(
            [_read(line[place], part) for place, part in columns] for line in self.lines
        )
        return out.getvalue()


def _find_parts(cells: Sequence[Cell | str]) -> list[str | None]:
    """Return what the numbers of a column are; [None] for a column of texts."""
    parts = dict.fromkeys(
        part for cell in cells if isinstance(cell, Cell) for part, _ in cell.numbers
    )
    return [*parts] or [None]


def _read(cell: Cell | str, part: str | None) -> str:
    if part is None:
        return str(cell)
    number = dict(cell.numbers).get(part) if isinstance(cell, Cell) else None
    if number is None:  # "not run" should not be lost
        return str(cell) if part == "" and str(cell) != NOTHING else ""
    return f"{number:.10g}"


def number_cell(value: float | None, digits: int) -> Cell:
    """Return a plain number; None is a dash."""
    return Cell(NOTHING) if value is None else Cell(f"{value:.{digits}f}", (("", value),))


def score_cell(
    rows: Sequence[SliceRow], full: Sequence[SliceRow], score: Callable[[SliceRow], float]
) -> Cell:
    """Return mean [mean over non-empty predictions] (interval) of a score of slices."""
    cell = mean_with_interval([(row.patient, score(row)) for row in rows], 3)
    mean, *interval = cell.text.split(" ", 1)
    if not full:
        return Cell(" ".join([mean, f"[{NOTHING}]", *interval]), cell.numbers)
    bracket = float(np.mean([score(row) for row in full]))
    return Cell(
        " ".join([mean, f"[{bracket:.3f}]", *interval]), (*cell.numbers, ("non-empty", bracket))
    )


def mean_with_interval(values: Sequence[Value], digits: int) -> Cell:
    """Return a mean with the 95 % interval over patients."""
    if not values:
        return Cell(NOTHING)
    mean = float(np.mean([value for _, value in values]))
    interval = bootstrap_interval(values)
    if interval is None:
        return number_cell(mean, digits)
    low, high = interval
    return Cell(
        f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})",
        (("", mean), ("low", low), ("high", high)),
    )


def signed_mean(values: Sequence[Value], digits: int = 3) -> Cell:
    """Return the mean of differences with their sign, and the interval over patients."""
    interval = bootstrap_interval(values) or ()
    numbers = (float(np.mean([value for _, value in values])), *interval)
    # Adding 0 turns -0.0, which rounding makes of small negative numbers, into 0.0.
    mean, *ends = (f"{round(number, digits) + 0.0:+.{digits}f}" for number in numbers)
    return Cell(
        f"{mean} ({' to '.join(ends)})" if ends else mean,
        tuple(zip(("", "low", "high"), numbers, strict=False)),
    )


def format_table(head: Sequence[str], lines: Sequence[Sequence[Cell | str]]) -> str:
    """Return a Markdown table that is aligned as plain text as well."""
    rows = [[str(cell) for cell in line] for line in (head, *lines)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |"
        for row in (rows[0], rule, *rows[1:])
    )
