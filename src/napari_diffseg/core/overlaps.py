"""How much each pair of members overlaps, kept up to date sample by sample; who is typical."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from napari_diffseg.core.ensemble import Ensemble
from napari_diffseg.core.levels import MASK_LEVEL

Box = tuple[slice, slice]
"""Rows and columns of a slice."""

Character = Literal["typical", "smallest", "largest", "outlier"]


class Overlaps:
    """Voxels that the masks of two members share, for every pair and slice.

    A new sample costs one comparison with each other member inside of the box around its mask.
    """

    def __init__(self, n_members: int, n_slices: int) -> None:
        # Slice first: what is never sampled is never given memory.
        self._voxels = np.zeros((n_slices, n_members, n_members), np.int32)
        self._boxes: list[Box | None] = [None] * n_slices

    @classmethod
    def of_ensemble(cls, ensemble: Ensemble, k: int | None = None) -> Self:
        """Compare the first k members of an ensemble."""
        overlaps = cls(ensemble.n_members, ensemble.shape[0])
        for member, z in np.argwhere(ensemble.sampled[:k]):
            overlaps.add(ensemble, int(member), int(z))
        return overlaps

    def add(self, ensemble: Ensemble, member: int, z: int) -> None:
        """Take in a slice that has been added to the ensemble."""
        missing = ensemble.n_members - self._voxels.shape[1]
        if missing > 0:
            self._voxels = np.pad(self._voxels, ((0, 0), (0, missing), (0, missing)))
        levels = ensemble.members_uint8()
        mask = levels[member, z] >= MASK_LEVEL
        shared = np.zeros(ensemble.n_members, np.int32)
        box = find_box(mask)
        if box is not None:
            self._boxes[z] = _unite(self._boxes[z], box)
            there = np.flatnonzero(ensemble.sampled[:, z])
            both = (levels[(there, z, *box)] >= MASK_LEVEL) & mask[box]
            shared[there] = np.count_nonzero(both, axis=(1, 2))
        self._voxels[z, member, : len(shared)] = shared
        self._voxels[z, : len(shared), member] = shared

    def box(self, z_indices: Sequence[int] | NDArray[np.int64] | None = None) -> Box | None:
        """Return the box around all masks on these slices (by default all); None: all empty."""
        united: Box | None = None
        for z in range(len(self._boxes)) if z_indices is None else z_indices:
            box = self._boxes[z]
            if box is not None:
                united = _unite(united, box)
        return united

    def pair_dice(
        self, members: NDArray[np.int64], sampled: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """Compute the Dice of each pair of these members on the slices that both have.

        Parameters
        ----------
        members : (n,) int
        sampled : (S, Z) bool
            Which slices each member has.

        Returns
        -------
        (n, n) float64
            1 where both are empty, NaN where a pair has no slice in common.
        """
        have = sampled[members].astype(np.int64)
        voxels = self._voxels[:, members][:, :, members]
        sizes = np.diagonal(voxels, axis1=1, axis2=2).T.astype(np.int64)
        on_common = sizes @ have.T  # (n, n): voxels of i on the slices of j
        totals = on_common + on_common.T
        shared = voxels.sum(axis=0, dtype=np.int64)
        dice: NDArray[np.float64] = 2 * shared / np.maximum(totals, 1)
        dice[totals == 0] = 1.0
        dice[have @ have.T == 0] = np.nan
        return dice

    def mean_dice(
        self, members: NDArray[np.int64], sampled: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """Compute each member's mean Dice with the others, (n,); NaN without another one."""
        dice = self.pair_dice(members, sampled)
        np.fill_diagonal(dice, np.nan)
        counts = np.count_nonzero(~np.isnan(dice), axis=1)
        mean = np.nansum(dice, axis=1) / np.maximum(counts, 1)
        return np.where(counts > 0, mean, np.nan)


def find_comparable(ensemble: Ensemble, k: int | None = None) -> NDArray[np.int64]:
    """Return those of the first k members that can be compared.

    They are those that have every sampled slice; while there is none, those with the most slices.
    """
    complete = ensemble.complete_members(k)
    if complete.size:
        return complete
    n_slices = ensemble.sampled[:k].sum(axis=1)
    return np.flatnonzero((n_slices == n_slices.max()) & (n_slices > 0))


def find_closest(
    ensemble: Ensemble, k: int | None = None, overlaps: Overlaps | None = None
) -> int | None:
    """Return the medoid: the member whose mean Dice with all others is highest.

    The first one of several; None without a sample.
    """
    members = find_comparable(ensemble, k)
    if not members.size:
        return None
    overlaps = overlaps or Overlaps.of_ensemble(ensemble, k)
    dice = overlaps.mean_dice(members, ensemble.sampled)
    return int(members[np.argmax(np.nan_to_num(dice, nan=-1.0))])


@dataclass(frozen=True)
class Standing:
    """What a member is among the others.

    Attributes
    ----------
    member : int
        Counted from 0.
    n_voxels : int
        Of its mask on the slices that it has.
    is_comparable : bool
        Whether it has the slices that it takes (see `find_comparable`).
    mean_dice : float or None
        With the other comparable ones; None without any.
    characters : tuple of str
        What it stands out by.
    """

    member: int
    n_voxels: int
    is_comparable: bool
    mean_dice: float | None
    characters: tuple[Character, ...] = ()


def rank_members(ensemble: Ensemble, overlaps: Overlaps, k: int | None = None) -> list[Standing]:
    """Order the first k members: typical, smallest, largest, outlier, then the rest by number.

    Typical is the one closest to all others by mean Dice, the outlier the one farthest from them;
    it takes three members to tell. Members that cannot be compared stand out by nothing; those
    without a sample are left out.
    """
    members = np.flatnonzero(ensemble.sampled[:k].any(axis=1)).tolist()
    voxels = ensemble.mask_voxels(k).sum(axis=1)
    comparable = find_comparable(ensemble, k)
    values = overlaps.mean_dice(comparable, ensemble.sampled)
    dice = dict(zip(comparable.tolist(), values.tolist(), strict=True))
    found: dict[Character, int] = {}
    if len(dice) > 2:
        found["typical"] = max(dice, key=lambda member: dice[member])
    if len(set(voxels[comparable].tolist())) > 1:
        found["smallest"] = min(dice, key=lambda member: voxels[member])
        found["largest"] = max(dice, key=lambda member: voxels[member])
    if len(dice) > 2 and min(values) < max(values):
        found["outlier"] = min(dice, key=lambda member: dice[member])
    return [
        Standing(
            member=member,
            n_voxels=int(voxels[member]),
            is_comparable=member in dice,
            mean_dice=dice[member] if len(dice) > 1 and member in dice else None,
            characters=tuple(name for name, which in found.items() if which == member),
        )
        for member in dict.fromkeys([*found.values(), *members])
    ]


def find_box(mask: NDArray[np.bool_]) -> Box | None:
    """Return the smallest box around a (Y, X) mask; None if it is empty."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not rows.size:
        return None
    columns = np.flatnonzero(mask.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _unite(first: Box | None, second: Box) -> Box:
    if first is None:
        return second
    y, x = (
        slice(min(a.start, b.start), max(a.stop, b.stop))
        for a, b in zip(first, second, strict=True)
    )
    return y, x
