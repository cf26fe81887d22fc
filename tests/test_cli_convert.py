"""`napari-diffseg convert`: the paper's checkpoints become model files that segment the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from napari_diffseg.cli import main
from napari_diffseg.core.checkpoint import load_checkpoint
from napari_diffseg.core.unet import UNetConfig
from tests.reference import published_shapes

TINY = UNetConfig(base_channels=32, channel_multipliers=(1, 2), n_res_blocks=1)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    shapes = published_shapes(TINY).items()
    state = {name: torch.randn(shape, generator=generator) * 0.1 for name, shape in shapes}
    torch.save(state, tmp_path / "emasavedmodel.pt")
    return tmp_path / "emasavedmodel.pt"


def test_converted_checkpoint_is_the_same_network(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "paper.safetensors"
    options = ["--name", "my paper model", "--steps", "50"]
    assert main(["convert", str(published), str(out), *options]) == 0
    assert "my paper model" in capsys.readouterr().out
    before, after = load_checkpoint(published), load_checkpoint(out)
    weights = after.network.state_dict()
    for name, value in before.network.state_dict().items():
        assert torch.equal(weights[name], value)
    assert after.preprocessing == before.preprocessing
    assert after.network.diffusion == before.network.diffusion
    assert after.card.recommended_steps == 50
    assert after.provenance["converted_from_sha256"] == before.sha256


def test_what_cannot_be_converted_is_told(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "paper.safetensors"
    assert main(["convert", str(published), str(tmp_path / "paper.pt")]) == 2
    assert "must end with .safetensors" in capsys.readouterr().err
    assert main(["convert", str(published), str(out), "--steps", "5000"]) == 2
    assert "between 1 and 1000, not 5000" in capsys.readouterr().err
    assert not out.exists()
    out.write_bytes(b"precious")
    assert main(["convert", str(published), str(out)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert out.read_bytes() == b"precious"
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes(published.read_bytes()[:500])
    assert main(["convert", str(damaged), str(tmp_path / "new.safetensors")]) == 2
    assert "damaged.pt" in capsys.readouterr().err
    assert not (tmp_path / "new.safetensors").exists()
