"""``napari-diffseg slices``: volumes to the slices of the paper's code, and back."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from napari_diffseg._commands.common import OK, parse_path, report, run_cases
from napari_diffseg.core.errors import CaseError

if TYPE_CHECKING:
    from napari_diffseg.core.case_files import CaseFiles
    from napari_diffseg.core.slice_assembly import AssembledVolume
    from napari_diffseg.core.slice_export import SliceExport

KINDS = (
    *("t1", "t1ce", "t2", "flair", "seg"),
    *("mask", "mean", "variance", "disagreement", "edited", "output"),
)
OUTPUT_MAPS = ("mask", "mean", "variance", "samples")  # core.slice_assembly; that waits for NumPy
_DROPPED = (80, 26)  # core.slice_export.DROPPED_SLICES

_EXPORT_EPILOG = """\
A CASE is what `napari-diffseg segment` takes: a folder, a file of a case, a folder of cases.

DIR gets a folder for each slice, with a file for each modality and one for the labels:
  DIR/brats_train_001_080/brats_train_001_t1_080_w.nii.gz
Names of cases without three parts become such: BraTS2021_00006 is brats_case_BraTS2021-00006.
Slices are counted from the lowest, from 0; each file has its place in its header.

The paper's code takes DIR as --data_dir: with labels for training, without for sampling
(--without-labels), and there as ./data/testing, relative, with just these parts.
"""
_ASSEMBLE_EPILOG = """\
DIR holds files of slices, or folders with them. By their names these are
  t1 t1ce t2 flair seg  CASE_t1_080_w.nii.gz, as `slices export` writes them
  mask mean variance disagreement edited
                        CASE_080_mask.nii.gz, results of `segment` on single slices
  output                CASE_080_output0, samples of the paper's code (generated_masks)
Slices are counted from the lowest; what has no file is 0.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser its two commands."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    raw = argparse.RawDescriptionHelpFormatter
    _add_export(
        commands.add_parser(
            "export",
            help="cut volumes into the slice folders of the paper's code",
            description="Cut volumes into the slice folders that the paper's code reads.",
            epilog=_EXPORT_EPILOG,
            formatter_class=raw,
        )
    )
    _add_assemble(
        commands.add_parser(
            "assemble",
            help="put slices, or masks of the paper's code, into one volume",
            description="Put slices, or masks that the paper's code drew, into one volume.",
            epilog=_ASSEMBLE_EPILOG,
            formatter_class=raw,
        )
    )


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("cases", nargs="+", type=parse_path, metavar="CASE")
    parser.add_argument(
        "--out", type=parse_path, required=True, metavar="DIR", help="folder for slices"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--drop",
        nargs=2,
        type=_parse_count,
        default=_DROPPED,
        metavar=("LOWEST", "UPPERMOST"),
        help="how many slices to leave out below and above (default: 80 26, as the paper)",
    )
    which.add_argument(
        "--all", action="store_const", const=(0, 0), dest="drop", help="leave none out"
    )
    parser.add_argument(
        "--without-labels", action="store_true", help="images alone, as for sampling"
    )
    parser.add_argument(
        "--raw",
        action="store_true",
        help="keep the intensities (default: the volume's 1st to 99th percentile becomes 0 to 1, "
        "as in the paper, whose code expects it to be done)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace slices of the same case, all of them"
    )
    parser.set_defaults(command=_run_export)


def _add_assemble(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=parse_path, metavar="DIR")
    parser.add_argument(
        "--like",
        type=parse_path,
        required=True,
        metavar="VOLUME",
        help="any file of the case: its grid",
    )
    parser.add_argument("--out", type=parse_path, required=True, metavar="FILE", help="*.nii.gz")
    parser.add_argument("--case", metavar="NAME", help="if DIR has slices of several")
    parser.add_argument(
        "--what", choices=KINDS, metavar="KIND", help="if DIR has several: see below"
    )
    parser.add_argument(
        "--map",
        choices=OUTPUT_MAPS,
        default=OUTPUT_MAPS[0],
        help="of samples of the paper's code, each made a mask at 0.5: where their mean is above "
        "0.5, their mean, their variance, or all of them (default: %(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it is there")
    parser.set_defaults(command=_run_assemble)


def _parse_count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 on")
    return int(text)


def _run_export(arguments: argparse.Namespace) -> int:
    from napari_diffseg.core.export import make_output_folder
    from napari_diffseg.core.inputs import expand_inputs
    from napari_diffseg.core.slice_export import SliceOptions, export_slices
    from napari_diffseg.core.slice_files import make_slice_case

    options = SliceOptions(
        dropped=tuple(arguments.drop),
        labels=not arguments.without_labels,
        raw=arguments.raw,
        overwrite=arguments.overwrite,
    )
    make_output_folder(arguments.out)
    names: dict[str, str] = {}

    def work(files: CaseFiles, _: str) -> tuple[str, SliceExport]:
        slice_case = make_slice_case(files.name)
        other = names.setdefault(slice_case.casefold(), files.name)
        if other != files.name:
            raise CaseError(f"{other} has the same name as slices: {slice_case}.")
        return files.name, export_slices(files, arguments.out, options)

    def tell(result: tuple[str, SliceExport], title: str) -> None:
        name, exported = result
        for note in exported.notes:
            report(f"{title} note: {note}")
        first, last = exported.folders[0], exported.folders[-1]
        print(f"{name}: {len(exported.folders)} slices, {first} to {last.name}", flush=True)

    return run_cases(expand_inputs(arguments.cases), work, tell)


def _run_assemble(arguments: argparse.Namespace) -> int:
    from napari_diffseg.core.export import make_output_folder
    from napari_diffseg.core.slice_assembly import assemble, check_target, load_grid
    from napari_diffseg.core.slice_files import OUTPUT, find_slices
    from napari_diffseg.core.volume import save_on_source_grid

    files = find_slices(arguments.folder, case=arguments.case, kind=arguments.what)
    inputs = [arguments.like, *(file.path for file in files)]
    check_target(arguments.out, inputs, overwrite=arguments.overwrite)
    geometry = load_grid(arguments.like)
    volume = assemble(files, geometry, arguments.map)
    make_output_folder(arguments.out.parent)
    what: str = files[0].kind
    if what == OUTPUT:
        what = f"{arguments.map} of {volume.n_members} samples"
    save_on_source_grid(
        arguments.out, volume.data, geometry, description=f"napari-diffseg: slices, {what}"
    )
    if volume.gaps:
        report(f"note: {_describe_gaps(volume)}")
    n_slices = geometry.shape[0]
    print(
        f"{arguments.out}: {what} of {files[0].case}, {len(volume.numbers)} of {n_slices} slices "
        f"({volume.numbers[0]} to {volume.numbers[-1]}), the others are 0"
    )
    return OK


def _describe_gaps(volume: AssembledVolume) -> str:
    from napari_diffseg.core.case_files import some

    return f"slices {some([str(number) for number in volume.gaps])} are missing and are 0."
