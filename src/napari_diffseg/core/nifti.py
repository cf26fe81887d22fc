"""Reading NIfTI files that come from anywhere: nothing is believed before it is checked.

`read_nifti` is the only function that opens an input image. It decides by content, not by suffix,
whether a file is compressed, bounds what it allocates by what the file can hold, reads to the end
of the stream (so that the gzip checksum is verified), and turns every defect into a `CaseError`
that names the file. Axes keep the order of the file; reordering is the business of `geometry`.
"""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np

from napari_diffseg.core.errors import CaseError
from napari_diffseg.core.nifti_header import (
    checked_affine,
    checked_dtype,
    checked_offset,
    checked_shape,
    declared_ndim,
)

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header
    from numpy.typing import NDArray

_GZIP_MAGIC = b"\x1f\x8b"
_MAX_DEFLATE_RATIO = 1032  # no deflate stream expands further, https://zlib.net/zlib_tech.html
_CHUNK_BYTES = 2**24
_MAX_TRAILING_CHUNKS = 8
_AGAIN = "Copy or download the file again."


@dataclass(frozen=True, eq=False)
class NiftiSource:
    """Content of one NIfTI file, axes in file order.

    Attributes
    ----------
    path
        The file.
    data
        (x, y, z), or (x, y, z, n) if `read_nifti` was told that the file is 4-D; float32, finite,
        `scl_slope` and `scl_inter` applied.
    header
        The checked header. Only what no reader could use was repaired (see `nifti_header`).
    affine
        (4, 4) float64, voxel index to RAS mm; invertible.
    ndim
        2 for a file that declares two axes only, otherwise 3 (spatial axes).
    """

    path: Path
    data: NDArray[np.float32]
    header: Nifti1Header
    affine: NDArray[np.float64]
    ndim: int


def read_nifti(path: str | Path, *, four_d: bool = False) -> NiftiSource:
    """Read a NIfTI-1 or NIfTI-2 single file, compressed or not.

    Parameters
    ----------
    path
        The file; its suffix plays no role.
    four_d
        Whether the file has to be a series of volumes. Otherwise it has to be one volume or one
        slice; trailing axes of length 1 are dropped.

    Raises
    ------
    CaseError
        The file is missing, unreadable, no NIfTI, damaged, truncated, of the wrong dimensionality
        or type (colour, complex), has no usable voxel size or affine, or holds NaN or infinity.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            compressed = file.read(2) == _GZIP_MAGIC
            file.seek(0)
            stream = gzip.GzipFile(fileobj=file) if compressed else file
            # a GzipFile has read() like any binary file; the stubs know no common base
            return _read_stream(path, cast("IO[bytes]", stream), size, compressed, four_d)
    except FileNotFoundError:
        raise CaseError(f"{path} does not exist.") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise CaseError(f"{path} is a damaged gzip file ({error}). {_AGAIN}") from error
    except EOFError as error:
        raise CaseError(f"{path} is truncated: its gzip stream ends early. {_AGAIN}") from error
    except OSError as error:
        reason = error.strerror or error
        raise CaseError(f"{path} cannot be read: {reason}.") from error


def _read_stream(
    path: Path, stream: IO[bytes], size: int, compressed: bool, four_d: bool
) -> NiftiSource:
    header, n_read = _read_header(path, stream)
    shape = checked_shape(path, header, four_d)
    dtype = checked_dtype(path, header)
    affine = checked_affine(path, header, shape[:3])
    offset = checked_offset(path, header, n_read)

    n_bytes = math.prod(shape) * dtype.itemsize
    capacity = size * _MAX_DEFLATE_RATIO if compressed else size
    declared = f"its header declares {'x'.join(map(str, shape))} voxels of {dtype.name}"
    if offset + n_bytes > capacity:
        raise CaseError(
            f"{path} is truncated or its header is wrong: {declared} ({n_bytes / 1e6:.1f} MB), "
            f"the file has {size / 1e6:.3f} MB. {_AGAIN}"
        )
    _read_exactly(stream, offset - n_read)
    buffer = _read_exactly(stream, n_bytes)
    if len(buffer) < n_bytes:
        raise CaseError(
            f"{path} is truncated: {declared}, {len(buffer) / n_bytes:.0%} of them are there. "
            f"{_AGAIN}"
        )
    if compressed:
        _verify_checksum(path, stream)
    raw = np.frombuffer(buffer, dtype).reshape(shape, order="F")
    ndim = min(max(declared_ndim(header), 2), 3)
    return NiftiSource(path, _scaled(path, raw, header), header, affine, ndim)


def _read_exactly(stream: IO[bytes], n_bytes: int) -> bytearray:
    """Read up to `n_bytes` in pieces: memory follows the data, not the header's claim."""
    buffer = bytearray()
    while len(buffer) < n_bytes:
        piece = stream.read(min(_CHUNK_BYTES, n_bytes - len(buffer)))
        if not piece:
            break
        buffer += piece
    return buffer


def _verify_checksum(path: Path, stream: IO[bytes]) -> None:
    """Read to the end, where gzip compares length and checksum; damage can lengthen a stream."""
    for _ in range(_MAX_TRAILING_CHUNKS):
        if not stream.read(_CHUNK_BYTES):
            return
    raise CaseError(f"{path} holds far more data than its header declares. {_AGAIN}")


def _read_header(path: Path, stream: IO[bytes]) -> tuple[Nifti1Header, int]:
    """Return the header in a class of its version, and the number of bytes read."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    block = stream.read(4)
    if not block:
        raise CaseError(f"{path} is empty. {_AGAIN}")
    lengths = {int.from_bytes(block, "little"): "<", int.from_bytes(block, "big"): ">"}
    for n_bytes, kind, magic, pair in (
        (348, Nifti1Header, b"n+1", b"ni1"),
        (540, Nifti2Header, b"n+2", b"ni2"),
    ):
        if n_bytes not in lengths:
            continue
        block += stream.read(n_bytes - 4)
        if len(block) < n_bytes:
            raise CaseError(f"{path} is truncated: it ends inside its header. {_AGAIN}")
        header = cast("Any", kind)(block, endianness=lengths[n_bytes], check=False)
        found = bytes(header["magic"])[:3]
        if found == magic:
            return header, n_bytes
        if found == pair:
            raise CaseError(f"{path} is one half of a .hdr/.img pair. Convert it to one .nii.gz.")
        break
    raise CaseError(
        f"{path} is not a NIfTI image (it starts with {block[:8]!r}). Convert it to .nii.gz."
    )


def _scaled(path: Path, raw: NDArray[Any], header: Any) -> NDArray[np.float32]:
    """Apply slope and intercept, in float64 as one rounding is better than three."""
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    scaled = math.isfinite(slope) and slope != 0 and (slope, inter) != (1.0, 0.0)
    if scaled and not math.isfinite(inter):
        raise CaseError(f"{path} has scl_inter = {inter}. Correct its header.")
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is reported just below
        values = raw.astype(np.float64) * slope + inter if scaled else raw
        data = values.astype(np.float32)
    if scaled or raw.dtype.kind == "f":
        n_bad = int(data.size - np.count_nonzero(np.isfinite(data)))
        if n_bad:
            raise CaseError(
                f"{path} has {n_bad} voxels (of {data.size}) that are NaN or infinite. "
                "Replace them, for example by 0."
            )
    return data
