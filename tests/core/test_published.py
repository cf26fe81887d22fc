"""Checkpoints of the published code: its recorded values to 1e-5, its names, its shapes."""

from __future__ import annotations

import os
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_diffseg.core.diffusion import (
    compute_hybrid_loss,
    predict_log_variance,
    predict_posterior_mean,
    q_sample,
)
from napari_diffseg.core.errors import CheckpointError
from napari_diffseg.core.model import DiffusionModel
from napari_diffseg.core.published import convert_published_state_dict, load_published
from napari_diffseg.core.sampling import iter_ddpm
from napari_diffseg.core.schedule import NoiseSchedule
from napari_diffseg.core.unet import UNet, UNetConfig
from tests import models
from tests.reference import published_shapes

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = UNetConfig(
    base_channels=32, channel_multipliers=(1, 2), n_res_blocks=1, attention_factors=(2,)
)
published_state = partial(models.published_state, TINY)
TIMESTEPS = (0, 1, 250, 500, 999)
RECORDED = {"rtol": 0.0, "atol": 1e-5}


# --- the published code's recorded values --------------------------------------------------------


def is_recorders_kind_of_processor() -> bool:
    """Tell whether float32 sums are rounded here as where the values were recorded."""
    cpuinfo = Path("/proc/cpuinfo")
    is_intel = cpuinfo.exists() and "GenuineIntel" in cpuinfo.read_text(encoding="utf-8")
    return is_intel and torch.backends.cpu.get_cpu_capability() == "AVX512"


@pytest.fixture(scope="module")
def parity_folder() -> Path:
    """Recorded inputs and outputs of the published code; they are not part of the project."""
    named = os.environ.get("DIFFSEG_PARITY")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "parity"
    if not (folder / "tiny_a.pt").is_file():
        pytest.skip(f"no recorded values at {folder}: set DIFFSEG_PARITY to their folder")
    return folder


@pytest.fixture(scope="module")
def recorded(parity_folder: Path) -> dict[str, torch.Tensor]:
    with np.load(parity_folder / "tiny_a.npz") as arrays:
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


@pytest.fixture(scope="module")
def model(parity_folder: Path) -> DiffusionModel:
    return load_published(parity_folder / "tiny_a.pt")


def test_hyperparameters_are_read_off_the_tensors(model):
    assert model.config.denoiser == TINY
    assert model.diffusion.out_channels == 2
    assert not model.training


@torch.inference_mode()
def test_network_output(model, recorded):
    output = model(recorded["x_t"], recorded["t"], model.encode_prior(recorded["prior_image"]))
    torch.testing.assert_close(output, recorded["unet_output"], **RECORDED)


@torch.inference_mode()
@pytest.mark.parametrize("t", TIMESTEPS)
def test_ancestral_step(model, recorded, t):
    x_t, schedule = recorded["x_t"], model.diffusion.make_schedule()
    row = torch.full((len(x_t),), t)
    denoised = model.bind(model.encode_prior(recorded["prior_image"]))(x_t, row, schedule)
    mean = predict_posterior_mean(denoised.x_0_hat, x_t, row, schedule)
    log_variance = predict_log_variance(denoised, x_t, row, schedule)
    noise = torch.exp(0.5 * log_variance) * recorded["noise"] if t else 0.0
    torch.testing.assert_close(mean, recorded[f"t{t}_mean"], **RECORDED)
    torch.testing.assert_close(log_variance, recorded[f"t{t}_log_variance"], **RECORDED)
    torch.testing.assert_close(mean + noise, recorded[f"t{t}_x_t_prev"], **RECORDED)

    # x_0_hat is epsilon magnified (157 times at t = 999), and with it the last bit of a float32.
    magnified = float(np.sqrt(1.0 / schedule.alphas_cumprod[t] - 1.0))
    torch.testing.assert_close(
        denoised.x_0_hat, recorded[f"t{t}_pred_xstart"], rtol=0.0, atol=1e-5 * max(1.0, magnified)
    )


@torch.inference_mode()
@pytest.mark.skipif(
    not is_recorders_kind_of_processor(),
    reason="recorded with AVX512 of Intel: other processors round sums in another order",
)
def test_the_most_magnified_value_agrees_when_sums_are_rounded_as_recorded(model, recorded):
    x_t, row = recorded["x_t"], torch.full((len(recorded["x_t"]),), 999)
    denoiser = model.bind(model.encode_prior(recorded["prior_image"]))
    n_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        denoised = denoiser(x_t, row, model.diffusion.make_schedule())
    finally:
        torch.set_num_threads(n_threads)
    torch.testing.assert_close(denoised.x_0_hat, recorded["t999_pred_xstart"], **RECORDED)


def test_noising_and_training_loss(model, recorded):
    schedule, t, noise = model.diffusion.make_schedule(), recorded["t"], recorded["noise"]
    x_t = q_sample(recorded["seg"], t, noise, schedule)
    torch.testing.assert_close(x_t, recorded["q_sample"], **RECORDED)
    with torch.inference_mode():
        output = model(x_t, t, model.encode_prior(recorded["prior_image"]))
        mse, bound = compute_hybrid_loss(output, recorded["seg"], x_t, t, noise, schedule)
    torch.testing.assert_close(mse, recorded["loss_mse"], **RECORDED)
    torch.testing.assert_close(bound, recorded["loss_vb"], **RECORDED)
    torch.testing.assert_close(mse + bound, recorded["loss"], **RECORDED)


def test_chain_of_ancestral_steps(model, recorded):
    full = model.diffusion.make_schedule()
    schedule = NoiseSchedule(full.alphas_cumprod[:10], full.timesteps[:10])
    with torch.inference_mode():
        prior = model.encode_prior(recorded["prior_image"])
    noises = iter(recorded["chain_noise"])
    steps = iter_ddpm(model.bind(prior), schedule, recorded["x_t"], lambda _: next(noises))
    *_, last = steps
    torch.testing.assert_close(last.x_t, recorded["chain_final"], **RECORDED)


# --- names and shapes ----------------------------------------------------------------------------


def test_the_published_names_are_those_of_the_recorded_checkpoint(parity_folder):
    state = torch.load(parity_folder / "tiny_a.pt", weights_only=True)
    assert {name: tuple(t.shape) for name, t in state.items()} == published_shapes(TINY)


@pytest.mark.parametrize(
    "config",
    [
        UNetConfig(),
        TINY,
        UNetConfig(base_channels=32, channel_multipliers=(1,), attention_factors=()),
        UNetConfig(
            in_channels=2,
            base_channels=64,
            channel_multipliers=(2, 1, 3, 3),
            n_res_blocks=3,
            attention_factors=(1, 4),
        ),
    ],
    ids=["published", "tiny", "one level", "irregular"],
)
def test_every_shape_is_recognised_and_every_name_translated(config):
    state = {
        name: torch.empty(shape, device="meta") for name, shape in published_shapes(config).items()
    }
    found, converted = convert_published_state_dict(state)
    assert found == config
    with torch.device("meta"):
        expected = {name: p.shape for name, p in UNet(config).named_parameters()}
    assert {name: p.shape for name, p in converted.items()} == expected
    if config == UNetConfig():
        assert sum(p.numel() for p in converted.values()) == 113_674_370


def test_values_arrive_in_their_places():
    state = published_state()
    _, converted = convert_published_state_dict(state)
    for theirs, ours in {
        "time_embed.2.bias": "time_embedding.2.bias",
        "input_blocks.0.0.weight": "stem.weight",
        "input_blocks.1.0.in_layers.0.weight": "down.0.residual.norm_in.weight",
        "input_blocks.2.0.op.weight": "down.1.conv.weight",
        "input_blocks.3.0.emb_layers.1.weight": "down.2.residual.time_projection.weight",
        "input_blocks.3.1.proj_out.bias": "down.2.attention.projection.bias",
        "middle_block.2.out_layers.3.weight": "middle_out.conv_out.weight",
        "output_blocks.0.0.skip_connection.weight": "up.0.residual.skip.weight",
        "output_blocks.1.2.conv.bias": "up.1.upsample.conv.bias",
        "out.0.weight": "norm_out.weight",
        "out.2.bias": "head.bias",
    }.items():
        assert torch.equal(converted[ours], state[theirs])


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {f"module.{n}": t for n, t in state.items()}, "step": 60000},
    ],
    ids=["plain", "DistributedDataParallel", "state_dict", "both"],
)
def test_usual_ways_of_saving_are_understood(tmp_path, wrap):
    path = tmp_path / "emasavedmodel_0.9999_060000.pt"
    torch.save(wrap(published_state()), path)
    model = load_published(path, TINY)
    _, expected = convert_published_state_dict(published_state())
    for name, tensor in model.denoiser.state_dict().items():
        assert torch.equal(tensor, expected[name])
    prior = model.encode_prior(torch.zeros(1, 4, 8, 8))
    with torch.inference_mode():
        assert model(torch.zeros(1, 1, 8, 8), torch.tensor([5]), prior).shape == (1, 2, 8, 8)


def test_half_precision_is_read_as_float32(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({name: tensor.half() for name, tensor in published_state().items()}, path)
    assert {p.dtype for p in load_published(path).parameters()} == {torch.float32}


def without(state, name):
    return {key: tensor for key, tensor in state.items() if key != name}


def doubled(state, name):
    return {k: torch.cat([t, t]) if k.startswith(name) else t for k, t in state.items()}


OPTIMISER = {"state": {}, "param_groups": [{"lr": 1e-4}]}
SPOILT = {
    "optimiser": (lambda _: OPTIMISER, r"optimiser \(opt\*\.pt\).*savedmodel"),
    "list": (lambda s: list(s.values()), "holds a list"),
    "empty": (lambda _: {}, "not a checkpoint of the published"),
    "foreign": (lambda _: {"conv1.weight": torch.zeros(1)}, "not a checkpoint of the published"),
    "extra number": (lambda s: {**s, "epoch": 3}, "epoch is not a tensor"),
    "classes": (lambda s: {**s, "label_emb.weight": torch.zeros(2, 2)}, "label_emb.weight is no"),
    "missing": (lambda s: without(s, "out.0.bias"), "has no norm_out.bias"),
    "missing head": (lambda s: without(s, "out.2.weight"), "this one has none"),
    "no attention": (
        lambda s: {n: t for n, t in s.items() if not n.startswith("middle_block.1.")},
        None,
    ),
    "scale-shift": (lambda s: doubled(s, "input_blocks.1.0.emb_layers.1"), "[Ss]cale-shift"),
    "one output": (lambda s: {**s, "out.2.weight": s["out.2.weight"][:1]}, "learn_sigma"),
    "volumes": (
        lambda s: {**s, "input_blocks.0.0.weight": s["input_blocks.0.0.weight"][..., None]},
        "2-D form",
    ),
    "narrow": (
        lambda s: {**s, "time_embed.0.weight": torch.zeros(96, 24)},
        "not multiples of the base channels",
    ),
    "attention on one side": (
        lambda s: {n: t for n, t in s.items() if not n.startswith("input_blocks.3.1.")},
        "has up.0.attention.norm.bias, which ours does not",
    ),
    "gap": (
        lambda s: {n: t for n, t in s.items() if not n.startswith("input_blocks.1.0")},
        "input_blocks.1 is neither",
    ),
    "diverged": (lambda s: {**s, "out.0.bias": s["out.0.bias"] * torch.nan}, "diverged"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_files_of_something_else_are_refused_with_the_reason(tmp_path, case):
    spoil, message = SPOILT[case]
    path = tmp_path / "model.pt"
    torch.save(spoil(published_state()), path)
    if message is None:  # a network without attention in the middle is a valid one
        assert not load_published(path).config.denoiser.middle_attention
        return
    with pytest.raises(CheckpointError, match=message) as caught:
        load_published(path)
    assert str(path) in str(caught.value)


def test_a_configuration_that_does_not_fit_is_refused(tmp_path):
    path = tmp_path / "model.pt"
    torch.save(published_state(), path)
    wider = UNetConfig(
        base_channels=64, channel_multipliers=(1, 2), n_res_blocks=1, attention_factors=(2,)
    )
    with pytest.raises(CheckpointError, match=r"model\.pt.*was expected"):
        load_published(path, wider)
    with pytest.raises(CheckpointError, match=r"model\.pt.*has no"):
        load_published(path, UNetConfig())
    few_groups = UNetConfig(
        base_channels=32,
        channel_multipliers=(1, 2),
        n_res_blocks=1,
        attention_factors=(2,),
        n_groups=8,
    )
    with pytest.raises(CheckpointError, match="n_groups=32"):
        load_published(path, few_groups)


class Dangerous:
    """Would run something if it were unpickled."""

    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


def test_code_in_a_file_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"time_embed.0.weight": torch.zeros(1), "x": Dangerous()}, "model.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Dangerous(), protocol=2))
    for name in ("model.pt", "bare.pt"):
        with pytest.raises(CheckpointError, match=r"state_dict\(\)"):
            load_published(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_damaged_files_are_named(tmp_path):
    whole = tmp_path / "whole.pt"
    torch.save(published_state(), whole)
    for name, content in {
        "truncated.pt": whole.read_bytes()[:-1000],
        "empty.pt": b"",
        "page.pt": b"<html>404</html>",
    }.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=f"{name}.*(damaged|PyTorch file)"):
            load_published(path)
    with pytest.raises(CheckpointError, match=r"absent\.pt.*No such file"):
        load_published(tmp_path / "absent.pt")
    with pytest.raises(CheckpointError, match="cannot be opened"):
        load_published(tmp_path)
