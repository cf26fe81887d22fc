"""A result as files: maps on the source's grid, and the record beside them as JSON.

All files of a result appear together. They are written into a hidden folder first and moved when
they are complete; if one of them cannot be moved, or somebody interrupts, all go back. So a failed
export leaves what was there before.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_diffseg.core.brats import Case
from napari_diffseg.core.consensus import USES_THRESHOLD, decide, make_mask
from napari_diffseg.core.ensemble import Ensemble
from napari_diffseg.core.errors import DiffsegError, explain_unwritable
from napari_diffseg.core.moves import replace_all
from napari_diffseg.core.record import MapsRecord, ResultRecord
from napari_diffseg.core.volume import save_on_source_grid, working_folder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_diffseg.core.case_files import CaseFiles

MAPS = ("mask", "mean", "variance", "disagreement")
SAMPLES = "samples"
EDITED = "edited"
RECORD = "diffseg"
REPORT = "report"

PROBABILITY_SLOPE = float(np.nextafter(np.float32(1 / 255), np.float32(0)))
"""Factor of the stored 8-bit levels; rounded down, so that no reader sees more than 1."""


def output_paths(
    folder: Path, case_name: str, *, samples: bool = False, edited: bool = False
) -> dict[str, Path]:
    """Return where files go: by `MAPS`, "samples", "edited", "diffseg"."""
    maps = [*MAPS, *([SAMPLES] if samples else []), *([EDITED] if edited else [])]
    paths = {name: folder / f"{case_name}_{name}.nii.gz" for name in maps}
    return {**paths, RECORD: folder / f"{case_name}_{RECORD}.json"}


def report_path(folder: Path, case_name: str) -> Path:
    """Return where the report of a case goes (`report.save_report`)."""
    return folder / f"{case_name}_{REPORT}.html"


def find_earlier(folder: Path, case_name: str) -> set[Path]:
    """Return samples, report and edited mask that are there of a case, from an earlier run."""
    paths = output_paths(folder, case_name, samples=True, edited=True)
    optional = (paths[SAMPLES], paths[EDITED], report_path(folder, case_name))
    return {path for path in optional if path.exists()}


def check_not_edited(folder: Path, case_name: str) -> None:
    """Make sure that no result is replaced whose mask somebody has edited by hand.

    Raises
    ------
    DiffsegError
        There is such a mask.
    """
    path = output_paths(folder, case_name, edited=True)[EDITED]
    if path.exists():
        raise DiffsegError(
            f"{path} was edited by hand and belongs to the result that is there. Choose another "
            "folder, or ask for the result to be replaced (--overwrite): the edited mask stays, "
            "but the new result does not know of it."
        )


def check_outputs(outputs: Iterable[Path], files: CaseFiles) -> None:
    """Make sure that no output is one of the case's own files, by whatever name or link.

    Raises
    ------
    DiffsegError
        One is.
    """
    sources = {*files.modalities.values(), *([files.label] if files.label else [])}
    for members in files.slices.values():
        sources.update(members.values())
    resolved = {path.resolve() for path in sources}
    for path in outputs:
        if path.resolve() in resolved:
            raise DiffsegError(
                f"{path} is a file of the case itself and is not overwritten. "
                "Choose another output folder."
            )


def make_output_folder(folder: Path) -> Path:
    """Make the folder for results where it is missing.

    Raises
    ------
    DiffsegError
        It cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiffsegError(
            f"{folder} cannot be made: {error.strerror or error}. Choose another output folder."
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise DiffsegError(f"{folder} is not writable. Choose another output folder.")
    return folder


def save_result(
    folder: Path,
    case: Case,
    ensemble: Ensemble,
    record: ResultRecord,
    *,
    samples: bool = False,
    edited: NDArray[np.bool_] | None = None,
    report: str | None = None,
) -> dict[str, Path]:
    """Write the maps that `record.maps` describes, and the record; replace earlier ones.

    Parameters
    ----------
    folder
        Made where it is missing.
    case, ensemble, record
        The record is the one that `describe_result` made of the other two.
    samples
        Also write the members: 4-D, 8 bits with a scale factor, read as probabilities in [0, 1].
    edited : (Z, Y, X) bool, optional
        A mask that somebody has painted on, which `record.edited` tells of.
    report
        Also write this page (`report.make_report`).

    Returns
    -------
    dict
        Paths of the files, by the names of `output_paths`, and "report".

    Raises
    ------
    DiffsegError
        A file cannot be written, or would replace one of the case's own; nothing is written.
    """
    paths = output_paths(folder, case.name, samples=samples, edited=edited is not None)
    if report is not None:
        record_path = paths.pop(RECORD)
        paths |= {REPORT: report_path(folder, case.name), RECORD: record_path}
    check_outputs(paths.values(), case.files)
    make_output_folder(folder)
    of, k = record.maps.of, record.maps.n_members
    made_of = f"{k} sample{'s' * (k != 1)}, {of}"
    decision = decide(ensemble, record.maps.consensus, threshold=record.maps.threshold, k=k, of=of)
    geometry = case.geometry
    try:
        with working_folder(folder, case.name) as work:
            part = {name: work / path.name for name, path in paths.items()}
            save_on_source_grid(
                part["mask"],
                make_mask(ensemble, decision),
                geometry,
                description=f"napari-diffseg: {_name_mask(record.maps)} of {made_of}",
            )
            save_on_source_grid(
                part["mean"],
                ensemble.mean_map(k, of),
                geometry,
                description=f"napari-diffseg: mean of {made_of}",
            )
            save_on_source_grid(
                part["variance"],
                ensemble.variance_map(k, of),
                geometry,
                description=f"napari-diffseg: m(1-m) of {made_of}, between + within",
            )
            save_on_source_grid(
                part["disagreement"],
                ensemble.disagreement_map(k, of),
                geometry,
                description=f"napari-diffseg: variance between {made_of}",
            )
            if samples:
                save_on_source_grid(
                    part[SAMPLES],
                    ensemble.members_uint8(max(len(record.members), k)),
                    geometry,
                    slope=PROBABILITY_SLOPE,
                    description="napari-diffseg: samples, probabilities",
                )
            if edited is not None:
                save_on_source_grid(
                    part[EDITED],
                    edited,
                    geometry,
                    description="napari-diffseg: mask, edited by hand",
                )
            if report is not None:
                write_page(part[REPORT], report)
            names = {name: path.name for name, path in paths.items() if name != RECORD}
            part[RECORD].write_text(record_to_json(record, names), encoding="utf-8")
            earlier = work / "earlier"
            earlier.mkdir()
            # The record last: where it is, the maps are complete.
            replace_all([(path, paths[name]) for name, path in part.items()], earlier)
    except (OSError, DiffsegError) as error:
        problem = explain_unwritable(error, f"The results of {case.name}", folder)
        if problem is None:
            raise
        raise problem from error
    return paths


def write_page(path: Path, text: str) -> None:
    """Write a page of HTML; a file's name in it need not be Unicode."""
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def _name_mask(maps: MapsRecord) -> str:
    threshold = f"p > {maps.threshold:g}" if maps.consensus in USES_THRESHOLD else ""
    return threshold if maps.consensus == "mean" else f"{maps.consensus} {threshold}".strip()


def record_to_json(record: ResultRecord, files: Mapping[str, str]) -> str:
    """Return the record as JSON text, with the names of the maps under "files"."""
    values = {**dataclasses.asdict(record), "files": dict(files)}
    return json.dumps(_finite(values), indent=2, sort_keys=True, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON does not have, by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
