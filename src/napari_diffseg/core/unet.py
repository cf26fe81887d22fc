"""The network: one U-Net, used as the published denoiser and as both halves of the fast model.

Layer by layer the U-Net is the one of guided-diffusion (Dhariwal & Nichol 2021, 2105.05233), which
the paper uses; :mod:`napari_diffseg.core.published` translates its parameter names. Two
additions make the fast preset possible: a pixel-unshuffle stem, which moves the work to a grid
``patch_size`` times coarser without losing a voxel, and context features on that grid. A third,
batch instead of group normalisation, is for training encoders on few patients.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from napari_diffseg.core.errors import ParameterError

_Module = TypeVar("_Module", bound=nn.Module)


@dataclass(frozen=True)
class UNetConfig:
    """Shape of a U-Net; the defaults are the published model (113,674,370 parameters)."""

    in_channels: int = 5
    """Channels of the input at full resolution."""
    out_channels: int = 2
    """Channels of the output at full resolution."""
    base_channels: int = 128
    """Channels after the stem."""
    channel_multipliers: tuple[int, ...] = (1, 1, 2, 2, 4, 4)
    """Channels of each level as multiples of ``base_channels``."""
    n_res_blocks: int = 2
    """Residual blocks of each level on the way down (one more on the way up)."""
    attention_factors: tuple[int, ...] = (16,)
    """Downsampling factors, counted after the stem, at which self-attention is added."""
    middle_attention: bool = True
    """Whether the middle has self-attention."""
    patch_size: int = 1
    """Factor of the pixel-unshuffle stem."""
    context_channels: int = 0
    """Channels of features on the stem's grid that are concatenated to the input."""
    time_conditioned: bool = True
    """Whether the network is told the timestep."""
    norm: Literal["group", "batch"] = "group"
    """Normalisation of the convolutions' input; attention has group normalisation either way."""
    n_groups: int = 32
    """Groups of every group normalisation."""
    dropout: float = 0.0
    """Dropout in the residual blocks."""

    def __post_init__(self) -> None:
        widths = [self.base_channels * m for m in self.channel_multipliers]
        if not widths or any(w < 1 or w % self.n_groups for w in widths):
            raise ParameterError(
                f"Channels of each level ({widths}) must be positive multiples of "
                f"n_groups ({self.n_groups})."
            )
        if self.norm not in ("group", "batch"):
            raise ParameterError(f'norm is "group" or "batch", not {self.norm!r}.')
        if self.patch_size < 1 or self.n_res_blocks < 1:
            raise ParameterError("patch_size and n_res_blocks must be at least 1.")

    @property
    def stride(self) -> int:
        """Factor by which height and width of an input must be divisible."""
        return int(self.patch_size * 2 ** (len(self.channel_multipliers) - 1))


def compute_time_embedding(t: Tensor, n_channels: int, max_period: float = 10000.0) -> Tensor:
    """Return sinusoidal features (B, n_channels) of timesteps (B,), cosines first."""
    half = n_channels // 2
    exponents = torch.arange(half, dtype=torch.float32, device=t.device) / half
    angles = t.float()[:, None] * torch.exp(-math.log(max_period) * exponents)[None]
    features = torch.cat([angles.cos(), angles.sin()], dim=1)
    return F.pad(features, (0, n_channels % 2))


class ResidualBlock(nn.Module):
    """Two normalised convolutions with a skip; the time embedding is added between them."""

    def __init__(self, in_channels: int, out_channels: int, config: UNetConfig) -> None:
        super().__init__()
        self.norm_in = _make_norm(in_channels, config)
        self.conv_in = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_projection = (
            nn.Linear(4 * config.base_channels, out_channels) if config.time_conditioned else None
        )
        self.norm_out = _make_norm(out_channels, config)
        self.dropout = nn.Dropout(config.dropout)
        self.conv_out = _zero_init(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = (
            nn.Conv2d(in_channels, out_channels, 1)
            if in_channels != out_channels
            else nn.Identity()
        )

    def forward(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        """Map (B, C_in, H, W) to (B, C_out, H, W)."""
        hidden = self.conv_in(F.silu(self.norm_in(x)))
        if self.time_projection is not None and embedding is not None:
            hidden = hidden + self.time_projection(F.silu(embedding))[:, :, None, None].to(
                hidden.dtype
            )
        hidden = self.conv_out(self.dropout(F.silu(self.norm_out(hidden))))
        out: Tensor = self.skip(x) + hidden
        return out


class AttentionBlock(nn.Module):
    """One-head self-attention over all positions, with a residual connection."""

    def __init__(self, channels: int, config: UNetConfig) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(config.n_groups, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.projection = _zero_init(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        flat = x.flatten(2)
        query, key, value = self.qkv(self.norm(flat)).transpose(1, 2).chunk(3, dim=2)
        attended = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = x + self.projection(attended.transpose(1, 2)).reshape(x.shape)
        return out


class Downsample(nn.Module):
    """Halve height and width with a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H / 2, W / 2)."""
        out: Tensor = self.conv(x)
        return out


class Upsample(nn.Module):
    """Double height and width: nearest neighbour, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, 2 H, 2 W)."""
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
        return out


class Stage(nn.Module):
    """A residual block, then attention and a change of resolution where the plan has them."""

    def __init__(
        self,
        residual: ResidualBlock,
        attention: AttentionBlock | None = None,
        upsample: Upsample | None = None,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.attention = attention
        self.upsample = upsample

    def forward(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        """Apply the parts in order."""
        x = self.residual(x, embedding)
        if self.attention is not None:
            x = self.attention(x)
        return x if self.upsample is None else self.upsample(x)


class UNet(nn.Module):
    """The U-Net that :class:`UNetConfig` describes.

    Attributes
    ----------
    recompute : bool
        Whether each stage computes its activations once more in the backward pass instead of
        keeping them (gradient checkpointing, Chen et al. 2016, 1604.06174).
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.recompute = False
        base = config.base_channels
        self.time_embedding = (
            nn.Sequential(nn.Linear(base, 4 * base), nn.SiLU(), nn.Linear(4 * base, 4 * base))
            if config.time_conditioned
            else None
        )
        channels = base * config.channel_multipliers[0]
        stem_in = config.in_channels * config.patch_size**2 + config.context_channels
        self.stem = nn.Conv2d(stem_in, channels, 3, padding=1)
        widths = [base * m for m in config.channel_multipliers]
        skips = [channels]

        self.down = nn.ModuleList()
        for level, width in enumerate(widths):
            for _ in range(config.n_res_blocks):
                self.down.append(self._stage(channels, width, level))
                channels = width
                skips.append(channels)
            if level < len(widths) - 1:
                self.down.append(Downsample(channels))
                skips.append(channels)

        self.middle_in = ResidualBlock(channels, channels, config)
        self.middle_attention = (
            AttentionBlock(channels, config) if config.middle_attention else None
        )
        self.middle_out = ResidualBlock(channels, channels, config)

        self.up = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for block in range(config.n_res_blocks + 1):
                last = level > 0 and block == config.n_res_blocks
                upsample = Upsample(width) if last else None
                self.up.append(self._stage(channels + skips.pop(), width, level, upsample))
                channels = width

        self.norm_out = _make_norm(channels, config)
        self.head = _zero_init(
            nn.Conv2d(channels, config.out_channels * config.patch_size**2, 3, padding=1)
        )

    def _stage(
        self, in_channels: int, width: int, level: int, upsample: Upsample | None = None
    ) -> Stage:
        has_attention = 2**level in self.config.attention_factors
        return Stage(
            ResidualBlock(in_channels, width, self.config),
            AttentionBlock(width, self.config) if has_attention else None,
            upsample,
        )

    def forward(self, x: Tensor, t: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """Return the output (B, out_channels, Y, X) for ``x`` (B, in_channels, Y, X).

        ``t`` is (B,), in training timesteps; ``context`` is (B, context_channels, Y / patch_size,
        X / patch_size). Y and X must be divisible by ``config.stride``.
        """
        return self.predict(self.compute_features(x, t, context))

    def compute_features(
        self, x: Tensor, t: Tensor | None = None, context: Tensor | None = None
    ) -> Tensor:
        """Return the last features (B, C, Y / patch_size, X / patch_size), normalised."""
        config = self.config
        if x.shape[-1] % config.stride or x.shape[-2] % config.stride:
            raise ParameterError(
                f"Slices of {tuple(x.shape[-2:])} voxels do not fit the network, which needs "
                f"multiples of {config.stride}."
            )
        embedding = None
        if self.time_embedding is not None:
            if t is None:
                raise ParameterError("This network needs a timestep.")
            embedding = self.time_embedding(compute_time_embedding(t, config.base_channels))
        if config.patch_size > 1:
            x = F.pixel_unshuffle(x, config.patch_size)
        if context is not None:
            x = torch.cat([x, context.to(x.dtype)], dim=1)
        # The memory layout of every activation follows the weights' from here on.
        x = self.stem(x)

        skips = [x]
        for module in self.down:
            x = module(x) if isinstance(module, Downsample) else self._run(module, embedding, x)
            skips.append(x)
        x = self._run(self.middle_in, embedding, x)
        if self.middle_attention is not None:
            x = self.middle_attention(x)
        x = self._run(self.middle_out, embedding, x)
        for module in self.up:
            x = self._run(module, embedding, x, skips.pop())
        return F.silu(self.norm_out(x))

    def _run(self, module: nn.Module, embedding: Tensor | None, *parts: Tensor) -> Tensor:
        """Run a stage on concatenated parts; with ``recompute`` only these are kept."""

        def run(embedding: Tensor | None, *parts: Tensor) -> Tensor:
            x = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
            out: Tensor = module(x, embedding)
            return out

        if not (self.recompute and torch.is_grad_enabled()):
            return run(embedding, *parts)
        # It restores dropout's random numbers and the precision of the first time.
        again: Tensor = checkpoint(run, embedding, *parts, use_reentrant=False)
        return again

    def predict(self, features: Tensor) -> Tensor:
        """Return the output at full resolution for :meth:`compute_features`."""
        out: Tensor = self.head(features)
        if self.config.patch_size > 1:
            out = F.pixel_shuffle(out, self.config.patch_size)
        return out


def _make_norm(channels: int, config: UNetConfig) -> nn.Module:
    if config.norm == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(config.n_groups, channels)


def _zero_init(module: _Module) -> _Module:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
