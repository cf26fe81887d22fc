"""Volumes to the slice layout of the paper's code (see `slice_files`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from napari_diffseg.core.brats import MODALITIES, RESECTION_CAVITY, Case, load_case
from napari_diffseg.core.case_names import LABEL
from napari_diffseg.core.errors import CaseError, DiffsegError, ParameterError, explain_unwritable
from napari_diffseg.core.moves import move_all
from napari_diffseg.core.preprocessing import PAPER_PREPROCESSING, find_brain, normalise
from napari_diffseg.core.slice_files import (
    make_slice_case,
    parse_slice_name,
    slice_file_name,
    slice_folder_name,
)
from napari_diffseg.core.slice_grid import make_slice_geometry, to_canonical_z
from napari_diffseg.core.volume import save_on_source_grid, working_folder

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from numpy.typing import NDArray

    from napari_diffseg.core.case_files import CaseFiles

DROPPED_SLICES = (80, 26)
"""How many of the lowest and of the uppermost slices the paper leaves out."""

PUBLISHED_PIXELS = (240, 240)
"""The only size of a slice that the paper's code takes, which cuts 8 pixels off at each side."""


@dataclass(frozen=True)
class SliceOptions:
    """How volumes are cut into slices.

    Attributes
    ----------
    dropped
        How many of the lowest and of the uppermost slices are left out.
    labels
        Whether the labels are written, too: the paper's code wants them for training, and does not
        take them for sampling.
    raw
        Whether intensities stay as they are. Otherwise the 1st to 99th percentile of the volume's
        brain becomes [0, 1], as in the paper; its code does not do that itself.
    overwrite
        Whether slices of the same case that are there already are replaced, all of them.
    """

    dropped: tuple[int, int] = DROPPED_SLICES
    labels: bool = True
    raw: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if min(self.dropped) < 0:
            raise ParameterError(f"A number of slices is not negative: {self.dropped}.")


@dataclass(frozen=True)
class SliceExport:
    """What was written.

    Attributes
    ----------
    slice_case
        Name of the case in the names of its slices.
    folders
        One for each slice, the lowest first.
    notes
        What a user of the paper's code should know.
    """

    slice_case: str
    folders: tuple[Path, ...]
    notes: tuple[str, ...] = ()


def export_slices(files: CaseFiles, folder: Path, options: SliceOptions) -> SliceExport:
    """Write the slices of a case, each into a folder of its own in `folder`.

    All of them appear together, or none.

    Raises
    ------
    DiffsegError
        The case cannot be loaded or has no slice to be written or no labels, slices of it are
        there already, or they cannot be written.
    """
    if files.family == "slices":
        raise CaseError(f"{files.name} is in slices already: {files.modalities['t1']}.")
    slice_case = make_slice_case(files.name)
    existing = find_slice_folders(folder, slice_case)
    if existing and not options.overwrite:
        raise DiffsegError(
            f"{existing[0]} exists already, with {len(existing)} slices of {files.name}. Choose "
            "another folder, or ask for it to be replaced (--overwrite)."
        )
    for old in existing:
        _check_replaceable(old, slice_case)
    case = load_case(files)
    numbers = _choose_slices(case, options.dropped)
    if options.labels and case.labels is None:
        raise CaseError(
            f"{case.name} has no labels, and the paper's code does not train without them. Add "
            "its seg file, or export it without labels (--without-labels)."
        )
    try:
        with working_folder(folder, slice_case) as work:
            new, old = work / "new", work / "old"
            _write_slices(case, slice_case, numbers, new, options)
            old.mkdir()
            moves = [(path, old / path.name) for path in existing]
            moves += [(path, folder / path.name) for path in sorted(new.iterdir())]
            move_all(moves)
    except (OSError, DiffsegError) as error:
        problem = explain_unwritable(error, f"The slices of {case.name}", folder)
        if problem is None:
            raise
        raise problem from error
    written = tuple(folder / slice_folder_name(slice_case, number) for number in numbers)
    return SliceExport(slice_case, written, tuple(_find_notes(case, options)))


def find_slice_folders(folder: Path, slice_case: str) -> list[Path]:
    """Return the folders of a case's slices in `folder`, by their names, sorted."""
    start = f"{slice_case}_"
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.name.startswith(start) and path.name.removeprefix(start).isdecimal()
    )


def _check_replaceable(folder: Path, slice_case: str) -> None:
    """Make sure that nothing is lost with a folder but slices of this case."""
    files = [parse_slice_name(path) for path in folder.iterdir()] if folder.is_dir() else [None]
    if not all(file is not None and file.case == slice_case for file in files):
        raise DiffsegError(
            f"{folder} holds more than slices of {slice_case} and is not replaced. Move it away."
        )


def _choose_slices(case: Case, dropped: tuple[int, int]) -> range:
    n_slices = case.geometry.shape[0]
    numbers = range(dropped[0], n_slices - dropped[1])
    if not numbers:
        raise CaseError(
            f"{case.name} has {n_slices} slices: nothing is left without the lowest {dropped[0]} "
            f"and the uppermost {dropped[1]}. Drop fewer (--drop)."
        )
    return numbers


def _write_slices(
    case: Case, slice_case: str, numbers: Iterable[int], folder: Path, options: SliceOptions
) -> None:
    images: dict[str, NDArray[np.generic]] = dict(
        zip(MODALITIES, _take_intensities(case, options.raw), strict=True)
    )
    if options.labels and case.labels is not None and case.wt_truth is not None:
        images[LABEL] = case.labels * case.wt_truth  # the paper's code takes all of it for tumour
    made_by = "intensities as in the source" if options.raw else "1st to 99th percentile to 0 to 1"
    for number in numbers:
        slice_folder = folder / slice_folder_name(slice_case, number)
        slice_folder.mkdir(parents=True)
        geometry = make_slice_geometry(case.geometry, number)
        z = to_canonical_z(number, case.geometry)
        for role, volume in images.items():
            save_on_source_grid(
                slice_folder / slice_file_name(slice_case, role, number),
                volume[z : z + 1],
                geometry,
                description="napari-diffseg: " + ("labels" if role == LABEL else made_by),
            )


def _take_intensities(case: Case, raw: bool) -> NDArray[np.float32]:
    if raw:
        return case.prior_image
    brain = find_brain(case.prior_image)
    if not brain.any():
        raise CaseError(f"{case.name}: no voxel differs from 0. Check that the images are right.")
    return normalise(case.prior_image, brain, PAPER_PREPROCESSING.percentiles)


def _find_notes(case: Case, options: SliceOptions) -> Iterable[str]:
    _, n_y, n_x = case.geometry.shape
    if (n_x, n_y) != PUBLISHED_PIXELS:
        yield (
            f"slices have {n_x}x{n_y} pixels; the paper's code takes 240x240 only. Resample or pad "
            "the volumes for it."
        )
    if options.labels and case.n_cavity_voxels:
        yield (
            f"label {RESECTION_CAVITY}, the resection cavity, is left out of the labels: the "
            "paper's code takes all of them for tumour."
        )
