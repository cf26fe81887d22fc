"""From the files of a case to the files of its result: what a batch does with each of its cases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from napari_diffseg.core.brats import CaseFiles, load_case
from napari_diffseg.core.checkpoint import LoadedModel
from napari_diffseg.core.consensus import STAPLE_ADVICE, ConsensusKind, has_staple
from napari_diffseg.core.describe import describe_model, describe_result, describe_run
from napari_diffseg.core.errors import ParameterError
from napari_diffseg.core.events import Event
from napari_diffseg.core.export import check_outputs, output_paths, report_path, save_result
from napari_diffseg.core.geometry import find_z_range
from napari_diffseg.core.levels import MapKind
from napari_diffseg.core.params import SegmentParams
from napari_diffseg.core.record import ResultRecord
from napari_diffseg.core.report import make_report
from napari_diffseg.core.run import run_case
from napari_diffseg.core.scan_notes import find_scan_notes


@dataclass(frozen=True)
class BatchOptions:
    """What is the same for all cases of a batch."""

    params: SegmentParams = SegmentParams()
    """``z_range`` comes from ``slices``, for each case."""
    slices: tuple[int | None, int | None] | None = None
    """Slice numbers of the source files, first and one past the last; None: all slices."""
    threshold: float = 0.5
    """Tumour is where the mean map is above it."""
    of: MapKind = "probabilities"
    """What the maps are made of."""
    consensus: ConsensusKind = "mean"
    """How the mask follows from the members."""
    save_samples: bool = False
    """Whether the members are saved as well."""
    report: bool = False
    """Whether a report is written."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.threshold < 1.0:
            raise ParameterError(
                f"The threshold must be at least 0 and below 1, it is {self.threshold:g}."
            )
        if self.consensus == "staple" and not has_staple():  # said before hours of sampling
            raise ParameterError(f"{STAPLE_ADVICE}.")


def segment_to_files(
    files: CaseFiles,
    model: LoadedModel,
    options: BatchOptions,
    folder: Path,
    on_event: Callable[[Event], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> tuple[ResultRecord, dict[str, Path]]:
    """Load a case, draw its ensemble and save the result into `folder`.

    Parameters
    ----------
    files, model, options, folder
        What to segment, with what, how, and where the result goes.
    on_event
        Called with every event of the run.
    on_note
        Called, before anything is drawn, with each note about the images that may harm the result.

    Returns
    -------
    record, paths
        What the JSON file says, and the files written (see `export.save_result`).

    Raises
    ------
    DiffsegError
        The case cannot be loaded, the run failed, or the result cannot be saved; in each case
        nothing of it is written.
    """
    # Before minutes of sampling, not after them.
    outputs = output_paths(folder, files.name, samples=options.save_samples)
    report = report_path(folder, files.name)
    check_outputs([*outputs.values(), report], files)
    case = load_case(files)
    if on_note is not None:
        for note in find_scan_notes(case):
            on_note(note)
    z_range = None if options.slices is None else find_z_range(case.geometry, *options.slices)
    params = replace(options.params, z_range=z_range)
    run = run_case(case, model, params, on_event=on_event)
    record = describe_result(
        case,
        run.ensemble,
        describe_run(
            describe_model(model), params, run.started, run.elapsed_s, run.messages, run.converged
        ),
        threshold=options.threshold,
        of=options.of,
        consensus=options.consensus,
        z_range=z_range,
    )
    paths = save_result(
        folder,
        case,
        run.ensemble,
        record,
        samples=options.save_samples,
        report=make_report(case, run.ensemble, record) if options.report else None,
    )
    return record, paths
