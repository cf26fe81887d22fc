"""What is still to be sampled: an ensemble is completed, never drawn twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Part:
    """Members that are missing on a stretch of slices, the same ones on each."""

    z_indices: tuple[int, ...]
    members: range

    @property
    def n_samples(self) -> int:
        """Pairs of member and slice."""
        return len(self.z_indices) * len(self.members)


def count_leading(sampled: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return, for each slice of (S, Z), the members before the first one that is missing."""
    counts: NDArray[np.int64] = np.logical_and.accumulate(sampled, axis=0).sum(axis=0)
    return counts


def plan_parts(
    sampled: NDArray[np.bool_], z_indices: Sequence[int], n_samples: int, priority_z: int
) -> list[Part]:
    """Return what is missing for the first members on these slices, nearest slices first.

    Parameters
    ----------
    sampled : (S, Z) bool
        Which slices each member has; S is at least `n_samples`.
    z_indices
        Slices wanted, ascending.
    n_samples
        Members wanted on each.
    priority_z
        The slice on screen.
    """
    n_there = count_leading(sampled[:n_samples])
    stretches: list[list[int]] = []
    for z in z_indices:
        if not stretches or n_there[z] != n_there[stretches[-1][-1]]:
            stretches.append([])
        stretches[-1].append(z)
    parts = [
        Part(tuple(stretch), range(int(n_there[stretch[0]]), n_samples))
        for stretch in stretches
        if n_there[stretch[0]] < n_samples
    ]
    return sorted(parts, key=lambda part: min(abs(z - priority_z) for z in part.z_indices))
