"""How a member sees the slices: mirrored, or through a contrast of its own.

Test-time augmentation (Wang et al. 2019, 1807.07356): a head has no preferred side and a scanner
no preferred contrast, so the model's own preferences are what members should not share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

N_MODALITIES = 4
MAX_LOG_EXPONENT = 0.35
"""Exponents are exp(U(-a, a))."""
MAX_GAIN_CHANGE = 0.15
"""Factors are 1 + U(-a, a)."""
MAX_OFFSET = 0.08
"""Offsets are U(-a, a), where the brain's percentiles are 0 and 1."""
_STREAM = 0xC0A7  # keeps these numbers apart from all others that (seed, member) decide


@dataclass(frozen=True)
class Contrast:
    """Modality k of intensity v in [0, 1] becomes v ** exponents[k] * gains[k] + offsets[k]."""

    exponents: tuple[float, ...]
    gains: tuple[float, ...]
    offsets: tuple[float, ...]


@dataclass(frozen=True)
class View:
    """What is done to the slices before a member sees them."""

    is_mirrored: bool = False
    """Left to right; the member's mask is mirrored back."""
    contrast: Contrast | None = None
    """None: as they are."""


def choose_view(seed: int, member: int, *, mirror: bool, vary_contrast: bool) -> View:
    """Return the view of a member, a function of seed and number alone; 0 sees what is there."""
    contrast = draw_contrast(seed, member) if vary_contrast and member else None
    return View(mirror and member % 2 == 1, contrast)


def draw_contrast(seed: int, member: int) -> Contrast:
    """Return a contrast from the distribution of the training's augmentation."""
    rng = np.random.default_rng([_STREAM, seed, member])
    draws = rng.uniform(-1.0, 1.0, (3, N_MODALITIES))
    return Contrast(
        tuple(np.exp(MAX_LOG_EXPONENT * draws[0]).tolist()),
        tuple((1.0 + MAX_GAIN_CHANGE * draws[1]).tolist()),
        tuple((MAX_OFFSET * draws[2]).tolist()),
    )


def apply_views(images: Tensor, views: Sequence[View]) -> Tensor:
    """Return images (B, C, Y, X) in [0, 1] as each of B views shows them.

    C is a multiple of 4: neighbouring slices have the slice's contrast. What is 0 in all four
    modalities of a slice is background and stays 0.
    """
    mirrored = torch.tensor([view.is_mirrored for view in views], device=images.device)
    images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    rows = [row for row, view in enumerate(views) if view.contrast is not None]
    if not rows:
        return images
    contrasts = [view.contrast for view in views if view.contrast is not None]

    def stack(name: str) -> Tensor:
        values = torch.tensor([getattr(contrast, name) for contrast in contrasts])
        return values.to(images)[:, None, :, None, None]

    slices = images[rows].unflatten(1, (-1, N_MODALITIES))
    brain = (slices > 0).any(2, keepdim=True)
    changed = slices ** stack("exponents") * stack("gains") + stack("offsets")
    images = images.clone()
    images[rows] = (changed.clamp(0.0, 1.0) * brain).flatten(1, 2)
    return images
