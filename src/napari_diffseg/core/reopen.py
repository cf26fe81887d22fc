"""The files of a result -> case, record and members again. No field of a file is trusted.

The scan is looked for where it was, beside the JSON, and in a folder that the caller names; it
counts as the same only if its grid is the recorded one. Members count only if they give the very
volume that was recorded. A result that another run replaces while it is read is read once more.
"""

from __future__ import annotations

import json
import math
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_diffseg.core.brats import Case, CaseFiles, discover_case, load_case
from napari_diffseg.core.case_discovery import folder_names
from napari_diffseg.core.case_files import hash_images, scan_folder
from napari_diffseg.core.case_names import parse_name
from napari_diffseg.core.ensemble import Ensemble
from napari_diffseg.core.errors import CaseError, DiffsegError, ParameterError
from napari_diffseg.core.record import (
    RECORD_SCHEMA_VERSION,
    CaseRecord,
    ResultRecord,
    SliceRanges,
)
from napari_diffseg.core.resume import parse_recorded
from napari_diffseg.core.serialisation import from_dict
from napari_diffseg.core.volume import hash_mask, load_volume, to_canonical

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_diffseg.core.geometry import Geometry

SUFFIX = "_diffseg.json"
MAPS = ("mask", "mean", "variance")
LATER_MAPS = ("disagreement",)
"""Maps that results of earlier versions do not have."""
EDITED = "edited"
_MAX_BYTES = 50_000_000  # a record is some 100 kB
_TOLERANCE_MM = 1e-3
_SETTLING_S = 0.3  # all files of a result are moved into their place within that


@dataclass(frozen=True, eq=False)
class SavedResult:
    """A result that was saved, with the scan that it is about.

    Attributes
    ----------
    ensemble
        The members, bit by bit; None when they were not saved.
    maps
        "mask", "mean", "variance" and, unless it was saved before there was one, "disagreement", as
        they were saved, (Z, Y, X); empty when there are members, of which they are made anew.
    edited : (Z, Y, X) bool or None
        The mask that somebody has painted on, if there is one.
    """

    path: Path
    record: ResultRecord
    case: Case
    ensemble: Ensemble | None
    maps: Mapping[str, NDArray[Any]]
    edited: NDArray[np.bool_] | None = None

    @property
    def judged(self) -> NDArray[np.bool_]:
        """(Z,) bool: slices that volume and scores are about."""
        maps = self.record.maps
        # The first version did not say it: its results were always whole.
        whole = ((maps.first_slice, maps.last_slice),)
        is_first = self.record.schema_version < 2
        return _mark(whole if is_first else maps.judged_slices, self.case.geometry)


def is_result_path(path: object) -> bool:
    """Tell by its name whether a file is the record of a result."""
    return isinstance(path, (str, Path)) and str(path).endswith(SUFFIX)


def load_result(
    path: str | Path, *, folder: Path | None = None, known: Sequence[Case] = ()
) -> SavedResult:
    """Load a result by its JSON file.

    Parameters
    ----------
    path
        ``CASE_diffseg.json``.
    folder
        Where the scan may be if it has been moved.
    known
        Cases that are loaded. One of them is taken if it has the same files, or, where these are
        not to be found, the same images.

    Raises
    ------
    DiffsegError
        The record is damaged or of a later version, the scan is not to be found or is another one,
        or maps or members do not fit the record.
    """
    path = Path(path)
    record, names = read_record(path)
    try:
        files = _find_files(path, record, folder)
    except CaseError:
        case = _find_known(record.case, known)
        if case is None:
            raise
    else:
        case = next((case for case in known if case.files == files), None) or load_case(files)
    try:
        return _load_files(path, record, names, case)
    except DiffsegError:  # another run may just have replaced the result
        time.sleep(_SETTLING_S)
        newer, names = read_record(path)
        if newer == record:
            raise
    return _load_files(path, newer, names, case)


def load_saved_mask(saved: SavedResult) -> NDArray[np.bool_]:
    """Load the (Z, Y, X) mask as it was saved, also where there are members to make it of.

    Raises
    ------
    DiffsegError
        It cannot be read, or is not the one that the record tells of.
    """
    _, names = read_record(saved.path)
    geometry = saved.case.geometry
    values = _load_map(saved.path, names, "mask", geometry)
    if not _is_recorded_mask(values, saved.record, geometry):
        raise DiffsegError(
            f"The mask beside {saved.path} is not the one that it tells of: another program has "
            "changed it."
        )
    mask: NDArray[np.bool_] = values > 0
    return mask


@dataclass(frozen=True)
class ChangedMask:
    """A mask that was saved and is no longer the one that its record tells of."""

    path: Path
    volume_ml: float | None
    """Of all voxels that are not 0; None if it cannot be read."""


def find_changed_mask(path: Path) -> ChangedMask | None:
    """Return the mask beside a record if another program has changed it since.

    None also where there is no mask, or no record that can be read.
    """
    try:
        record, names = read_record(path)
    except DiffsegError:
        return None
    mask = path.parent / names.get("mask", "")
    if not mask.is_file():
        return None
    try:
        volume = load_volume(mask)
    except DiffsegError:
        return ChangedMask(mask, None)
    if _is_recorded_mask(volume.data, record, volume.geometry):
        return None
    n_voxels = np.count_nonzero(volume.data)
    return ChangedMask(mask, float(n_voxels * volume.geometry.voxel_volume_ml))


def find_later_change(path: Path) -> ChangedMask | None:
    """Return what `find_changed_mask` does, if the mask was written after its record.

    So of a thousand results only those are read that somebody has touched.
    """
    mask = path.with_name(f"{path.name.removesuffix(SUFFIX)}_mask.nii.gz")
    try:
        is_later = mask.stat().st_mtime_ns > path.stat().st_mtime_ns
    except OSError:
        return None
    return find_changed_mask(path) if is_later else None


def _load_files(
    path: Path, record: ResultRecord, names: Mapping[str, str], case: Case
) -> SavedResult:
    """Load what was saved beside a record."""
    _check_grid(path, record, case.geometry)
    _check_images(path, record, case)
    edited = None
    if record.edited is not None and EDITED in names:
        edited = _load_map(path, names, EDITED, case.geometry) > 0
    if "samples" in names and (path.parent / names["samples"]).is_file():
        ensemble = _load_members(path.parent / names["samples"], record, case.geometry)
        _check_members(path, record, ensemble, case.geometry)
        return SavedResult(path, record, case, ensemble, {}, edited)
    saved = [*MAPS, *(name for name in LATER_MAPS if name in names)]
    maps = {name: _load_map(path, names, name, case.geometry) for name in saved}
    _check_maps(path, record, maps, case.geometry)
    return SavedResult(path, record, case, None, maps, edited)


def read_record(path: Path) -> tuple[ResultRecord, dict[str, str]]:
    """Read a record, and the names of the files that belong to it, all in its own folder.

    Raises
    ------
    DiffsegError
        It cannot be read, is damaged, or was written by a later version.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DiffsegError(f"{path} is too large for the record of a result.")
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DiffsegError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise DiffsegError(f"{path} is not a JSON file ({error}).") from error
    if not isinstance(values, dict) or type(values.get("schema_version")) is not int:
        raise DiffsegError(f"{path} is not the record of a result of napari-diffseg.")
    if values["schema_version"] > RECORD_SCHEMA_VERSION:
        raise DiffsegError(
            f"{path} was written by a later version of napari-diffseg. Update napari-diffseg."
        )
    names = values.pop("files", {})
    try:
        record = from_dict(ResultRecord, values)
    except ParameterError as error:
        raise DiffsegError(f"{path} is damaged: {error}") from error
    if not isinstance(names, dict) or not all(map(_is_plain_name, names.values())):
        raise DiffsegError(f"{path} is damaged: its files are not in its own folder.")
    return record, names


def _is_plain_name(name: object) -> bool:
    return isinstance(name, str) and name == Path(name).name and "\\" not in name


def _find_files(path: Path, record: ResultRecord, folder: Path | None) -> CaseFiles:
    recorded = [*record.case.files.values(), *([record.case.label] if record.case.label else [])]
    names = {parse_recorded(name).name for name in recorded}
    images = {parse_recorded(name).name for name in record.case.files.values()}
    for place in _iter_places(path, record, folder):
        if not all((place / name).is_file() for name in images):
            continue
        given = [place / name for name in names if (place / name).is_file()]
        if record.case.family == "slices" and min(record.case.shape_xyz) > 1:
            found = discover_case(_find_stack(given[0], record.case) or place)
        else:
            found = discover_case(given)
        if found.name == record.case.name:
            return found
        if record.case.name in folder_names(found):  # one of many whose folders are called alike
            return replace(found, name=record.case.name)
    raise CaseError(
        f"The images of {record.case.name} are neither where they were "
        f"({_image_folder(record)}) nor beside {path}. Put them there."
    )


def _find_known(recorded: CaseRecord, known: Sequence[Case]) -> Case | None:
    """Return the case of the same name whose images are the very ones."""
    return next(
        (
            case
            for case in known
            if recorded.sha256 and case.sha256 == recorded.sha256 and case.name == recorded.name
        ),
        None,
    )


def _find_stack(first: Path, case: CaseRecord) -> list[Path]:
    """Return the slice files that a result is of, by one of them; there may be more by now.

    Empty if the record, of before, does not tell which they were.
    """
    known = parse_name(first)
    if known is None or not case.slice_numbers:
        return []
    return [
        file.path
        for file in scan_folder(first.parent)
        if file.group == known.group
        and any(low <= (file.number or 0) <= high for low, high in case.slice_numbers)
    ]


def _iter_places(path: Path, record: ResultRecord, folder: Path | None) -> Iterator[Path]:
    recorded = _image_folder(record)
    places = [recorded] if isinstance(recorded, Path) else []
    for place in (*([folder] if folder else []), *places, path.parent):
        yield place
        yield place / record.case.name


def _image_folder(record: ResultRecord) -> PurePath:
    recorded = next(iter(record.case.files.values()), "")
    return parse_recorded(recorded).parent


def _check_grid(path: Path, record: ResultRecord, geometry: Geometry) -> None:
    affine = record.case.source_affine
    same = (
        geometry.source_shape == record.case.shape_xyz
        and [len(row) for row in affine] == [4] * 4
        and np.allclose(affine, geometry.source_affine, rtol=0, atol=_TOLERANCE_MM)
    )
    if not same:
        raise CaseError(
            f"The images of {record.case.name} do not lie on the grid that {path} was made on: "
            "they have been changed since, or are those of another case."
        )


def _check_images(path: Path, record: ResultRecord, case: Case) -> None:
    if record.case.sha256 and case.sha256 and record.case.sha256 != case.sha256:
        if hash_images(case.files) == record.case.sha256:
            raise CaseError(
                f"{case.name} is open as it was before its images were changed. Close it, and open "
                f"{path} again."
            )
        raise CaseError(
            f"The images of {record.case.name} are not those that {path} was made of: they have "
            "been changed since, or are those of another case. Open the case from where the former "
            "ones are, or draw new samples."
        )


def _load_members(path: Path, record: ResultRecord, geometry: Geometry) -> Ensemble:
    """Read the 8-bit levels as they are, after making sure that the header is what it should be."""
    import nibabel as nib

    sampled = _recorded_samples(record, geometry)
    expected = (*geometry.source_shape, len(sampled))
    damage = (
        OSError,
        EOFError,
        ValueError,
        zlib.error,
        nib.filebasedimages.ImageFileError,
        nib.spatialimages.HeaderDataError,
    )
    try:
        image: Any = nib.load(path)
        if image.shape != expected or image.get_data_dtype() != np.uint8:
            raise DiffsegError(
                f"{path} does not hold the {len(sampled)} samples that the record tells of."
            )
        _check_map_grid(path, image.affine, geometry)
        levels = image.dataobj.get_unscaled()
    except damage as error:
        raise DiffsegError(f"{path} cannot be read ({error}).") from error
    ensemble = Ensemble(len(sampled), geometry.shape)
    for member, has in enumerate(sampled):
        member_levels = to_canonical(np.asarray(levels[..., member]), geometry)
        for z in np.flatnonzero(has).tolist():
            ensemble.add(member, z, np.ascontiguousarray(member_levels[z]))
    return ensemble


def _recorded_samples(record: ResultRecord, geometry: Geometry) -> NDArray[np.bool_]:
    """Return (S, Z) bool; the first version did not say it, and always had all members whole."""
    ranges: list[SliceRanges] = [member.slices for member in record.members]
    if not ranges:
        whole = tuple((entry.slice, entry.slice) for entry in record.slices)
        ranges = [whole] * record.maps.n_members
    if not 1 <= record.maps.n_members <= len(ranges):
        raise DiffsegError("The record is damaged: its maps are made of more samples than it has.")
    return np.array([_mark(each, geometry) for each in ranges])


def _mark(ranges: SliceRanges, geometry: Geometry) -> NDArray[np.bool_]:
    marked = np.zeros(geometry.shape[0], bool)
    for first, last in ranges:
        ends = sorted((geometry.from_source_slice(first), geometry.from_source_slice(last)))
        marked[ends[0] : ends[1] + 1] = True
    return marked


def _check_members(
    path: Path, record: ResultRecord, ensemble: Ensemble, geometry: Geometry
) -> None:
    k = record.maps.n_members
    # Complete on the slices that the first k have: later members may have more.
    sampled = np.flatnonzero(ensemble.sampled[:k].any(axis=0))
    members = ensemble.complete_members(k, sampled.tolist())
    cut = record.volume.members_threshold
    voxels = ensemble.mask_voxels(k, cut)[members].sum(axis=1)
    found = (voxels * geometry.voxel_volume_ml).tolist()
    recorded = record.volume.members_ml
    same = len(found) == len(recorded) and all(
        math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9) for a, b in zip(found, recorded, strict=True)
    )
    if not same:
        raise DiffsegError(
            f"The samples beside {path} are not those that it tells of: their volumes differ."
        )


def _check_maps(
    path: Path, record: ResultRecord, maps: Mapping[str, NDArray[Any]], geometry: Geometry
) -> None:
    same = _is_recorded_mask(maps["mask"], record, geometry)
    for name, values in maps.items():
        highest = 1.0 if name in ("mask", "mean") else 0.25
        same &= bool(values.min() >= 0 and values.max() <= highest + 1e-6)
    if not same:
        raise DiffsegError(
            f"The maps beside {path} are not those that it tells of: their values differ."
        )


def _is_recorded_mask(mask: NDArray[Any], record: ResultRecord, geometry: Geometry) -> bool:
    is_tumour = mask > 0
    if not np.array_equal(mask, is_tumour):  # labels of parts, for example
        return False
    if record.maps.mask_sha256:
        return hash_mask(is_tumour, geometry) == record.maps.mask_sha256
    mask_ml = np.count_nonzero(mask) * geometry.voxel_volume_ml
    return math.isclose(mask_ml, record.volume.mask_ml, rel_tol=1e-6, abs_tol=1e-9)


def _load_map(
    path: Path, names: Mapping[str, str], name: str, geometry: Geometry
) -> NDArray[np.float32]:
    if name not in names:
        raise DiffsegError(f"{path} names no {name} map.")
    volume = load_volume(path.parent / names[name])
    _check_map_grid(volume.path, volume.geometry.source_affine, geometry)
    if volume.data.shape != geometry.shape:
        raise DiffsegError(f"{volume.path} does not have the voxels of the scan.")
    return volume.data


def _check_map_grid(path: Path, affine: NDArray[Any], geometry: Geometry) -> None:
    if not np.allclose(affine, geometry.source_affine, rtol=0, atol=_TOLERANCE_MM):
        raise DiffsegError(f"{path} does not lie on the grid of the scan.")
