"""NIfTI files to canonical (Z, Y, X) volumes, and results back onto the source's own grid."""

from __future__ import annotations

import gzip
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np

from napari_diffseg.core.errors import CaseError, DiffsegError
from napari_diffseg.core.geometry import Geometry, to_canonical, to_source_grid
from napari_diffseg.core.nifti import NiftiSource, read_nifti

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header
    from numpy.typing import DTypeLike, NDArray

__all__ = [
    "Geometry",
    "Volume",
    "load_4d",
    "load_stack",
    "load_volume",
    "save_on_source_grid",
    "to_canonical",
    "to_source_grid",
]

_STACK_TOLERANCE_MM = 0.1


@dataclass(frozen=True, eq=False)
class Volume:
    """One image on the canonical grid.

    Attributes
    ----------
    data
        (Z, Y, X) float32, values as in the file (slope and intercept applied).
    geometry
        The grid.
    path
        The file; of a stack of slices, the first file.
    """

    data: NDArray[np.float32]
    geometry: Geometry
    path: Path


def load_volume(path: str | Path) -> Volume:
    """Load a 3-D volume or a 2-D slice (as a volume of one slice).

    Raises
    ------
    CaseError
        See `napari_diffseg.core.nifti.read_nifti`.
    """
    source = read_nifti(path)
    geometry = _geometry(source, source.header)
    return Volume(to_canonical(source.data, geometry), geometry, source.path)


def load_4d(path: str | Path) -> list[Volume]:
    """Load the volumes of a 4-D file, in file order; they share one geometry (that of a 3-D file).

    Raises
    ------
    CaseError
        See `napari_diffseg.core.nifti.read_nifti`.
    """
    source = read_nifti(path, four_d=True)
    header = source.header.copy()
    _set_shape(header, source.data.shape[:3])
    geometry = _geometry(source, header)
    return [
        Volume(to_canonical(source.data[..., index], geometry), geometry, source.path)
        for index in range(source.data.shape[3])
    ]


def load_stack(paths: Sequence[str | Path], slice_numbers: Sequence[int]) -> Volume:
    """Load single-slice files as one volume, in the order given.

    A single file keeps its own grid (a 2-D file stays 2-D). Several become a 3-D volume whose
    header is that of the first file; each file has to lie where its number says, or all have to
    carry the same affine, as slices without a position of their own do.

    Raises
    ------
    CaseError
        A file is no single slice, or shapes or affines of the slices do not fit together.
    """
    sources = [read_nifti(path) for path in paths]
    first = sources[0]
    for source in sources:
        _check_slice(source, first)
    numbers = tuple(slice_numbers)
    if len(sources) == 1:
        is_axial = _geometry(first, first.header).shape[0] == 1
        geometry = _geometry(first, first.header, numbers if is_axial else None)
        return Volume(to_canonical(first.data, geometry), geometry, first.path)
    _check_positions(sources, numbers)
    header = first.header.copy()
    shape = (*first.data.shape[:2], len(sources))
    _set_shape(header, shape)
    # without sform and qform the affine depends on the shape: take it from the new header
    geometry = Geometry(shape, header.get_best_affine(), 3, header)
    if geometry.source_axes[0] == 2:
        geometry = Geometry(shape, header.get_best_affine(), 3, header, numbers)
    data = np.concatenate([source.data for source in sources], axis=2)
    return Volume(to_canonical(data, geometry), geometry, first.path)


def hash_mask(mask: NDArray[np.bool_], geometry: Geometry) -> str:
    """Return the SHA-256 of a (Z, Y, X) mask's voxels, packed by eight as its file orders them."""
    voxels = to_source_grid(mask, geometry)
    return hashlib.sha256(np.packbits(np.ascontiguousarray(voxels)).tobytes()).hexdigest()


def save_on_source_grid(
    path: str | Path,
    array_zyx: NDArray[Any],
    geometry: Geometry,
    dtype: DTypeLike | None = None,
    description: str = "",
    slope: float = 1.0,
) -> Path:
    """Write a canonical array as NIfTI on the grid of the source file.

    Affine, sform and qform (with their codes) and units are those of the source, bit by bit. The
    file appears complete or not at all, and equal input gives equal bytes.

    Parameters
    ----------
    path
        Ends in ``.nii.gz`` or ``.nii``; an existing file is replaced.
    array_zyx
        (Z, Y, X), or with one leading axis (S, Z, Y, X), written as 4-D (x, y, z, S).
    dtype
        Type in the file. Default: uint8 for bool, float32 for floats, otherwise the array's own.
    description
        At most 79 bytes, longer ones are cut.
    slope
        Factor that readers apply to the values, for example 1 / 255 for 8-bit probabilities.

    Raises
    ------
    DiffsegError
        The file cannot be written.
    ValueError
        Wrong shape or suffix, or values that an integer `dtype` cannot hold.
    """
    path = Path(path)
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise ValueError(f"{path} does not end in .nii or .nii.gz")
    if array_zyx.ndim not in (3, 4):
        raise ValueError(f"3 or 4 axes are needed, not {array_zyx.ndim}")
    array = _cast(to_source_grid(array_zyx, geometry), dtype)
    header = _output_header(array, geometry, description, slope)
    # not tempfile: its files are private (mode 0600), and a result should follow the umask
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        try:
            with temporary.open("xb") as file:
                if path.name.lower().endswith(".gz"):
                    with gzip.GzipFile("", "wb", 5, file, mtime=0) as stream:
                        _write(cast("IO[bytes]", stream), header, array)
                else:
                    _write(file, header, array)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise DiffsegError(f"{path} cannot be written: {error.strerror or error}.") from error
    return path


@contextmanager
def working_folder(parent: Path, name: str) -> Iterator[Path]:
    """Give a folder in `parent` for files that are moved out of it when all are complete.

    Not one of tempfile, which is private: on Windows what is moved out of it would stay so.
    """
    folder = parent / f".{name}.{secrets.token_hex(4)}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _geometry(
    source: NiftiSource, header: Nifti1Header, slice_numbers: tuple[int, ...] | None = None
) -> Geometry:
    x, y, z = source.data.shape[:3]
    return Geometry((x, y, z), source.affine, source.ndim, header, slice_numbers)


def _set_shape(header: Any, shape: tuple[int, ...]) -> None:
    """Set the shape without losing the voxel sizes, which a qform affine is made of."""
    voxel_sizes = header["pixdim"][1:4].copy()
    header.set_data_shape(shape)
    header["pixdim"][1:4] = voxel_sizes


def _check_slice(source: NiftiSource, first: NiftiSource) -> None:
    if source.data.shape[2] != 1:
        raise CaseError(
            f"{source.path} has {source.data.shape[2]} slices, its name stands for one slice. "
            "Rename volumes to <case>_t1.nii.gz and so on."
        )
    if source.data.shape != first.data.shape:
        raise CaseError(
            f"{source.path} has {source.data.shape[:2]} pixels, {first.path} has "
            f"{first.data.shape[:2]}: slices of one case must be of one size."
        )


def _check_positions(sources: Sequence[NiftiSource], numbers: Sequence[int]) -> None:
    first = sources[0]
    for source, number in zip(sources, numbers, strict=True):
        apart = source.affine - first.affine
        expected = np.zeros((4, 4))
        expected[:3, 3] = first.affine[:3, 2] * (number - numbers[0])
        if not any(np.abs(apart - at).max() <= _STACK_TOLERANCE_MM for at in (0.0, expected)):
            raise CaseError(
                f"{source.path} does not lie where its slice number says, seen from {first.path} "
                f"(tolerance {_STACK_TOLERANCE_MM} mm). Load the slices one by one or correct "
                "their affines."
            )


def _cast(array: NDArray[Any], dtype: DTypeLike | None) -> NDArray[Any]:
    if dtype is None:
        default: dict[str, np.dtype[Any]] = {"b": np.dtype(np.uint8), "f": np.dtype(np.float32)}
        target = default.get(array.dtype.kind, array.dtype)
    else:
        target = np.dtype(dtype)
    with np.errstate(invalid="ignore"):
        result = array.astype(target)
    if target.kind in "iu" and not np.array_equal(result, array):
        raise ValueError(f"values of the {array.dtype} array do not fit into {target}")
    return result


def _output_header(array: NDArray[Any], geometry: Geometry, description: str, slope: float) -> Any:
    """Copy the source header and reset what describes the source's values and not its grid."""
    header: Any = geometry.header.as_byteswapped("<")
    header.set_data_dtype(array.dtype)
    _set_shape(header, array.shape)
    header["scl_slope"], header["scl_inter"] = slope, 0
    header["cal_min"] = header["cal_max"] = 0
    header["intent_code"], header["intent_name"] = 0, b""
    for parameter in ("intent_p1", "intent_p2", "intent_p3"):
        header[parameter] = 0
    header["aux_file"] = b""
    header["descrip"] = description.encode("ascii", "replace")[:79]
    header["xyzt_units"] = int(header["xyzt_units"]) & 7  # the fourth axis is no time
    header["magic"] = header.single_magic
    header["vox_offset"] = header.single_vox_offset
    return header


def _write(stream: IO[bytes], header: Any, array: NDArray[Any]) -> None:
    stream.write(header.binaryblock)
    stream.write(bytes(4))  # no extensions
    stream.write(array.astype(array.dtype.newbyteorder("<")).tobytes(order="F"))
