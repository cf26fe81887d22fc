"""The command line: segment cases, cut them into slices, look at models.

Results go to stdout, everything else to stderr. Exit code 0: all is done; 1: some cases failed;
2: the command itself could not run (its arguments, the model, the output folder); 130: Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from napari_diffseg import __version__
from napari_diffseg._commands import models, segment, slices
from napari_diffseg._commands.common import CANNOT_RUN, INTERRUPTED
from napari_diffseg.core.errors import DiffsegError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = _make_parser().parse_args(argv)
    try:
        return int(arguments.command(arguments))
    except DiffsegError as error:
        print(f"napari-diffseg: error: {error}", file=sys.stderr)
        return CANNOT_RUN
    except KeyboardInterrupt:
        print("\nInterrupted. Nothing was written for the case that was running.", file=sys.stderr)
        return INTERRUPTED


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="napari-diffseg",
        description="Brain tumour segmentation with diffusion model ensembles.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(
        name: str,
        add_arguments: Callable[[argparse.ArgumentParser], None],
        summary: str,
        description: str,
        epilog: str | None = None,
    ) -> None:
        formatter = argparse.RawDescriptionHelpFormatter if epilog else argparse.HelpFormatter
        command = commands.add_parser(
            name, help=summary, description=description, epilog=epilog, formatter_class=formatter
        )
        add_arguments(command)

    add(
        "segment",
        segment.add_arguments,
        "segment BraTS cases into NIfTI files and a JSON record",
        "Draw an ensemble of tumour masks for each case and save its maps.",
        segment.EPILOG,
    )
    add(
        "slices",
        slices.add_arguments,
        "volumes to the slices of the paper's code, and back",
        "Volumes to the slice folders that the paper's published code reads, and back.",
    )
    add(
        "info",
        models.add_info_arguments,
        "show versions, devices and models",
        "Show versions, devices and models.",
    )
    add(
        "convert",
        models.add_convert_arguments,
        "turn a checkpoint of the paper's code into a model file",
        "Turn a .pt checkpoint of the paper's published code (weights or their moving average) "
        "into a model file, which opens faster and tells what it is.",
    )
    return parser
