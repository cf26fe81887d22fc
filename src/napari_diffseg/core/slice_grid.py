"""Where the slices of the paper's layout lie in a volume.

Arrays are as in BraTS files: x grows to the left, y to posterior, and slices are counted from the
lowest, from 0. Of a BraTS file they are the file's own, of any other the same after reordering,
which is exact.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from napari_diffseg.core.geometry import Geometry

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header
    from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)


def to_canonical_z(number: int, geometry: Geometry) -> int:
    """Return the canonical index of a slice that is counted from the lowest."""
    return geometry.shape[0] - 1 - number


def make_slice_affine(geometry: Geometry, number: int) -> NDArray[np.float64]:
    """Return the (4, 4) affine of one slice: of a BraTS file, its own affine, shifted."""
    z_axis, y_axis, x_axis = geometry.source_axes
    to_inferior, to_posterior, to_left = (not reverse for reverse in geometry.reversed_axes)
    affine = np.eye(4)
    affine[:3, 3] = geometry.source_affine[:3, 3]
    for column, axis, is_forward in (
        (0, x_axis, to_left),
        (1, y_axis, to_posterior),
        (2, z_axis, not to_inferior),
    ):
        step = geometry.source_affine[:3, axis]
        affine[:3, column] = step if is_forward else -step
        if not is_forward:
            affine[:3, 3] += step * (geometry.source_shape[axis] - 1)
    affine[:3, 3] += affine[:3, 2] * number
    return affine


def make_slice_geometry(geometry: Geometry, number: int) -> Geometry:
    """Return the grid of one slice as a file with two axes."""
    _, n_y, n_x = geometry.shape
    affine = make_slice_affine(geometry, number)
    return Geometry((n_x, n_y, 1), affine, 2, _make_header(geometry, affine, (n_x, n_y)))


def _make_header(
    geometry: Geometry, affine: NDArray[np.float64], shape: tuple[int, int]
) -> Nifti1Header:
    from nibabel.nifti1 import Nifti1Header

    header = Nifti1Header()
    header.set_data_shape(shape)
    header.set_xyzt_units("mm")
    codes = [int(geometry.header[f"{name}_code"]) for name in ("sform", "qform")]
    header.set_qform(affine, code=codes[1] or codes[0])  # first: it sets pixdim
    header.set_sform(affine, code=codes[0] or codes[1] or 1)
    return header
