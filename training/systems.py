"""The rows of the paper's table, and what `training.evaluate` wrote of each system."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from napari_diffseg.core.errors import DiffsegError
from training.cells import NOTHING, Cell
from training.results import (
    FILES,
    MASKS,
    PROBABILITIES,
    RUN,
    SYSTEMS,
    CalibrationRow,
    CaseRow,
    MemberRow,
    Row,
    SettingRow,
    SliceRow,
    ThresholdRow,
    TimingRow,
    UncertaintyRow,
    read_rows,
)

NOT_RUN: Final = "not run"

PUBLISHED: Final = (
    ("DDPM, 1 run", "0.866 [0.892]", "6.052", "0.795 [0.819]", "31"),
    ("DDPM, ensemble of 5", "0.881 [0.909]", "5.178", "0.819 [0.845]", "34"),
    ("nnU-Net, 5-fold ensemble", "0.891 [0.905]", "5.004", "0.831 [0.845]", "17"),
    ("SegNet, 1 run", "0.839 [0.867]", "7.190", "0.761 [0.786]", "34"),
    ("Bayesian SegNet, 5 runs", "0.838 [0.841]", "13.707", "0.747 [0.749]", "3"),
)
"""Wolleb et al. 2021, Table 1; HD95 in pixels, which are millimetres there."""


@dataclass(frozen=True)
class Line:
    """A row of the table before it is known who was evaluated."""

    system: str
    text: str
    method: str

    def describe(self, n: int | None) -> str:
        """Return the row's name for n members; None: it was not evaluated."""
        return f"{SYSTEMS[self.system]}{self.text.format(n='n' if n is None else n)}"


LINES: Final = (
    Line("ddpm", ", 1 run", RUN),
    Line("ddpm", ", ensemble of {n}", PROBABILITIES),
    Line("ddpm", ", ensemble of {n}, of masks as in the paper", MASKS),
    Line("nnunet", ", ensemble of {n}", PROBABILITIES),
    Line("segnet", ", 1 run", PROBABILITIES),
    Line("bayesian_segnet", ", {n} runs", PROBABILITIES),
    Line("unet", ", 1 run", PROBABILITIES),
    Line("mc_dropout_unet", ", {n} runs", PROBABILITIES),
    Line("encoders", ", mean of {n}", PROBABILITIES),
)
REFERENCE: Final = LINES[1]
"""What all others are compared with."""


def describe_missing(line: Line, n_columns: int) -> list[Cell | str]:
    """Return the cells of a row whose system was not evaluated."""
    return [line.describe(None), NOT_RUN, *[NOTHING] * (n_columns - 2)]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `training.evaluate` wrote of one system."""

    folder: Path
    system: str
    settings: dict[str, str]
    slices: list[SliceRow]
    cases: list[CaseRow]
    uncertainty: list[UncertaintyRow]
    calibration: list[CalibrationRow]
    members: list[MemberRow]
    timings: list[TimingRow]
    thresholds: list[ThresholdRow]

    @property
    def title(self) -> str:
        """The system, with its number of steps if it has them."""
        steps = self.settings.get("steps", "") if self.system == "ddpm" else ""
        unit = "step" if steps == "1" else "steps"
        return f"{SYSTEMS[self.system]}, {steps} {unit}" if steps else SYSTEMS[self.system]

    @property
    def n_members(self) -> int:
        """Of the ensemble."""
        return max(row.n_samples for row in self.slices)

    def slices_of(self, line: Line) -> list[SliceRow]:
        """Return the slices of a row of the table; of single runs, the first."""
        return [r for r in self.slices if r.method == line.method and r.member in (None, 0)]

    def cases_of(self, line: Line) -> list[CaseRow]:
        """Return the cases of a row of the table, in 3-D, the protocol's slices alone."""
        return [
            r
            for r in self.cases
            if r.method == line.method and r.member in (None, 0) and not r.whole_volume
        ]

    def maps_of(self, line: Line) -> list[UncertaintyRow]:
        """Return what the maps of a row of the table are worth, case by case."""
        return [r for r in self.uncertainty if r.method == line.method]

    def n_members_of(self, line: Line) -> int:
        """Return how many members a row of the table takes."""
        return 1 if line.method == RUN else self.n_members


def read_evaluation(folder: Path) -> Evaluation:
    """Read the CSV files of an evaluation; those that earlier versions did not write may lack.

    Raises
    ------
    DiffsegError
        A file is damaged, or it is of no system that the table knows.
    """
    settings = {row.name: row.value for row in read_rows(folder, SettingRow)}
    system = settings.get("system", "ddpm")
    if system not in SYSTEMS:
        raise DiffsegError(f"{folder}: {system!r} is none of {', '.join(SYSTEMS)}.")
    return Evaluation(
        folder,
        system,
        settings,
        read_rows(folder, SliceRow),
        _read_if_there(folder, CaseRow),
        read_rows(folder, UncertaintyRow),
        _read_if_there(folder, CalibrationRow),
        _read_if_there(folder, MemberRow),
        _read_if_there(folder, TimingRow),
        _read_if_there(folder, ThresholdRow),
    )


def _read_if_there(folder: Path, cls: type[Row]) -> list[Row]:
    return read_rows(folder, cls) if (folder / FILES[cls]).exists() else []


def find_evaluations(folder: Path) -> dict[str, Evaluation]:
    """Return the evaluations in the subfolders of a folder, by system.

    Raises
    ------
    DiffsegError
        A system is there twice, or a file is damaged.
    """
    found: dict[str, Evaluation] = {}
    for path in sorted(folder.glob(f"*/{FILES[SliceRow]}")):
        evaluation = read_evaluation(path.parent)
        system = evaluation.system
        if system in found:
            raise DiffsegError(
                f"{found[system].folder} and {path.parent} are both of {SYSTEMS[system]}: "
                "a table has one row for it. Move one away."
            )
        if evaluation.slices:
            found[system] = evaluation
    return found
