"""From the files of a case to the files of its result: what a batch does with each of its cases."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from napari_diffseg.core.brats import Case, CaseFiles, load_case
from napari_diffseg.core.checkpoint import LoadedModel
from napari_diffseg.core.consensus import (
    STAPLE_ADVICE,
    USES_THRESHOLD,
    ConsensusKind,
    find_watched,
    has_staple,
)
from napari_diffseg.core.describe import describe_model, describe_result, describe_run
from napari_diffseg.core.errors import DiffsegError, ParameterError
from napari_diffseg.core.events import Event
from napari_diffseg.core.export import (
    RECORD,
    REPORT,
    check_not_edited,
    check_outputs,
    output_paths,
    report_path,
    save_result,
)
from napari_diffseg.core.geometry import find_z_range
from napari_diffseg.core.levels import MapKind
from napari_diffseg.core.params import SegmentParams
from napari_diffseg.core.record import MapsRecord, ResultRecord
from napari_diffseg.core.reopen import find_changed_mask, read_record
from napari_diffseg.core.report import make_report
from napari_diffseg.core.resume import (
    count_drawn,
    find_wanted_key,
    is_as_recorded,
    is_of_images,
    is_of_slices,
)
from napari_diffseg.core.run import run_case
from napari_diffseg.core.scan_notes import find_scan_notes

_ASK = "Choose another folder, or move it away (on the command line, --overwrite replaces it)."


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
    overwrite: bool = False
    """Whether a result is replaced whose mask somebody has edited, or that is of other images or
    slices, and what is no result."""

    @property
    def full_params(self) -> SegmentParams:
        """The parameters, which watch the mask that is saved."""
        threshold, of = find_watched(self.consensus, self.threshold, self.of)
        return replace(self.params, watched_threshold=threshold, watched_of=of)

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
        The case cannot be loaded, the run failed, the result that is there was edited or is of
        other images, files are there that are no result, or the new one cannot be saved; in each
        case nothing of it is written.
    """
    # Before minutes of sampling, not after them.
    outputs = output_paths(folder, files.name, samples=options.save_samples)
    report = report_path(folder, files.name)
    check_outputs([*outputs.values(), report], files)
    written = [*outputs.values(), *([report] if options.report else [])]
    if not options.overwrite:
        check_not_edited(folder, files.name)
        check_replaceable(written, outputs[RECORD], files)
    case = load_case(files)
    if on_note is not None:
        for note in find_scan_notes(case):
            on_note(note)
    z_range = _find_z_range(case, options)
    params = replace(options.full_params, z_range=z_range)
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


def find_done(
    files: CaseFiles, model: LoadedModel, options: BatchOptions, folder: Path
) -> Path | None:
    """Return the record of the very result that `segment_to_files` would make, if it is there.

    That is one of the same images, unchanged and with labels if there are any now, of at least as
    many members that this model would draw with these parameters, on the same slices, by the same
    rule for the mask, with all its files. With a tolerance it may be of fewer members that were
    stable by that tolerance.

    Raises
    ------
    DiffsegError
        The case cannot be loaded, which is done only if slices have to be compared.
    """
    path = output_paths(folder, files.name)[RECORD]
    try:
        record, names = read_record(path)
    except DiffsegError:  # missing or damaged
        return None
    wanted = output_paths(folder, files.name, samples=options.save_samples)
    wanted |= {REPORT: report_path(folder, files.name)} if options.report else {}
    is_done = (
        is_of_images(record.case.files, files, folder, record.case.sha256)
        and is_as_recorded(record.case, files)
        and _has_enough(record, model, options)
        and _makes_same_mask(record.maps, options)
        and all(name in names or name == RECORD for name in wanted)
        and all(file.exists() for file in wanted.values())
        and _has_same_slices(record.maps, files, options)
    )
    return path if is_done else None


def check_replaceable(outputs: Iterable[Path], path: Path, files: CaseFiles) -> None:
    """Make sure that what is replaced is nothing but an earlier result of the same images.

    Nor is it one whose mask somebody has edited in another program.

    Parameters
    ----------
    outputs
        What is going to be written.
    path
        Of the record, which tells what is there.
    files
        The case.

    Raises
    ------
    DiffsegError
        It is something else.
    """
    try:
        recorded = read_record(path)[0].case
    except DiffsegError as error:  # missing or damaged
        foreign = [output for output in outputs if output.exists() and output != path]
        if foreign:
            why = f"{path.name} is not there" if not path.exists() else str(error)
            raise DiffsegError(
                f"{foreign[0]} is there, and nothing tells that it is an earlier result ({why}). "
                f"{_ASK}"
            ) from error
        return
    if not is_of_images(recorded.files, files, path.parent, recorded.sha256):
        raise DiffsegError(
            f"{path} is the result of other images, {recorded.files.get('t1', '')} among "
            f"them. {_ASK}"
        )
    if not is_of_slices(recorded.slice_numbers, files):
        raise DiffsegError(f"{path} is the result of other slices of the same stack. {_ASK}")
    if changed := find_changed_mask(path):
        raise DiffsegError(
            f"{changed.path} is not as it was saved: it has been edited in another program. {_ASK}"
        )


def _find_z_range(case: Case, options: BatchOptions) -> tuple[int, int] | None:
    return None if options.slices is None else find_z_range(case.geometry, *options.slices)


def _has_enough(record: ResultRecord, model: LoadedModel, options: BatchOptions) -> bool:
    params, stopping = options.full_params, record.run.stopping
    n_members = count_drawn(record, find_wanted_key(params, model))
    if n_members >= params.n_samples:
        return True
    return (
        params.tolerance is not None
        and stopping is not None
        and stopping.stable_with is not None
        and stopping.tolerance <= params.tolerance
        and (stopping.threshold, stopping.of) == (params.watched_threshold, params.watched_of)
        and 0 < stopping.stable_with <= n_members
    )


def _makes_same_mask(maps: MapsRecord, options: BatchOptions) -> bool:
    uses_threshold = options.consensus in USES_THRESHOLD
    return (
        maps.consensus == options.consensus
        and maps.of == options.of
        and (not uses_threshold or maps.threshold == options.threshold)
    )


def _has_same_slices(maps: MapsRecord, files: CaseFiles, options: BatchOptions) -> bool:
    if options.slices is None:
        return maps.whole_volume
    case = load_case(files)  # takes a second, where a run takes minutes
    first, end = find_z_range(case.geometry, *options.slices)
    ends = case.geometry.to_source_slice(first), case.geometry.to_source_slice(end - 1)
    return (maps.first_slice, maps.last_slice) == (min(ends), max(ends))
