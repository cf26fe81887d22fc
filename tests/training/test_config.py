from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from napari_diffseg.core.diffusion import DiffusionConfig
from napari_diffseg.core.errors import ParameterError
from napari_diffseg.core.model import ModelConfig
from napari_diffseg.core.preprocessing import PAPER_PREPROCESSING
from training.config import (
    CONFIGS,
    TrainingConfig,
    find_config,
    format_config,
    load_config,
)
from training.objectives import make_objective

SHIPPED = sorted(path.stem for path in CONFIGS.glob("*.toml"))


def count_parameters(config: TrainingConfig) -> int:
    with torch.device("meta"):
        network = make_objective(config).make_network()
    return sum(parameter.numel() for parameter in network.parameters())


def test_shipped_configurations() -> None:
    assert SHIPPED == [
        "bayesian_segnet", "debug", "fast", "paper", "segnet", "two_encoders", "unet",
    ]  # fmt: skip


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configuration_makes_a_network(name: str) -> None:
    config = load_config(find_config(name))
    assert count_parameters(config) > 0
    assert config.preprocessing.window[0] % (config.baseline or config.model).stride == 0


@pytest.mark.parametrize("name", SHIPPED)
def test_resolved_configuration_can_be_run_again(name: str, tmp_path: Path) -> None:
    config = load_config(find_config(name), ["run.seed=3", "optimiser.learning_rate=1e-5"])
    path = tmp_path / "config.toml"
    path.write_text(format_config(config), encoding="utf-8")
    assert load_config(path) == config


def test_paper_is_the_published_model_and_recipe() -> None:
    config = load_config(find_config("paper"))
    assert count_parameters(config) == 113_674_370
    assert config.model == ModelConfig()
    assert config.diffusion == DiffusionConfig()
    assert config.preprocessing == PAPER_PREPROCESSING
    assert config.augmentation is None
    assert asdict(config.data) == {
        "tumour_fraction": 0.0,
        "min_brain_fraction": 0.0,
        "source_slices": (80, 129),
        "in_memory": False,
    }
    assert (config.loss.n_draws, config.loss.t_density) == (1, "uniform")
    optimiser = config.optimiser
    assert (optimiser.learning_rate, optimiser.weight_decay, optimiser.clip_norm) == (1e-4, 0, 0)
    assert (optimiser.warmup_steps, optimiser.schedule) == (0, "constant")
    assert (optimiser.ema_decay, optimiser.ema_warmup) == (0.9999, False)
    assert (config.run.batch_size, config.run.total_steps) == (10, 60_000)
    assert config.run.precision == "float32"


def test_debug_reads_the_cache_of_fast() -> None:
    debug, fast = load_config(find_config("debug")), load_config(find_config("fast"))
    assert debug.preprocessing == fast.preprocessing


def test_find_config_prefers_a_file_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config("fast") == CONFIGS / "fast.toml"
    assert find_config("fast.toml") == CONFIGS / "fast.toml"
    Path("fast.toml").write_text("", encoding="utf-8")
    assert find_config("fast.toml") == Path("fast.toml")


def test_overrides_have_the_type_of_the_setting() -> None:
    config = load_config(
        find_config("fast"),
        ["run.batch_size = 3", "optimiser.learning_rate=1", "run.precision=float32"],
    )
    assert config.run.batch_size == 3
    assert isinstance(config.optimiser.learning_rate, float)
    assert config.run.precision == "float32"


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("run.batch_size=none", "run.batch_size must be int"),
        ("run.batch=3", "Unknown setting run.batch"),
        ("run.batch_size", "section.name=value"),
        ("run.total_steps.x=1", "total_steps is a value"),
        ("run.precision=float8", "must be one of"),
        ("run.total_steps=0", "run.total_steps must be at least 1"),
        ("data.tumour_fraction=1.5", "at most 1"),
        ("data.source_slices=[90, 80]", "empty range"),
        ("optimiser.learning_rate=nan", "learning_rate must be at least 0"),
        ("loss.n_draws=0", "loss.n_draws"),
        ("augmentation.flip=2", "augmentation.flip"),
        ("run.validation_steps=2000", "num_train_timesteps"),
        ("preprocessing.stride=2", "multiple of the network's"),
    ],
)
def test_wrong_setting_is_named(override: str, complaint: str) -> None:
    with pytest.raises(ParameterError, match=complaint):
        load_config(find_config("fast"), [override])


def test_own_estimates_are_not_for_a_denoiser_with_batch_normalisation() -> None:
    path, normed = find_config("debug"), 'model.denoiser.norm="batch"'
    load_config(path, [normed, "loss.own_estimates=0"])
    with pytest.raises(ParameterError, match=r"loss\.own_estimates is not for a denoiser"):
        load_config(path, [normed, "loss.own_estimates=0.5"])


def test_missing_file_names_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"debug\.toml, fast\.toml, paper\.toml"):
        load_config(find_config(str(tmp_path / "mine.toml")))


def test_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[run", encoding="utf-8")
    with pytest.raises(ParameterError, match=r"mine\.toml is not valid TOML"):
        load_config(path)


def test_two_encoders_are_the_fast_model_and_one_more() -> None:
    two, fast = load_config(find_config("two_encoders")), load_config(find_config("fast"))
    assert replace(two.model, second_encoder=None) == fast.model
    assert (two.diffusion, two.preprocessing) == (fast.diffusion, fast.preprocessing)


@pytest.mark.parametrize("name", ["paper", "unet"])
def test_without_a_prior_encoder_there_is_none_to_keep_as_it_is(name: str) -> None:
    with pytest.raises(ParameterError, match=r"for models with a \[model\.prior_encoder\]"):
        load_config(find_config(name), ["optimiser.train_prior_encoder=false"])
