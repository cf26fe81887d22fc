"""A denoiser that corrects its encoders by less, all else as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from napari_diffseg.core.checkpoint import load_checkpoint, save_checkpoint
from napari_diffseg.core.diffusion import DiffusionConfig
from napari_diffseg.core.errors import CheckpointError, ParameterError
from napari_diffseg.core.model import DiffusionModel, ModelConfig
from tests.models import SMALL_PUBLISHED, tiny_model
from training.baselines.segmenter import describe_effort
from training.shrink_correction import main, shrink_correction

MODEL = tiny_model()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    effort = {"training_s": 3600, "images_seen": 100}
    return save_checkpoint(path, MODEL.network, MODEL.preprocessing, MODEL.card, effort)


def test_the_answer_moves_to_the_encoder_by_the_factor(model: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "deep" / "shrunk.safetensors"
    assert main([str(model), "0.25", str(out)]) == 0
    made = load_checkpoint(out)
    assert f"sha256 {made.sha256}" in capsys.readouterr().out
    assert made.card == MODEL.card
    with torch.inference_mode():
        prior = MODEL.network.encode_prior(torch.rand((2, 4, 32, 32)))
        given = (torch.randn((2, 1, 32, 32)), torch.tensor([10, 900]), prior)
        before, after = MODEL.network(*given), made.network(*given)
    correction = before - prior.image
    assert correction.abs().max() > 0.1
    torch.testing.assert_close(after - prior.image, 0.25 * correction, atol=1e-4, rtol=1e-4)
    # The file says what was done, and how long the networks were trained.
    assert made.provenance["correction_factor"] == 0.25
    effort = describe_effort(made.network, made.provenance)
    assert (effort["training_hours"], effort["images_seen"]) == ("1.00", 100)


def test_what_cannot_be_shrunk_is_told(model: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out.safetensors"
    assert main([str(model), "0", str(out)]) == 1
    assert "above 0 and at most 1, not 0" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match=r"must end with \.safetensors"):
        shrink_correction(model, 0.5, tmp_path / "out.pt")
    network = DiffusionModel(ModelConfig(SMALL_PUBLISHED), DiffusionConfig())
    paper = tmp_path / "paper.safetensors"
    save_checkpoint(paper, network, MODEL.preprocessing, MODEL.card, {})
    with pytest.raises(ParameterError, match="gives an answer, not a correction"):
        shrink_correction(paper, 0.5, out)
    assert not out.exists()
