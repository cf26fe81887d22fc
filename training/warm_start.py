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
from napari_diffseg.core.segnet import SegNetConfig
from napari_diffseg.core.serialisation import to_dict
from napari_diffseg.core.unet import UNetConfig
from napari_diffseg.core.views import N_MODALITIES
from training.baselines.checkpoint import LoadedBaseline, is_baseline, load_baseline
from training.changes import describe_changes
from training.config import TrainingConfig

_ENCODER: Final = "prior_encoder"
_SECOND: Final = "second_encoder"


@dataclass(frozen=True)
class InitialWeights:
    """What a new run starts from."""

    weights: Mapping[str, Tensor]
    """Of the run's network or a part of it, by name."""
    origins: Mapping[str, Mapping[str, Any]]
    """For the run's record, by their names in `core.provenance.ORIGINS`."""
    paths: tuple[Path, ...]


def load_initial_weights(
    path: Path | None,
    config: TrainingConfig,
    encoder_path: Path | None = None,
    second_path: Path | None = None,
) -> InitialWeights:
    """Return the weights of a model, of trained encoders or of all of them for a new run.

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
    second_path
        A SegNet, which takes the second encoder's place. The model of ``path`` need not have one.

    Raises
    ------
    CheckpointError
        If a file is missing or damaged.
    ParameterError
        If its networks, diffusion or preprocessing cannot become the configuration's.
    """
    if config.baseline is not None:
        if path is None or encoder_path or second_path or config.baseline.unet is None:
            raise ParameterError(
                "--init is for diffusion models and [baseline.unet], --init-encoder and "
                "--init-second-encoder are for diffusion models with such encoders."
            )
        unet = _load_unet(path, config.baseline.unet, config.preprocessing)
        return InitialWeights(unet.weights, {"init": unet.origin}, (path,))
    start = InitialWeights({}, {}, ())
    if path is not None:
        start = _load_model(path, config, has_second=second_path is None)
    if encoder_path is not None:
        if config.model.prior_encoder is None:
            raise ParameterError("--init-encoder is for models with a [model.prior_encoder].")
        unet = _load_unet(encoder_path, config.model.prior_encoder, config.preprocessing)
        start = _add_part(start, _ENCODER, unet, "init_encoder", encoder_path)
    if second_path is not None:
        if config.model.second_encoder is None:
            raise ParameterError("--init-second-encoder is for a [model.second_encoder].")
        segnet = _load_segnet(second_path, config.model.second_encoder, config.preprocessing)
        start = _add_part(start, _SECOND, segnet, "init_second_encoder", second_path)
    return start


def _add_part(
    start: InitialWeights, part: str, added: _StartingNetwork, origin: str, path: Path
) -> InitialWeights:
    return InitialWeights(
        {**start.weights, **{f"{part}.{name}": value for name, value in added.weights.items()}},
        {**start.origins, origin: added.origin},
        (*start.paths, path),
    )


def _load_model(path: Path, config: TrainingConfig, *, has_second: bool) -> InitialWeights:
    """Return a model's weights; its second encoder must be the same only if it is taken from it."""
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
    if not has_second:
        theirs["model"].pop(_SECOND, None)
        ours["model"].pop(_SECOND, None)
    _check_same(path, theirs, ours)
    weights = {
        name: value
        for name, value in model.network.state_dict().items()
        if has_second or not name.startswith(_SECOND)
    }
    return InitialWeights(weights, {"init": describe_origin(model)}, (path,))


@dataclass(frozen=True)
class _StartingNetwork:
    weights: Mapping[str, Tensor]
    origin: Mapping[str, Any]


def _load_unet(
    path: Path, config: UNetConfig, preprocessing: PreprocessingConfig
) -> _StartingNetwork:
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
    return _StartingNetwork(network.state_dict(), describe_origin(model))


def _load_segnet(
    path: Path, config: SegNetConfig, preprocessing: PreprocessingConfig
) -> _StartingNetwork:
    if not is_baseline(path):
        raise ParameterError(f"{path} is no SegNet: name the file of a run of [baseline.segnet].")
    model = load_baseline(path)
    theirs = None if model.config.segnet is None else _without_dropout(model.config.segnet)
    _check_same(
        path,
        {"segnet": theirs, "preprocessing": to_dict(model.preprocessing)},
        {"segnet": _without_dropout(config), "preprocessing": to_dict(preprocessing)},
    )
    return _StartingNetwork(model.network.state_dict(), describe_origin(model))


def describe_origin(model: LoadedModel | LoadedBaseline) -> dict[str, Any]:
    """Return, for the record of a network, what its weights began from."""
    name = model.name if isinstance(model, LoadedBaseline) else model.card.name
    return {"name": name, "sha256": model.sha256, "provenance": dict(model.provenance)}


def _without_dropout(config: UNetConfig | SegNetConfig | ModelConfig) -> dict[str, Any]:
    values = to_dict(config)
    for table in (values, *(v for v in values.values() if isinstance(v, dict))):
        table.pop("dropout", None)
        table.pop("dropout_levels", None)
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
    n_new = N_MODALITIES * (len(ours) - len(theirs))
    wider_unet = replace(unet, in_channels=unet.in_channels + n_new)
    if config.prior_encoder is None:
        wider = replace(config, denoiser=wider_unet)
    else:
        wider = replace(config, prior_encoder=wider_unet)
    network = DiffusionModel(wider, model.network.diffusion)
    weights = model.network.state_dict()
    stems = {f"{part}.stem.weight": N_MODALITIES * unet.patch_size**2}
    if config.second_encoder is not None:
        stems[f"{_SECOND}.down.0.0.weight"] = N_MODALITIES
    for stem, group in stems.items():
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
