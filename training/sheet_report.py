"""The sheet of steps against members as tables and figures, from its CSV file alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from napari_diffseg.core.errors import DiffsegError
from training.cells import Cell, Table, number_cell
from training.figures import Panel, write_figure
from training.files import write_text
from training.plots import SHOWN_MEMBERS, Plot, plot_steps
from training.results import SettingRow, SheetRow, read_rows

_MEASURES: Final[tuple[tuple[str, int, Callable[[SheetRow], float | None]], ...]] = (
    ("Dice", 4, lambda row: row.dice),
    ("HD95 (mm)", 2, lambda row: row.hd95_mm),
    ("ECE", 4, lambda row: row.ece),
    ("error AUROC", 4, lambda row: row.error_auroc),
    ("diversity", 4, lambda row: row.diversity),
    ("s per slice", 3, lambda row: row.seconds_per_slice),
)
Means = dict[tuple[str, int, int], float]
"""By measure, steps and members."""


def describe_sheet(folder: Path) -> str:
    """Return in words what a sheet is of.

    Raises
    ------
    DiffsegError
        A CSV file is missing or damaged, or empty.
    """
    settings = {row.name: row.value for row in read_rows(folder, SettingRow)}
    rows = read_rows(folder, SheetRow)
    if not rows:
        raise DiffsegError(f"{folder} holds an empty sheet. Run `python -m training.sheet` again.")
    cases = {row.case: row.n_slices for row in rows}
    return (
        f"{settings['model']} ({settings['model_sha256'][:12]}), {settings['sampler']}, seed "
        f"{settings['seed']}; {sum(cases.values())} slices with tumour of {len(cases)} cases. "
        "Means over cases; ECE and error AUROC inside the brain, of the probabilities' mean."
    )


def make_sheet_tables(rows: Sequence[SheetRow], name: str = "sheet") -> list[Table]:
    """Return a table for each measure: members downwards, steps to the right."""
    means, steps, counts = _summarise(rows)
    tables = []
    for measure, digits, _ in _MEASURES:
        lines: list[list[Cell | str]] = [
            [
                Cell(str(n), (("", n),)),
                *(number_cell(means.get((measure, k, n)), digits) for k in steps),
            ]
            for n in counts
            if n in SHOWN_MEMBERS and any((measure, k, n) in means for k in steps)
        ]
        short = "_".join("".join(c if c.isalnum() else " " for c in measure.lower()).split())
        head = [f"{measure}; members", *map(_name, steps)]
        tables.append(Table(f"{name}_{short}", head, lines))
    return tables


def plot_sheet(rows: Sequence[SheetRow], name: str = "sheet") -> list[Plot]:
    """Return the figures of a sheet: against members, against steps, and Dice against time."""
    means, steps, counts = _summarise(rows)

    def curve(measure: str, k: int, x: Callable[[int], float | None]) -> list[tuple[float, float]]:
        pairs = [(x(n), means.get((measure, k, n))) for n in counts]
        return [(at, value) for at, value in pairs if at is not None and value is not None]

    panels = [
        Panel(measure, "members", {_name(k): curve(measure, k, float) for k in steps}, log_x=True)
        for measure in ("Dice", "HD95 (mm)", "ECE", "error AUROC", "diversity")
    ]
    times = {
        _name(k): curve("Dice", k, lambda n, k=k: means.get(("s per slice", k, n)))  # type: ignore[misc]
        for k in steps
    }
    panels.append(Panel("Dice", "s per slice, all members", times, log_x=True))
    members = Plot(
        name,
        "Quality against the number of members, one curve for each number of steps; last, what a "
        "Dice costs.",
        panels,
    )
    return [members, plot_steps(rows, name)]


def write_sheet(folder: Path) -> str:
    """Write ``sheet.md`` and its figures from ``sheet.csv``, and return the text."""
    rows = read_rows(folder, SheetRow)
    parts = [describe_sheet(folder)]
    for plot in plot_sheet(rows):
        write_figure(plot.panels, folder / plot.name, plot.columns)
        parts.append(f"![{plot.caption}]({plot.name}.svg)")
    parts += [table.to_markdown() for table in make_sheet_tables(rows)]
    text = "\n\n".join(parts)
    write_text(folder / "sheet.md", text + "\n")
    return text


def _summarise(rows: Sequence[SheetRow]) -> tuple[Means, list[int], list[int]]:
    """Return means over cases, the numbers of steps and the numbers of members."""
    groups: dict[tuple[int, int], list[SheetRow]] = {}
    for row in rows:
        groups.setdefault((row.steps, row.n_samples), []).append(row)
    means = {
        (name, k, n): mean
        for (k, n), of_these in groups.items()
        for name, _, value in _MEASURES
        if (mean := _mean(value(row) for row in of_these)) is not None
    }
    return means, sorted({k for k, _ in groups}), sorted({n for _, n in groups})


def _name(steps: int) -> str:
    return f"{steps} step{'s' if steps > 1 else ''}"


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
