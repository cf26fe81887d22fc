"""Files of trained baselines: weights and settings in one safetensors file.

As a model file of the package, but under a header of its own: these networks serve to compare
with, and the viewer does not offer them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from napari_diffseg.core.errors import CheckpointError, ParameterError
from napari_diffseg.core.preprocessing import PreprocessingConfig
from napari_diffseg.core.serialisation import from_dict, to_dict
from training.baseline_config import BaselineConfig
from training.baselines.networks import make_network

SCHEMA_VERSION = 1
HEADER_KEY = "diffseg_baseline"


@dataclass(frozen=True, eq=False)
class LoadedBaseline:
    """A trained network without diffusion, in evaluation mode."""

    network: nn.Module
    config: BaselineConfig
    preprocessing: PreprocessingConfig
    name: str
    path: Path
    sha256: str
    """Of the file."""
    provenance: Mapping[str, Any] = field(default_factory=dict)


def is_baseline(path: Path) -> bool:
    """Whether a file has the header of a baseline."""
    try:
        with safe_open(path, framework="pt") as file:
            return HEADER_KEY in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def save_baseline(
    path: Path,
    network: nn.Module,
    config: BaselineConfig,
    preprocessing: PreprocessingConfig,
    name: str,
    provenance: Mapping[str, Any],
) -> Path:
    """Write the file, complete or not at all."""
    header = {
        "schema": SCHEMA_VERSION,
        "baseline": to_dict(config),
        "preprocessing": to_dict(preprocessing),
        "name": name,
        "provenance": dict(provenance),
    }
    tensors = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    temporary = path.with_name(path.name + ".tmp")
    try:
        save_file(tensors, temporary, {HEADER_KEY: json.dumps(header, sort_keys=True)})
        os.replace(temporary, path)
    except SafetensorError as error:  # a full disk, for example
        raise OSError(f"{path} cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def load_baseline(path: Path) -> LoadedBaseline:
    """Read a file that :func:`save_baseline` wrote.

    Raises
    ------
    CheckpointError
        If it is missing, damaged, of another kind or from a later version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[HEADER_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if header["schema"] > SCHEMA_VERSION:
            raise CheckpointError(f"{path} is from a later version of training.")
        config = from_dict(BaselineConfig, header["baseline"], "baseline")
        preprocessing = from_dict(PreprocessingConfig, header["preprocessing"], "preprocessing")
        network = make_network(config, preprocessing.n_prior_channels)
        network.load_state_dict(tensors)
    except (OSError, SafetensorError, KeyError, ValueError, ParameterError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} is not a usable baseline ({error}). Export the run again."
        ) from error
    network.eval().requires_grad_(False)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with path.open("rb") as file_of_bytes:
        sha256 = hashlib.file_digest(file_of_bytes, "sha256").hexdigest()
    return LoadedBaseline(
        network, config, preprocessing, header["name"], path, sha256, header["provenance"]
    )
