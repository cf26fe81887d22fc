"""The command line: segment cases, table their results, cut them into slices, look at models.

Results go to stdout, everything else to stderr. Exit code 0: all is done; 1: some cases failed;
2: the command itself could not run (its arguments, the model, the output folder); 130: Ctrl-C;
143: SIGTERM; 141: nobody reads the results any more (as in ``| head``).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from napari_diffseg import __version__
from napari_diffseg._commands import models, segment, slices, table
from napari_diffseg._commands.common import CANNOT_RUN, INTERRUPTED, NOBODY_READS, explain, report
from napari_diffseg._commands.shell import ending_cleanly, forget_stdout, prepare_streams


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    prepare_streams()
    arguments = _make_parser().parse_args(argv)
    try:
        with ending_cleanly():
            return int(arguments.command(arguments))
    except KeyboardInterrupt:
        report("\nInterrupted. What was finished is kept, nothing half-written is left.")
        return INTERRUPTED
    except BrokenPipeError:
        forget_stdout()
        return NOBODY_READS
    except Exception as error:  # no traceback for a user, whatever it is
        if isinstance(error, OSError):
            forget_stdout()
        report(f"napari-diffseg: error: {explain(error)}")
        return CANNOT_RUN


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
        "table",
        table.add_arguments,
        "write the results of a folder as one CSV table",
        "Write what the saved results of a folder say as one CSV file: a row for each case, with "
        "volume and interval, confidence, scores if there are labels, verdict, and how it was "
        "made.",
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
