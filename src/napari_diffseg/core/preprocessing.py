"""From intensities to what the network sees, and back: the same code for training and inference.

Per volume and modality, the 1st-99th percentile of the brain becomes [0, 1] (Wolleb et al. 2021,
section 3.1; background stays 0). Slices are resampled in-plane to the spacing of the training
data where the scan differs, and cut to a window around the brain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from napari_diffseg.core.errors import CaseError, ParameterError

if TYPE_CHECKING:
    from napari_diffseg.core.brats import Case

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class PreprocessingConfig:
    """How slices are prepared; travels inside the checkpoint."""

    window: tuple[int, int] = (192, 160)
    """Smallest (Y, X) that the network is given, in voxels of ``spacing_mm``."""
    centre: Literal["brain", "grid"] = "brain"
    """Where the window lies: around the brain's bounding box, or in the middle of the slice."""
    percentiles: tuple[float, float] = (1.0, 99.0)
    """Percentiles of the brain that become 0 and 1."""
    spacing_mm: float = 1.0
    """Spacing of the training data, in the plane and between slices."""
    context_slices: tuple[int, ...] = ()
    """Neighbours, as steps of ``spacing_mm`` along z, whose modalities the network is given
    beside the slice's own; the published model has none."""
    stride: int = 16
    """Height and width of the window are multiples of this."""
    min_brain_fraction: float = 0.005
    """Slices with a smaller share of brain in the window are skipped: they hold no tumour."""

    def __post_init__(self) -> None:
        low, high = self.percentiles
        if not 0.0 <= low < high <= 100.0:
            raise ParameterError(f"percentiles must be 0 <= low < high <= 100, not {low}, {high}.")
        if any(n < 1 or n % self.stride for n in self.window):
            raise ParameterError(f"window {self.window} must be multiples of {self.stride}.")
        if self.centre not in ("brain", "grid"):
            raise ParameterError(f"Unknown centre {self.centre!r}: brain or grid.")
        if 0 in self.context_slices:
            raise ParameterError("context_slices are neighbours: 0 is the slice itself.")

    @property
    def n_prior_channels(self) -> int:
        """Channels of the image prior: four modalities of the slice and of its neighbours."""
        return 4 * (1 + len(self.context_slices))


PAPER_PREPROCESSING = PreprocessingConfig(window=(224, 224), centre="grid", stride=32)
"""240x240 cropped by 8 voxels on each side, as published."""


@dataclass(frozen=True)
class Window:
    """A cut through a slice, and its exact inverse.

    Attributes
    ----------
    source_shape : (Y, X) of the slice on the case's grid.
    grid_shape : (Y, X) after in-plane resampling (the same where none is needed).
    start : (y, x) of the window in the resampled slice; negative where it begins outside.
    shape : (Y, X) of the window.
    """

    source_shape: tuple[int, int]
    grid_shape: tuple[int, int]
    start: tuple[int, int]
    shape: tuple[int, int]

    def cut(self, stack: FloatArray) -> FloatArray:
        """Return (..., Y, X) of the window for slices (..., Y, X) on the case's grid."""
        stack = resample_slices(stack, self.grid_shape)
        out = np.zeros((*stack.shape[:-2], *self.shape), np.float32)
        (y, x), (source_y, source_x) = self._overlap()
        out[..., y, x] = stack[..., source_y, source_x]
        return out

    def restore(self, stack: FloatArray) -> FloatArray:
        """Return slices (..., Y, X) on the case's grid for (..., Y, X) in the window.

        What lies outside of the window is 0.
        """
        out = np.zeros((*stack.shape[:-2], *self.grid_shape), np.float32)
        (y, x), (source_y, source_x) = self._overlap()
        out[..., source_y, source_x] = stack[..., y, x]
        return resample_slices(out, self.source_shape)

    def _overlap(self) -> tuple[list[slice], list[slice]]:
        inside, outside = [], []
        for start, length, size in zip(self.start, self.shape, self.grid_shape, strict=True):
            first, last = max(start, 0), min(start + length, size)
            outside.append(slice(first, last))
            inside.append(slice(first - start, last - start))
        return inside, outside


def resample_slices(stack: FloatArray, shape: tuple[int, int]) -> FloatArray:
    """Resample (..., Y, X) linearly to ``shape``; unchanged where it already has it.

    Antialiased when it shrinks; voxel edges, not centres, are aligned.
    """
    if stack.shape[-2:] == shape:
        return stack
    import torch
    from torch.nn import functional as F

    flat = torch.from_numpy(np.ascontiguousarray(stack, np.float32)).reshape(
        -1, 1, *stack.shape[-2:]
    )
    out = F.interpolate(flat, shape, mode="bilinear", antialias=True, align_corners=False)
    return np.asarray(out.numpy().reshape(*stack.shape[:-2], *shape), np.float32)


def find_brain(prior_image: FloatArray) -> NDArray[np.bool_]:
    """Return where a skull-stripped case (4, ...) has tissue: any modality differs from 0."""
    return np.asarray((prior_image != 0).any(axis=0))


def normalise(
    prior_image: FloatArray, brain: NDArray[np.bool_], percentiles: tuple[float, float]
) -> FloatArray:
    """Map percentiles of the brain to [0, 1], per modality; outside of the brain is 0.

    ``prior_image`` is (4, Z, Y, X), ``brain`` (Z, Y, X). Only the brain's values decide, so a
    volume gives the same result whatever surrounds it.
    """
    return np.stack([_normalise_volume(volume, brain, percentiles) for volume in prior_image])


def _normalise_volume(
    volume: FloatArray, brain: NDArray[np.bool_], percentiles: tuple[float, float]
) -> FloatArray:
    out = np.zeros(volume.shape, np.float32)
    values = volume[brain]
    low, high = np.percentile(values, percentiles)
    if high > low:
        out[brain] = np.clip((values - low) / (high - low), 0.0, 1.0)
    return out


def find_window(
    brain: NDArray[np.bool_], spacing_mm: tuple[float, float], config: PreprocessingConfig
) -> Window:
    """Return the window of a case: at least ``config.window``, larger if the brain needs it.

    Parameters
    ----------
    brain : (Z, Y, X)
    spacing_mm : (y, x)
    """
    source_shape = (brain.shape[-2], brain.shape[-1])
    # Scans within 5 % of the training spacing are left as they are: resampling would blur more
    # than the difference in size matters (the augmentation's scaling covers it).
    factors = [s / config.spacing_mm for s in spacing_mm]
    factors = [1.0 if abs(f - 1.0) < 0.05 else f for f in factors]
    grid = tuple(max(1, round(n * f)) for n, f in zip(source_shape, factors, strict=True))
    start, shape = [], []
    for axis, (size, wanted) in enumerate(zip(grid, config.window, strict=True)):
        first, last = 0, size
        if config.centre == "brain":
            occupied = np.flatnonzero(brain.any(axis=(0, 2 - axis)))
            if occupied.size:
                scale = size / source_shape[axis]
                first = int(occupied[0] * scale)
                last = int(np.ceil((occupied[-1] + 1) * scale))
            length = max(wanted, -(-(last - first) // config.stride) * config.stride)
        elif size >= wanted and size - wanted <= wanted // 2:
            length = wanted
        else:
            length = max(wanted, -(-size // config.stride) * config.stride)
        start.append((first + last) // 2 - length // 2)
        shape.append(length)
    return Window(source_shape, (grid[0], grid[1]), (start[0], start[1]), (shape[0], shape[1]))


@dataclass(frozen=True)
class PreparedCase:
    """What the network sees of a case.

    Attributes
    ----------
    slices : (n, 4, Y, X) float32 in [0, 1], cut to the window.
    z_indices : (n,) canonical slice numbers, ascending; slices without brain are left out.
    window : how to get back to the case's grid.
    brain : (Z, Y, X) bool on the case's grid.
    context : differences in z of the neighbours that the network is given too.
    numbers : (n,) or None
        Number of each slice in a stack that has gaps, ascending with z: slices that follow one
        another in it need not be neighbours. None: they are, and ``z_indices`` tells.
    """

    slices: FloatArray
    z_indices: NDArray[np.int64]
    window: Window
    brain: NDArray[np.bool_]
    context: tuple[int, ...] = ()
    numbers: NDArray[np.int64] | None = None

    def prior_images(self, rows: Sequence[int] | NDArray[np.int64]) -> FloatArray:
        """Return the image prior (B, 4 (1 + neighbours), Y, X) of some rows of ``slices``."""
        numbers = self.z_indices if self.numbers is None else self.numbers
        chosen = find_context(numbers, np.asarray(rows, np.int64), self.context)
        stacked = self.slices[chosen]
        return stacked.reshape(len(stacked), -1, *self.slices.shape[2:])


def find_context(
    z_indices: NDArray[np.int64], rows: NDArray[np.int64], offsets: Sequence[int]
) -> NDArray[np.int64]:
    """Return rows (B, 1 + neighbours): the slice itself, then its neighbours.

    A neighbour that is not there (the end of the volume, no brain, a case of one slice) is
    replaced by the slice itself.

    Parameters
    ----------
    z_indices : (n,)
        Slice number of each row, all different.
    rows : (B,)
        Rows that are asked for.
    offsets
        Differences in slice number.
    """
    row_of = {int(z): row for row, z in enumerate(z_indices)}
    out = np.empty((len(rows), 1 + len(offsets)), np.int64)
    for i, row in enumerate(rows):
        z = int(z_indices[row])
        out[i] = [row, *(row_of.get(z + offset, int(row)) for offset in offsets)]
    return out


def prepare_case(case: Case, config: PreprocessingConfig) -> PreparedCase:
    """Prepare every slice of a case that holds brain.

    Raises
    ------
    CaseError
        If no slice holds enough brain (`PreprocessingConfig.min_brain_fraction`).
    """
    prepared = prepare_arrays(case.prior_image, case.geometry.spacing_mm, config)
    if not len(prepared.z_indices):
        height, width = config.window
        raise CaseError(
            f"{case.name}: no slice shows enough brain: of the {height} x {width} voxels that the "
            f"model sees, {config.min_brain_fraction:.1%} have to differ from 0. Check that the "
            "images are not empty or cropped closely, and that their voxel size is right."
        )
    if case.geometry.slice_numbers is None:
        return prepared
    sign = -1 if case.geometry.reversed_axes[0] else 1
    numbers = [sign * case.geometry.to_source_slice(z) for z in prepared.z_indices.tolist()]
    return replace(prepared, numbers=np.array(numbers))


def prepare_arrays(
    prior_image: FloatArray, spacing_mm: Sequence[float], config: PreprocessingConfig
) -> PreparedCase:
    """Prepare (4, Z, Y, X) with spacing (z, y, x); see :func:`prepare_case`."""
    brain = find_brain(prior_image)
    window = find_window(brain, (float(spacing_mm[1]), float(spacing_mm[2])), config)
    # Thick slices: the nearest whole step, or, where that is 0, the slice itself.
    context = tuple(
        round(step * config.spacing_mm / float(spacing_mm[0])) for step in config.context_slices
    )
    area = window.shape[0] * window.shape[1]
    scale = np.prod(window.grid_shape) / np.prod(window.source_shape)
    fraction = brain.sum(axis=(1, 2)) * scale / area
    z_indices = np.flatnonzero(fraction > config.min_brain_fraction)
    slices = np.empty((len(z_indices), len(prior_image), *window.shape), np.float32)
    if len(z_indices):
        # One modality at a time: a whole case in float32 is 140 MB, and the user is waiting.
        for modality, volume in enumerate(prior_image):
            normalised = _normalise_volume(volume, brain, config.percentiles)
            slices[:, modality] = window.cut(normalised[z_indices])
    return PreparedCase(slices, z_indices, window, brain, context)
