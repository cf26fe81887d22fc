"""``napari-diffseg table``: the saved results of a folder as one CSV file."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from napari_diffseg._commands.common import OK, SOME_FAILED, parse_path, report

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser its arguments."""
    parser.add_argument("folder", type=parse_path, metavar="DIR", help="folder with results")
    parser.add_argument(
        "--out", type=parse_path, metavar="FILE", help="the table (default: DIR/summary.csv)"
    )
    parser.set_defaults(command=_run_table)


def write_table(folder: Path, path: Path | None, tell: Callable[[str], None]) -> int:
    """Write the table of the results in a folder and tell where it is; return the exit code.

    A record that cannot be read is named, and the others make the table.

    Parameters
    ----------
    folder
        With the results.
    path
        Of the table; None: ``summary.csv`` in the folder. It is replaced only if it is a table of
        ours.
    tell
        Called with a line for the user.

    Raises
    ------
    DiffsegError
        There is no result, the file is no table of ours, or it cannot be written.
    """
    from napari_diffseg.core.errors import DiffsegError
    from napari_diffseg.core.summary import TABLE_NAME, is_table, read_summaries, save_table

    target = path or folder / TABLE_NAME
    if target.exists() and not is_table(target):
        raise DiffsegError(
            f"{target} is no table of napari-diffseg, or somebody has added columns to it, and is "
            "not overwritten. Write the table with napari-diffseg table and another --out."
        )
    summaries, problems = read_summaries(folder)
    for problem in problems:
        report(f"note: {problem} It is not in the table.")
    if not summaries:
        raise DiffsegError(f"{folder} holds no result that can be read.")
    saved = save_table(target, summaries)
    tell(f"{saved}: {len(summaries)} case{'s' * (len(summaries) != 1)}")
    return SOME_FAILED if problems else OK


def _run_table(arguments: argparse.Namespace) -> int:
    return write_table(arguments.folder, arguments.out, print)
