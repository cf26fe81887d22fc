"""Import of the published code's checkpoints (``savedmodel*.pt``, ``emasavedmodel_*.pt``).

These files are state dicts of guided-diffusion's ``UNetModel`` (Dhariwal & Nichol 2021,
2105.05233), the network of Wolleb et al. 2021 (2112.03145), and say nothing about its shape. It is
read off the tensors here. Two settings leave no trace in them and are the published ones always:
32 groups in every normalisation and one attention head.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from napari_diffseg.core.diffusion import DiffusionConfig
from napari_diffseg.core.errors import CheckpointError, DiffsegError
from napari_diffseg.core.model import DiffusionModel, ModelConfig
from napari_diffseg.core.tensor_file import load_torch_file
from napari_diffseg.core.unet import UNet, UNetConfig

N_GROUPS = 32
"""Groups of every group normalisation of the published network."""

_WRAPPERS = ("ema", "state_dict", "model_state_dict", "model", "module")
_OPTIMISER_KEYS = {"state", "param_groups"}
_CHOOSE = (
    "Choose a savedmodel*.pt or emasavedmodel*.pt of the published code, or a .safetensors file."
)

# Published name of a block's part -> ours. What is behind it ("weight", "bias") stays.
_PARTS = {
    "in_layers.0": "norm_in",
    "in_layers.2": "conv_in",
    "emb_layers.1": "time_projection",
    "out_layers.0": "norm_out",
    "out_layers.3": "conv_out",
    "skip_connection": "skip",
    "norm": "norm",
    "qkv": "qkv",
    "proj_out": "projection",
}
_FIXED = {
    "time_embed.0": "time_embedding.0",
    "time_embed.2": "time_embedding.2",
    "input_blocks.0.0": "stem",
    "out.0": "norm_out",
    "out.2": "head",
}
_MIDDLE = {"0": "middle_in", "1": "middle_attention", "2": "middle_out"}


def load_published(path: Path | str, config: UNetConfig | None = None) -> DiffusionModel:
    """Return the model of a published checkpoint: evaluation mode, CPU, float32.

    Parameters
    ----------
    path : path
        A ``.pt`` file of the published code. Only tensors are read from it, never code.
    config : UNetConfig, optional
        The network's shape, if it should not be read off the tensors.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged or of something else, or does not fit ``config``. The
        message names the file and what to do.
    """
    path = Path(path)
    state = _read_state_dict(path)
    try:
        found, converted = convert_published_state_dict(state)
        if config is not None:
            _check_fit(converted, config)
        if not all(bool(torch.isfinite(tensor).all()) for tensor in converted.values()):
            raise CheckpointError("Some weights are not finite: the training had diverged.")
        network = ModelConfig(denoiser=config or found)
        with torch.device("meta"):  # no memory and no random numbers for weights to be replaced
            model = DiffusionModel(network, DiffusionConfig())
    except DiffsegError as error:
        raise CheckpointError(f"{path}: {error}") from error
    weights = {f"denoiser.{name}": tensor for name, tensor in converted.items()}
    model.load_state_dict(weights, assign=True)
    return model.eval()


def convert_published_state_dict(state: Mapping[str, Any]) -> tuple[UNetConfig, dict[str, Tensor]]:
    """Return the shape of a published network and its weights under our names, in float32.

    ``module.`` before every name (from ``DistributedDataParallel``) and one dictionary around
    the state dict are tolerated.

    Raises
    ------
    CheckpointError
        If it is no state dict of the published network, or of one with a part that ours does
        not have; the message names the part.
    """
    tensors = _unwrap(state)
    config = _infer_config(tensors)
    converted = {_translate(name): tensor.float() for name, tensor in tensors.items()}
    _check_fit(converted, config)
    return config, converted


def _read_state_dict(path: Path) -> Mapping[str, Any]:
    state = load_torch_file(path, CheckpointError, "save the model's state_dict() alone.")
    if not isinstance(state, Mapping):
        raise CheckpointError(
            f"{path} holds a {type(state).__name__}, not a model's state dict. {_CHOOSE}"
        )
    return state


def _unwrap(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors under their published names."""
    if set(state) >= _OPTIMISER_KEYS:
        raise CheckpointError(
            "This is the state of an optimiser (opt*.pt), which has no weights. Choose "
            "savedmodel*.pt or emasavedmodel*.pt beside it."
        )
    for key in _WRAPPERS:
        if isinstance(state.get(key), Mapping):
            return _unwrap(state[key])
    tensors = {
        str(name).removeprefix("module."): value
        for name, value in state.items()
        if isinstance(value, Tensor)
    }
    if "time_embed.0.weight" not in tensors or "input_blocks.0.0.weight" not in tensors:
        raise CheckpointError(
            "This is not a checkpoint of the published diffusion model: it has no "
            f"time_embed.0.weight and input_blocks.0.0.weight. {_CHOOSE}"
        )
    if len(tensors) < len(state):
        foreign = next(str(name) for name, v in state.items() if not isinstance(v, Tensor))
        raise CheckpointError(f"{foreign} is not a tensor, so this is not a plain state dict.")
    return tensors


def _infer_config(tensors: Mapping[str, Tensor]) -> UNetConfig:
    """Read the network's shape off names and sizes of the published tensors."""
    time_embedding, stem = tensors["time_embed.0.weight"], tensors["input_blocks.0.0.weight"]
    if time_embedding.ndim != 2 or stem.ndim != 4 or not time_embedding.shape[1]:
        raise CheckpointError("Only the 2-D form of the published network can be imported.")
    base = time_embedding.shape[1]
    levels: list[list[tuple[int, bool]]] = [[]]  # (width, has attention) of each block
    for i in range(1, _count(tensors, "input_blocks")):
        block = f"input_blocks.{i}"
        if f"{block}.0.op.weight" in tensors:
            levels.append([])
            continue
        convolution = tensors.get(f"{block}.0.in_layers.2.weight")
        if convolution is None or convolution.ndim != 4:
            raise CheckpointError(
                f"{block} is neither a residual block nor a strided convolution; other variants "
                "of the network cannot be imported."
            )
        levels[-1].append((convolution.shape[0], f"{block}.1.qkv.weight" in tensors))

    n_blocks = {len(level) for level in levels}
    if len(n_blocks) != 1 or any(len(set(level)) != 1 for level in levels):
        raise CheckpointError("The levels of the network differ in number or kind of their blocks.")
    widths = [level[0][0] for level in levels]
    if any(width % base for width in widths):
        raise CheckpointError(
            f"Channels of the levels ({widths}) are not multiples of the base channels ({base})."
        )
    head = tensors.get("out.2.weight")
    if head is None or head.shape[0] != 2:
        found = "none" if head is None else head.shape[0]
        raise CheckpointError(
            "The published model has 2 output channels, noise and variance (learn_sigma); this "
            f"one has {found}."
        )
    return _make_config(
        in_channels=stem.shape[1],
        base_channels=base,
        channel_multipliers=tuple(width // base for width in widths),
        n_res_blocks=n_blocks.pop(),
        attention_factors=tuple(2**i for i, level in enumerate(levels) if level[0][1]),
        middle_attention="middle_block.1.qkv.weight" in tensors,
    )


def _make_config(**shape: Any) -> UNetConfig:
    try:
        return UNetConfig(out_channels=2, n_groups=N_GROUPS, **shape)
    except DiffsegError as error:
        raise CheckpointError(f"The network has a shape that is not supported: {error}") from error


def _count(tensors: Mapping[str, Tensor], group: str) -> int:
    numbers = {int(name.split(".")[1]) for name in tensors if re.match(rf"{group}\.\d+\.", name)}
    return max(numbers, default=-1) + 1


def _translate(name: str) -> str:
    """Return our name of a published parameter."""
    module, _, kind = name.rpartition(".")
    if module in _FIXED:
        return f"{_FIXED[module]}.{kind}"
    if match := re.fullmatch(r"middle_block\.([012])\.(.+)", module):
        return f"{_MIDDLE[match[1]]}.{_translate_part(match[2], name)}.{kind}"
    if match := re.fullmatch(r"(input|output)_blocks\.(\d+)\.(\d)\.(.+)", module):
        side, number, position, part = match.groups()
        # The stem is the first of the published input blocks, and a part of its own in ours.
        block = f"down.{int(number) - 1}" if side == "input" else f"up.{number}"
        if side == "input" and part == "op":
            return f"{block}.conv.{kind}"
        if side == "output" and part == "conv":
            return f"{block}.upsample.conv.{kind}"
        owner = "residual" if position == "0" else "attention"
        return f"{block}.{owner}.{_translate_part(part, name)}.{kind}"
    raise CheckpointError(f"{name} is no parameter of the published network.")


def _translate_part(part: str, name: str) -> str:
    if part not in _PARTS:
        raise CheckpointError(f"{name} is no parameter of the published network.")
    return _PARTS[part]


def _check_fit(converted: Mapping[str, Tensor], config: UNetConfig) -> None:
    """Compare names and shapes with the network of ``config``."""
    if config.n_groups != N_GROUPS:
        raise CheckpointError(f"The published network has n_groups={N_GROUPS} always.")
    with torch.device("meta"):
        expected = {name: p.shape for name, p in UNet(config).state_dict().items()}
    missing = sorted(set(expected) - set(converted))
    surplus = sorted(set(converted) - set(expected))
    if missing or surplus:
        problem = f"has no {missing[0]}" if missing else f"has {surplus[0]}, which ours does not"
        raise CheckpointError(f"The network does not fit: it {problem}.")
    for name, shape in expected.items():
        if converted[name].shape != shape:
            raise CheckpointError(
                f"The network does not fit: {name} has the shape {tuple(converted[name].shape)}, "
                f"{tuple(shape)} was expected. "
                "(Scale-shift normalisation and other variants are not supported.)"
            )
