"""The members of an ensemble, and the maps that are made from them.

A map is made from the first k members, at every slice from those of them that have been sampled
there. It is made either of the members' *probabilities* (the default) or of their *masks*, each
member binarised at 0.5 first, as the paper does (Wolleb et al. 2022).

Both kinds have a mean m, and both have the population variance m (1 - m):

- masks: the variance of numbers that are 0 or 1;
- probabilities: by the law of total variance, between members plus within,
  Var(p) + E[p (1 - p)] = E[p^2] - m^2 + m - E[p^2] = m (1 - m).

The *disagreement* is the part between members, Var(p): 0 where they all say the same, however
unsure each of them is. Of masks, which are never unsure, it is the variance itself.

So a running integer sum per kind, and one of the squares for the disagreement, carry every map
exactly, in whatever order members arrive.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from napari_diffseg.core.errors import ParameterError
from napari_diffseg.core.levels import (
    MASK_LEVEL,
    MAX_LEVEL,
    MapKind,
    SliceWriter,
    Sums,
    level_above,
    mask_writer,
    sum_above,
    total_level,
    write_disagreement,
    write_entropy,
    write_mean,
    write_variance,
)

_Scalar = TypeVar("_Scalar", bound=np.generic)
_SumKind = MapKind | Literal["squares"]


class Ensemble:
    """Members as 8-bit probabilities on the canonical (Z, Y, X) grid, and their running sums.

    The members are one zeroed block: the operating system gives it memory when a slice is first
    written, so members and slices that are never sampled cost nothing. 20 members at 155x240x240
    take 179 MB, the sums 18 MB for each kind of map in use, their squares 36 MB.

    Not thread-safe, and without locks on purpose: one thread owns an ensemble. In the viewer that
    is the GUI thread, which receives the worker's events one by one and adds them here.

    Parameters
    ----------
    n_members : int
        How many members there is room for (see `grow`).
    shape : (int, int, int)
        Z, Y, X.

    Raises
    ------
    ParameterError
        When the machine refuses so much memory.
    """

    def __init__(self, n_members: int, shape: tuple[int, int, int]) -> None:
        if n_members < 1 or min(shape) < 1:
            raise ValueError(f"no ensemble of {n_members} members of shape {shape}")
        self._members = _zeroed_members(n_members, shape)
        self._sampled = np.zeros((n_members, shape[0]), bool)
        # Per level that members are cut at: always the mask's, and the one that was asked for last.
        self._mask_voxels = {MASK_LEVEL: np.zeros((n_members, shape[0]), np.int64)}
        # Per kind, the sums of the first k members, and that k. Made when first asked for.
        self._sums: dict[_SumKind, Sums] = {}
        self._sums_k: dict[_SumKind, int] = {}

    @classmethod
    def from_arrays(
        cls, members: NDArray[np.uint8], sampled: NDArray[np.bool_] | None = None
    ) -> Self:
        """Restore an ensemble from what `members_uint8()` and `sampled` gave (copied).

        Parameters
        ----------
        members : (S, Z, Y, X) uint8
        sampled : (S, Z) bool, optional
            Without it, every slice of every member counts as sampled.
        """
        n_members, *shape = members.shape
        if sampled is None:
            sampled = np.ones(members.shape[:2], bool)
        if len(shape) != 3 or sampled.shape != members.shape[:2]:
            raise ValueError(f"members {members.shape} and sampled {sampled.shape} do not fit")
        ensemble = cls(n_members, (shape[0], shape[1], shape[2]))
        for member, z in np.argwhere(sampled):
            ensemble.add(int(member), int(z), members[member, z])
        return ensemble

    @property
    def n_members(self) -> int:
        """How many members there is room for, sampled or not."""
        return len(self._members)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z, Y, X) of the members and of every map."""
        _, z, y, x = self._members.shape
        return z, y, x

    @property
    def sampled(self) -> NDArray[np.bool_]:
        """(S, Z) bool, read-only: which slices of which members have been added (until `grow`)."""
        return _read_only(self._sampled)

    def add(self, member: int, z: int, probability: NDArray[np.uint8]) -> None:
        """Store one sampled slice, replacing an earlier one of the same member.

        Parameters
        ----------
        member, z : int
            0-based.
        probability : (Y, X) uint8
            As `encode_probability` makes it.
        """
        if not (0 <= member < self.n_members and 0 <= z < self.shape[0]):
            raise IndexError(f"no member {member}, slice {z} in {self._members.shape}")
        if probability.dtype != np.uint8 or probability.shape != self.shape[1:]:
            raise ValueError(
                f"a sample is uint8 {self.shape[1:]}, not {probability.dtype} {probability.shape}"
            )
        sums_with_it = [kind for kind, k in self._sums_k.items() if member < k]
        for kind in sums_with_it:  # what is replaced goes; a slice not yet sampled is all 0
            self._sums[kind][z] -= self._contribution(member, z, kind)
        self._members[member, z] = probability
        self._sampled[member, z] = True
        for level, voxels in self._mask_voxels.items():
            voxels[member, z] = np.count_nonzero(probability >= level)
        for kind in sums_with_it:
            self._sums[kind][z] += self._contribution(member, z, kind)

    def grow(self, n_members: int) -> None:
        """Make room for more members; what has been sampled stays.

        Both blocks exist for a moment, and arrays from `members_uint8()` keep showing the old one.
        """
        if n_members < self.n_members:
            raise ValueError(f"an ensemble of {self.n_members} cannot shrink to {n_members}")
        old, n_old = self._members, self.n_members
        self._members = _zeroed_members(n_members, self.shape)
        # Only what was sampled: copying everything would give memory to slices that have none.
        for member, z in np.argwhere(self._sampled):
            self._members[member, z] = old[member, z]
        more = ((0, n_members - n_old), (0, 0))
        self._sampled = np.pad(self._sampled, more)
        self._mask_voxels = {
            level: np.pad(voxels, more) for level, voxels in self._mask_voxels.items()
        }
        for kind in [*self._sums]:
            if self._sums[kind].dtype != _sum_dtype(n_members, kind):
                del self._sums[kind], self._sums_k[kind]

    def members_uint8(self, k: int | None = None) -> NDArray[np.uint8]:
        """Return the first k members, (k, Z, Y, X) uint8: a read-only view, kept up to date."""
        return _read_only(self._members[: self._checked_k(k)])

    def slice_masks(self, z: int, k: int | None = None) -> NDArray[np.bool_]:
        """Return the masks of those among the first k members that have slice z, (n, Y, X) bool."""
        has_slice = np.flatnonzero(self._sampled[: self._checked_k(k), z])
        masks: NDArray[np.bool_] = self._members[has_slice, z] >= MASK_LEVEL
        return masks

    def mask_voxels(self, k: int | None = None, threshold: float = 0.5) -> NDArray[np.int64]:
        """Return how many voxels of the first k members are above a threshold, (k, Z).

        Times the voxel's volume this is each member's volume; it is counted when a slice is added.
        Another threshold than 0.5 and the last one takes tens of milliseconds to count.
        """
        level = level_above(threshold)
        if level not in self._mask_voxels:
            voxels = np.zeros(self._sampled.shape, np.int64)
            for member, z in np.argwhere(self._sampled):
                voxels[member, z] = np.count_nonzero(self._members[member, z] >= level)
            self._mask_voxels = {MASK_LEVEL: self._mask_voxels[MASK_LEVEL], level: voxels}
        return _read_only(self._mask_voxels[level][: self._checked_k(k)])

    def n_samples(self, k: int | None = None) -> NDArray[np.int64]:
        """Return how many of the first k members have been sampled at each slice, (Z,)."""
        n_samples: NDArray[np.int64] = self._sampled[: self._checked_k(k)].sum(0, dtype=np.int64)
        return n_samples

    def complete_members(
        self, k: int | None = None, z_indices: Sequence[int] | None = None
    ) -> NDArray[np.int64]:
        """Return the indices of those of the first k members that have every slice wanted.

        Parameters
        ----------
        k : int, optional
        z_indices : sequence of int, optional
            The slices wanted; by default every slice that any member has.
        """
        wanted = self._sampled.any(axis=0)
        if z_indices is not None:
            wanted = np.zeros_like(wanted)
            wanted[list(z_indices)] = True
        if not wanted.any():
            return np.empty(0, np.int64)
        return np.flatnonzero(self._sampled[: self._checked_k(k), wanted].all(axis=1))

    def n_complete(self, k: int | None = None, z_indices: Sequence[int] | None = None) -> int:
        """Return how many of the first k members are complete (see `complete_members`)."""
        return len(self.complete_members(k, z_indices))

    def mean_map(self, k: int | None = None, of: MapKind = "probabilities") -> NDArray[np.float32]:
        """Compute the voxelwise mean of the first k members, (Z, Y, X) float32 in [0, 1].

        Slices without a sample are 0. `k` is 1 to `n_members`, None means all.
        Changing k costs one addition or subtraction per member and slice in between.
        """
        mean = np.empty(self.shape, np.float32)
        self._render(write_mean, mean, k, of)
        return mean

    def variance_map(
        self, k: int | None = None, of: MapKind = "probabilities"
    ) -> NDArray[np.float32]:
        """Compute m (1 - m) of the mean m, (Z, Y, X) float32 in [0, 0.25] (see the module's text).

        Of one member's mask it is 0 everywhere, of its probabilities p (1 - p).
        """
        variance = np.empty(self.shape, np.float32)
        self._render(write_variance, variance, k, of)
        return variance

    def disagreement_map(
        self, k: int | None = None, of: MapKind = "probabilities"
    ) -> NDArray[np.float32]:
        """Compute the variance between the first k members, (Z, Y, X) float32 in [0, 0.25].

        `numpy.var` of what they say: 0 where they agree, and everywhere of one member.
        """
        k = self._checked_k(k)
        disagreement = np.empty(self.shape, np.float32)
        for z in range(len(disagreement)):
            self._write_disagreement(z, k, of, disagreement[z])
        return disagreement

    def entropy_map(
        self, k: int | None = None, of: MapKind = "probabilities"
    ) -> NDArray[np.float32]:
        """Compute the binary entropy of the mean, (Z, Y, X) float32 in [0, 1] bits."""
        entropy = np.empty(self.shape, np.float32)
        self._render(write_entropy, entropy, k, of)
        return entropy

    def wt_mask(
        self, threshold: float = 0.5, k: int | None = None, of: MapKind = "probabilities"
    ) -> NDArray[np.bool_]:
        """Compute the whole-tumour mask `mean_map(k, of) > threshold`, (Z, Y, X) bool."""
        mask = np.empty(self.shape, bool)
        self._render(mask_writer(threshold), mask, k, of)
        return mask

    def voxels_above(
        self, threshold: float, k: int | None = None, of: MapKind = "probabilities"
    ) -> NDArray[np.int64]:
        """Return how many voxels of the mean map are above a threshold on every slice, (Z,).

        Those of `wt_mask`, without the mask: milliseconds for a whole volume.
        """
        k = self._checked_k(k)
        sums = self._summed(k, of)
        voxels = np.zeros(self.shape[0], np.int64)
        for z, n in enumerate(self.n_samples(k).tolist()):
            if n:
                voxels[z] = np.count_nonzero(sums[z] >= sum_above(total_level(n, of), threshold))
        return voxels

    def update_slice(
        self,
        z: int,
        *,
        mean: NDArray[np.float32] | None = None,
        variance: NDArray[np.float32] | None = None,
        disagreement: NDArray[np.float32] | None = None,
        mask: NDArray[np.bool_] | None = None,
        threshold: float = 0.5,
        k: int | None = None,
        of: MapKind = "probabilities",
    ) -> None:
        """Write slice z into maps that were made before, in place: what a new sample changes.

        Parameters
        ----------
        z : int
        mean, variance, disagreement, mask : (Z, Y, X) arrays, optional
            Those given are updated, as `mean_map`, `variance_map`, `disagreement_map` and `wt_mask`
            would make them.
        threshold, k, of
            As they were when the maps were made.
        """
        k = self._checked_k(k)
        sums = self._summed(k, of)
        total = total_level(int(np.count_nonzero(self._sampled[:k, z])), of)
        if mean is not None:
            write_mean(total, sums[z], mean[z])
        if variance is not None:
            write_variance(total, sums[z], variance[z])
        if disagreement is not None:
            self._write_disagreement(z, k, of, disagreement[z])
        if mask is not None:
            mask_writer(threshold)(total, sums[z], mask[z])

    def _render(self, write: SliceWriter, out: NDArray[Any], k: int | None, of: MapKind) -> None:
        k = self._checked_k(k)
        sums = self._summed(k, of)
        for z, n in enumerate(self.n_samples(k)):
            write(total_level(int(n), of), sums[z], out[z])

    def _write_disagreement(self, z: int, k: int, of: MapKind, target: NDArray[np.float32]) -> None:
        n_samples = int(np.count_nonzero(self._sampled[:k, z]))
        sums = self._summed(k, of)[z]
        if of == "masks":
            write_variance(total_level(n_samples, of), sums, target)
        else:
            write_disagreement(n_samples, sums, self._sum_up(k, "squares")[z], target)

    def _summed(self, k: int, of: MapKind) -> Sums:
        if of not in get_args(MapKind):
            raise ValueError(f"maps are made of {' or '.join(get_args(MapKind))}, not of {of!r}")
        return self._sum_up(k, of)

    def _sum_up(self, k: int, kind: _SumKind) -> Sums:
        """Return the sums over the first k members, reached from those for another k if near."""
        at = self._sums_k.get(kind, 0)
        if kind not in self._sums:
            self._sums[kind] = np.zeros(self.shape, _sum_dtype(self.n_members, kind))
        elif k < at - k:
            self._sums[kind][:] = 0
            at = 0
        sums = self._sums[kind]
        for member in range(min(at, k), max(at, k)):
            for z in map(int, np.flatnonzero(self._sampled[member])):
                if at < k:
                    sums[z] += self._contribution(member, z, kind)
                else:
                    sums[z] -= self._contribution(member, z, kind)
        self._sums_k[kind] = k
        return sums

    def _contribution(self, member: int, z: int, kind: _SumKind) -> Sums:
        levels: NDArray[np.uint8] = self._members[member, z]
        match kind:
            case "probabilities":
                return levels
            case "masks":
                return (levels >= MASK_LEVEL).view(np.uint8)
            case "squares":
                return np.square(levels, dtype=np.uint16)

    def _checked_k(self, k: int | None) -> int:
        if k is None:
            return self.n_members
        if not 1 <= k <= self.n_members:
            raise ValueError(f"k is {k}, outside of 1 to {self.n_members}")
        return k


def _zeroed_members(n_members: int, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    try:
        return np.zeros((n_members, *shape), np.uint8)
    except MemoryError as error:
        gigabytes = n_members * np.prod(shape, dtype=float) / 1e9
        raise ParameterError(
            f"{n_members} samples of {' x '.join(map(str, shape))} voxels need {gigabytes:.1f} GB "
            "of memory, which this machine does not give. Choose fewer samples."
        ) from error


def _sum_dtype(n_members: int, kind: _SumKind) -> np.dtype[np.unsignedinteger[Any]]:
    largest = n_members * MAX_LEVEL ** (2 if kind == "squares" else 1)
    return np.promote_types(np.min_scalar_type(largest), np.uint16)


def _read_only(array: NDArray[_Scalar]) -> NDArray[_Scalar]:
    view = array.view()
    view.flags.writeable = False
    return view
