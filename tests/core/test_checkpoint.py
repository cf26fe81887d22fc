"""Model files: complete round trip, and a clear error for everything that is not one of ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from napari_diffseg.core.checkpoint import (
    HEADER_KEY,
    ModelCard,
    load_checkpoint,
    save_checkpoint,
)
from napari_diffseg.core.errors import CheckpointError
from napari_diffseg.core.preprocessing import PreprocessingConfig
from tests.models import TINY_SEGNET, tiny_network

PREPROCESSING = PreprocessingConfig(window=(48, 32), percentiles=(2.0, 98.0))
CARD = ModelCard("tiny", "For tests.", recommended_steps=5, recommended_sampler="ddim")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save_checkpoint(
        tmp_path / "model.safetensors", tiny_network(3), PREPROCESSING, CARD, {"steps": 12}
    )


def rewrite(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
    """Change header and tensors of a model file as a careless or hostile editor would."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()[HEADER_KEY])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(header, tensors)
    save_file(tensors, path, {HEADER_KEY: json.dumps(header)})


def test_everything_comes_back(path: Path) -> None:
    model = load_checkpoint(path)
    network = tiny_network(3)
    assert model.network.config == network.config
    assert model.network.diffusion == network.diffusion
    assert model.preprocessing == PREPROCESSING
    assert model.card == CARD
    assert model.provenance == {"steps": 12}
    assert len(model.sha256) == 64
    assert not model.network.training
    for name, value in network.state_dict().items():
        assert torch.equal(model.network.state_dict()[name], value)
    assert not list(path.parent.glob("*.tmp"))


def test_half_precision_is_read_as_float32(tmp_path: Path, path: Path) -> None:
    half = save_checkpoint(
        tmp_path / "half.safetensors", tiny_network(3), PREPROCESSING, CARD, {}, dtype="float16"
    )
    assert half.stat().st_size < 0.7 * path.stat().st_size
    weights = load_checkpoint(half).network.state_dict()
    for name, value in tiny_network(3).state_dict().items():
        assert weights[name].dtype == torch.float32
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_second_encoder_comes_back(tmp_path: Path, dtype: Literal["float32", "float16"]) -> None:
    network = tiny_network(3, second_encoder=TINY_SEGNET)
    path = tmp_path / "two.safetensors"
    save_checkpoint(path, network, PREPROCESSING, CARD, {}, dtype)
    loaded = load_checkpoint(path).network
    assert loaded.config == network.config
    for name, value in network.state_dict().items():
        found = loaded.state_dict()[name]
        assert found.dtype == value.dtype
        torch.testing.assert_close(found, value, rtol=1e-3, atol=1e-6)


def test_weights_of_another_type_are_read_as_what_they_stand_for(path: Path) -> None:
    def make_integer(_header: dict[str, Any], tensors: dict[str, Any]) -> None:
        tensors.update({name: value.round().to(torch.int32) for name, value in tensors.items()})

    rewrite(path, make_integer)
    for value in load_checkpoint(path).network.state_dict().values():
        assert value.dtype == torch.float32


def test_an_implausible_second_encoder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "two.safetensors"
    save_checkpoint(path, tiny_network(3, second_encoder=TINY_SEGNET), PREPROCESSING, CARD, {})

    def widen(header: dict[str, Any], _tensors: dict[str, Any]) -> None:
        header["model"]["second_encoder"]["channels"] = [4, 10**9]

    rewrite(path, widen)
    with pytest.raises(CheckpointError, match="implausibly many levels"):
        load_checkpoint(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere\.safetensors"):
        load_checkpoint(tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize("content", [b"", b"not a model", b"\xff" * 64])
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"odd\.safetensors is not a readable"):
        load_checkpoint(path)


def test_a_truncated_file_is_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="not a readable safetensors"):
        load_checkpoint(path)


def test_a_foreign_safetensors_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"w": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match="not a model of napari-diffseg"):
        load_checkpoint(path)


def test_a_later_version_asks_for_an_update(path: Path) -> None:
    rewrite(path, lambda header, _: header.update(schema=99))
    with pytest.raises(CheckpointError, match="later version"):
        load_checkpoint(path)


def drop(name: str) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    return lambda header, _: header.pop(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("model"), "lacks 'model'"),
        (drop("schema"), "lacks 'schema'"),
        (lambda h, _: h.update(schema="1"), "schema must be int"),
        (lambda h, _: h["model"]["denoiser"].update(width=3), "denoiser.width"),
        (lambda h, _: h["model"]["denoiser"].update(base_channels="8"), "base_channels must be"),
        (lambda h, _: h["model"]["denoiser"].update(base_channels=10**9), "implausibly many"),
        (lambda h, _: h["model"]["denoiser"].update(base_channels=16), "do not fit"),
        (
            lambda h, _: h["model"]["denoiser"].update(channel_multipliers=[1] * 1000),
            "implausibly many",
        ),
        (lambda h, _: h["diffusion"].update(schedule="sigmoid"), "diffusion.schedule must be"),
        (lambda h, _: h["preprocessing"].update(window=[30, 32]), "multiples of 16"),
        (lambda h, _: h["preprocessing"].update(stride=1, window=[30, 32]), "does not fit"),
        (lambda h, _: h["preprocessing"].update(context_slices=[1]), "image channels 8 and 4"),
        (lambda _, t: t.popitem(), "1 tensors do not fit"),
        (lambda _, t: t.update(extra=torch.zeros(1)), "the first is extra"),
        (lambda _, t: t[next(iter(t))].fill_(torch.nan), "not finite"),
    ],
)
def test_a_damaged_header_or_weight_is_explained(
    path: Path, change: Callable[[dict[str, Any], dict[str, Any]], None], message: str
) -> None:
    rewrite(path, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)
