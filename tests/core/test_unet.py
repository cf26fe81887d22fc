"""The network: its size, its parts by hand, and what it refuses."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from napari_diffseg.core.errors import ParameterError
from napari_diffseg.core.model import (
    DiffusionModel,
    ModelConfig,
    fast_diffusion_config,
    fast_model_config,
)
from napari_diffseg.core.unet import (
    AttentionBlock,
    UNet,
    UNetConfig,
    compute_time_embedding,
)

SMALL = UNetConfig(
    in_channels=3,
    out_channels=2,
    base_channels=8,
    channel_multipliers=(1, 2),
    n_res_blocks=1,
    attention_factors=(2,),
    n_groups=4,
)


def randomise(module: torch.nn.Module) -> torch.nn.Module:
    """Give every parameter a value: freshly built, some layers are zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0.0, 0.2, generator=generator)
    return module.eval()


def test_published_network_has_the_published_size():
    with torch.device("meta"):
        model = UNet(UNetConfig())
    assert sum(p.numel() for p in model.parameters()) == 113_674_370
    assert model.config.stride == 32  # the paper's 224 x 224 fits


def test_parameters_of_the_fast_network_keep_their_names_and_shapes():
    # Weights in the wild are stored under these names: a change here makes them unreadable.
    with torch.device("meta"):
        model = DiffusionModel(fast_model_config(), fast_diffusion_config())
    lines = [f"{name} {tuple(p.shape)}" for name, p in sorted(model.named_parameters())]
    assert lines[0] == "denoiser.down.0.residual.conv_in.bias (64,)"
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert digest == "86771d88e0ca85f1c7a2fba30024ad11331f6303d5430ea215fb6f419cccb241"


def test_time_embedding_by_hand():
    embedding = compute_time_embedding(torch.tensor([0, 3]), 4)
    slow = math.exp(-math.log(10000.0) / 2)  # the second of two frequencies
    expected = [
        [1.0, 1.0, 0.0, 0.0],
        [math.cos(3.0), math.cos(3.0 * slow), math.sin(3.0), math.sin(3.0 * slow)],
    ]
    torch.testing.assert_close(embedding, torch.tensor(expected))
    assert compute_time_embedding(torch.tensor([1]), 5)[0, -1] == 0.0


def test_attention_is_a_softmax_over_all_positions():
    block = randomise(AttentionBlock(8, SMALL))
    x = torch.randn(2, 8, 3, 5, generator=torch.Generator().manual_seed(1))
    flat = F.group_norm(x, 4, block.norm.weight, block.norm.bias).flatten(2)
    query, key, value = F.conv1d(flat, block.qkv.weight, block.qkv.bias).chunk(3, dim=1)
    weight = torch.softmax(query.transpose(1, 2) @ key / math.sqrt(8), dim=-1)  # query x key
    attended = value @ weight.transpose(1, 2)
    projected = F.conv1d(attended, block.projection.weight, block.projection.bias)
    torch.testing.assert_close(block(x), x + projected.view_as(x), rtol=1e-5, atol=1e-5)


def test_a_new_network_answers_zero():
    # Zero-initialised last layers: training starts from "no noise" and identity blocks.
    model = UNet(SMALL)
    assert not model(torch.randn(1, 3, 4, 4), torch.tensor([5])).any()


def test_output_depends_on_input_timestep_and_context_of_its_own_sample_only():
    config = UNetConfig(
        in_channels=2,
        out_channels=1,
        base_channels=8,
        channel_multipliers=(1, 2),
        n_res_blocks=1,
        attention_factors=(),
        middle_attention=False,
        patch_size=2,
        context_channels=3,
        n_groups=4,
    )
    model = randomise(UNet(config))
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, 2, 8, 12, generator=generator)
    context = torch.randn(2, 3, 4, 6, generator=generator)
    t = torch.tensor([3, 700])
    with torch.inference_mode():
        out = model(x, t, context)
        assert out.shape == (2, 1, 8, 12)
        torch.testing.assert_close(model(x[1:], t[1:], context[1:]), out[1:])
        for changed in (
            model(x + 1.0, t, context),
            model(x, t + 100, context),
            model(x, t, context + 1.0),
        ):
            assert ((changed - out).abs().amax(dim=(1, 2, 3)) > 1e-3).all()


def test_patches_lose_no_voxel():
    # Wherever in its patch a voxel changes, the output is another one.
    config = UNetConfig(
        in_channels=1,
        out_channels=1,
        base_channels=8,
        channel_multipliers=(1,),
        n_res_blocks=1,
        attention_factors=(),
        middle_attention=False,
        patch_size=4,
        time_conditioned=False,
        n_groups=4,
    )
    model = randomise(UNet(config))
    voxel = torch.arange(64)
    batch = torch.randn(8, 8, generator=torch.Generator().manual_seed(3)).repeat(65, 1, 1, 1)
    batch[voxel, 0, voxel // 8, voxel % 8] += 1.0
    with torch.inference_mode():
        out = model(batch)
    distances = torch.cdist(out.flatten(1), out.flatten(1)) + torch.eye(65)
    assert (distances > 1e-2).all()


def test_activations_take_the_memory_layout_of_the_weights():
    x, t = torch.randn(1, 3, 8, 8), torch.tensor([5])
    for layout in (torch.contiguous_format, torch.channels_last):
        model = UNet(SMALL).to(memory_format=layout)
        assert model.compute_features(x, t).is_contiguous(memory_format=layout)


def test_batch_normalisation_is_of_the_training_data_and_not_of_the_batch():
    model = randomise(UNet(replace(SMALL, norm="batch", time_conditioned=False)))
    assert not any(isinstance(module, torch.nn.GroupNorm) for module in model.down[0].modules())
    slices = torch.randn(2, 3, 8, 8)
    alone = torch.cat([model(slices[:1]), model(slices[1:])])
    torch.testing.assert_close(model(slices), alone)
    before = model(slices)
    model.train()
    model(slices)  # moves the running averages
    assert not torch.equal(model.eval()(slices), before)


def test_published_network_works_on_slices_of_another_shape_and_batch():
    model = UNet(SMALL)
    for shape in ((1, 3, 4, 6), (3, 3, 10, 2)):
        t = torch.full(shape[:1], 7)
        assert model(torch.zeros(shape), t).shape == (shape[0], 2, *shape[2:])


def test_what_does_not_fit_is_refused_in_words():
    model = UNet(SMALL)
    with pytest.raises(ParameterError, match=r"\(5, 4\).*multiples of 2"):
        model(torch.zeros(1, 3, 5, 4), torch.tensor([1]))
    with pytest.raises(ParameterError, match="timestep"):
        model(torch.zeros(1, 3, 4, 4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_channels": 12, "n_groups": 8}, "multiples of n_groups"),
        ({"channel_multipliers": ()}, "multiples of n_groups"),
        ({"patch_size": 0}, "at least 1"),
        ({"n_res_blocks": 0}, "at least 1"),
        ({"norm": "layer"}, 'norm is "group" or "batch"'),
    ],
)
def test_impossible_shapes_are_refused(changes, message):
    with pytest.raises(ParameterError, match=message):
        UNetConfig(**changes)


def test_models_whose_parts_do_not_fit_are_refused():
    fast = fast_model_config()
    with pytest.raises(ParameterError, match="output channels"):
        DiffusionModel(ModelConfig(SMALL), fast_diffusion_config())
    with pytest.raises(ParameterError, match="no timestep"):
        ModelConfig(fast.denoiser, SMALL)
    with pytest.raises(ParameterError, match="context_channels must be 64"):
        ModelConfig(UNetConfig(in_channels=2, patch_size=4), fast.prior_encoder)
