"""Everything an interrupted run needs to go on bit by bit, in one file written atomically."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from napari_diffseg.core.errors import CheckpointError
from training.ema import ExponentialMovingAverage

STATE_NAME = "state.safetensors"


def save_state(
    path: Path,
    network: nn.Module,
    ema: ExponentialMovingAverage,
    optimiser: torch.optim.Optimizer,
    record: dict[str, Any],
) -> None:
    """Write weights, averages, optimiser moments and the generator's state.

    ``record`` (step, configuration, history) is JSON in the header. The file is complete or not
    there: it is written under another name and moved.
    """
    tensors = {f"network.{k}": v for k, v in network.state_dict().items()}
    tensors |= {f"ema.{k}": v for k, v in ema.weights.items()}
    for index, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{k}": torch.as_tensor(v) for k, v in moments.items()}
    tensors["rng.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["rng.cuda"] = torch.cuda.get_rng_state()
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    temporary = path.with_name(path.name + ".tmp")
    save_file(tensors, temporary, {"diffseg_training": json.dumps(record)})
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load_state(
    path: Path,
    network: nn.Module,
    ema: ExponentialMovingAverage,
    optimiser: torch.optim.Optimizer,
) -> dict[str, Any]:
    """Restore what :func:`save_state` wrote, and return its record.

    Raises
    ------
    CheckpointError
        If the file is damaged or belongs to another network.
    """
    try:
        with safe_open(path, framework="pt") as file:
            record: dict[str, Any] = json.loads((file.metadata() or {})["diffseg_training"])
            names = file.keys()
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a usable training state ({error}). Move it away to start again."
        ) from error
    try:
        network.load_state_dict(_part(tensors, "network."))
        ema.load(_part(tensors, "ema."))
    except (RuntimeError, KeyError) as error:
        raise CheckpointError(f"{path} belongs to another network: {error}") from error
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in _part(tensors, "optimiser.").items():
        index, moment = name.split(".", 1)
        state.setdefault(int(index), {})[moment] = value
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})
    torch.set_rng_state(tensors["rng.cpu"])
    if torch.cuda.is_available() and "rng.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng.cuda"])
    return record


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
