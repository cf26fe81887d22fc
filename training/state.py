"""Everything an interrupted run needs to go on bit by bit, in one file written atomically."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from napari_diffseg.core.errors import CheckpointError
from training.ema import ExponentialMovingAverage

STATE_NAME = "state.safetensors"
BEST_NAME = "best.safetensors"
_HEADER_KEY = "diffseg_training"


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
    _save(tensors, path, record)


def save_average(path: Path, ema: ExponentialMovingAverage, record: dict[str, Any]) -> None:
    """Write the averages alone, for :func:`load_average`."""
    _save({f"ema.{k}": v for k, v in ema.weights.items()}, path, record)


def count_images(record: Mapping[str, Any]) -> int:
    """Return how many slices the weights of a record have seen, each as often as it was seen."""
    # Earlier records do not have it, and say of the last batch size alone what it was.
    return int(record.get("images", record["step"] * record["config"]["run"]["batch_size"]))


def load_average(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return averages and record of what :func:`save_state` or :func:`save_average` wrote.

    Raises
    ------
    CheckpointError
        If the file is missing or damaged.
    """
    tensors, record = _read(path, "ema.")
    return _part(tensors, "ema."), record


def read_record(path: Path) -> dict[str, Any]:
    """Return the record alone.

    Raises
    ------
    CheckpointError
        If the file is missing or damaged.
    """
    return _read(path, None)[1]


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
    tensors, record = _read(path, "")
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


def _save(tensors: dict[str, Tensor], path: Path, record: dict[str, Any]) -> None:
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    temporary = path.with_name(path.name + ".tmp")
    try:
        save_file(tensors, temporary, {_HEADER_KEY: json.dumps(record)})
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except SafetensorError as error:  # a full disk, in the words of another language
        raise OSError(f"{path} could not be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path, prefix: str | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors whose names begin with ``prefix`` (None: no tensor), and the record."""
    try:
        with safe_open(path, framework="pt") as file:
            record: dict[str, Any] = json.loads((file.metadata() or {})[_HEADER_KEY])
            names = [n for n in file.keys() if prefix is not None and n.startswith(prefix)]  # noqa: SIM118
            # Copies: while a tensor of the file lives, Windows does not let the file be replaced.
            tensors: dict[str, Tensor] = {name: file.get_tensor(name).clone() for name in names}
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a usable training state ({error}). Move it away to start again."
        ) from error
    return tensors, record


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
