"""Model files: weights and every configuration in one safetensors file.

The header holds one JSON text under ``diffseg``: schema version, configurations of networks,
diffusion and preprocessing, the card and the provenance. :func:`load_checkpoint` is the only way
to a trained model, for the viewer, the command line and the evaluation alike.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from napari_diffseg.core.diffusion import DiffusionConfig
from napari_diffseg.core.errors import CheckpointError, ParameterError
from napari_diffseg.core.model import DiffusionModel, ModelConfig
from napari_diffseg.core.params import SamplerName
from napari_diffseg.core.preprocessing import PAPER_PREPROCESSING, PreprocessingConfig
from napari_diffseg.core.serialisation import from_dict, to_dict
from napari_diffseg.core.unet import UNetConfig

SCHEMA_VERSION = 1
HEADER_KEY = "diffseg"
BUNDLED_NAME = "whole_tumour_fast.safetensors"
# Larger than any network of this kind; a header beyond it is damaged or hostile.
_MAX_LEVELS, _MAX_BLOCKS, _MAX_CHANNELS = 10, 16, 16384


@dataclass(frozen=True)
class ModelCard:
    """What a user should know before choosing a model."""

    name: str = "unnamed model"
    """Short name for lists."""
    description: str = ""
    """One or two sentences: what it segments, what it was trained on, its limits."""
    recommended_steps: int = 8
    """Sampling steps that the validation figures are for."""
    recommended_sampler: SamplerName = "ddpm"
    """Sampler that the validation figures are for."""
    mirror_members: bool = False
    """Whether every second member sees the slice mirrored; only for models that were trained with
    left-right flips."""
    vary_contrast: bool = False
    """Whether members see contrasts of their own; only for models that were trained with changes
    of contrast at least as strong (:mod:`napari_diffseg.core.views`)."""


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model that is ready to sample."""

    network: DiffusionModel
    """In evaluation mode, float32."""
    preprocessing: PreprocessingConfig
    card: ModelCard
    path: Path
    sha256: str
    """Of the file."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Training record: hash of the data ids, steps, commit, versions ..."""


def bundled_checkpoint() -> Path:
    """Return the path of the model that comes with the package.

    Raises
    ------
    CheckpointError
        If the installation lacks it.
    """
    path = Path(__file__).resolve().parent.parent / "models" / BUNDLED_NAME
    if not path.is_file():
        raise CheckpointError(
            f"The bundled model is missing from this installation ({path}). "
            "Install napari-diffseg again, or choose a model file."
        )
    return path


def save_checkpoint(
    path: Path,
    network: DiffusionModel,
    preprocessing: PreprocessingConfig,
    card: ModelCard,
    provenance: Mapping[str, Any],
    dtype: Literal["float32", "float16"] = "float32",
) -> Path:
    """Write a model file, complete or not at all (temporary file, then ``os.replace``).

    ``float16`` halves the file; weights are read back as float32.

    Raises
    ------
    OSError
        It cannot be written.
    """
    header = {
        "schema": SCHEMA_VERSION,
        "model": to_dict(network.config),
        "diffusion": to_dict(network.diffusion),
        "preprocessing": to_dict(preprocessing),
        "card": to_dict(card),
        "provenance": dict(provenance),
    }
    kind = torch.float16 if dtype == "float16" else torch.float32
    tensors = {
        name: value.detach().to("cpu", kind if value.is_floating_point() else None).contiguous()
        for name, value in network.state_dict().items()
    }
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # as the umask wants it; safetensors makes it private
        save_file(tensors, temporary, {HEADER_KEY: json.dumps(header, sort_keys=True)})
        temporary.chmod(mode)
        os.replace(temporary, path)
    except SafetensorError as error:  # a full disk, in the words of another language
        raise OSError(str(error)) from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def load_checkpoint(path: Path | str) -> LoadedModel:
    """Read a model file: ours, or a published one of the paper's code, by what is in it.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, of another kind or from a later version.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such model file.")
    if not is_model_file(path) and _is_pytorch(path):
        return import_published(path)
    header, tensors = _read(path)
    try:
        schema = header["schema"]
        if type(schema) is not int:
            raise ParameterError(f"schema must be int, not {schema!r}.")
        if schema > SCHEMA_VERSION:
            raise CheckpointError(
                f"{path} was written by a later version of napari-diffseg (schema {schema}; this "
                f"version reads up to {SCHEMA_VERSION}). Update napari-diffseg."
            )
        config = from_dict(ModelConfig, header["model"], "model")
        diffusion = from_dict(DiffusionConfig, header["diffusion"], "diffusion")
        preprocessing = from_dict(PreprocessingConfig, header["preprocessing"], "preprocessing")
        card = from_dict(ModelCard, header["card"], "card")
        provenance = header.get("provenance", {})
        network = _build(config, diffusion, tensors)
    except KeyError as error:
        raise CheckpointError(f"{path}: the header lacks {error}. {_ADVICE}") from error
    except (ParameterError, ValueError) as error:
        raise CheckpointError(f"{path}: the header is damaged: {error} {_ADVICE}") from error
    if (
        preprocessing.stride % config.stride
        or preprocessing.n_prior_channels != config.n_prior_channels
    ):
        raise CheckpointError(
            f"{path}: the header is damaged: preprocessing does not fit the network "
            f"(stride {preprocessing.stride} and {config.stride}, image channels "
            f"{preprocessing.n_prior_channels} and {config.n_prior_channels}). {_ADVICE}"
        )
    return LoadedModel(network, preprocessing, card, path, _hash_file(path), provenance)


def is_model_file(path: Path) -> bool:
    """Whether a file looks like safetensors: eight bytes of length, then JSON."""
    return _read_start(path)[8:] == b"{"


def import_published(path: Path | str, config: UNetConfig | None = None) -> LoadedModel:
    """Read a ``.pt`` file of the paper's published code (weights or their average).

    Hyper-parameters are inferred from the tensors unless ``config`` gives them.

    Raises
    ------
    CheckpointError
        If the file is damaged or not such a checkpoint.
    """
    from napari_diffseg.core.published import load_published

    path = Path(path)
    network = load_published(path, config)
    card = ModelCard(
        name=f"{path.stem} (published format)",
        description="Weights in the format of the paper's published code.",
        recommended_steps=network.diffusion.num_train_timesteps,
        recommended_sampler="ddpm",
    )
    return LoadedModel(prepare_network(network), PAPER_PREPROCESSING, card, path, _hash_file(path))


def prepare_network(network: DiffusionModel) -> DiffusionModel:
    """Return the network in the state in which samplers expect it."""
    network.eval().requires_grad_(False)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


_IMPLAUSIBLE = "The network has implausibly many levels, blocks or channels."
_ADVICE = "Get the file again, or choose another model."


def _read_start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(9)
    except OSError:
        return b""  # whoever reads the file says why


def _is_pytorch(path: Path) -> bool:
    """Whether a file is for `torch.load`; a damaged one is what its name says."""
    is_by_name = path.suffix.lower() in (".pt", ".pth")
    return is_by_name or _read_start(path).startswith((b"PK", b"\x80"))


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} is not a readable safetensors file ({error}). {_ADVICE}"
        ) from error
    if HEADER_KEY not in metadata:
        raise CheckpointError(
            f"{path} is a safetensors file, but not a model of napari-diffseg (its header has no "
            f"'{HEADER_KEY}'). {_ADVICE}"
        )
    try:
        header = json.loads(metadata[HEADER_KEY])
    except ValueError as error:
        raise CheckpointError(f"{path}: the header is damaged ({error}). {_ADVICE}") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: the header is damaged (not a table). {_ADVICE}")
    return header, tensors


def _build(
    config: ModelConfig, diffusion: DiffusionConfig, tensors: dict[str, Tensor]
) -> DiffusionModel:
    for unet in (config.denoiser, config.prior_encoder):
        if unet is not None and (
            len(unet.channel_multipliers) > _MAX_LEVELS
            or unet.n_res_blocks > _MAX_BLOCKS
            or unet.base_channels * max(unet.channel_multipliers) > _MAX_CHANNELS
        ):
            raise ParameterError(_IMPLAUSIBLE)
    second = config.second_encoder
    if second is not None and (
        len(second.channels) > _MAX_LEVELS
        or max(second.n_convolutions) > _MAX_BLOCKS
        or max(second.channels) > _MAX_CHANNELS
    ):
        raise ParameterError(_IMPLAUSIBLE)
    # Shapes are compared before any memory is taken for what the header claims.
    with torch.device("meta"):
        network = DiffusionModel(config, diffusion)
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    if expected != found:
        differing = sorted(
            name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
        )
        raise ParameterError(
            f"{len(differing)} tensors do not fit the configuration, the first is {differing[0]}."
        )
    if not all(bool(torch.isfinite(value).all()) for value in tensors.values()):
        raise ParameterError("Some weights are not finite.")
    kinds = {name: value.dtype for name, value in network.state_dict().items()}
    weights = {name: value.to(kinds[name]) for name, value in tensors.items()}
    network.load_state_dict(weights, assign=True)
    return prepare_network(network)


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
