"""The results of many cases as one table: a row for each saved record, as CSV."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from napari_diffseg.core.case_files import natural_key
from napari_diffseg.core.errors import DiffsegError
from napari_diffseg.core.reopen import SUFFIX, find_later_change, read_record

if TYPE_CHECKING:
    from napari_diffseg.core.record import ResultRecord
    from napari_diffseg.core.reopen import ChangedMask

TABLE_NAME = "summary.csv"
_DIGITS = 4  # 0.1 of a microlitre


@dataclass(frozen=True)
class CaseSummary:
    """What a record says, in one row; the fields are the columns, None is an empty cell."""

    case: str
    mask_ml: float
    """Of the model's mask."""
    low_ml: float | None
    high_ml: float | None
    interval: str | None
    """What ``low_ml`` and ``high_ml`` of the samples' own volumes are."""
    likely_low_ml: float | None
    likely_high_ml: float | None
    """Where the mean probability is above 0.9, and above 0.1; None in records of before."""
    expected_ml: float
    """Sum of the mean map."""
    confidence: float | None
    """Mean pairwise Dice of the samples, 0 to 1; None with fewer than two."""
    mean_disagreement_mm: float | None
    """How uncertain the outline is (see `compute_mean_disagreement_mm`)."""
    n_samples: int
    """Of which the maps are made."""
    consensus: str
    threshold: float
    whole_volume: bool
    dice: float | None
    """Of the model's mask; this and the next two are None without labels."""
    hd95_mm: float | None
    truth_ml: float | None
    warning: bool
    """Whether the verdict is one."""
    verdict: str
    edited: bool
    """Whether somebody has painted on the mask, here or in another program."""
    edited_ml: float | None
    """Volume of the mask that was painted on."""
    model: str
    model_sha256: str
    sampler: str
    n_steps: int
    seed: int
    files: str
    """Names of record and maps, all in one folder."""


COLUMNS = tuple(field.name for field in dataclasses.fields(CaseSummary))


def summarise_record(
    record: ResultRecord,
    files: Mapping[str, str],
    name: str,
    changed: ChangedMask | None = None,
) -> CaseSummary:
    """Make the row of a record.

    Parameters
    ----------
    record, files
        As `read_record` gives them.
    name
        Of the record's own file.
    changed
        See `find_changed_mask`: it counts as painted on.
    """
    volume, scores, edited, verdict = record.volume, record.scores, record.edited, record.verdict
    return CaseSummary(
        case=record.case.name,
        mask_ml=volume.mask_ml,
        low_ml=volume.low_ml,
        high_ml=volume.high_ml,
        interval=volume.interval,
        likely_low_ml=volume.likely_low_ml,
        likely_high_ml=volume.likely_high_ml,
        expected_ml=volume.expected_ml,
        confidence=record.confidence,
        mean_disagreement_mm=compute_mean_disagreement_mm(record),
        n_samples=record.maps.n_members,
        consensus=record.maps.consensus,
        threshold=record.maps.threshold,
        whole_volume=record.maps.whole_volume,
        dice=None if scores is None else scores.dice,
        hd95_mm=None if scores is None else scores.hd95_mm,
        truth_ml=None if scores is None else scores.truth_ml,
        warning=verdict is not None and verdict.is_warning,
        verdict="" if verdict is None else verdict.text,
        edited=edited is not None or changed is not None,
        edited_ml=next((each.volume_ml for each in (edited, changed) if each is not None), None),
        model=record.run.model.name,
        model_sha256=record.run.model.sha256,
        sampler=record.run.sampler,
        n_steps=record.run.n_steps,
        seed=record.run.seed,
        files="; ".join([name, *(files[key] for key in sorted(files))]),
    )


def compute_mean_disagreement_mm(record: ResultRecord) -> float | None:
    """Compute how far apart the samples' outlines are on average (`work_list`), in mm.

    The mean over the slices on which the mask or any sample shows tumour; 0 if there is none. None
    with fewer than two samples, and for a record from before there was a work list.
    """
    if record.confidence is None or (record.confidence < 1 and not record.work_list):
        return None
    with_mask = {entry.slice for entry in record.slices if entry.mask_mm2 > 0}
    n_slices = len(with_mask | {entry.slice for entry in record.work_list})
    total_mm = sum(entry.disagreement_mm for entry in record.work_list)
    return total_mm / n_slices if n_slices else 0.0


def read_summaries(
    folder: Path, cases: Collection[str] | None = None
) -> tuple[tuple[CaseSummary, ...], tuple[str, ...]]:
    """Read the records that are in a folder.

    Parameters
    ----------
    folder
        Where results were saved.
    cases
        Names of those that are wanted; by default all that are there.

    Returns
    -------
    summaries, problems
        The rows in natural order of the cases; and a sentence for each record that cannot be read.

    Raises
    ------
    DiffsegError
        The folder cannot be read.
    """
    try:
        # Not those that macOS writes beside a file, "._CASE_diffseg.json".
        names = [
            path.name
            for path in folder.iterdir()
            if path.name.endswith(SUFFIX) and not path.name.startswith(".")
        ]
    except OSError as error:
        raise DiffsegError(f"{folder} cannot be read: {error.strerror or error}.") from error
    summaries, problems = [], []
    for name in sorted(names, key=natural_key):
        if cases is not None and name.removesuffix(SUFFIX) not in cases:
            continue
        try:
            changed = find_later_change(folder / name)
            summaries.append(summarise_record(*read_record(folder / name), name, changed))
        except DiffsegError as error:
            problems.append(str(error))
    return tuple(summaries), tuple(problems)


def save_table(path: Path, summaries: Sequence[CaseSummary]) -> Path:
    """Write the rows as CSV (UTF-8, with the names of the columns); replace an earlier file.

    Raises
    ------
    DiffsegError
        It cannot be written; what was there is kept.
    """
    # A name of its own: on a cluster several batches may write the table of one folder.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        # "backslashreplace": a file's name need not be Unicode
        with temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(_make_cells(summary) for summary in summaries)
        temporary.replace(path)
    except OSError as error:
        raise DiffsegError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return path


def is_table(path: Path) -> bool:
    """Whether a file is a table of ours, to which nobody has added a column."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            names = next(csv.reader(file), [])
    except (OSError, ValueError, csv.Error):
        return False
    return tuple(names[:2]) == COLUMNS[:2] and set(names) <= set(COLUMNS)


def _make_cells(summary: CaseSummary) -> list[object]:
    values = (getattr(summary, name) for name in COLUMNS)
    return [round(value, _DIGITS) if isinstance(value, float) else value for value in values]
