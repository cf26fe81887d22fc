"""Which images of a batch are a process's own, and the random numbers that belong to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

_Rows = TypeVar("_Rows", Tensor, NDArray[Any])


@dataclass(frozen=True)
class Share:
    """One of ``count`` equal shares of a batch, counted from 0; the default is all of it."""

    index: int = 0
    count: int = 1

    def of(self, rows: _Rows, groups: int = 1) -> _Rows:
        """Return this share of the rows (B, ...) of a batch.

        The rows are ``groups`` equal groups, such as the parts in which a batch goes through the
        network, and the share has its rows of each; B must be a multiple of ``groups * count``.
        """
        if self.count == 1:
            return rows
        divided = rows.reshape(groups, self.count, -1, *rows.shape[1:])
        return divided[:, self.index].reshape(-1, *rows.shape[1:])


@dataclass(frozen=True)
class BatchRandom:
    """Random numbers of a whole batch, of which those of a share's images are kept.

    Every process draws the same numbers and keeps its own, so that a step is the same step
    however many processes share it.

    Attributes
    ----------
    generator
        Seeded alike in every process.
    share, groups
        Whose numbers are kept, and the groups of the batch's images; see :meth:`Share.of`.
    """

    generator: torch.Generator
    share: Share = Share()
    groups: int = 1

    def in_groups(self, groups: int) -> BatchRandom:
        """Return the same source for images that come in other groups."""
        return BatchRandom(self.generator, self.share, groups)

    def uniform(self, n: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return numbers (n, *shape) from [0, 1) for the share's ``n`` images."""
        rows = n * self.share.count
        whole = torch.rand((rows, *shape), generator=self.generator, dtype=dtype)
        return self.share.of(whole, self.groups)

    def normal(self, n: int, *shape: int) -> Tensor:
        """Return standard normal numbers (n, *shape) for the share's ``n`` images."""
        whole = torch.randn((n * self.share.count, *shape), generator=self.generator)
        return self.share.of(whole, self.groups)

    def seed(self) -> int:
        """Return a seed for what cannot be drawn for a whole batch: another one in each share."""
        return int(torch.randint(2**62, (), generator=self.generator)) + self.share.index
