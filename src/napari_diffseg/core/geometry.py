"""Where voxels are: the source grid of a file and the canonical grid that everything works on.

Canonical arrays are (Z, Y, X) of the volume reoriented to LPI: x grows to the left, y to
posterior, z to inferior. Drawn with a positive scale and `translate_mm`, world coordinates in a
viewer are then exactly -(RAS mm), axial slices look radiological and a 3-D view is not mirrored.
Reorientation only permutes and reverses axes, so it is exact in both directions for all 48
orientations.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from napari_diffseg.core.errors import ParameterError

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header
    from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)

OBLIQUE_TOLERANCE_DEGREES = 0.1


@dataclass(frozen=True, eq=False)
class Geometry:
    """Grid of a source file and its relation to the canonical (Z, Y, X) array.

    Attributes
    ----------
    source_shape
        Voxels along the source axes (x, y, z); a 2-D file has z = 1.
    source_affine
        (4, 4) float64, read-only: source voxel index to RAS mm.
    source_ndim
        2 if the source file has two axes only, otherwise 3.
    header
        Header of the source file; results are written with a copy of it.
    slice_numbers
        Number of each slice along the source's axial axis where file names tell it (slice layout of
        the paper); None means that slices are counted from 0.
    source_axes
        Source axis behind canonical (z, y, x).
    reversed_axes
        Whether canonical (z, y, x) run against the source axis.
    """

    source_shape: tuple[int, int, int]
    source_affine: NDArray[np.float64]
    source_ndim: int
    header: Nifti1Header
    slice_numbers: tuple[int, ...] | None = None
    source_axes: tuple[int, int, int] = field(init=False)
    reversed_axes: tuple[bool, bool, bool] = field(init=False)

    def __post_init__(self) -> None:
        from nibabel.orientations import io_orientation

        affine = np.array(self.source_affine, dtype=np.float64)
        affine.flags.writeable = False
        # row i: world axis (R, A, S) that source axis i follows, and whether it grows with it
        orientation = io_orientation(affine)
        if not np.isfinite(orientation).all():
            raise ValueError("the affine is singular")
        world_axes = [int(axis) for axis in orientation[:, 0]]
        x, y, z = (world_axes.index(axis) for axis in range(3))
        reverse = [bool(orientation[axis, 1] > 0) for axis in (z, y, x)]  # R, A, S -> L, P, I
        object.__setattr__(self, "source_affine", affine)
        object.__setattr__(self, "source_axes", (z, y, x))
        object.__setattr__(self, "reversed_axes", tuple(reverse))
        if self.slice_numbers is not None and len(self.slice_numbers) != self.shape[0]:
            raise ValueError(f"{len(self.slice_numbers)} slice numbers for {self.shape[0]} slices")

    @classmethod
    def from_affine(
        cls, source_shape: tuple[int, int, int], source_affine: NDArray[Any]
    ) -> Geometry:
        """Geometry of a volume without a file: a new header, sform and qform codes 1 (scanner)."""
        from nibabel.nifti1 import Nifti1Header

        header = Nifti1Header()
        header.set_data_shape(source_shape)
        header.set_xyzt_units("mm")
        header.set_qform(source_affine, code=1)  # first: it sets pixdim
        header.set_sform(source_affine, code=1)
        return cls(source_shape, header.get_best_affine(), 3, header)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (Z, Y, X) of the canonical array."""
        z, y, x = (self.source_shape[axis] for axis in self.source_axes)
        return z, y, x

    @property
    def lpi_affine(self) -> NDArray[np.float64]:
        """(4, 4) affine of the reoriented volume: index (x, y, z) to RAS mm."""
        affine = np.eye(4)
        affine[:3, 3] = self.source_affine[:3, 3]
        for column, axis, reverse in zip(
            (2, 1, 0), self.source_axes, self.reversed_axes, strict=True
        ):
            step = self.source_affine[:3, axis]
            affine[:3, column] = -step if reverse else step
            if reverse:
                affine[:3, 3] += step * (self.source_shape[axis] - 1)
        return affine

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance in mm between neighbouring voxels along canonical (z, y, x)."""
        z, y, x = (float(np.linalg.norm(self.source_affine[:3, axis])) for axis in self.source_axes)
        return z, y, x

    @property
    def translate_mm(self) -> tuple[float, float, float]:
        """Position (z, y, x) of the first voxel in -(RAS mm), a viewer's world coordinates."""
        x, y, z = (0.0 - float(value) for value in self.lpi_affine[:3, 3])  # 0.0 - 0.0 is not -0.0
        return z, y, x

    @property
    def oblique_degrees(self) -> float:
        """Largest angle in degrees between an axis of the grid and the body axis it follows."""
        angles = []
        for world_axis, axis in zip((2, 1, 0), self.source_axes, strict=True):
            step = self.source_affine[:3, axis]
            along = abs(float(step[world_axis]))
            across = float(np.linalg.norm(np.delete(step, world_axis)))
            angles.append(float(np.degrees(np.arctan2(across, along))))
        return max(angles)

    @property
    def is_oblique(self) -> bool:
        """Whether a viewer that draws the grid upright shows a rotated patient (> 0.1 degrees)."""
        return self.oblique_degrees > OBLIQUE_TOLERANCE_DEGREES

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel in mL."""
        return abs(float(np.linalg.det(self.source_affine[:3, :3]))) / 1000.0

    def to_source_slice(self, z: int) -> int:
        """Number that the source file has for canonical slice `z`.

        Raises
        ------
        ParameterError
            `z` is outside of the volume.
        """
        n = self.shape[0]
        if not 0 <= z < n:
            raise ParameterError(f"Slice index {z} is outside of 0 to {n - 1}.")
        index = n - 1 - z if self.reversed_axes[0] else z
        return index if self.slice_numbers is None else self.slice_numbers[index]

    def from_source_slice(self, k: int) -> int:
        """Canonical index z of the source file's slice number `k`, as a user types it.

        Raises
        ------
        ParameterError
            The file has no slice of this number.
        """
        n = self.shape[0]
        numbers = range(n) if self.slice_numbers is None else self.slice_numbers
        if k not in numbers:
            raise ParameterError(
                f"There is no slice {k}: the case has {n}, from {min(numbers)} to {max(numbers)}."
            )
        index = numbers.index(k)
        return n - 1 - index if self.reversed_axes[0] else index


def find_z_range(geometry: Geometry, first: int | None, end: int | None) -> tuple[int, int]:
    """Return the canonical slices for a range of the source file's slice numbers.

    Parameters
    ----------
    geometry
        Of the case.
    first, end
        The first slice number and one past the last, as in Python; None: from the first slice, up
        to the last one. What lies beyond the volume is cut off.

    Raises
    ------
    ParameterError
        The case has no slice in this range.
    """
    numbers = [geometry.to_source_slice(z) for z in range(geometry.shape[0])]
    chosen = [
        z
        for z, number in enumerate(numbers)
        if (first is None or number >= first) and (end is None or number < end)
    ]
    if not chosen:
        asked = f"{'' if first is None else first}:{'' if end is None else end}"
        asked = str(first) if first is not None and end == first + 1 else asked
        raise ParameterError(
            f"There is no slice in {asked}: the case has slices {min(numbers)} to {max(numbers)}."
        )
    return chosen[0], chosen[-1] + 1


def to_canonical(array_xyz: NDArray[Scalar], geometry: Geometry) -> NDArray[Scalar]:
    """Reorder a source array (x, y, z) to canonical (Z, Y, X); contiguous."""
    array = array_xyz.transpose(geometry.source_axes)
    return np.ascontiguousarray(array[_steps(geometry)])


def to_source_grid(array_zyx: NDArray[Scalar], geometry: Geometry) -> NDArray[Scalar]:
    """Put a canonical array onto the source grid, exactly.

    Parameters
    ----------
    array_zyx
        (..., Z, Y, X); leading axes, for example ensemble members, become trailing ones, in order.

    Returns
    -------
    ndarray
        (x, y, z, ...) in the order of the source file; (x, y) if the source is 2-D and there are no
        leading axes.

    Raises
    ------
    ValueError
        The last three axes are not `geometry.shape`.
    """
    if array_zyx.shape[-3:] != geometry.shape:
        raise ValueError(f"shape {array_zyx.shape} does not end in {geometry.shape}")
    z, y, x = _steps(geometry)
    array = array_zyx[..., z, y, x]
    n_leading = array.ndim - 3
    source_order = [n_leading + geometry.source_axes.index(axis) for axis in range(3)]
    array = array.transpose(*source_order, *range(n_leading))
    return array[:, :, 0] if geometry.source_ndim == 2 and not n_leading else array


def _steps(geometry: Geometry) -> tuple[slice, ...]:
    return tuple(slice(None, None, -1 if reverse else 1) for reverse in geometry.reversed_axes)
