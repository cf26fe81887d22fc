"""SegNet: an encoder like VGG16, and a decoder that remembers where each maximum was.

Badrinarayanan, Kendall and Cipolla 2017 (1511.00561). With dropout that stays on it is the
Bayesian SegNet (Kendall et al. 2017, 1511.02680).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from napari_diffseg.core.errors import ParameterError


@dataclass(frozen=True)
class SegNetConfig:
    """Shape of a SegNet (Badrinarayanan et al. 2017, 1511.00561); the defaults are VGG16's."""

    channels: tuple[int, ...] = (64, 128, 256, 512, 512)
    """Channels of each level, the finest first; half of each is a quarter of the work."""
    n_convolutions: tuple[int, ...] = (2, 2, 3, 3, 3)
    """Convolutions of each level, on the way down and again on the way up."""
    dropout: float = 0.0
    """Dropout after the deepest levels, on the way down and up (Bayesian SegNet: 0.5)."""
    dropout_levels: int = 3
    """How many levels, counted from the deepest, have dropout; all if there are fewer."""

    def __post_init__(self) -> None:
        if not self.channels or len(self.channels) != len(self.n_convolutions):
            raise ParameterError(
                f"SegNet needs as many n_convolutions ({len(self.n_convolutions)}) as channels "
                f"({len(self.channels)})."
            )
        if min(*self.channels, *self.n_convolutions) < 1:
            raise ParameterError("SegNet's channels and n_convolutions must be at least 1.")
        if self.dropout_levels < 0:
            raise ParameterError("SegNet's dropout_levels must not be negative.")


class SegNet(nn.Module):
    """The network that :class:`SegNetConfig` describes, for slices of any size.

    Parameters
    ----------
    config
        Width, depth and dropout.
    in_channels
        Channels of the image prior.
    """

    def __init__(self, config: SegNetConfig, in_channels: int) -> None:
        super().__init__()
        self.down, self.dropout, self.up = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        n_levels = len(config.channels)
        finer = in_channels
        for level, (width, n) in enumerate(
            zip(config.channels, config.n_convolutions, strict=True)
        ):
            dropout = config.dropout if level >= n_levels - config.dropout_levels else 0.0
            self.down.append(nn.Sequential(*_iter_convolutions([finer] + [width] * n)))
            self.dropout.append(nn.Dropout(dropout))
            # The last convolution on the way up gives the finer level its own width.
            widths = [width] * n + [width if level == 0 else finer]
            self.up.insert(0, nn.Sequential(*_iter_convolutions(widths), nn.Dropout(dropout)))
            finer = width
        self.head = nn.Conv2d(config.channels[0], 1, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, 1, Y, X) of images (B, in_channels, Y, X)."""
        x = images
        places: list[tuple[Tensor, list[int]]] = []
        for convolve, dropout in zip(self.down, self.dropout, strict=True):
            x = convolve(x)
            size = list(x.shape[-2:])
            x, where = F.max_pool2d(x, 2, return_indices=True)
            places.append((where, size))
            x = dropout(x)
        for convolve in self.up:
            where, size = places.pop()
            # The unpooled map has zeros where there was no maximum; sizes may be odd.
            x = convolve(unpool(x, where, size))
        out: Tensor = self.head(x)
        return out


def unpool(x: Tensor, where: Tensor, size: list[int]) -> Tensor:
    """Return maps (B, C, *size) with each value of ``x`` where its maximum was, and 0 elsewhere."""
    if x.device.type == "mps":  # which older versions of torch cannot do this on
        return scatter_maxima(x, where, size)
    out: Tensor = F.max_unpool2d(x, where, [2, 2], output_size=size)
    return out


def scatter_maxima(x: Tensor, where: Tensor, size: list[int]) -> Tensor:
    """Do the same as :func:`unpool`, on any device."""
    flat = x.new_zeros((*x.shape[:2], size[0] * size[1]))
    flat.scatter_(2, where.flatten(2), x.flatten(2))
    return flat.reshape(*x.shape[:2], *size)


def _iter_convolutions(widths: list[int]) -> Iterator[nn.Module]:
    for n_in, n_out in pairwise(widths):
        convolution = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        yield convolution
        yield nn.BatchNorm2d(n_out)
        yield nn.ReLU(inplace=True)
