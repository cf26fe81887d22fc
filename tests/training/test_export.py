from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from napari_diffseg.core.checkpoint import load_checkpoint
from tests.training.tiny import TRAINING, TinyData, tiny_config
from training.config import AugmentationConfig
from training.data import SliceCache
from training.export import main
from training.logs import CsvLog
from training.loop import Trainer
from training.state import BEST_NAME, save_average


@pytest.fixture
def trainer(tiny_data: TinyData, tmp_path: Path) -> Trainer:
    """Give a run of two steps, saved."""
    config = tiny_config("run.total_steps=2", "optimiser.learning_rate=0.1")
    folder = tmp_path / "run"
    folder.mkdir()
    cache = SliceCache(tiny_data.cache, TRAINING, config.data, dict.fromkeys(TRAINING, (-2, 2)))
    trainer = Trainer(config, folder, cache, torch.device("cpu"), {"data_hash": "abc"})
    trainer.train(lambda _: None, lambda _: None)
    return trainer


@torch.inference_mode()
def predict(network: torch.nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((2, 12, 48, 48), generator=generator)
    x_t = torch.randn((2, 1, 48, 48), generator=generator)
    images = images.contiguous(memory_format=torch.channels_last)
    return network(x_t, torch.tensor([3, 70]), network.encode_prior(images))


def export(trainer: Trainer, out: Path, *options: str) -> int:
    return main([str(trainer.folder), str(out), *options])


def test_exported_model_is_the_trained_one_bit_by_bit(trainer: Trainer, tmp_path: Path) -> None:
    out = tmp_path / "models" / "tiny.safetensors"
    assert export(trainer, out) == 0
    model = load_checkpoint(out)
    with trainer.ema.applied_to(trainer.network):
        expected = predict(trainer.network)
    assert expected.std() > 1e-3
    assert torch.equal(predict(model.network), expected)
    assert not torch.equal(predict(trainer.network), expected)  # the average, not the last weights
    assert model.preprocessing == trainer.config.preprocessing
    assert model.network.diffusion == trainer.config.diffusion


def test_exported_model_tells_where_it_comes_from(trainer: Trainer, tmp_path: Path) -> None:
    out = tmp_path / "tiny.safetensors"
    CsvLog(trainer.folder / "validation.csv", 0).write({"step": 2, "dice_ensemble": 0.5})
    options = ("--name", "my model", "--description", "for a test", "--steps", "6")
    assert export(trainer, out, *options) == 0
    model = load_checkpoint(out)
    assert model.card.name == "my model"
    assert model.card.description == "for a test"
    assert model.card.recommended_steps == 6
    origin = model.provenance
    assert origin["data_hash"] == "abc"
    assert (origin["steps"], origin["images_seen"]) == (2, 8)
    assert origin["validation"] == {"step": 2.0, "dice_ensemble": 0.5}
    assert origin["config_optimiser"]["learning_rate"] == 0.1


def test_name_and_steps_have_sensible_defaults(trainer: Trainer, tmp_path: Path) -> None:
    assert export(trainer, tmp_path / "tiny.safetensors") == 0
    card = load_checkpoint(tmp_path / "tiny.safetensors").card
    assert card.name == "run"
    assert card.recommended_steps == trainer.config.run.validation_steps


def test_float16_is_half_as_large_and_nearly_the_same(trainer: Trainer, tmp_path: Path) -> None:
    full, half = tmp_path / "full.safetensors", tmp_path / "half.safetensors"
    export(trainer, full)
    export(trainer, half, "--dtype", "float16")
    tensors_kb = sum(p.numel() for p in trainer.network.parameters()) * 2 / 1000
    assert (full.stat().st_size - half.stat().st_size) / 1000 == pytest.approx(tensors_kb, rel=0.01)
    one, other = (predict(load_checkpoint(path).network) for path in (full, half))
    torch.testing.assert_close(one, other, atol=0.02 * float(one.abs().max()), rtol=0)


def test_best_weights_are_those_of_the_best_validation(trainer: Trainer, tmp_path: Path) -> None:
    save_average(trainer.folder / BEST_NAME, trainer.ema, {**trainer.record(), "step": 1})
    trainer.run_step()
    trainer.save()
    for weights in ("best", "last"):
        export(trainer, tmp_path / f"{weights}.safetensors", "--weights", weights)
    best, last = (load_checkpoint(tmp_path / f"{w}.safetensors") for w in ("best", "last"))
    assert (best.provenance["steps"], last.provenance["steps"]) == (1, 3)
    assert not torch.equal(predict(best.network), predict(last.network))


def test_folder_without_a_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), str(tmp_path / "a.safetensors")]) == 1
    assert "state.safetensors does not exist" in capsys.readouterr().err


def test_other_file_names_are_refused(
    trainer: Trainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(trainer, tmp_path / "model.pt") == 1
    assert "must end with .safetensors" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "on_card", "weaker", "message"),
    [
        ("--mirror", "mirror_members", {"flip": 0.0}, "without left-right flips"),
        ("--vary-contrast", "vary_contrast", {"log_gamma": 0.2}, "smaller changes of contrast"),
    ],
)
def test_members_see_what_the_model_has_seen(
    trainer: Trainer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    option: str,
    on_card: str,
    weaker: dict[str, float],
    message: str,
) -> None:
    out = tmp_path / "tiny.safetensors"
    trainer.config = replace(trainer.config, augmentation=AugmentationConfig())
    trainer.save()
    assert export(trainer, out, option) == 0
    assert getattr(load_checkpoint(out).card, on_card)

    trainer.config = replace(trainer.config, augmentation=AugmentationConfig(**weaker))
    trainer.save()
    out.unlink()
    assert export(trainer, out, option) == 1
    assert message in capsys.readouterr().err
    assert not out.exists()
