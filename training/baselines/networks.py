"""From settings to a network that answers at once, and members by dropout that stays on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from napari_diffseg.core.segment import make_generator
from napari_diffseg.core.segnet import SegNet
from napari_diffseg.core.unet import UNet
from training.baseline_config import BaselineConfig


def make_network(config: BaselineConfig, n_prior_channels: int) -> nn.Module:
    """Return a network from images (B, n_prior_channels, Y, X) to logits (B, 1, Y, X)."""
    if config.unet is not None:
        return UNet(config.unet)
    assert config.segnet is not None
    return SegNet(config.segnet, n_prior_channels)


@torch.inference_mode()
def draw_members(
    network: nn.Module,
    images: Tensor,
    source_slices: Sequence[int],
    *,
    n_members: int,
    seed: int,
    sample_dropout: bool,
) -> Tensor:
    """Return tumour probabilities (S, B, Y, X) of images (B, C, Y, X).

    With ``sample_dropout`` each member is a pass of its own, whose dropout is a function of (seed,
    member, source slice) alone: not of the batch, nor of how many members there are. Without it
    all passes would be equal, so S is 1.

    Parameters
    ----------
    network
        In evaluation mode, from :func:`make_network`.
    source_slices
        The slices' numbers in their files, (B,).
    """
    images = images.contiguous(memory_format=torch.channels_last)
    if not sample_dropout:
        return torch.sigmoid(network(images).float())[:, 0][None]
    members = torch.empty((n_members, len(images), *images.shape[-2:]))
    with _dropout_kept_on(network):
        for member in range(n_members):
            for i, number in enumerate(source_slices):
                logits = _draw_one(network, images[i : i + 1], make_generator(seed, member, number))
                members[member, i] = torch.sigmoid(logits.float())[0, 0]
    return members


def _draw_one(network: nn.Module, image: Tensor, generator: torch.Generator) -> Tensor:
    # Dropout takes the device's own generator, which is given back as it was.
    devices = [image.device] if image.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(generator.initial_seed())
        logits: Tensor = network(image)
    return logits


@contextmanager
def _dropout_kept_on(network: nn.Module) -> Iterator[None]:
    layers = [module for module in network.modules() if isinstance(module, nn.Dropout)]
    before = [layer.training for layer in layers]
    try:
        for layer in layers:
            layer.train()
        yield
    finally:
        for layer, was_training in zip(layers, before, strict=True):
            layer.train(was_training)
