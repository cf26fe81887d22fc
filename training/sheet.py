"""Steps against members, on one sheet: ``python -m training.sheet CASES_DIR --out DIR``.

Each case is sampled once for every number of steps; the first 1, 2, ... of its members are then
measured. DIR gets ``sheet.csv`` (every case), ``sheet.md`` and its figure, ``sheet.svg`` and
``sheet.png``. An interrupted sheet goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from napari_diffseg.core.brats import Case, CaseFiles, load_case
from napari_diffseg.core.ensemble import Ensemble
from napari_diffseg.core.errors import CaseError, ParameterError
from napari_diffseg.core.geometry import find_z_range
from napari_diffseg.core.params import SAMPLERS
from napari_diffseg.core.preprocessing import prepare_case
from training.baselines.opening import open_segmenter
from training.baselines.segmenter import DiffusionSegmenter
from training.case_store import (
    PAPER_SLICES,
    PROTOCOL_VERSION,
    choose_cases,
    hash_states,
    parse_slices,
)
from training.commands import run_resumable
from training.data import hash_cases
from training.members import measure_first_members
from training.results import FILES, PROBABILITIES, SettingRow, SheetRow, read_rows, write_rows
from training.sheet_report import write_sheet

Plan = tuple[tuple[int, int], ...]
"""(steps, members) for each column of the sheet."""


def choose_slices(case: Case, n_slices: int, slices: tuple[int, int]) -> list[int]:
    """Return canonical slices with tumour, evenly spread over those of the protocol, if any.

    Raises
    ------
    CaseError
        The case has no labels.
    """
    if case.wt_truth is None:
        raise CaseError(f"{case.name} has no expert labels: there is nothing to compare with.")
    first, end = find_z_range(case.geometry, *slices)
    tumour = first + np.flatnonzero(case.wt_truth[first:end].any(axis=(1, 2)))
    # The middles of equal parts: the ends of a tumour are neither left out nor all there is.
    places = (np.arange(n_slices) + 0.5) / n_slices * len(tumour)
    return sorted({int(z) for z in tumour[places.astype(int)]}) if len(tumour) else []


def measure_members(
    case: Case,
    patient: str,
    segmenter: DiffusionSegmenter,
    chosen: Sequence[int],
) -> list[SheetRow]:
    """Sample the chosen slices, and measure the first 1, 2, ... members."""
    assert case.wt_truth is not None
    prepared = prepare_case(case, segmenter.preprocessing)
    started = time.perf_counter()
    drawn = [
        segmenter.segment(case, prepared, (z, z + 1)).members_uint8()[:, z].copy() for z in chosen
    ]
    seconds = (time.perf_counter() - started) / len(chosen)
    ensemble = Ensemble.from_arrays(np.stack(drawn, axis=1))
    measured = measure_first_members(
        case.name,
        patient,
        ensemble,
        case.wt_truth[list(chosen)],
        prepared.brain[list(chosen)],
        case.geometry.spacing_mm[1:],
        [PROBABILITIES],
    )
    return [
        SheetRow(
            case=case.name,
            patient=patient,
            steps=segmenter.settings["steps"],
            n_samples=row.n_samples,
            n_slices=row.n_slices,
            dice=row.dice,
            hd95_mm=row.hd95_mm,
            n_empty=row.n_empty,
            ece=row.ece,
            error_auroc=row.error_auroc,
            diversity=row.diversity,
            seconds_per_slice=seconds * row.n_samples / ensemble.n_members,
        )
        for row in measured
    ]


def make_sheet(arguments: argparse.Namespace) -> str:
    """Sample what is missing, and write everything; return the text.

    Raises
    ------
    DiffsegError
        A case or the model cannot be used, or DIR holds another sheet.
    """
    out: Path = arguments.out
    cases, patients = choose_cases(arguments.cases, arguments.split, arguments.part)
    rows: list[SheetRow] = []
    for steps, n_members in arguments.steps:
        segmenter = open_segmenter(
            arguments.checkpoint,
            n_samples=n_members,
            n_steps=steps,
            sampler=arguments.sampler,
            seed=arguments.seed,
            device=arguments.device,
        )
        if not isinstance(segmenter, DiffusionSegmenter):
            raise ParameterError(f"{arguments.checkpoint} is no diffusion model: it has no steps.")
        if not rows:
            rows = _begin(out, segmenter, arguments, cases)
        for files in cases:
            done = [r for r in rows if (r.case, r.steps) == (files.name, steps)]
            if len(done) >= n_members:
                continue
            case = load_case(files)
            chosen = choose_slices(case, arguments.slices_per_case, arguments.slices)
            if not chosen:
                first, end = arguments.slices
                print(f"{files.name}: no tumour in slices {first} to {end - 1}.", file=sys.stderr)
                continue
            print(f"{files.name}: {steps} steps, {n_members} members", file=sys.stderr)
            rows = [r for r in rows if r not in done]
            rows += measure_members(case, patients[files.name], segmenter, chosen)
            write_rows(out, SheetRow, rows)
    return write_sheet(out)


def _begin(
    out: Path,
    segmenter: DiffusionSegmenter,
    arguments: argparse.Namespace,
    cases: Sequence[CaseFiles],
) -> list[SheetRow]:
    """Return the rows of an interrupted sheet with the same settings."""
    own = ("samples", "steps")
    values = {k: str(v) for k, v in segmenter.settings.items() if k not in own}
    values["slices_per_case"] = str(arguments.slices_per_case)
    values["slices"] = f"{arguments.slices[0]}-{arguments.slices[1] - 1}"
    values["cases"] = hash_cases([files.name for files in cases])
    values["protocol"] = str(PROTOCOL_VERSION)
    values["files"] = hash_states(cases)
    out.mkdir(parents=True, exist_ok=True)
    if (out / FILES[SheetRow]).exists():
        before = {row.name: row.value for row in read_rows(out, SettingRow)}
        if before != values:
            raise ParameterError(f"{out} holds a sheet with other settings. Choose another --out.")
        return read_rows(out, SheetRow)
    write_rows(out, SettingRow, [SettingRow(*item) for item in values.items()])
    return []


def make_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(
        "python -m training.sheet", description="Steps against members: quality and time."
    )
    add = parser.add_argument
    add("cases", type=Path, metavar="CASES_DIR", help="folder of cases with labels")
    add("--out", type=Path, required=True, metavar="DIR", help="for CSV, Markdown and figure")
    add("--split", type=Path, metavar="FILE", help="split file; default: every case of the folder")
    add(
        "--part",
        choices=("training", "validation"),
        default="validation",
        help="of the split (default: %(default)s)",
    )
    add("--checkpoint", type=Path, metavar="FILE", help="default: the bundled model")
    add(
        "--steps",
        type=parse_plan,
        default=parse_plan("1:20,2:20,4:20,8:20,16:20,50:5"),
        metavar="K:N,...",
        help="numbers of steps, each with its members (default: 1:20,2:20,4:20,8:20,16:20,50:5)",
    )
    add("--slices-per-case", type=int, default=4, metavar="S", help="default: %(default)s")
    add(
        "--slices",
        type=parse_slices,
        default=PAPER_SLICES,
        metavar="A:B",
        help="axial slices of the protocol, B not included (default: 80:129, the paper's)",
    )
    add("--sampler", choices=SAMPLERS, help="default: as the model recommends")
    add("--seed", type=int, default=0, help="default: %(default)s")
    add("--device", default="auto", help="default: %(default)s")
    return parser


def parse_plan(text: str) -> Plan:
    """Return steps and members of a text such as ``1:20,8:20``, for command lines."""
    pairs = [part.partition(":") for part in text.split(",")]
    numbers = [(k.strip(), n.strip() or "20") for k, _, n in pairs]
    if not all(k.isdecimal() and n.isdecimal() and int(k) and int(n) for k, n in numbers):
        raise argparse.ArgumentTypeError(f"{text!r} is not like 1:20,8:20,1000:5")
    return tuple((int(k), int(n)) for k, n in numbers)


def main(argv: Sequence[str] | None = None) -> int:
    """Make the sheet and print it; 2: it could not be made."""
    arguments = make_parser().parse_args(argv)
    return run_resumable("training.sheet", lambda: print(make_sheet(arguments)))


if __name__ == "__main__":
    sys.exit(main())
