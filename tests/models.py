"""Tiny random models for tests: the real classes and configurations, only small."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from napari_diffseg.core.checkpoint import LoadedModel, ModelCard, prepare_network
from napari_diffseg.core.model import DiffusionModel, fast_diffusion_config, fast_model_config
from napari_diffseg.core.preprocessing import PreprocessingConfig
from napari_diffseg.core.segnet import SegNetConfig
from napari_diffseg.core.unet import UNetConfig
from tests.reference import published_shapes

SMALL_PUBLISHED = UNetConfig(
    base_channels=32, channel_multipliers=(1, 1, 1, 1, 1), n_res_blocks=1, attention_factors=(16,)
)
"""The published network with little in it: fast enough for a slice of 224x224."""


TINY_SEGNET = SegNetConfig(channels=(4, 8), n_convolutions=(1, 1))


def tiny_network(
    seed: int = 0, n_prior_channels: int = 4, second_encoder: SegNetConfig | None = None
) -> DiffusionModel:
    """Return a ``fast`` network with two levels of 8 channels and random weights."""
    config = fast_model_config(8, 8, (1, 2), (1,), n_prior_channels)
    config = replace(config, second_encoder=second_encoder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DiffusionModel(config, fast_diffusion_config())
        # The zero-initialised last layers would make every output the same.
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return network


def tiny_model(
    seed: int = 0,
    window: tuple[int, int] = (32, 32),
    context_slices: tuple[int, ...] = (),
    second_encoder: SegNetConfig | None = None,
) -> LoadedModel:
    """Return a model that samples a slice in milliseconds; its masks are arbitrary."""
    preprocessing = PreprocessingConfig(window=window, stride=16, context_slices=context_slices)
    return LoadedModel(
        network=prepare_network(tiny_network(seed, preprocessing.n_prior_channels, second_encoder)),
        preprocessing=preprocessing,
        card=ModelCard(name="tiny", recommended_steps=3),
        path=Path("tiny.safetensors"),
        sha256="0" * 64,
        provenance={"steps": 0},
    )


def published_state(
    config: UNetConfig = SMALL_PUBLISHED, seed: int = 0, std: float = 0.1
) -> dict[str, torch.Tensor]:
    """Return random weights under the names of the published code."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator) * std
        for name, shape in published_shapes(config).items()
    }
