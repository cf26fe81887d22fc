"""Files about single slices, and masks of the paper's code, back into a volume.

Slices are put where their number says, counted from the lowest slice of the volume (see
`slice_grid`); what has no slice is 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from napari_diffseg.core.case_names import parse_name
from napari_diffseg.core.ensemble import Ensemble
from napari_diffseg.core.errors import CaseError, DiffsegError, ParameterError
from napari_diffseg.core.geometry import Geometry
from napari_diffseg.core.nifti import read_nifti
from napari_diffseg.core.slice_files import MASK_KINDS, OUTPUT, SliceFile
from napari_diffseg.core.slice_grid import make_slice_affine, to_canonical_z
from napari_diffseg.core.tensor_file import load_tensor
from napari_diffseg.core.volume import load_4d, load_volume

if TYPE_CHECKING:
    from numpy.typing import NDArray

OutputMap = Literal["mask", "mean", "variance", "samples"]
OUTPUT_MAPS: tuple[OutputMap, ...] = ("mask", "mean", "variance", "samples")

_TOLERANCE_MM = 0.1
_MASK_THRESHOLD = 0.5  # as the paper's code binarises its samples
_MAX_LABEL = 255


@dataclass(frozen=True, eq=False)
class AssembledVolume:
    """A volume of slices.

    Attributes
    ----------
    data
        (Z, Y, X), or (S, Z, Y, X) of samples; canonical. bool or uint8 of masks and labels, else
        float32.
    numbers
        Slices that it was made of, ascending, counted from the lowest.
    n_members
        Of masks of the paper's code: how many of each slice; otherwise 1.
    """

    data: NDArray[np.generic]
    numbers: tuple[int, ...]
    n_members: int = 1

    @property
    def gaps(self) -> tuple[int, ...]:
        """Slices between the first and the last one that are missing."""
        between = range(self.numbers[0], self.numbers[-1] + 1)
        return tuple(sorted(set(between) - set(self.numbers)))


def load_grid(path: Path) -> Geometry:
    """Return the grid of a volume: any file of a case.

    Raises
    ------
    CaseError
        The file cannot be read, or is a slice itself.
    """
    file = parse_name(path)
    is_series = file is not None and file.role == "all"
    geometry = load_4d(path)[0].geometry if is_series else load_volume(path).geometry
    if geometry.shape[0] == 1:
        raise CaseError(f"{path} is one slice; a volume is needed to put slices into.")
    return geometry


def assemble(
    files: Sequence[SliceFile], geometry: Geometry, output_map: OutputMap = "mask"
) -> AssembledVolume:
    """Put slices into a volume.

    Parameters
    ----------
    files
        See `find_slices`.
    geometry
        Of the volume.
    output_map
        What is made of masks of the paper's code: each is 1 where the sample is above 0.5, and of
        these masks the mean, its mask (above 0.5), the variance, or all of them.

    Raises
    ------
    CaseError
        A file cannot be read, has another size or place than its slice, or a sample is missing.
    """
    numbers = tuple(dict.fromkeys(file.number for file in files))
    n_slices = geometry.shape[0]
    if numbers[-1] >= n_slices:
        raise CaseError(
            f"{files[-1].path} is for slice {numbers[-1]}; the volume has {n_slices}, counted from "
            "0. Choose the volume that the slices are of."
        )
    if files[0].kind == OUTPUT:
        return _assemble_outputs(files, geometry, numbers, output_map)
    data = np.zeros(geometry.shape, np.float32)
    affines = []
    for file in files:
        source = read_nifti(file.path)
        _check_size(file, source.data.shape, geometry)
        affines.append(source.affine)
        data[to_canonical_z(file.number, geometry)] = source.data[:, :, 0].T
    _check_places(files, affines, geometry)
    if files[0].kind in MASK_KINDS:
        return AssembledVolume(_as_labels(data, files), numbers)
    return AssembledVolume(data, numbers)


def _check_size(file: SliceFile, shape: Sequence[int], geometry: Geometry) -> None:
    _, n_y, n_x = geometry.shape
    if tuple(shape) != (n_x, n_y, 1):
        found = "x".join(map(str, shape))
        raise CaseError(
            f"{file.path} has {found} voxels; a slice of this volume has {n_x}x{n_y}x1. Choose the "
            "volume that the slices are of."
        )


def _check_places(
    files: Sequence[SliceFile], affines: Sequence[NDArray[np.float64]], geometry: Geometry
) -> None:
    """Compare the places of slices with those in the volume.

    Slices that all carry one affine have no place of their own; a lone one has none if it carries
    the volume's or an origin of 0.
    """
    first = affines[0]
    alike = all(np.abs(affine - first).max() <= _TOLERANCE_MM for affine in affines)
    of_volume = np.abs(first - make_slice_affine(geometry, 0)).max() <= _TOLERANCE_MM
    if alike and (len(files) > 1 or of_volume or not first[:3, 3].any()):
        return
    for file, affine in zip(files, affines, strict=True):
        apart_mm = float(np.abs(affine - make_slice_affine(geometry, file.number)).max())
        if apart_mm > _TOLERANCE_MM:
            raise CaseError(
                f"{file.path} does not lie where slice {file.number} of the volume lies, but "
                f"{apart_mm:.3g} mm away (tolerance {_TOLERANCE_MM} mm). Choose the volume that "
                "the slices are of."
            )


def _as_labels(data: NDArray[np.float32], files: Sequence[SliceFile]) -> NDArray[np.uint8]:
    labels = np.rint(data)
    if (labels < 0).any() or (labels > _MAX_LABEL).any() or np.abs(labels - data).max() > 1e-3:
        raise CaseError(
            f"{files[0].path.parent}: {files[0].kind} files hold other values than the integers 0 "
            f"to {_MAX_LABEL}. Check that they are labels."
        )
    return labels.astype(np.uint8)


def _assemble_outputs(
    files: Sequence[SliceFile],
    geometry: Geometry,
    numbers: tuple[int, ...],
    output_map: OutputMap,
) -> AssembledVolume:
    members = sorted({file.member for file in files})
    by_place = {(file.number, file.member): file for file in files}
    levels = np.zeros((len(members), *geometry.shape), np.uint8)
    for number in numbers:
        z = to_canonical_z(number, geometry)
        for index, member in enumerate(members):
            file = by_place.get((number, member))
            if file is None:
                raise CaseError(
                    f"{files[0].path.parent}: slice {number} has no sample {member}, others have. "
                    f"Draw {files[0].case}_{number:03d}_output{member}, or move its fellows away."
                )
            levels[index, z] = np.where(_load_output(file, geometry) > _MASK_THRESHOLD, 255, 0)
    ensemble = Ensemble.from_arrays(levels)
    data: NDArray[np.generic]
    match output_map:
        case "mask":
            data = ensemble.mean_map(of="masks") > _MASK_THRESHOLD
        case "mean":
            data = ensemble.mean_map(of="masks")
        case "variance":
            data = ensemble.variance_map(of="masks")
        case "samples":
            data = levels > 0
    return AssembledVolume(data, numbers, len(members))


def _load_output(file: SliceFile, geometry: Geometry) -> NDArray[np.float32]:
    """Return (Y, X) of a sample, with the margin that the paper's code cuts off."""
    sample = load_tensor(file.path)
    _, n_y, n_x = geometry.shape
    is_one = sample.ndim > 2 and sample[..., 0, 0].size == 1
    pixels = sample.reshape(sample.shape[-2:]) if is_one else sample
    margins = [n - found for n, found in zip((n_x, n_y), pixels.shape, strict=False)]
    if pixels.ndim != 2 or any(margin < 0 or margin % 2 for margin in margins):
        found = "x".join(map(str, sample.shape))
        raise CaseError(
            f"{file.path} has {found} pixels, which is no slice of {n_x}x{n_y} with the same "
            "margin cut off on both sides. Choose the volume that the slices are of."
        )
    if not np.isfinite(pixels).all():
        raise CaseError(f"{file.path} has NaN or infinite pixels. Draw this sample again.")
    return np.pad(pixels, [(margin // 2, margin // 2) for margin in margins]).T


def check_target(out: Path, inputs: Iterable[Path], *, overwrite: bool) -> None:
    """Make sure that a volume can be written to a file, before anything is read.

    Raises
    ------
    DiffsegError
        Its name does not fit, it is there already, or is one of the inputs.
    """
    if not out.name.lower().endswith((".nii.gz", ".nii")):
        raise ParameterError(f"{out} must end with .nii.gz or .nii.")
    if out.resolve() in {path.resolve() for path in inputs}:
        raise DiffsegError(f"{out} is one of the files that are read. Choose another name.")
    if out.is_dir():
        raise ParameterError(f"{out} is a folder; the name of a file is needed.")
    if out.exists() and not overwrite:
        raise DiffsegError(
            f"{out} exists already. Choose another name, or ask for it to be replaced "
            "(--overwrite)."
        )
