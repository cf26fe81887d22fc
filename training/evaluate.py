"""Evaluate a system by the paper's protocol: ``python -m training.evaluate CASES_DIR --out DIR``.

Diffusion models are sampled by `napari_diffseg.core.segment`, as in the viewer; any other system is
given the same cases, slices and measures. DIR gets CSV files with every single value
(`training.results`), from which `training.table` makes the printed tables.
An interrupted evaluation goes on where it stopped: a case that was measured with the same model,
parameters and files is not sampled again.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from napari_diffseg.core.brats import CaseFiles, load_case
from napari_diffseg.core.environment import software_versions
from napari_diffseg.core.errors import CaseError, DiffsegError
from napari_diffseg.core.events import Event
from napari_diffseg.core.geometry import find_z_range
from napari_diffseg.core.params import SAMPLERS
from napari_diffseg.core.preprocessing import prepare_case
from napari_diffseg.core.progress import Progress
from napari_diffseg.core.segment import order_slices
from training import known_patients
from training.baselines.nnunet import NnunetSegmenter
from training.baselines.opening import open_segmenter
from training.baselines.segmenter import Segmenter
from training.case_store import (
    PAPER_SLICES,
    PROTOCOL_VERSION,
    CaseStore,
    Protocol,
    Shard,
    choose_cases,
    make_key,
    parse_shard,
    parse_slices,
)
from training.data import find_patient
from training.measure import CaseMeasurements, measure_case
from training.results import (
    CalibrationRow,
    CaseRow,
    MemberRow,
    SettingRow,
    SliceRow,
    ThresholdRow,
    TimingRow,
    UncertaintyRow,
    read_rows,
    write_rows,
)
from training.table import make_report

_WRITE_EVERY_S = 60.0


def evaluate_case(
    files: CaseFiles,
    patient: str,
    segmenter: Segmenter,
    protocol: Protocol,
    on_event: Callable[[Event], None] | None = None,
) -> CaseMeasurements:
    """Segment a case and measure it.

    Raises
    ------
    DiffsegError
        The case cannot be loaded or has no labels, or the run failed.
    """
    case = load_case(files)
    if case.wt_truth is None:
        raise CaseError(f"{case.name} has no expert labels: there is nothing to compare with.")
    z_range = find_z_range(case.geometry, *protocol.slices)
    prepared = prepare_case(case, segmenter.preprocessing)
    sampled = None if protocol.all_slices else z_range
    started = time.perf_counter()
    ensemble = segmenter.segment(case, prepared, sampled, on_event)
    seconds = time.perf_counter() - started
    measured = measure_case(
        case, patient, ensemble, prepared.brain, z_range, whole_volume=protocol.all_slices
    )
    n_slices = len(order_slices(prepared.z_indices, sampled, None))
    if isinstance(segmenter, NnunetSegmenter):
        return measured  # only read here: that time says nothing
    timing = TimingRow(case.name, patient, n_slices, ensemble.n_members, seconds)
    return dataclasses.replace(measured, timing=timing)


def evaluate(
    cases: Sequence[CaseFiles],
    patients: dict[str, str],
    segmenter: Segmenter,
    protocol: Protocol,
    out: Path,
    *,
    fresh: bool = False,
    writes_csv: bool = True,
) -> int:
    """Measure all cases and write the CSV files; return how many failed.

    They are written now and then, and in any case at the end, also of an interrupted evaluation.
    Without ``writes_csv`` there is only what each case leaves in ``cases``, for a later call.
    """
    from tqdm import tqdm

    store = CaseStore(out / "cases")
    trained_on = segmenter.trained_on | {find_patient(name) for name in segmenter.trained_on}
    known = sorted({p for case, p in patients.items() if {p, find_patient(case)} & trained_on})
    settings = _describe_settings(segmenter, protocol, len(known))
    if known:
        print(
            f"The model was trained on {len(known)} of these patients, the first is {known[0]}: "
            "figures of them say nothing about others.",
            file=sys.stderr,
        )
    measured: list[CaseMeasurements] = []
    n_failed = 0
    written = time.monotonic()
    with (
        tqdm(cases, unit="case", disable=None, dynamic_ncols=True) as bar,
        ExitStack() as at_end,
    ):
        if writes_csv:
            at_end.callback(lambda: _write_all(out, settings, measured))
        for files in bar:
            bar.set_description(files.name)
            patient = patients[files.name]
            started = time.monotonic()
            try:
                if files.problem:
                    raise CaseError(files.problem)
                key = make_key(files, patient, segmenter, protocol)
                result = None if fresh else store.load(files.name, key)
                done_before = result is not None
                if result is None:
                    result = evaluate_case(files, patient, segmenter, protocol, _show(bar))
                    store.save(files.name, key, result)
            except DiffsegError as error:
                bar.write(f"{files.name} failed: {error}", file=sys.stderr)
                n_failed += 1
                continue
            measured.append(result)
            if writes_csv and time.monotonic() - written > _WRITE_EVERY_S:
                _write_all(out, settings, measured)
                written = time.monotonic()
            took = "was done" if done_before else f"{time.monotonic() - started:.0f} s"
            bar.write(f"{files.name}: {took}", file=sys.stderr)
    return n_failed


def _show(bar: Any) -> Callable[[Event], None]:
    progress = Progress()

    def update(event: Event) -> None:
        progress.update(event)
        bar.set_postfix_str(progress.describe(), refresh=False)
        bar.update(0)  # draws at most every tenth of a second

    return update


def _write_all(
    out: Path, settings: Sequence[SettingRow], measured: Sequence[CaseMeasurements]
) -> None:
    if not measured:  # what is there, of another model perhaps, keeps its settings
        return
    write_rows(out, SettingRow, settings)
    write_rows(out, SliceRow, [row for each in measured for row in each.slices])
    write_rows(out, CaseRow, [row for each in measured for row in each.cases])
    write_rows(out, UncertaintyRow, [row for each in measured for row in each.uncertainty])
    write_rows(out, CalibrationRow, [row for each in measured for row in each.calibration])
    write_rows(out, MemberRow, [row for each in measured for row in each.members])
    write_rows(out, ThresholdRow, [row for each in measured for row in each.thresholds])
    write_rows(out, TimingRow, [each.timing for each in measured if each.timing is not None])


def _describe_settings(
    segmenter: Segmenter, protocol: Protocol, n_trained_on: int
) -> list[SettingRow]:
    values = {
        "system": segmenter.system,
        **segmenter.settings,
        "slices": f"{protocol.slices[0]}-{protocol.slices[1] - 1}",
        "protocol": PROTOCOL_VERSION,
        known_patients.SETTING: n_trained_on if segmenter.trained_on else "",
        **software_versions(),
    }
    return [SettingRow(name, str(value)) for name, value in values.items()]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the evaluation and print its table; 1: some cases failed, 2: it could not run."""
    arguments = _parse(argv)
    try:
        segmenter = open_segmenter(
            arguments.segmenter or arguments.checkpoint,
            n_samples=arguments.samples,
            n_steps=arguments.steps,
            sampler=arguments.sampler,
            eta=arguments.eta,
            mirror=arguments.mirror,
            vary_contrast=arguments.vary_contrast,
            sample_dropout=arguments.sample_dropout,
            without_diffusion=arguments.without_diffusion,
            seed=arguments.seed,
            device=arguments.device,
        )
        protocol = Protocol(arguments.slices, arguments.all_slices)
        cases, patients = choose_cases(arguments.cases, arguments.split, arguments.part)
        shard: Shard | None = arguments.shard
        if shard is not None:
            cases = shard.of(cases)
        arguments.out.mkdir(parents=True, exist_ok=True)
        n_failed = evaluate(
            cases,
            patients,
            segmenter,
            protocol,
            arguments.out,
            fresh=arguments.fresh,
            writes_csv=shard is None,
        )
        if shard is not None:
            print(
                f"Measured: {len(cases) - n_failed}. The table is made by a call without --shard."
            )
        elif n_failed < len(cases):
            # A part of the cases, such as a fold, may have no tumour where the protocol looks.
            has_tumour = bool(read_rows(arguments.out, SliceRow))
            print(make_report(arguments.out) if has_tumour else "No slice has tumour: no table.")
    except (DiffsegError, OSError) as error:
        print(f"training.evaluate: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted; the same command goes on from here.", file=sys.stderr)
        return 130
    if n_failed:
        print(f"{n_failed} of {len(cases)} cases failed; the table lacks them.", file=sys.stderr)
    return 1 if n_failed else 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate", description="The paper's protocol, on labelled cases."
    )
    add = parser.add_argument
    add("cases", type=Path, metavar="CASES_DIR", help="folder of cases with labels")
    add("--out", type=Path, required=True, metavar="DIR", help="for the CSV files")
    add("--split", type=Path, metavar="FILE", help="split file; default: every case of the folder")
    add(
        "--part",
        choices=("training", "validation"),
        default="validation",
        help="of the split (default: %(default)s)",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--checkpoint", type=Path, metavar="FILE", help="default: the bundled model")
    which.add_argument(
        "--segmenter",
        type=Path,
        metavar="FILE",
        help="of any system, so also of a baseline",
    )
    add("--samples", type=int, default=5, metavar="N", help="members (default: %(default)s)")
    add("--steps", type=int, metavar="K", help="default: as the model recommends")
    add("--sampler", choices=SAMPLERS, help="default: as the model recommends")
    add("--eta", type=float, default=0.0, help="randomness of ddim (default: %(default)s)")
    add(
        "--mirror",
        action=argparse.BooleanOptionalAction,
        help="every second member sees the slice mirrored; default: as the model recommends",
    )
    add(
        "--vary-contrast",
        action=argparse.BooleanOptionalAction,
        help="every member but the first sees a contrast of its own; default: as the model "
        "recommends",
    )
    add(
        "--sample-dropout",
        action=argparse.BooleanOptionalAction,
        help="SegNet and U-Net: members by dropout; default: as the network was trained",
    )
    add(
        "--without-diffusion",
        action="store_true",
        help="what the model's encoders answer, one member each, before any denoising",
    )
    add("--seed", type=int, default=0, help="default: %(default)s")
    add("--device", default="auto", help="default: %(default)s")
    add(
        "--slices",
        type=parse_slices,
        default=PAPER_SLICES,
        metavar="A:B",
        help="axial slices of the protocol, B not included (default: 80:129, the paper's)",
    )
    add("--all-slices", action="store_true", help="sample everything: 3-D scores of whole volumes")
    add(
        "--shard",
        type=parse_shard,
        metavar="I/N",
        help="measure only every N-th case from the I-th on, and write no CSV files: for several "
        "processes or GPUs; a last call without it writes them from what was measured",
    )
    add("--fresh", action="store_true", help="measure cases again that were done before")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
