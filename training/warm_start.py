"""The weights that a new run starts from, made to fit its configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from napari_diffseg.core.checkpoint import LoadedModel, load_checkpoint
from napari_diffseg.core.errors import ParameterError
from napari_diffseg.core.model import DiffusionModel, ModelConfig
from napari_diffseg.core.preprocessing import PreprocessingConfig
from napari_diffseg.core.serialisation import to_dict
from napari_diffseg.core.unet import UNetConfig
from training.baselines.checkpoint import LoadedBaseline, is_baseline, load_baseline
from training.changes import describe_changes
from training.config import TrainingConfig

_N_MODALITIES: Final = 4
_ENCODER: Final = "prior_encoder"


@dataclass(frozen=True)
class InitialWeights:
    """What a new run starts from."""

    weights: Mapping[str, Tensor]
    """Of the run's network or a part of it, by name."""
    origins: Mapping[str, Mapping[str, Any]]
    """For the run's record: ``init``, and ``init_encoder`` where the encoder is another's."""
    paths: tuple[Path, ...]


def load_initial_weights(
    path: Path | None, config: TrainingConfig, encoder_path: Path | None = None
) -> InitialWeights:
    """Return the weights of a model, of a trained encoder or of both for a new run.

    A diffusion model that sees fewer neighbouring slices than the configuration is given weights
    of zero for the new ones, so that it begins with the answers that it gave before. Shares of
    dropout are the configuration's: they are no part of the weights.

    Parameters
    ----------
    path
        A diffusion model; for a ``[baseline.unet]`` its prior encoder is taken, or a U-Net's file.
        None: there is only the encoder, and the denoiser starts from nothing.
    config
        Of the run.
    encoder_path
        A baseline's U-Net, or a diffusion model, whose U-Net takes the prior encoder's place.

    Raises
    ------
    CheckpointError
        If a file is missing or damaged.
    ParameterError
        If its networks, diffusion or preprocessing cannot become the configuration's.
    """
    if config.baseline is not None:
        if encoder_path is not None or config.baseline.unet is None:
            raise ParameterError(
                "--init is for diffusion models and [baseline.unet], --init-encoder for diffusion "
                "models with a prior encoder."
            )
        assert path is not None
        unet = _load_unet(path, config.baseline.unet, config.preprocessing)
        return InitialWeights(unet.weights, {"init": unet.origin}, (path,))
    start = InitialWeights({}, {}, ()) if path is None else _load_model(path, config)
    if encoder_path is None:
        return start
    if config.model.prior_encoder is None:
        raise ParameterError("--init-encoder is for models with a [model.prior_encoder].")
    unet = _load_unet(encoder_path, config.model.prior_encoder, config.preprocessing)
    encoder = {f"{_ENCODER}.{name}": value for name, value in unet.weights.items()}
    return InitialWeights(
        {**start.weights, **encoder},
        {**start.origins, "init_encoder": unet.origin},
        (*start.paths, encoder_path),
    )


def _load_model(path: Path, config: TrainingConfig) -> InitialWeights:
    model = load_checkpoint(path)
    if set(model.preprocessing.context_slices) < set(config.preprocessing.context_slices):
        model = widen_context(model, config.preprocessing.context_slices)
    theirs = {
        "model": _without_dropout(model.network.config),
        "diffusion": to_dict(model.network.diffusion),
        "preprocessing": to_dict(model.preprocessing),
    }
    ours = {
        "model": _without_dropout(config.model),
        "diffusion": to_dict(config.diffusion),
        "preprocessing": to_dict(config.preprocessing),
    }
    _check_same(path, theirs, ours)
    return InitialWeights(model.network.state_dict(), {"init": _describe_origin(model)}, (path,))


@dataclass(frozen=True)
class _StartingUNet:
    weights: Mapping[str, Tensor]
    origin: Mapping[str, Any]


def _load_unet(path: Path, config: UNetConfig, preprocessing: PreprocessingConfig) -> _StartingUNet:
    """Return a baseline's U-Net, or a diffusion model's prior encoder."""
    model: LoadedBaseline | LoadedModel
    if is_baseline(path):
        model = load_baseline(path)
        theirs = model.config.unet
        network: nn.Module | None = model.network
    else:
        model = load_checkpoint(path)
        theirs = model.network.config.prior_encoder
        network = model.network.prior_encoder
    if theirs is None or network is None:
        raise ParameterError(f"{path} has no U-Net that turns images into a mask.")
    _check_same(
        path,
        {"unet": _without_dropout(theirs), "preprocessing": to_dict(model.preprocessing)},
        {"unet": _without_dropout(config), "preprocessing": to_dict(preprocessing)},
    )
    return _StartingUNet(network.state_dict(), _describe_origin(model))


def _describe_origin(model: LoadedModel | LoadedBaseline) -> dict[str, Any]:
    name = model.name if isinstance(model, LoadedBaseline) else model.card.name
    return {"name": name, "sha256": model.sha256, "provenance": dict(model.provenance)}


def _without_dropout(config: UNetConfig | ModelConfig) -> dict[str, Any]:
    values = to_dict(config)
    for table in (values, *(v for v in values.values() if isinstance(v, dict))):
        table.pop("dropout", None)
    return values


def _check_same(path: Path, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    changes = describe_changes(theirs, ours)
    if changes:
        raise ParameterError(
            f"{path} is another model than the configuration describes, so no run can start from "
            "its weights:\n  " + "\n  ".join(changes)
        )


def widen_context(model: LoadedModel, context_slices: Sequence[int]) -> LoadedModel:
    """Return a model that is given more neighbours and does not yet mind them.

    Parameters
    ----------
    model
        The model; it is not changed.
    context_slices
        The neighbours, as in ``PreprocessingConfig``; the model's own must be among them.
    """
    theirs, ours = (0, *model.preprocessing.context_slices), (0, *context_slices)
    places = [ours.index(step) for step in theirs]
    config = model.network.config
    part = "denoiser" if config.prior_encoder is None else _ENCODER
    unet = config.denoiser if config.prior_encoder is None else config.prior_encoder
    n_new = _N_MODALITIES * (len(ours) - len(theirs))
    wider = replace(config, **{part: replace(unet, in_channels=unet.in_channels + n_new)})
    network = DiffusionModel(wider, model.network.diffusion)
    weights = model.network.state_dict()
    stem = f"{part}.stem.weight"
    group = _N_MODALITIES * unet.patch_size**2
    weights[stem] = _spread_inputs(weights[stem], places, len(ours), group)
    network.load_state_dict(weights)
    preprocessing = replace(model.preprocessing, context_slices=tuple(context_slices))
    return replace(model, network=network.eval(), preprocessing=preprocessing)


def _spread_inputs(weight: Tensor, places: Sequence[int], n_slices: int, group: int) -> Tensor:
    """Move the input channels of each slice to its new place; what is new is 0.

    ``weight`` is (C_out, C_in, k, k); the first ``group`` of C_in are the slice's own, then come
    its neighbours', and last whatever is no image.
    """
    n_old = group * len(places)
    slices = weight.new_zeros((len(weight), n_slices, group, *weight.shape[2:]))
    slices[:, list(places)] = weight[:, :n_old].unflatten(1, (len(places), group))
    return torch.cat([slices.flatten(1, 2), weight[:, n_old:]], dim=1)
