"""The model whose weights a new run starts from, made to fit the run's configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from napari_diffseg.core.checkpoint import LoadedModel, load_checkpoint
from napari_diffseg.core.errors import ParameterError
from napari_diffseg.core.model import DiffusionModel
from napari_diffseg.core.serialisation import to_dict
from training.changes import describe_changes
from training.config import TrainingConfig

_N_MODALITIES = 4


def load_initial_model(path: Path, config: TrainingConfig) -> LoadedModel:
    """Return the model that a new run starts from.

    A model that sees fewer neighbouring slices than the configuration is given weights of zero for
    the new ones, so that it begins with the answers that it gave before.

    Raises
    ------
    CheckpointError
        If the file is missing or damaged.
    ParameterError
        If its networks, diffusion or preprocessing cannot become the configuration's.
    """
    if config.baseline is not None:
        raise ParameterError("--init is for diffusion models: a [baseline] starts from nothing.")
    model = load_checkpoint(path)
    if set(model.preprocessing.context_slices) < set(config.preprocessing.context_slices):
        model = widen_context(model, config.preprocessing.context_slices)
    theirs = {
        "model": to_dict(model.network.config),
        "diffusion": to_dict(model.network.diffusion),
        "preprocessing": to_dict(model.preprocessing),
    }
    ours = to_dict(config)
    changes = describe_changes(theirs, {name: ours[name] for name in theirs})
    if changes:
        raise ParameterError(
            f"{path} is another model than the configuration describes, so no run can start from "
            "its weights:\n  " + "\n  ".join(changes)
        )
    return model


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
    part = "denoiser" if config.prior_encoder is None else "prior_encoder"
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
