"""Both presets of the diffusion model, and the rules that keep their parts fitting."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from napari_diffseg.core.diffusion import DiffusionConfig
from napari_diffseg.core.errors import ParameterError
from napari_diffseg.core.model import (
    DiffusionModel,
    ModelConfig,
    fast_diffusion_config,
    fast_model_config,
)
from napari_diffseg.core.unet import UNetConfig
from tests.models import TINY_SEGNET, tiny_network

SMALL = UNetConfig(base_channels=32, channel_multipliers=(1, 2), attention_factors=(2,))


def run(network: DiffusionModel, image: torch.Tensor, x_t: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        t = torch.full((len(x_t),), 10)
        out: torch.Tensor = network(x_t, t, network.encode_prior(image))
    return out


@pytest.mark.parametrize("size", [(32, 32), (64, 48)])
def test_the_output_has_the_resolution_of_the_slice(size: tuple[int, int]) -> None:
    x_t = torch.zeros(2, 1, *size)
    image = torch.rand(2, 4, *size)
    assert run(tiny_network(), image, x_t).shape == (2, 1, *size)
    paper = DiffusionModel(ModelConfig(SMALL), DiffusionConfig())
    assert run(paper, image, x_t).shape == (2, 2, *size)


def test_the_fast_denoiser_listens_to_image_noised_mask_and_time() -> None:
    network = tiny_network().eval()
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 4, 32, 32, generator=generator)
    x_t = torch.randn(1, 1, 32, 32, generator=generator)
    base = run(network, image, x_t)
    assert not torch.allclose(run(network, image.flip(1), x_t), base)
    assert not torch.allclose(run(network, image, -x_t), base)
    with torch.inference_mode():
        later = network(x_t, torch.tensor([900]), network.encode_prior(image))
    assert not torch.allclose(later, base)


def test_an_untrained_fast_denoiser_repeats_the_encoders_answer() -> None:
    network = DiffusionModel(fast_model_config(8, 8, (1, 2), (1,)), fast_diffusion_config())
    image = torch.rand(1, 4, 32, 32)
    with torch.inference_mode():
        prior = network.encode_prior(image)
    torch.testing.assert_close(run(network, image, torch.randn(1, 1, 32, 32)), prior.image)


def test_every_row_begins_from_the_encoder_that_is_chosen_for_it() -> None:
    config = replace(fast_model_config(8, 8, (1, 2), (1,)), second_encoder=TINY_SEGNET)
    network = DiffusionModel(config, fast_diffusion_config()).eval()
    image = torch.rand(3, 4, 32, 48)
    with torch.inference_mode():
        prior = network.encode_prior(image)
        assert network.second_encoder is not None
        torch.testing.assert_close(prior.second, network.second_encoder(image))
        given = prior[torch.tensor([0, 0, 2])].with_second(torch.tensor([False, True, True]))
        # An untrained denoiser adds nothing.
        out = network(torch.randn(3, 1, 32, 48), torch.full((3,), 10), given)
    assert prior.second is not None
    assert not torch.allclose(prior.image, prior.second)
    torch.testing.assert_close(out[0], prior.image[0])
    torch.testing.assert_close(out[1], prior.second[0])
    torch.testing.assert_close(out[2], prior.second[2])


def test_a_second_encoder_is_beside_a_first() -> None:
    with pytest.raises(ParameterError, match="needs a prior encoder beside it"):
        ModelConfig(SMALL, second_encoder=TINY_SEGNET)


def test_the_fast_model_is_thousands_of_times_smaller_to_run_than_the_published_one() -> None:
    def multiplications(network: torch.nn.Module, *inputs: torch.Tensor) -> float:
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            network(*inputs)
        return counter.get_total_flops() / 2

    with torch.device("meta"):
        published = DiffusionModel(ModelConfig(), DiffusionConfig()).denoiser
        fast = DiffusionModel(fast_model_config(), fast_diffusion_config())
        assert fast.prior_encoder is not None
        a_step = multiplications(published, torch.zeros(1, 5, 224, 224), torch.zeros(1))
        context = torch.zeros(1, 64, 56, 56)
        light = multiplications(fast.denoiser, torch.zeros(1, 2, 224, 224), torch.zeros(1), context)
        once = multiplications(fast.prior_encoder, torch.zeros(1, 4, 224, 224))
    assert 1000 * a_step > 2000 * (8 * light + once)


def test_slices_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ParameterError, match="multiples of 8"):
        run(tiny_network(), torch.zeros(1, 4, 30, 32), torch.zeros(1, 1, 30, 32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"in_channels": 3}, "two channels"),
        ({"context_channels": 5}, "context_channels must be 8"),
        ({"time_conditioned": False}, "conditioned on the timestep"),
        ({"patch_size": 2}, "multiple of the encoder's"),
        ({"patch_size": 8}, "context_channels must be 32"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change: dict[str, int], message: str) -> None:
    config = fast_model_config(8, 8, (1, 2), (1,))
    with pytest.raises(ParameterError, match=message):
        ModelConfig(replace(config.denoiser, **change), config.prior_encoder)


def test_a_denoiser_on_a_coarser_grid_sees_every_feature_of_a_finer_encoder() -> None:
    config = fast_model_config(8, 8, (1, 2), (1,))
    assert config.prior_encoder is not None
    network = DiffusionModel(
        ModelConfig(
            replace(config.denoiser, context_channels=32),
            replace(config.prior_encoder, patch_size=2),
        ),
        fast_diffusion_config(),
    )
    image = torch.rand(2, 4, 16, 24)
    assert network.prior_encoder is not None
    with torch.inference_mode():
        fine = network.prior_encoder.compute_features(image)
        coarse = network.encode_prior(image).features
    assert coarse is not None
    torch.testing.assert_close(torch.nn.functional.pixel_shuffle(coarse, 2), fine)
    assert run(network, image, torch.zeros(2, 1, 16, 24)).shape == (2, 1, 16, 24)


def test_networks_and_diffusion_must_agree() -> None:
    with pytest.raises(ParameterError, match="output channels"):
        DiffusionModel(ModelConfig(SMALL), fast_diffusion_config())
    with pytest.raises(ParameterError, match="x_0 prediction"):
        DiffusionModel(
            fast_model_config(8, 8, (1, 2), (1,)), DiffusionConfig(variance="fixed_small")
        )
