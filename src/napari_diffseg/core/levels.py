"""Probabilities as 256 levels, and the maps that follow from sums of levels.

A sum over members has few possible values, so looking the result up in a table is quicker than the
arithmetic, and the same sum gives the same number wherever it is asked for. How much members
disagree follows from the sum of their squares as well, in whole numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

MAX_LEVEL = 255
"""The uint8 value that stands for a probability of 1."""

MASK_LEVEL = 128
"""A stored value from here on means p > 0.5: the voxel belongs to the member's mask."""

MapKind = Literal["probabilities", "masks"]

Sums = NDArray[np.unsignedinteger[Any]]

SliceWriter = Callable[[int, Sums, NDArray[Any]], None]
"""Writes a map of one slice: (the sum that means m = 1, sums (Y, X), target (Y, X))."""


def encode_probability(probability: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Round probabilities to the 256 levels 0, 1/255, ..., 1; the error is at most 1/510.

    The nearest level, and the lower one of two equally near. Hence p > 0.5 and
    `level >= MASK_LEVEL` are the same thing, and p = 0.5 is not in the mask, as everywhere else.

    Parameters
    ----------
    probability : float array of any shape
        Values outside of [0, 1] are clipped.

    Raises
    ------
    ValueError
        When a value is not finite: the network has failed, and no level could tell so.
    """
    if not np.isfinite(probability).all():
        raise ValueError("the probabilities contain NaN or infinity")
    scaled = np.clip(probability, 0, 1) * MAX_LEVEL
    levels: NDArray[np.uint8] = np.ceil(scaled - 0.5).astype(np.uint8)
    return levels


def decode_probability(level: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the probabilities, float32 in [0, 1], that the stored levels stand for."""
    return np.divide(level, MAX_LEVEL, dtype=np.float32)


def total_level(n_samples: int, of: MapKind) -> int:
    """Return the sum that n samples have where all of them are certain of tumour (m = 1)."""
    return n_samples * MAX_LEVEL if of == "probabilities" else n_samples


@lru_cache(maxsize=64)
def _means(total: int) -> NDArray[np.float64]:
    return np.arange(total + 1) / max(total, 1)


@lru_cache(maxsize=64)
def _mean_table(total: int) -> NDArray[np.float32]:
    return _means(total).astype(np.float32)


@lru_cache(maxsize=64)
def _variance_table(total: int) -> NDArray[np.float32]:
    m = _means(total)
    return (m * (1 - m)).astype(np.float32)


@lru_cache(maxsize=64)
def _entropy_table(total: int) -> NDArray[np.float32]:
    m = _means(total)
    inside = (m > 0) & (m < 1)
    bits = np.zeros_like(m)
    p = m[inside]
    bits[inside] = -p * np.log2(p) - (1 - p) * np.log2(1 - p)
    return bits.astype(np.float32)


def write_mean(total: int, sums: Sums, target: NDArray[Any]) -> None:
    """Write the mean m, float32 in [0, 1]; 0 without a sample."""
    np.take(_mean_table(total), sums, out=target, mode="clip")


def write_variance(total: int, sums: Sums, target: NDArray[Any]) -> None:
    """Write m (1 - m), float32 in [0, 0.25]; 0 without a sample.

    It depends on the mean alone: the variance between the samples plus that within each of them.
    """
    np.take(_variance_table(total), sums, out=target, mode="clip")


def write_disagreement(n_samples: int, sums: Sums, squares: Sums, target: NDArray[Any]) -> None:
    """Write the variance between n samples' probabilities, float32 in [0, 0.25]; 0 without one.

    Of levels l it is (n sum(l^2) - sum(l)^2) / (255 n)^2, the difference in whole numbers: where
    all samples are the same it is 0 and nothing else.

    Parameters
    ----------
    n_samples : int
    sums, squares : (Y, X) unsigned integers
        Sums over the samples of their levels and of the squares of these.
    target : (Y, X) float32
    """
    n = max(n_samples, 1)
    largest = (n * MAX_LEVEL) ** 2
    exact = np.uint32 if largest <= np.iinfo(np.uint32).max else np.uint64
    spread = np.multiply(squares, exact(n), dtype=exact)
    spread -= np.square(sums, dtype=exact)
    np.multiply(spread, 1 / largest, out=target, casting="same_kind")


def write_entropy(total: int, sums: Sums, target: NDArray[Any]) -> None:
    """Write the binary entropy of m, float32 in [0, 1] bits; 0 without a sample."""
    np.take(_entropy_table(total), sums, out=target, mode="clip")


def level_above(threshold: float) -> int:
    """Return the lowest level whose probability is above a threshold, as `mask_writer` cuts one."""
    return sum_above(MAX_LEVEL, threshold)


def sum_above(total: int, threshold: float) -> int:
    """Return the smallest sum whose mean, as `write_mean` writes it, is above a threshold."""
    return int(np.searchsorted(_mean_table(total), np.float32(threshold), side="right"))


def mask_writer(threshold: float) -> SliceWriter:
    """Return a writer of the mask m > threshold, where m is what `write_mean` writes."""
    if not 0 <= threshold <= 1:
        raise ValueError(f"the threshold is {threshold}, outside of 0 to 1")

    def write(total: int, sums: Sums, target: NDArray[Any]) -> None:
        np.greater_equal(sums, sum_above(total, threshold), out=target)

    return write
