"""Is n enough? What each further member changes, and when to stop drawing.

Two curves over the number of members n. The Dice of the mask of the mean of n members with that of
n - 1 tells what the last member did to the mask. The Monte-Carlo error tells how far the mean map
itself still is from that of very many members.

It is a standard error as if members were drawn alike; where they begin in turn from two encoders
it is too large rather than too small.

A mask can hold still by chance, so it counts as stable only when the last two additions left it as
it was, within a tolerance that the user chooses (`is_stable`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_diffseg.core.events import Converged
from napari_diffseg.core.levels import MASK_LEVEL, MAX_LEVEL, MapKind, mask_writer, total_level

QUIET_ADDITIONS = 2
"""So many members in a row must leave the mask as it is."""

DEFAULT_TOLERANCE = 0.005
"""A change of the mask by half a per cent is less than two experts differ by."""

MIN_MEMBERS = QUIET_ADDITIONS + 1
"""With fewer members nothing is called stable."""


@dataclass(frozen=True)
class Addition:
    """What one more member changed.

    Attributes
    ----------
    n_members : int
        How many there are with it, from 2 on.
    dice : float
        Of the mask of the mean of these with that of the mean before.
    monte_carlo_error : float
        Standard error of the mean map, in the unit of probability: root mean square over those
        voxels to which any member gives a probability above 0. The voxels are the same for every
        n, so that the curve is comparable along it. 0 if there are none.
    """

    n_members: int
    dice: float
    monte_carlo_error: float


def is_stable(dices: Sequence[float], tolerance: float) -> bool:
    """Tell whether more members can be expected to leave the mask as it is.

    True when there are at least `MIN_MEMBERS` members and each of the last `QUIET_ADDITIONS` of
    them has left a Dice of at least 1 - tolerance between the mask with it and the one without.
    The rule looks at nothing else: not at the batch, the device or the slice order.

    Parameters
    ----------
    dices
        Of the additions, from the second member on: one less than there are members.
    tolerance
        Largest change that counts as none, as 1 - Dice; 0.005 is half a per cent.
    """
    quiet = [dice >= 1 - tolerance for dice in dices[-QUIET_ADDITIONS:]]
    return len(dices) + 1 >= MIN_MEMBERS and all(quiet)


def plan_rounds(n_samples: int, tolerance: float | None, n_there: int = 0) -> Sequence[int]:
    """Return how many members there shall be at the end of each round of drawing.

    A round completes its members on all slices. Without a tolerance everything is one round. With
    one, `is_stable` is asked after each: the first round brings as many members as the rule needs
    (or as there are already, then it draws nothing), every other one a single member.
    """
    if tolerance is None:
        return (n_samples,)
    return range(min(max(MIN_MEMBERS, n_there), n_samples), n_samples + 1)


class ConvergenceMeter:
    """Follows an ensemble that grows slice by slice; no member is kept.

    Slices may come in any order, the members of a slice in theirs.

    Parameters
    ----------
    z_indices
        The slices that the masks consist of.
    threshold, of
        How the mask is made of the members (`Ensemble.wt_mask`).
    """

    def __init__(
        self, z_indices: Iterable[int], threshold: float = 0.5, of: MapKind = "probabilities"
    ) -> None:
        self._write_mask = mask_writer(threshold)
        self._of: MapKind = of
        self._slices: dict[int, _Slice | None] = dict.fromkeys(map(int, z_indices))
        # Over all slices, for n = 1, 2, ...
        self._sizes: list[int] = []
        self._intersections: list[int] = []
        self._squares: list[float] = []

    def add(self, z: int, probability: NDArray[np.uint8]) -> None:
        """Take in the next member of slice z: (Y, X) levels, as `encode_probability` makes them."""
        if z not in self._slices:
            raise IndexError(f"slice {z} was not announced")
        here = self._slices[z]
        if here is None:
            here = self._slices[z] = _Slice(probability.shape)
        if here.n == len(self._sizes):
            self._sizes.append(0)
            self._intersections.append(0)
            self._squares.append(0.0)
        before, n = here.mask, here.n + 1
        here.add(probability if self._of == "probabilities" else probability >= MASK_LEVEL)
        mask = np.empty_like(before)
        self._write_mask(total_level(n, self._of), here.sums, mask)
        here.mask = mask
        self._sizes[n - 1] += int(np.count_nonzero(mask))
        self._intersections[n - 1] += int(np.count_nonzero(mask & before))
        self._squares[n - 1] += here.sum_of_squares()

    @property
    def n_members(self) -> int:
        """How many members are there on every slice."""
        return min((0 if here is None else here.n for here in self._slices.values()), default=0)

    @property
    def dices(self) -> tuple[float, ...]:
        """Dice of the mask with that before, from the second member on."""
        return tuple(self._dice(n) for n in range(2, self.n_members + 1))

    @property
    def additions(self) -> tuple[Addition, ...]:
        """What every member from the second on has changed."""
        there = [here for here in self._slices.values() if here is not None]
        n_voxels = sum(int(np.count_nonzero(here.sums)) for here in there)
        scale = max(n_voxels, 1) * (MAX_LEVEL**2 if self._of == "probabilities" else 1)
        return tuple(
            Addition(n, dice, math.sqrt(self._squares[n - 1] / scale / (n - 1) / n))
            for n, dice in enumerate(self.dices, start=2)
        )

    def _dice(self, n: int) -> float:
        total = self._sizes[n - 1] + self._sizes[n - 2]
        return 2 * self._intersections[n - 1] / total if total else 1.0


class StabilityWatch:
    """Says when an ensemble that is being drawn is stable (`is_stable`).

    Parameters
    ----------
    z_indices
        The slices that are drawn.
    tolerance
        None: it never is, and nothing is computed.
    threshold, of
        Of the mask that has to be stable, as in `ConvergenceMeter`.
    """

    def __init__(
        self,
        z_indices: Iterable[int],
        tolerance: float | None,
        threshold: float = 0.5,
        of: MapKind = "probabilities",
    ) -> None:
        self._tolerance = tolerance
        self._meter = ConvergenceMeter(z_indices, threshold, of)

    def add(self, z: int, probability: NDArray[np.uint8]) -> None:
        """Take in the next member of slice z, as `ConvergenceMeter.add` does."""
        if self._tolerance is not None:
            self._meter.add(z, probability)

    def look(self) -> Converged | None:
        """Return what is to be reported when the members that are complete are enough."""
        if self._tolerance is None or not is_stable(self._meter.dices, self._tolerance):
            return None
        return Converged(self._meter.n_members, min(self._meter.dices[-QUIET_ADDITIONS:]))


def compute_convergence(
    members: NDArray[np.uint8],
    threshold: float = 0.5,
    of: MapKind = "probabilities",
) -> tuple[Addition, ...]:
    """Compute what each of (S, Z, Y, X) members has changed, from the second on.

    About 0.2 ms for a member of a slice of 240x240.
    """
    n_slices = members.shape[1]
    meter = ConvergenceMeter(range(n_slices), threshold, of)
    for z in range(n_slices):
        for member in members:
            meter.add(z, member[z])
    return meter.additions


class _Slice:
    """Running sums of one slice."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.n = 0
        self.sums: NDArray[np.uint32] = np.zeros(shape, np.uint32)
        self.mask = np.zeros(shape, bool)
        self._total_of_squares = 0

    def add(self, values: NDArray[Any]) -> None:
        self.n += 1
        self.sums += values
        self._total_of_squares += int(np.square(values, dtype=np.uint32).sum(dtype=np.uint64))

    def sum_of_squares(self) -> float:
        """Sum over voxels of the squared distances of the members from their mean."""
        around = np.square(self.sums, dtype=np.float64).sum() / self.n
        return max(0.0, self._total_of_squares - float(around))
