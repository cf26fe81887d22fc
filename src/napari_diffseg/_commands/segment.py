"""``napari-diffseg segment``: cases into maps, a record and a report."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from napari_diffseg._commands.common import (
    SOME_FAILED,
    parse_path,
    parse_threads,
    report,
    run_cases,
)
from napari_diffseg._commands.table import write_table
from napari_diffseg.core.errors import DiffsegError
from napari_diffseg.core.params import MAX_TOLERANCE, SAMPLERS, SegmentParams

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from napari_diffseg.core.batch import BatchOptions
    from napari_diffseg.core.case_files import CaseFiles
    from napari_diffseg.core.params import SamplerName
    from napari_diffseg.core.record import ResultRecord

    _Outcome = tuple[ResultRecord, dict[str, Path], set[Path]]
    """The record, the files written, and what an earlier run has left beside them."""

MAP_KINDS = ("probabilities", "masks")  # core.levels.MapKind; that module waits for NumPy
CONSENSUS_KINDS = ("mean", "majority", "staple", "closest")  # core.consensus.ConsensusKind

_DEFAULTS = SegmentParams()
_DEFAULT_THRESHOLD = 0.5

EPILOG = """\
A CASE is a folder, any file of a case, or a folder that holds several cases. Names of BraTS 2017
and later, of BIDS, of the Medical Segmentation Decathlon and of single slices are known. Cases
whose folders only are called alike (sub-01/anat) are named by the folders around them, too. Expert
labels count as whole tumour, but for the resection cavity (label 4 of BraTS from 2024 on, not of
BraTS-PED).

For each case DIR gets, on the grid of its own files:
  CASE_mask.nii.gz          whole tumour, where the mean is above the threshold (or --consensus)
  CASE_mean.nii.gz          mean m of the samples, 0 to 1
  CASE_variance.nii.gz      m (1 - m), 0 to 0.25: between the samples plus within each
  CASE_disagreement.nii.gz  variance between the samples alone, 0 to 0.25
  CASE_samples.nii.gz       every sample, 4-D, 0 to 1 (--save-samples)
  CASE_report.html          a page for a browser, with pictures; needs no network (--report)
  CASE_diffseg.json         parameters, model, volumes with interval, disagreement of each slice,
                            and Dice, HD95 and Jaccard if expert labels are there
Of several cases also
  summary.csv               one row for each result in DIR, as of napari-diffseg table
Earlier results of the same name are replaced, but not those with a mask that was edited, here or
in another program, nor those of other images or slices, nor what is no result (--overwrite).
What only an earlier run wrote (samples, report, edited mask) is left, and named.
After Ctrl-C, the same command with --skip-done goes on where it was.

Exit code 0: all cases done; 1: some failed (the others are done); 2: could not run;
130: Ctrl-C; 143: SIGTERM, as of a cluster whose time is up; 141: nobody reads the output.
Research use only, not a medical device.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser its arguments."""
    parser.add_argument("cases", nargs="+", type=parse_path, metavar="CASE")
    parser.add_argument(
        "--out", type=parse_path, required=True, metavar="DIR", help="folder for results"
    )
    parser.add_argument(
        "--samples", type=int, default=5, metavar="N", help="samples to draw (default: %(default)s)"
    )
    parser.add_argument(
        "--until-stable",
        type=parse_tolerance,
        metavar="TOL",
        help="draw fewer than N samples when the last two have changed the mask by no more than "
        "this, as 1 - Dice: 0.005 is half a per cent (with --consensus staple or closest: the "
        "majority's mask)",
    )
    parser.add_argument(
        "--steps", type=int, metavar="K", help="sampling steps (default: as the model recommends)"
    )
    parser.add_argument("--sampler", choices=SAMPLERS, help="(default: as the model recommends)")
    parser.add_argument(
        "--eta",
        type=float,
        help=f"randomness of ddim alone: 0 none, 1 as much as ddpm (default: {_DEFAULTS.eta:g})",
    )
    parser.add_argument(
        "--mirror",
        action=argparse.BooleanOptionalAction,
        help="every second sample sees the slices mirrored left to right (default: as the model "
        "recommends)",
    )
    parser.add_argument(
        "--vary-contrast",
        action=argparse.BooleanOptionalAction,
        help="every sample but the first sees the slices through a contrast of its own (default: "
        "as the model recommends)",
    )
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument(
        "--slices",
        type=parse_slices,
        metavar="A:B",
        help="axial slices by their number in the file, counted from 0: A and up to, but not "
        "including, B, as in Python; either may be left out, and A alone is one slice (default: "
        "all)",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="P",
        help="tumour is where the mean, or STAPLE's estimate, is above it "
        f"(default: {_DEFAULT_THRESHOLD:g})",
    )
    parser.add_argument(
        "--consensus",
        choices=CONSENSUS_KINDS,
        default=CONSENSUS_KINDS[0],
        help="which mask to save: where the mean, or STAPLE's estimate, is above the threshold, "
        "where the majority of the samples' masks is, or the sample that is closest to all others "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--of",
        choices=MAP_KINDS,
        default=MAP_KINDS[0],
        help="make the maps of the samples' probabilities, or of their masks as in the paper "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--checkpoint",
        type=parse_path,
        metavar="FILE",
        help="model file (default: the bundled model)",
    )
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: %(default)s)"
    )
    parser.add_argument("--save-samples", action="store_true", help="also save every sample")
    parser.add_argument(
        "--report", action="store_true", help="also write a report: one HTML file for a browser"
    )
    parser.add_argument(
        "--skip-done",
        action="store_true",
        help="leave a case alone whose result in DIR is the one that would be drawn: same images, "
        "model and settings, and at least as many samples; images are told by what is in them",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="also replace results whose mask was edited, those of other images or slices of the "
        "same name, and files that are no result",
    )
    parser.add_argument(
        "--memory-budget",
        type=int,
        default=_DEFAULTS.memory_budget_mb,
        metavar="MB",
        help="working memory beside the network (default: %(default)s)",
    )
    parser.add_argument(
        "--threads",
        type=parse_threads,
        metavar="N",
        help="threads on the CPU (default: as torch chooses)",
    )
    parser.set_defaults(command=_run_segment)


def parse_slices(text: str) -> tuple[int | None, int | None]:
    """Read "A:B", "A:", ":B" or "A" (that slice alone)."""
    first, colon, end = text.partition(":")
    try:
        numbers = int(first) if first else None, int(end) if end else None
    except ValueError:
        numbers = None, None
    if not colon and numbers[0] is not None:
        numbers = numbers[0], numbers[0] + 1
    if numbers == (None, None) or any(n is not None and n < 0 for n in numbers):
        raise argparse.ArgumentTypeError(f"{text!r} is not a range like 60:90")
    if None not in numbers and numbers[0] >= numbers[1]:  # type: ignore[operator]
        raise argparse.ArgumentTypeError(f"{text!r} holds no slice: the end is not included")
    return numbers


def parse_tolerance(text: str) -> float:
    """Read a change of the mask as 1 - Dice; a number of per cent would stop any run at once."""
    try:
        tolerance = float(text)
    except ValueError:
        tolerance = math.nan
    if not 0.0 <= tolerance <= MAX_TOLERANCE:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number from 0 to {MAX_TOLERANCE:g}: 0.005 is half a per cent"
        )
    return tolerance


def _run_segment(arguments: argparse.Namespace) -> int:
    _make_options(arguments, arguments.sampler or SAMPLERS[0])  # wrong values are told at once
    from napari_diffseg._terminal import ProgressLine
    from napari_diffseg.core.batch import find_done, segment_to_files
    from napari_diffseg.core.checkpoint import bundled_checkpoint, load_checkpoint
    from napari_diffseg.core.export import find_earlier, make_output_folder
    from napari_diffseg.core.inputs import expand_inputs
    from napari_diffseg.core.reopen import SUFFIX, find_later_change
    from napari_diffseg.core.segment import resolve_device

    resolve_device(arguments.device)
    if arguments.threads is not None:
        import torch

        torch.set_num_threads(arguments.threads)
    model = load_checkpoint(arguments.checkpoint or bundled_checkpoint())
    options = _make_options(arguments, arguments.sampler or model.card.recommended_sampler)
    for note in _find_idle_options(arguments, options):
        report(f"note: {note}")
    steps = options.params.n_steps or model.card.recommended_steps
    model.network.diffusion.make_schedule().respaced(steps)  # too many would fail for every case
    make_output_folder(arguments.out)

    def work(files: CaseFiles, title: str) -> _Outcome | None:
        done = find_done(files, model, options, arguments.out) if arguments.skip_done else None
        if done is not None:
            report(f"{title} was done: {done}")
            if changed := find_later_change(done):
                report(f"{title} note: {changed.path} has been edited in another program since.")
            return None
        earlier = find_earlier(arguments.out, files.name)
        with ProgressLine(title) as line:
            record, paths = segment_to_files(
                files,
                model,
                options,
                arguments.out,
                on_event=line.update,
                on_note=lambda note: line.tell(f"{title} note: {note}"),
            )
        return record, paths, earlier - {*paths.values()}

    cases = expand_inputs(arguments.cases)
    code = run_cases(cases, work, _tell)
    if len(cases) > 1 and any(arguments.out.glob(f"[!.]*{SUFFIX}")):
        try:
            code = max(code, write_table(arguments.out, None, report))
        except DiffsegError as error:  # the cases are done
            report(f"note: {error}")
            code = max(code, SOME_FAILED)
    return code


def _tell(result: _Outcome | None, title: str) -> None:
    """Tell what came of a case; nothing of one that was done."""
    from napari_diffseg._terminal import summarise

    if result is None:
        return
    record, paths, left_over = result
    for note in record.run.messages:
        report(f"{title} note: {note}")
    if record.verdict is not None and record.verdict.is_warning:
        report(f"{title} note: {record.verdict.text}")
    for path in sorted(left_over):
        report(f"{title} note: {path} is left from an earlier run and not of this result.")
    print(summarise(record, paths), flush=True)


def _find_idle_options(arguments: argparse.Namespace, options: BatchOptions) -> Iterator[str]:
    """Say which options that were given change nothing."""
    from napari_diffseg.core.consensus import USES_THRESHOLD

    if arguments.eta is not None and options.params.sampler != "ddim":
        yield f"--eta has no effect on {options.params.sampler}, only on --sampler ddim."
    if arguments.threshold is not None and options.consensus not in USES_THRESHOLD:
        yield f"--threshold has no effect on --consensus {options.consensus}."


def _make_options(arguments: argparse.Namespace, sampler: SamplerName) -> BatchOptions:
    from napari_diffseg.core.batch import BatchOptions

    return BatchOptions(
        params=SegmentParams(
            n_samples=arguments.samples,
            tolerance=arguments.until_stable,
            n_steps=arguments.steps,
            sampler=sampler,
            eta=_DEFAULTS.eta if arguments.eta is None else arguments.eta,
            mirror=arguments.mirror,
            vary_contrast=arguments.vary_contrast,
            seed=arguments.seed,
            device=arguments.device,
            memory_budget_mb=arguments.memory_budget,
        ),
        slices=arguments.slices,
        threshold=_DEFAULT_THRESHOLD if arguments.threshold is None else arguments.threshold,
        of=arguments.of,
        consensus=arguments.consensus,
        save_samples=arguments.save_samples,
        report=arguments.report,
        overwrite=arguments.overwrite,
    )
