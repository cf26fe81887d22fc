from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from napari_diffseg.core.checkpoint import (
    LoadedModel,
    load_checkpoint,
    prepare_network,
    save_checkpoint,
)
from napari_diffseg.core.diffusion import DiffusionConfig
from napari_diffseg.core.errors import ParameterError
from napari_diffseg.core.model import DiffusionModel, ModelConfig
from napari_diffseg.core.segnet import SegNetConfig
from napari_diffseg.core.unet import UNetConfig
from tests.models import TINY_SEGNET, tiny_model
from training.baseline_config import BaselineConfig
from training.baselines.checkpoint import save_baseline
from training.baselines.networks import make_network
from training.config import TrainingConfig
from training.warm_start import load_initial_weights, widen_context


def concatenating_model(context_slices: tuple[int, ...]) -> LoadedModel:
    """Return a model as in the paper: images and noised mask enter one network together."""
    model = tiny_model(context_slices=context_slices)
    channels = model.preprocessing.n_prior_channels + 1
    unet = UNetConfig(
        channels, 1, base_channels=8, channel_multipliers=(1, 2), n_res_blocks=1,
        attention_factors=(), patch_size=2, n_groups=4,
    )  # fmt: skip
    network = DiffusionModel(ModelConfig(unet), DiffusionConfig(variance="fixed_small"))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return replace(model, network=prepare_network(network))


def predict(model: LoadedModel, slices: dict[int, torch.Tensor]) -> torch.Tensor:
    """Return the output for images (B, 4, Y, X) of the slice, 0, and of its neighbours."""
    images = torch.cat([slices[k] for k in (0, *model.preprocessing.context_slices)], dim=1)
    x_t = torch.randn((2, 1, 32, 32), generator=torch.Generator().manual_seed(1))
    prior = model.network.encode_prior(images)
    return model.network(x_t, torch.tensor([3, 70]), prior)


@torch.inference_mode()
@pytest.mark.parametrize("make", [tiny_model, concatenating_model])
def test_new_neighbours_change_nothing_until_they_are_learnt(make) -> None:
    generator = torch.Generator().manual_seed(0)
    slices = {k: torch.rand((2, 4, 32, 32), generator=generator) for k in (-5, -2, 0, 2, 5)}
    model = make(context_slices=(-2, 2))
    wider = widen_context(model, (-5, -2, 2, 5))
    before = predict(model, slices)
    assert before.std() > 1e-2
    torch.testing.assert_close(predict(wider, slices), before)
    # It is the neighbours' own weights that moved with them.
    swapped = slices | {-2: slices[2], 2: slices[-2]}
    assert not torch.allclose(predict(wider, swapped), before, atol=1e-3)
    torch.testing.assert_close(predict(wider, swapped), predict(model, swapped))
    assert wider.preprocessing.context_slices == (-5, -2, 2, 5)
    assert model.preprocessing.context_slices == (-2, 2)


def test_run_starts_from_a_model_that_sees_fewer_neighbours(tmp_path) -> None:
    model = tiny_model(context_slices=(-2, 2))
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, model.network, model.preprocessing, model.card, {})
    wider = widen_context(model, (-5, -2, 2, 5))
    config = TrainingConfig(
        model=wider.network.config,
        diffusion=wider.network.diffusion,
        preprocessing=wider.preprocessing,
    )
    loaded = load_initial_weights(path, config)
    assert loaded.origins["init"]["sha256"]
    for name, value in wider.network.state_dict().items():
        torch.testing.assert_close(loaded.weights[name], value, atol=1e-3, rtol=1e-3)
    fewer = replace(config.preprocessing, context_slices=(-5, 5))
    narrow = tiny_model(context_slices=(-5, 5)).network.config
    with pytest.raises(ParameterError, match="context_slices"):
        load_initial_weights(path, replace(config, preprocessing=fewer, model=narrow))


def unet_config(model: LoadedModel, dropout: float = 0.2) -> TrainingConfig:
    """Return the configuration of a plain segmenter like a model's prior encoder."""
    encoder = model.network.config.prior_encoder
    assert encoder is not None
    return TrainingConfig(
        baseline=BaselineConfig(unet=replace(encoder, dropout=dropout)),
        preprocessing=model.preprocessing,
    )


def test_a_unet_starts_from_a_models_encoder_and_goes_back_into_it(tmp_path: Path) -> None:
    model = tiny_model()
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, model.network, model.preprocessing, model.card, {})
    config = unet_config(model)
    start = load_initial_weights(path, config)
    network = make_network(config.baseline, 4)
    network.load_state_dict(start.weights)
    images = torch.rand((2, 4, 32, 32))
    with torch.inference_mode():
        expected = model.network.encode_prior(images).image
        torch.testing.assert_close(network.eval()(images), expected, atol=1e-2, rtol=1e-2)

    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    unet = tmp_path / "unet.safetensors"
    save_baseline(unet, network, config.baseline, config.preprocessing, "unet", {"steps": 3})
    whole = TrainingConfig(
        model=model.network.config,
        diffusion=model.network.diffusion,
        preprocessing=model.preprocessing,
    )
    start = load_initial_weights(path, whole, unet)
    model.network.load_state_dict(start.weights)
    with torch.inference_mode():
        torch.testing.assert_close(model.network.encode_prior(images).image, network(images))
    assert start.origins["init_encoder"]["provenance"] == {"steps": 3}
    assert start.origins["init"]["name"] == "tiny"
    assert start.paths == (path, unet)


def test_a_segnet_becomes_the_second_encoder_of_a_model(tmp_path: Path) -> None:
    model = tiny_model(context_slices=(-2, 2))
    path, segnet = tmp_path / "model.safetensors", tmp_path / "segnet.safetensors"
    save_checkpoint(path, model.network, model.preprocessing, model.card, {})
    baseline = BaselineConfig(segnet=replace(TINY_SEGNET, dropout=0.5), sample_dropout=True)
    network = make_network(baseline, 12)
    save_baseline(segnet, network, baseline, model.preprocessing, "segnet", {"steps": 3})
    config = TrainingConfig(
        model=replace(model.network.config, second_encoder=TINY_SEGNET),
        diffusion=model.network.diffusion,
        preprocessing=model.preprocessing,
    )
    start = load_initial_weights(path, config, second_path=segnet)
    both = DiffusionModel(config.model, config.diffusion)
    both.load_state_dict(start.weights)
    both.eval()
    images = torch.rand((2, 12, 32, 32))
    with torch.inference_mode():
        prior = both.encode_prior(images)
        torch.testing.assert_close(prior.second, network.eval()(images))
        torch.testing.assert_close(prior.image, model.network.encode_prior(images).image)
    assert start.origins["init_second_encoder"]["provenance"] == {"steps": 3}
    assert start.paths == (path, segnet)

    # From then on it is a part of the model, also where more neighbours are wanted.
    two = tmp_path / "two.safetensors"
    save_checkpoint(two, both, model.preprocessing, model.card, {})
    again = load_initial_weights(two, config)
    assert again.weights.keys() == start.weights.keys()
    wider = widen_context(load_checkpoint(two), (-5, -2, 2, 5))
    more = torch.cat([images[:, :4], torch.rand(2, 4, 32, 32), images[:, 4:]], 1)
    more = torch.cat([more, torch.rand(2, 4, 32, 32)], 1)
    with torch.inference_mode():
        torch.testing.assert_close(wider.network.encode_prior(more).second, prior.second)

    with pytest.raises(ParameterError, match=r"is for a \[model\.second_encoder\]"):
        load_initial_weights(path, replace(config, model=model.network.config), None, segnet)
    with pytest.raises(ParameterError, match=r"another model.*\n.*second_encoder"):
        load_initial_weights(path, config)
    others = replace(model.preprocessing, percentiles=(2.0, 98.0))
    save_baseline(segnet, network, baseline, others, "segnet", {"steps": 3})
    with pytest.raises(ParameterError, match="percentiles"):
        load_initial_weights(path, config, second_path=segnet)
    with pytest.raises(ParameterError, match="is no SegNet"):
        load_initial_weights(path, config, second_path=path)


def test_what_has_no_such_unet_is_refused(tmp_path: Path) -> None:
    model = tiny_model()
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, model.network, model.preprocessing, model.card, {})
    config = unet_config(model)
    wider = replace(config.baseline.unet, base_channels=16)
    with pytest.raises(ParameterError, match=r"model\.safetensors is another.*\n.*base_channels"):
        load_initial_weights(path, replace(config, baseline=BaselineConfig(unet=wider)))
    segnet = replace(config, baseline=BaselineConfig(segnet=SegNetConfig()))
    with pytest.raises(ParameterError, match=r"is for diffusion models and \[baseline\.unet\]"):
        load_initial_weights(path, segnet)
    plain = concatenating_model(())
    save_checkpoint(path, plain.network, plain.preprocessing, plain.card, {})
    with pytest.raises(ParameterError, match="has no U-Net that turns images into a mask"):
        load_initial_weights(path, config)
