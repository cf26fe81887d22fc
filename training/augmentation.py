"""Random but plausible changes of training slices, from numbers that are handed in."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_diffseg.core.views import N_MODALITIES
from training.config import AugmentationConfig
from training.shares import BatchRandom

MAX_MARGIN = 8
"""Most voxels around a tumour that are pasted with it."""
_COARSEST = 0.5


def augment(
    images: Tensor, masks: Tensor, config: AugmentationConfig, random: BatchRandom
) -> tuple[Tensor, Tensor]:
    """Return changed copies of images (B, C, Y, X) in [0, 1] and masks (B, 1, Y, X) in {0, 1}.

    C is 4, or a multiple of it where neighbouring slices follow the slice itself: they share its
    geometry and its contrast, and each has noise of its own.
    """
    images = _change_context(images, config, random)
    images, masks = _warp(images, masks, config, random)
    return _change_intensities(images, config, random), masks


def paste_tumours(
    images: Tensor,
    masks: Tensor,
    donor_images: Tensor,
    donor_masks: Tensor,
    probability: float,
    random: BatchRandom,
) -> tuple[Tensor, Tensor]:
    """Return copies in which some slices have the tumour of their donor, where both have brain.

    What is pasted is the donor's tumour with a margin of 0 to 8 voxels, from all modalities and
    neighbouring slices; what it covers of the slice's own tumour is gone. Images are (B, C, Y, X),
    masks (B, 1, Y, X). After CarveMix (Zhang et al. 2021, 2108.06883), with a margin that is a
    number of voxels rather than a share of the tumour's radius.
    """
    chosen = random.uniform(len(images)) < probability
    margins = (random.uniform(len(images)) * (MAX_MARGIN + 1)).long()
    images, masks = images.clone(), masks.clone()
    for i in torch.nonzero(chosen & donor_masks.flatten(1).any(1)).flatten().tolist():
        width = 2 * int(margins[i]) + 1
        region = F.max_pool2d(donor_masks[i], width, stride=1, padding=width // 2) > 0
        for brain in (images[i], donor_images[i]):
            region &= (brain[:N_MODALITIES] > 0).any(0)
        images[i] = torch.where(region, donor_images[i], images[i])
        masks[i] = torch.where(region, donor_masks[i], masks[i])
    return images, masks


def _uniform(shape: tuple[int, ...], limit: float, random: BatchRandom) -> Tensor:
    return (random.uniform(*shape) * 2.0 - 1.0) * limit


def _smooth_field(
    n: int, channels: int, size: tuple[int, int], std: float, random: BatchRandom
) -> Tensor:
    """Return smooth noise (n, channels, Y, X) from control points about 30 voxels apart."""
    points = random.normal(n, channels, max(2, size[0] // 32), max(2, size[1] // 32))
    return F.interpolate(points * std, size, mode="bicubic", align_corners=True)


def _warp(
    images: Tensor, masks: Tensor, config: AugmentationConfig, random: BatchRandom
) -> tuple[Tensor, Tensor]:
    n, _, height, width = images.shape
    angle = _uniform((n,), math.radians(config.rotation_deg), random)
    scale = torch.exp(_uniform((n,), config.log_scale, random))
    aspect = torch.exp(_uniform((n,), config.log_scale / 3.0, random))
    shear = _uniform((n,), config.shear, random)
    shift = _uniform((n, 2), config.shift_voxels, random)
    flip = torch.where(random.uniform(n) < config.flip, -1.0, 1.0)
    cos, sin = torch.cos(angle), torch.sin(angle)
    # Rows map output voxels (x, y), counted from the middle, to input voxels.
    matrix = torch.stack(
        [
            torch.stack([flip * cos * aspect, -sin + shear], 1),
            torch.stack([flip * sin, cos / aspect], 1),
        ],
        1,
    ) * scale.view(-1, 1, 1)
    y, x = torch.meshgrid(
        torch.arange(height) - (height - 1) / 2.0,
        torch.arange(width) - (width - 1) / 2.0,
        indexing="ij",
    )
    positions = torch.stack([x, y], -1).reshape(1, -1, 2) @ matrix.transpose(1, 2)
    positions = (positions + shift[:, None]).view(n, height, width, 2)
    if config.elastic_voxels > 0:
        displacement = _smooth_field(n, 2, (height, width), config.elastic_voxels, random)
        positions = positions + displacement.permute(0, 2, 3, 1)
    grid = positions * torch.tensor([2.0 / width, 2.0 / height])
    stack = torch.cat([images, masks], 1)
    warped = F.grid_sample(stack, grid, align_corners=False)
    return warped[:, :-1], (warped[:, -1:] > 0.5).to(masks.dtype)


def _change_context(images: Tensor, config: AugmentationConfig, random: BatchRandom) -> Tensor:
    """Swap the neighbours of some slices, and give some their own image instead."""
    n, channels, height, width = images.shape
    if channels == N_MODALITIES:
        return images
    slices = images.view(n, -1, N_MODALITIES, height, width)
    u = random.uniform(n)
    swapped = u >= 1.0 - config.context_swap
    alone = (u >= 1.0 - config.context_swap - config.context_dropout) & ~swapped
    out = slices.clone()
    out[swapped, 1:] = slices[swapped, 1:].flip(1)
    out[alone, 1:] = slices[alone, :1]
    return out.view(images.shape)


def _change_intensities(images: Tensor, config: AugmentationConfig, random: BatchRandom) -> Tensor:
    n, channels, height, width = images.shape
    n_slices = channels // N_MODALITIES
    slices = images.view(n, n_slices, N_MODALITIES, height, width)
    brain = (slices > 0).any(2).repeat_interleave(N_MODALITIES, dim=1)

    def of_all_slices(values: Tensor) -> Tensor:
        return values.repeat(1, n_slices, 1, 1)

    def draw(limit: float) -> Tensor:
        return of_all_slices(_uniform((n, N_MODALITIES, 1, 1), limit, random))

    # In place from here on: with two neighbours a batch of 16 is 24 MB.
    out = images.clamp(0.0, 1.0).pow_(torch.exp(draw(config.log_gamma)))
    out.mul_(1.0 + draw(config.gain))
    if config.bias > 0:
        field = torch.exp(_smooth_field(n, N_MODALITIES, (height, width), config.bias, random))
        out.view(slices.shape).mul_(field[:, None])
    out.add_(draw(config.offset))
    blurred = random.uniform(n) < config.blur
    if bool(blurred.any()):
        kernel = torch.tensor([1.0, 2.0, 1.0]) / 4.0
        weights = torch.outer(kernel, kernel).expand(channels, 1, 3, 3)
        out[blurred] = F.conv2d(out[blurred], weights, padding=1, groups=channels)
    if config.low_resolution > 0:
        coarse = random.uniform(n) < config.low_resolution
        factors = 1.0 - random.uniform(n) * (1.0 - _COARSEST)
        for i in torch.nonzero(coarse).flatten().tolist():
            out[i] = _lower_resolution(out[i], float(factors[i]))
    std = random.uniform(n, N_MODALITIES, 1, 1) * config.noise
    noise = std * random.normal(n, N_MODALITIES, height, width)
    for number, neighbour in enumerate(out.view(slices.shape).unbind(1)):
        # Normal numbers are what takes longest here: neighbours have the same ones elsewhere.
        neighbour.add_(noise.roll((31 * number, 47 * number), (-2, -1)))
    out.clamp_(0.0, 1.0).mul_(brain)
    dropped = random.uniform(n, N_MODALITIES) < config.modality_dropout
    dropped[dropped.all(1)] = False
    return out.mul_(~of_all_slices(dropped[:, :, None, None]))


def _lower_resolution(image: Tensor, factor: float) -> Tensor:
    """Return (C, Y, X) as if it had ``factor`` times as many voxels in each direction."""
    size = image.shape[-2:]
    fewer = [max(1, round(length * factor)) for length in size]
    coarse = F.interpolate(image[None], fewer, mode="bilinear", antialias=True)
    return F.interpolate(coarse, size, mode="bilinear")[0]
