"""The grid of the phantom, and the smooth random fields that make it an individual."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float32]
Mask: TypeAlias = NDArray[np.bool_]

SHAPE = (240, 240, 155)
"""The BraTS grid: x to the left, y to the back, z upwards (LPS), 1 mm."""

AFFINE = np.array([[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=np.float64)
"""Voxel to RAS mm, as in every BraTS file of 2017 to 2021."""

WINDOW = (slice(40, 200), slice(24, 232), slice(0, 155))
"""The part of the grid that is computed; it holds the brain with room to spare."""

WINDOW_SHAPE = tuple(s.stop - s.start for s in WINDOW)


def smooth_field(rng: np.random.Generator, scale_mm: float) -> Array:
    """Noise of zero mean and unit variance whose features are about `scale_mm` wide.

    White noise on a grid of that spacing, interpolated with the cubic B-spline basis: separable,
    so that a field of 60 mm costs no more than one of 4 mm.
    """
    bases = [_spline_basis(n, scale_mm) for n in WINDOW_SHAPE]
    nodes = rng.standard_normal([b.shape[1] for b in bases]).astype(np.float32)
    field = np.einsum("ia,jb,kc,abc->ijk", *bases, nodes, optimize="greedy")
    result: Array = ((field - field.mean()) / field.std()).astype(np.float32)
    return result


def smooth_step(x: Array) -> Array:
    """The logistic function: 0 far below zero, 1 far above, 1/2 at zero."""
    result: Array = (1.0 / (1.0 + np.exp(-np.clip(x, -30.0, 30.0)))).astype(np.float32)
    return result


def distance_to_segment(points: Array, start: object, end: object) -> Array:
    """Distance of `points` (3, ...) to the straight segment from `start` to `end`, same unit."""
    a = np.asarray(start, dtype=np.float32).reshape(3, 1, 1, 1)
    b = np.asarray(end, dtype=np.float32).reshape(3, 1, 1, 1)
    along = np.clip(((points - a) * (b - a)).sum(0) / ((b - a) ** 2).sum(0), 0, 1)
    result: Array = np.sqrt(((points - a - along * (b - a)) ** 2).sum(0)).astype(np.float32)
    return result


def column(values: object) -> Array:
    """A vector of three, shaped to be added to (3, x, y, z) coordinates."""
    return np.asarray(values, dtype=np.float32).reshape(3, 1, 1, 1)


def _spline_basis(n: int, scale: float) -> Array:
    """Weights (n, nodes) of the uniform cubic B-spline with nodes every `scale` voxels."""
    t = np.arange(n) / scale
    first = np.floor(t).astype(int)
    f = t - first
    basis = np.zeros((n, first[-1] + 4), dtype=np.float32)
    rows = np.arange(n)
    basis[rows, first] = (1 - f) ** 3 / 6
    basis[rows, first + 1] = (3 * f**3 - 6 * f**2 + 4) / 6
    basis[rows, first + 2] = (-3 * f**3 + 3 * f**2 + 3 * f + 1) / 6
    basis[rows, first + 3] = f**3 / 6
    return basis
