"""Every setting of a training run: one TOML file, checked when it is read."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from napari_diffseg.core.diffusion import DiffusionConfig
from napari_diffseg.core.errors import ParameterError
from napari_diffseg.core.model import ModelConfig
from napari_diffseg.core.preprocessing import PreprocessingConfig
from napari_diffseg.core.serialisation import from_dict, to_dict
from training.baseline_config import BaselineConfig

CONFIGS = Path(__file__).resolve().parent / "configs"


@dataclass(frozen=True)
class DataConfig:
    """Which slices are seen, and how often."""

    tumour_fraction: float = 0.0
    """Share of a batch with tumour; 0: every slice equally often, tumour or not."""
    min_brain_fraction: float = 0.03
    """Slices that have no more than this share of brain in the window are not trained on."""
    source_slices: tuple[int, int] | None = None
    """Only these axial slices (first, one past the last); the paper has 80, 129."""
    in_memory: bool = False
    """Read the whole cache at the start (20 MB a case) rather than map its files."""

    def __post_init__(self) -> None:
        _check_range("data.tumour_fraction", self.tumour_fraction, 0.0, 1.0)
        _check_range("data.min_brain_fraction", self.min_brain_fraction, 0.0, 1.0)
        if (
            self.source_slices is not None
            and not 0 <= self.source_slices[0] < self.source_slices[1]
        ):
            raise ParameterError(
                f"data.source_slices {list(self.source_slices)} is an empty range."
            )


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
    low_resolution: float = 0.0
    """Probability that a slice is as coarse as if its voxels were up to twice as large."""
    paste_tumour: float = 0.0
    """Probability that another slice's tumour, with what is around it, is put into a slice
    (CarveMix, Zhang et al. 2021, 2108.06883)."""
    modality_dropout: float = 0.05
    """Probability of each modality to be missing (all 0); one of them is always kept."""
    context_swap: float = 0.4
    """Probability that neighbouring slices change places, as if the head were upside down."""
    context_dropout: float = 0.15
    """Probability that neighbouring slices are replaced by the slice itself, as at the ends of a
    volume and for a case of one slice."""

    def __post_init__(self) -> None:
        probabilities = ("flip", "blur", "low_resolution", "paste_tumour", "modality_dropout")
        for name in (*probabilities, "context_swap", "context_dropout"):
            _check_range(f"augmentation.{name}", getattr(self, name), 0.0, 1.0)
        if self.context_swap + self.context_dropout > 1.0:
            raise ParameterError("augmentation.context_swap and context_dropout are more than 1.")


@dataclass(frozen=True)
class LossConfig:
    """What is minimised."""

    dice_weight: float = 0.25
    """Weight of soft Dice beside cross-entropy (x_0 prediction only)."""
    prior_weight: float = 1.0
    """Weight of the prior encoder's own loss, or of the mean of it and the second encoder's."""
    n_draws: int = 2
    """Noise draws of each image (the prior encoder is run once for all of them)."""
    t_density: Literal["uniform", "linear"] = "uniform"
    """Density of the timesteps: all alike, or proportional to t (more noise, more often)."""
    own_estimates: float = 0.0
    """Share of the draws in which the network's own estimate of x_0 is noised, not the truth."""

    def __post_init__(self) -> None:
        _check_range("loss.n_draws", self.n_draws, 1)
        _check_range("loss.own_estimates", self.own_estimates, 0.0, 1.0)


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW with warm-up, a constant part and a cosine to zero."""

    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup_steps: int = 100
    """Steps in which the learning rate rises linearly; 0: it starts in full."""
    hold_fraction: float = 0.0
    """Share of the steps at the full learning rate before the cosine begins."""
    clip_norm: float = 1.0
    """Largest gradient norm; 0: no clipping."""
    ema_decay: float = 0.999
    """Decay of the weights' exponential moving average, which is what is used afterwards."""
    ema_warmup: bool = True
    """Whether the decay grows from 0.2 to ``ema_decay``, so that the first weights are soon
    forgotten; the published code has it constant."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """``constant``: no cosine, as the paper trains."""
    train_prior_encoder: bool = True
    """Whether prior encoder and second encoder are trained as well, or are kept as the run got
    them by ``--init`` and only the denoiser learns."""

    def __post_init__(self) -> None:
        _check_range("optimiser.learning_rate", self.learning_rate, 0.0)
        _check_range("optimiser.weight_decay", self.weight_decay, 0.0)
        _check_range("optimiser.warmup_steps", self.warmup_steps, 0)
        _check_range("optimiser.hold_fraction", self.hold_fraction, 0.0, 1.0)
        _check_range("optimiser.clip_norm", self.clip_norm, 0.0)
        _check_range("optimiser.ema_decay", self.ema_decay, 0.0, 1.0)


@dataclass(frozen=True)
class RunConfig:
    """Length, pace and records of a run."""

    total_steps: int = 6000
    batch_size: int = 16
    accumulate: int = 1
    """Equal parts in which a batch goes through the network one after the other: less memory, the
    same mean gradient. Batch normalisation sees a part at a time."""
    recompute_activations: bool = False
    """Whether U-Nets compute their activations again in the backward pass rather than keep them
    (gradient checkpointing): a third of the memory, the same gradients, a fifth more time."""
    seed: int = 0
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """``auto``: float16 on CUDA, bfloat16 on a CPU that computes with it (AMX, AVX512-BF16)."""
    log_every: int = 20
    """Steps whose mean makes one row of the log."""
    checkpoint_every: int = 200
    """Steps between two states on the disk: what a killed run can lose."""
    validate_every: int = 1000
    """Steps between two validations; 0: none."""
    stop_after: int = 0
    """Validations in a row without a better sampled Dice after which the run ends; 0: never."""
    validation_slices: int = 96
    """Slices of the validation patients that are sampled at each validation."""
    validation_samples: int = 3
    """Members of the ensemble in a validation."""
    validation_steps: int = 4
    """Sampling steps of each member in a validation."""

    def __post_init__(self) -> None:
        positive = ("total_steps", "batch_size", "log_every", "checkpoint_every")
        sampled = ("validation_slices", "validation_samples", "validation_steps")
        for name in (*positive, *sampled):
            _check_range(f"run.{name}", getattr(self, name), 1)
        for name in ("validate_every", "stop_after", "seed"):
            _check_range(f"run.{name}", getattr(self, name), 0)
        _check_range("run.accumulate", self.accumulate, 1)
        if self.batch_size % self.accumulate:
            raise ParameterError(
                f"run.batch_size ({self.batch_size}) must be a multiple of run.accumulate "
                f"({self.accumulate})."
            )
        if self.stop_after and not self.validate_every:
            raise ParameterError("run.stop_after needs validations: set run.validate_every.")


@dataclass(frozen=True)
class TrainingConfig:
    """All of it; see ``training/configs`` for the shipped ones."""

    baseline: BaselineConfig | None = None
    """A network without diffusion to train instead; ``model`` and ``diffusion`` are not used."""
    model: ModelConfig = field(default_factory=ModelConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    preprocessing: PreprocessingConfig = field(default_factory=PreprocessingConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augmentation: AugmentationConfig | None = None
    loss: LossConfig = field(default_factory=LossConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        if self.run.recompute_activations and self.has_batch_norm:
            raise ParameterError(
                "run.recompute_activations is not for networks with batch normalisation, which "
                "would count each batch twice. Use run.accumulate to save memory."
            )
        is_denoiser_normed = self.baseline is None and self.model.denoiser.norm == "batch"
        if self.loss.own_estimates and is_denoiser_normed:
            raise ParameterError(
                "loss.own_estimates is not for a denoiser with batch normalisation: each batch "
                "would count more than once, and not on every process."
            )
        stride = (self.baseline or self.model).stride
        if self.preprocessing.stride % stride:
            raise ParameterError(
                f"preprocessing.stride ({self.preprocessing.stride}) must be a multiple of the "
                f"network's ({stride})."
            )
        n_given = n_taken = self.preprocessing.n_prior_channels
        if self.baseline is None:
            n_taken = self.model.n_prior_channels
        elif self.baseline.unet is not None:
            n_taken = self.baseline.unet.in_channels
        if n_given != n_taken:
            raise ParameterError(
                f"preprocessing.context_slices give the network {n_given} channels of the image "
                f"prior, but it takes {n_taken}."
            )
        if self.run.batch_size == 1 and 0 < self.data.tumour_fraction < 1:
            raise ParameterError(
                "run.batch_size = 1 cannot hold slices with and without tumour "
                f"(data.tumour_fraction = {self.data.tumour_fraction:g}): set that to 0, or take "
                "larger batches."
            )
        if not self.optimiser.train_prior_encoder and (
            self.baseline is not None or self.model.prior_encoder is None
        ):
            raise ParameterError(
                "optimiser.train_prior_encoder = false is for models with a [model.prior_encoder]."
            )
        if self.baseline is None and (
            self.run.validation_steps > self.diffusion.num_train_timesteps
        ):
            raise ParameterError(
                f"run.validation_steps ({self.run.validation_steps}) must not be more than "
                f"diffusion.num_train_timesteps ({self.diffusion.num_train_timesteps})."
            )

    @property
    def has_batch_norm(self) -> bool:
        """Whether what is trained has means over the batch: SegNet, or a U-Net that asks for it."""
        if self.baseline is not None:
            unets = [self.baseline.unet]
            if self.baseline.segnet is not None:
                return True
        else:
            unets = [self.model.denoiser]
            if self.optimiser.train_prior_encoder:
                unets.append(self.model.prior_encoder)
                if self.model.second_encoder is not None:
                    return True
        return any(unet is not None and unet.norm == "batch" for unet in unets)


def find_config(name: str) -> Path:
    """Return the file that a user means: a path, or the name of a shipped configuration."""
    shipped = CONFIGS / f"{name.removesuffix('.toml')}.toml"
    return shipped if not Path(name).exists() and shipped.exists() else Path(name)


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
    if "baseline" in values and (unused := sorted({"model", "diffusion"} & set(values))):
        raise ParameterError(f"{path}: a [baseline] has no section [{unused[0]}]. Remove one.")
    return from_dict(TrainingConfig, values)


def format_config(config: TrainingConfig) -> str:
    """Return the TOML text that :func:`load_config` reads as the same configuration."""
    return "\n".join(_format_table(config_values(config), "")) + "\n"


def config_values(config: TrainingConfig) -> dict[str, Any]:
    """Return the settings as nested dictionaries, without those that the run does not use."""
    values = to_dict(config)
    if config.baseline is not None:
        del values["model"], values["diffusion"]
    return values


def _format_table(table: dict[str, Any], name: str) -> list[str]:
    values = {k: v for k, v in table.items() if not isinstance(v, dict)}
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    if name and (lines or not table):
        lines = [f"[{name}]", *lines, ""]
    for key, value in table.items():
        if isinstance(value, dict):
            lines += _format_table(value, f"{name}.{key}" if name else key)
    return lines


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
        if not isinstance(table, dict):
            raise ParameterError(f"{override!r}: {section} is a value, not a section.")
    table[last] = value


def _check_range(name: str, value: float, low: float, high: float = math.inf) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        upper = "" if high == math.inf else f" and at most {high:g}"
        raise ParameterError(f"{name} must be at least {low:g}{upper}, not {value!r}.")
