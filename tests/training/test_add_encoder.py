"""A trained SegNet beside a model's U-Net, all weights as they were."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from napari_diffseg.core.checkpoint import load_checkpoint, save_checkpoint
from napari_diffseg.core.errors import CheckpointError, ParameterError
from napari_diffseg.core.model import DiffusionModel, ModelConfig
from napari_diffseg.core.unet import UNetConfig
from tests.models import TINY_SEGNET, tiny_model
from training.add_encoder import add_encoder, main
from training.baseline_config import BaselineConfig
from training.baselines.checkpoint import load_baseline, save_baseline
from training.baselines.networks import make_network
from training.baselines.segmenter import describe_effort

MODEL = tiny_model()
SEGNET = BaselineConfig(segnet=replace(TINY_SEGNET, dropout=0.5), sample_dropout=True)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    effort = {"training_s": 3600, "images_seen": 100}
    path = tmp_path / "model.safetensors"
    return save_checkpoint(path, MODEL.network, MODEL.preprocessing, MODEL.card, effort)


def write_baseline(folder: Path, baseline: BaselineConfig = SEGNET) -> Path:
    network = make_network(baseline, 4)
    effort = {"training_s": 1800, "images_seen": 50}
    path = folder / f"{baseline.system}.safetensors"
    return save_baseline(path, network, baseline, MODEL.preprocessing, "other", effort)


def test_both_networks_are_in_the_model_as_they_were(model: Path, tmp_path: Path, capsys) -> None:
    segnet, out = write_baseline(tmp_path), tmp_path / "deep" / "two.safetensors"
    options = ["--name", "two", "--description", "of both", "--steps", "3"]
    assert main([str(model), str(segnet), str(out), *options]) == 0
    made = load_checkpoint(out)
    assert f"sha256 {made.sha256}" in capsys.readouterr().out
    assert (made.card.name, made.card.description, made.card.recommended_steps) == (
        "two",
        "of both",
        3,
    )
    before, after = MODEL.network.state_dict(), made.network.state_dict()
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight)
    second = [name for name in after if name.startswith("second_encoder.")]
    assert after.keys() == {*before, *second}
    images = torch.rand((2, 4, 32, 32))
    with torch.inference_mode():
        expected = load_baseline(segnet).network(images)
        torch.testing.assert_close(made.network.encode_prior(images).second, expected)
    # Its record is that of both, and what it has of the model's own card stays.
    effort = describe_effort(made.network, made.provenance)
    assert (effort["training_hours"], effort["images_seen"]) == ("1.50", 150)
    plain = add_encoder(model, segnet, tmp_path / "plain.safetensors")
    assert plain.card == MODEL.card


def test_what_does_not_fit_is_told(model: Path, tmp_path: Path, capsys) -> None:
    segnet = write_baseline(tmp_path)
    out = tmp_path / "two.safetensors"
    assert main([str(model), str(model), str(out)]) == 1
    assert "is no SegNet: name the file of a run" in capsys.readouterr().err
    assert MODEL.network.config.prior_encoder is not None
    unet = write_baseline(tmp_path, BaselineConfig(unet=MODEL.network.config.prior_encoder))
    with pytest.raises(ParameterError, match="is a U-Net; a second encoder is a SegNet"):
        add_encoder(model, unet, out)
    with pytest.raises(CheckpointError, match=r"must end with \.safetensors"):
        add_encoder(model, segnet, tmp_path / "two.pt")
    other = replace(MODEL.preprocessing, window=(64, 64))
    save_checkpoint(model, MODEL.network, other, MODEL.card, {})
    with pytest.raises(ParameterError, match="Train them on one cache"):
        add_encoder(model, segnet, out)
    denoiser = UNetConfig(
        in_channels=5, out_channels=1, base_channels=8, channel_multipliers=(1,), n_groups=4
    )
    paper = DiffusionModel(ModelConfig(denoiser), MODEL.network.diffusion)
    save_checkpoint(model, paper, MODEL.preprocessing, MODEL.card, {})
    with pytest.raises(ParameterError, match="has no prior encoder"):
        add_encoder(model, segnet, out)
    assert not out.exists()
