"""Checks of a NIfTI header: what the reader needs to know, or a `CaseError` that names the file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from napari_diffseg.core.errors import CaseError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_VOXELS = 2**28  # 30 BraTS volumes; as float32 1 GB, more would not fit beside a network
VOXEL_SIZE_RANGE_MM = (0.01, 100.0)

_MAX_HEADER_BYTES = 2**26  # extensions between header and data
_REAL_DATATYPES = {2, 4, 8, 16, 64, 256, 512, 768, 1024, 1280}  # NIfTI-1 codes of real scalars
_COLOUR_DATATYPES = {128, 2304}
_XFORM_CODES = range(6)


def declared_ndim(header: Any) -> int:
    """Return the number of axes that the header declares."""
    return int(header["dim"][0])


def checked_shape(path: Path, header: Any, four_d: bool) -> tuple[int, ...]:
    """Return (x, y, z) or, for `four_d`, (x, y, z, n)."""
    ndim = declared_ndim(header)
    if not 1 <= ndim <= 7:
        raise CaseError(f"{path} has a damaged header: it declares {ndim} axes.")
    shape = tuple(int(n) for n in header["dim"][1 : ndim + 1])
    text = "x".join(map(str, shape))
    if min(shape) < 1:
        raise CaseError(f"{path} has a damaged header: it declares a shape of {text}.")
    if math.prod(shape) > MAX_VOXELS:
        raise CaseError(
            f"{path} declares {text} voxels, more than the {MAX_VOXELS} that can be handled. "
            "Crop or resample it."
        )
    if ndim < 2:
        raise CaseError(f"{path} has one axis only ({text}); a volume or a slice is needed.")
    shape = (*shape, 1) if ndim == 2 else shape
    extra = shape[3:]
    if four_d:
        if len(shape) < 4 or math.prod(extra[1:]) > 1:
            raise CaseError(
                f"{path} has shape {text}; a 4-D file with all modalities is needed here."
            )
        return shape[:4]
    if math.prod(extra) > 1:
        raise CaseError(
            f"{path} has shape {text}; one 3-D volume (or 2-D slice) per file is needed here. "
            "Split it into one file per modality."
        )
    return shape[:3]


def checked_dtype(path: Path, header: Any) -> np.dtype[Any]:
    """Return the type of the stored values, a real scalar in the file's byte order."""
    code = int(header["datatype"])
    if code in _COLOUR_DATATYPES:
        raise CaseError(f"{path} is a colour image (RGB); a grey-value image is needed.")
    if code not in _REAL_DATATYPES:
        raise CaseError(f"{path} has data type code {code}; save it as integers or float32.")
    return cast("np.dtype[Any]", header.get_data_dtype())


def checked_offset(path: Path, header: Any, n_read: int) -> int:
    """Return where the data start; 0 is a common way to say "right behind the header"."""
    offset = float(header["vox_offset"])
    smallest = n_read + 4
    if offset == 0:
        return smallest
    if not smallest <= offset <= _MAX_HEADER_BYTES:  # also False for NaN
        raise CaseError(f"{path} has a damaged header: its data start at byte {offset:g}.")
    return int(offset)


def checked_affine(path: Path, header: Any, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return sform, else qform, else the affine of the voxel sizes (the order nibabel has)."""
    from nibabel.spatialimages import HeaderDataError

    for code in ("sform_code", "qform_code"):
        if int(header[code]) not in _XFORM_CODES:
            header[code] = 0  # as nibabel does: a code that nobody defined vouches for nothing
    source = "sform" if header["sform_code"] else "qform" if header["qform_code"] else "pixdim"
    _repair(header, shape, source)
    voxel_sizes = [float(size) for size in header["pixdim"][1:4]]
    usable = all(math.isfinite(size) and size > 0 for size in voxel_sizes)
    if source != "sform" and not usable:
        raise CaseError(
            f"{path} has no usable voxel size: pixdim is {voxel_sizes} and there is no sform. "
            "Correct its header (positive numbers, in mm)."
        )
    try:
        affine = np.array(header.get_best_affine(), dtype=np.float64)
    except (HeaderDataError, ValueError) as error:
        raise CaseError(f"{path} has a damaged {source}: {error}. Correct its header.") from error
    if not np.isfinite(affine).all():
        raise CaseError(f"{path} has NaN or infinity in its {source} affine. Correct its header.")
    lengths = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    low, high = VOXEL_SIZE_RANGE_MM
    volume = abs(float(np.linalg.det(affine[:3, :3])))
    if volume <= 1e-3 * float(np.prod(lengths)):
        raise CaseError(
            f"{path} has a {source} affine that cannot be inverted. Correct its header."
        )
    if not all(low <= length <= high for length in lengths):
        sizes = " x ".join(f"{length:g}" for length in lengths)
        raise CaseError(
            f"{path} has voxels of {sizes} mm ({source}); between {low:g} and {high:g} mm per axis "
            "is plausible. Correct its header."
        )
    return affine


def _repair(header: Any, shape: tuple[int, ...], source: str) -> None:
    """Complete what a valid file may leave open: qfac, and the thickness of a single slice.

    A 2-D file says nothing about a third axis, so writers leave zeros there; without a thickness no
    affine is invertible. 1 mm is what the voxel-size affine of NIfTI assumes too.
    """
    if header["pixdim"][0] not in (-1, 1):
        header["pixdim"][0] = 1  # NIfTI-1: "if qfac is 0, 1 is used"
    for axis, length in enumerate(shape, start=1):
        size = float(header["pixdim"][axis])
        undeclared = axis > declared_ndim(header) and source == "pixdim"
        if length == 1 and (undeclared or not (math.isfinite(size) and size > 0)):
            header["pixdim"][axis] = 1
    linear = np.array([header[f"srow_{row}"][:3] for row in "xyz"], dtype=np.float64)
    empty = [axis for axis in range(3) if not linear[:, axis].any()]
    if source == "sform" and len(empty) == 1 and shape[empty[0]] == 1:
        (axis,) = empty
        normal = np.cross(linear[:, (axis + 1) % 3], linear[:, (axis + 2) % 3])
        length_mm = float(np.linalg.norm(normal))
        if math.isfinite(length_mm) and length_mm > 0:
            for row, value in zip("xyz", normal / length_mm, strict=True):
                header[f"srow_{row}"][axis] = value
