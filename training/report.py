"""All tables and figures from the CSV files of evaluations: ``python -m training.report FOLDER``.

FOLDER holds ``systems/NAME`` (one evaluation of each system: the paper's table and that of the
uncertainty), and may hold ``members/NAME`` (evaluations with many members: the curves against n)
and ``sheets/NAME`` (of `training.sheet`: steps against members). Nothing is measured here.

The report is one Markdown file; beside it, in a folder of its name, are ``data`` (the CSV files
that it is made of, so that it can be made again, with its title and introduction if it was given
any), ``tables`` (CSV) and ``figures`` (SVG and PNG).
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from napari_diffseg.core.errors import DiffsegError
from training.about import About, read_about, write_about
from training.cells import Cell, Table
from training.comparison import RANKING_NOTES, make_published, make_sections
from training.figures import write_figure
from training.files import write_text
from training.plots import (
    Plot,
    make_member_tables,
    plot_members,
    plot_patients,
    plot_reliability,
    plot_risk_coverage,
    plot_thresholds,
)
from training.results import FILES, SYSTEMS, SheetRow, SliceRow, read_rows
from training.sheet_report import describe_sheet, make_sheet_tables, plot_sheet
from training.systems import NOT_RUN, Evaluation, find_evaluations, read_evaluation

_ABOUT = ("system", "model", "model_sha256", "sampler", "steps", "samples", "seed", "slices")


@dataclass
class Report:
    """Text, tables and figures in the order in which they are read."""

    parts: list[str | Table | Plot] = field(default_factory=list)

    def add(self, heading: str, *parts: str | Table | Plot) -> None:
        """Append a section; without parts it is left out."""
        if parts:
            self.parts += [f"## {heading}", *parts]

    def to_markdown(self, folder: str) -> str:
        """Return the text; figures are linked in ``folder/figures``."""
        return "\n\n".join(_to_markdown(part, folder) for part in self.parts) + "\n"


def _to_markdown(part: str | Table | Plot, folder: str) -> str:
    if isinstance(part, Table):
        return part.to_markdown()
    if isinstance(part, Plot):
        link = f"{folder}/figures/{part.name}"
        return f"![{part.caption}]({link}.svg)\n\n{part.caption} ([PNG]({link}.png))"
    return part


def make_report(folder: Path, about: About | None = None) -> Report:
    """Read everything below a folder.

    Systems that were not evaluated have rows that say so, unless most were not: a report on two
    of them is about these two.

    Raises
    ------
    DiffsegError
        There is nothing, or a CSV file is damaged.
    """
    systems = find_evaluations(folder / "systems")
    members = [read_evaluation(path) for path in find_folders(folder / "members", SliceRow)]
    sheets = find_folders(folder / "sheets", SheetRow)
    if not (systems or members or sheets):
        raise DiffsegError(
            f"{folder} holds no evaluation in systems/, members/ or sheets/. Run `python -m "
            f"training.evaluate ... --out {folder / 'systems' / 'ddpm'}`."
        )
    report = Report([*(about or About()).to_parts()])
    report.add("What was evaluated", _table_of_evaluations(systems, members))
    if systems:
        few = 2 * len(systems) < len(SYSTEMS)
        for heading, tables in make_sections(systems):
            report.add(heading, *(map(_drop_not_run, tables) if few else tables))
            if heading == "Threshold" and tables:
                report.parts.append(plot_thresholds(systems))
            if heading == "Segmentation":
                report.parts.append(plot_patients(systems))
            if heading == "Uncertainty":
                report.parts.append(plot_reliability(systems))
        report.parts += [RANKING_NOTES, plot_risk_coverage(systems)]
    titles = Counter(evaluation.title for evaluation in members)
    for evaluation in members:
        if titles[evaluation.title] > 1:
            raise DiffsegError(
                f"{evaluation.folder}: there is another evaluation of {evaluation.title} in "
                f"{folder / 'members'}, and they could not be told apart. Take one of them away."
            )
    with_members = [evaluation for evaluation in members if evaluation.n_members > 1]
    if with_members:
        tables = make_member_tables(with_members)
        report.add("Is n enough?", plot_members(with_members), *tables)
    for path in sheets:
        rows = read_rows(path, SheetRow)
        tables = make_sheet_tables(rows, path.name)
        plots = plot_sheet(rows, path.name)
        report.add(f"Steps against members: {path.name}", describe_sheet(path), *plots, *tables)
    report.parts.append(make_published())
    return report


def find_folders(folder: Path, cls: type[SliceRow | SheetRow]) -> list[Path]:
    """Return the subfolders that hold the CSV file of a row class."""
    return sorted(path.parent for path in folder.glob(f"*/{FILES[cls]}"))


def _drop_not_run(table: Table) -> Table:
    return replace(table, lines=[line for line in table.lines if str(line[1]) != NOT_RUN])


def _table_of_evaluations(
    systems: Mapping[str, Evaluation], members: Sequence[Evaluation]
) -> Table:
    named = [*systems.values(), *members]
    lines: list[list[Cell | str]] = []
    for evaluation in named:
        settings = evaluation.settings
        values = {key: settings.get(key, "") or "-" for key in _ABOUT}
        values["model_sha256"] = values["model_sha256"][:12]
        where = f"{evaluation.folder.parent.name}/{evaluation.folder.name}"
        patients = {row.patient for row in evaluation.slices}
        lines.append([where, *values.values(), str(len(patients))])
    head = ["folder", *_ABOUT, "patients"]
    head[head.index("model_sha256")] = "sha256"
    return Table("evaluations", head, lines)


def write_report(report: Report, out: Path) -> None:
    """Write the Markdown file, and tables and figures beside it; old ones go.

    How it was made is told before the first section. Each file is complete or not there.
    """
    beside = out.with_suffix("")
    for name in ("tables", "figures"):
        shutil.rmtree(beside / name, ignore_errors=True)
        (beside / name).mkdir(parents=True)
    for part in report.parts:
        if isinstance(part, Table):
            write_text(beside / "tables" / f"{part.name}.csv", part.to_csv())
        elif isinstance(part, Plot):
            write_figure(part.panels, beside / "figures" / part.name, part.columns)
    made = (
        f"Made by `python -m training.report` from the CSV files in [{beside.name}/data]"
        f"({beside.name}/data): every number can be made again, none is typed. The tables are also "
        f"in [{beside.name}/tables]({beside.name}/tables), as CSV."
    )
    parts = [*report.parts]
    parts.insert(next(i for i, part in enumerate(parts) if str(part).startswith("## ")), made)
    write_text(out, Report(parts).to_markdown(beside.name))


def copy_data(folder: Path, beside: Path) -> None:
    """Copy the CSV files that a report is made of to ``beside/data``, unless they are there.

    What was there is replaced as a whole. Only numbers are copied: no image, no model.
    """
    target = beside / "data"
    if target.resolve() == folder.resolve():
        return
    temporary = beside / ".data.part"
    shutil.rmtree(temporary, ignore_errors=True)
    names = set(FILES.values())
    for kind in ("systems", "members", "sheets"):
        for path in sorted((folder / kind).glob("*/*.csv")):
            if path.name in names:
                copy = temporary / path.relative_to(folder)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(temporary, target)


def make_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(
        "python -m training.report", description="All tables and figures, from CSV files alone."
    )
    parser.add_argument(
        "folder", type=Path, metavar="FOLDER", help="with systems/, and members/ or sheets/"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.md",
        help="the report; tables, figures and data go into FILE/ (default: FOLDER/report.md)",
    )
    parser.add_argument(
        "--title", help="heading of the report; kept with its data (default: Results)"
    )
    parser.add_argument(
        "--intro", metavar="MARKDOWN", help="what comes below the heading; kept with the data"
    )
    return parser


def find_about(arguments: argparse.Namespace, folders: Sequence[Path]) -> About:
    """Return title and introduction: as asked for, or as the first folder has them that has any."""
    kept = next((about for about in map(read_about, folders) if about != About()), About())
    title, intro = arguments.title, arguments.intro
    return About(kept.title if title is None else title, kept.intro if intro is None else intro)


def main(argv: Sequence[str] | None = None) -> int:
    """Make the report; 2: it could not be made."""
    arguments = make_parser().parse_args(argv)
    out: Path = arguments.out or arguments.folder / "report.md"
    try:
        if out.suffix != ".md":
            raise DiffsegError(f"{out} must end with .md: tables and figures go beside it.")
        data = out.with_suffix("") / "data"
        about = find_about(arguments, (arguments.folder, data))
        report = make_report(arguments.folder, about)
        out.with_suffix("").mkdir(parents=True, exist_ok=True)
        copy_data(arguments.folder, out.with_suffix(""))
        if about != About():
            write_about(data, about)
        write_report(report, out)
    except (DiffsegError, OSError) as error:
        print(f"training.report: error: {error}", file=sys.stderr)
        return 2
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
