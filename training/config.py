"""Every setting of a training run: one TOML file, checked when it is read."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from napari_diffseg.core.diffusion import DiffusionConfig
from napari_diffseg.core.errors import ParameterError
from napari_diffseg.core.model import ModelConfig
from napari_diffseg.core.preprocessing import PreprocessingConfig
from napari_diffseg.core.serialisation import from_dict

CONFIGS = Path(__file__).resolve().parent / "configs"


@dataclass(frozen=True)
class DataConfig:
    """Which slices are seen, and how often."""

    tumour_fraction: float | None = 0.75
    """Share of a batch with tumour; left out: every slice equally often, as they come."""
    min_brain_fraction: float = 0.03
    """Slices with a smaller share of brain in the window are not trained on."""
    source_slices: tuple[int, int] | None = None
    """Only these axial slices (first, one past the last); the paper has 80, 129."""


@dataclass(frozen=True)
class AugmentationConfig:
    """Random changes of a slice; each range is symmetric around no change."""

    flip: float = 0.5
    """Probability of a left-right flip."""
    rotation_deg: float = 20.0
    """Largest rotation."""
    log_scale: float = 0.2
    """Largest scaling, as a natural logarithm."""
    shear: float = 0.1
    """Largest shear."""
    shift_voxels: float = 10.0
    """Largest translation."""
    elastic_voxels: float = 3.0
    """Standard deviation of the smooth random displacement's control points."""
    log_gamma: float = 0.35
    """Largest exponent of a modality's intensities, as a natural logarithm."""
    gain: float = 0.15
    """Largest relative change of contrast."""
    offset: float = 0.08
    """Largest change of brightness."""
    bias: float = 0.15
    """Standard deviation of the smooth log bias field's control points."""
    noise: float = 0.05
    """Largest standard deviation of the noise."""
    blur: float = 0.15
    """Probability that a slice is smoothed."""
    modality_dropout: float = 0.05
    """Probability that a modality is missing (all 0)."""


@dataclass(frozen=True)
class LossConfig:
    """What is minimised."""

    dice_weight: float = 0.25
    """Weight of soft Dice beside cross-entropy (x_0 prediction only)."""
    prior_weight: float = 1.0
    """Weight of the prior encoder's own loss."""
    n_draws: int = 2
    """Noise draws of each image (the prior encoder is run once for all of them)."""
    t_density: Literal["uniform", "linear"] = "uniform"
    """Density of the timesteps: all alike, or proportional to t (more noise, more often)."""


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW with warm-up, a constant part and a cosine to zero."""

    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup_steps: int = 100
    hold_fraction: float = 0.0
    """Share of the steps at the full learning rate before the cosine begins."""
    clip_norm: float = 1.0
    """Largest gradient norm; 0: no clipping."""
    ema_decay: float = 0.999
    """Decay of the weights' exponential moving average, which is what is used afterwards."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """``constant``: no cosine, as the paper trains."""


@dataclass(frozen=True)
class RunConfig:
    """Length, pace and records of a run."""

    total_steps: int = 6000
    batch_size: int = 16
    seed: int = 0
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """``auto``: float16 on CUDA, bfloat16 on a CPU that has matrix units for it (AMX)."""
    log_every: int = 20
    checkpoint_every: int = 200
    validate_every: int = 1000
    validation_slices: int = 96
    """Slices of the validation patients that are sampled at each validation."""
    validation_samples: int = 3
    validation_steps: int = 4


@dataclass(frozen=True)
class TrainingConfig:
    """All of it; see ``training/configs`` for the shipped ones."""

    model: ModelConfig = field(default_factory=ModelConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    preprocessing: PreprocessingConfig = field(default_factory=PreprocessingConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augmentation: AugmentationConfig | None = None
    loss: LossConfig = field(default_factory=LossConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        if self.preprocessing.stride % self.model.stride:
            raise ParameterError(
                f"preprocessing.stride ({self.preprocessing.stride}) must be a multiple of the "
                f"network's ({self.model.stride})."
            )


def load_config(path: Path, overrides: Sequence[str] = ()) -> TrainingConfig:
    """Read a TOML file; ``overrides`` are ``section.name=value`` with a TOML value.

    Raises
    ------
    ParameterError
        If the file is missing or not TOML, or a setting is unknown or of the wrong type.
    """
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        names = ", ".join(sorted(p.name for p in CONFIGS.glob("*.toml")))
        raise ParameterError(f"Cannot read {path}: {error}. Shipped are {names}.") from error
    except tomllib.TOMLDecodeError as error:
        raise ParameterError(f"{path} is not valid TOML: {error}.") from error
    for override in overrides:
        _apply_override(values, override)
    return from_dict(TrainingConfig, values)


def _apply_override(values: dict[str, Any], override: str) -> None:
    name, separator, text = override.partition("=")
    *sections, last = name.strip().split(".")
    if not separator or not last:
        raise ParameterError(f"Expected section.name=value, not {override!r}.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    table = values
    for section in sections:
        table = table.setdefault(section, {})
    table[last] = value
