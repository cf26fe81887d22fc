"""What is evaluated, whatever it is: a prepared case in, the members of an ensemble out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from napari_diffseg.core.brats import Case
from napari_diffseg.core.checkpoint import LoadedModel
from napari_diffseg.core.ensemble import Ensemble
from napari_diffseg.core.errors import ParameterError
from napari_diffseg.core.events import Event
from napari_diffseg.core.levels import encode_probability
from napari_diffseg.core.params import SegmentParams
from napari_diffseg.core.preprocessing import PreparedCase, PreprocessingConfig
from napari_diffseg.core.provenance import sum_effort
from napari_diffseg.core.run import run_case
from napari_diffseg.core.segment import order_slices, resolve_device
from napari_diffseg.core.serialisation import to_dict
from training.baselines.checkpoint import LoadedBaseline
from training.baselines.networks import draw_members
from training.known_patients import find_training_patients

ZRange = tuple[int, int]
OnEvent = Callable[[Event], None]

_BATCH_SIZE = 8


class Segmenter(Protocol):
    """A system of the paper's table. Members are a function of the case and the seed alone."""

    @property
    def system(self) -> str:
        """Which row of the table it is (`training.results.SYSTEMS`)."""

    @property
    def preprocessing(self) -> PreprocessingConfig:
        """How its slices are prepared."""

    @property
    def key(self) -> dict[str, Any]:
        """All that the members depend on beside the case, as JSON has it."""

    @property
    def settings(self) -> dict[str, Any]:
        """What a reader of the figures should know: model, parameters, training, members."""

    @property
    def trained_on(self) -> frozenset[str]:
        """Patients that its networks were trained on, as far as is on record."""

    def segment(
        self,
        case: Case,
        prepared: PreparedCase,
        z_range: ZRange | None,
        on_event: OnEvent | None = None,
    ) -> Ensemble:
        """Return the members, complete in canonical slices ``z_range`` (None: everywhere).

        Raises
        ------
        DiffsegError
            The case cannot be segmented.
        """


@dataclass(frozen=True, eq=False)
class DiffusionSegmenter:
    """The diffusion ensemble, sampled as the viewer samples it."""

    model: LoadedModel
    params: SegmentParams

    @property
    def system(self) -> str:
        """``ddpm``."""
        return "ddpm"

    @property
    def preprocessing(self) -> PreprocessingConfig:
        """The model's own."""
        return self.model.preprocessing

    @property
    def key(self) -> dict[str, Any]:
        """Model and parameters, save device and memory."""
        params = dataclasses.replace(self.params, n_steps=self._n_steps)
        unimportant = ("device", "memory_budget_mb", "priority_z", "z_range")
        return {
            "model": self.model.sha256,
            "params": {k: v for k, v in to_dict(params).items() if k not in unimportant},
        }

    @property
    def settings(self) -> dict[str, Any]:
        """Model, sampler and training."""
        params, card = self.params, self.model.card
        return {
            "model": card.name,
            "model_sha256": self.model.sha256,
            "samples": params.n_samples,
            "sampler": params.sampler,
            "steps": self._n_steps,
            "eta": params.eta if params.sampler == "ddim" else "",
            "mirror": card.mirror_members if params.mirror is None else params.mirror,
            "vary_contrast": (
                card.vary_contrast if params.vary_contrast is None else params.vary_contrast
            ),
            "seed": params.seed,
            **describe_effort(self.model.network, self.model.provenance),
        }

    @property
    def trained_on(self) -> frozenset[str]:
        """Of the model's networks."""
        return find_training_patients(self.model.provenance)

    @property
    def _n_steps(self) -> int:
        return self.params.n_steps or self.model.card.recommended_steps

    def segment(
        self,
        case: Case,
        prepared: PreparedCase,
        z_range: ZRange | None,
        on_event: OnEvent | None = None,
    ) -> Ensemble:
        """Drain `napari_diffseg.core.segment`."""
        params = dataclasses.replace(self.params, z_range=z_range)
        return run_case(case, self.model, params, on_event=on_event, prepared=prepared).ensemble


@dataclass(frozen=True, eq=False)
class BaselineSegmenter:
    """A network that answers at once; its members, if any, come from dropout.

    Parameters
    ----------
    baseline
        The network.
    n_samples
        Members to draw; without dropout there is one.
    sample_dropout
        Whether dropout stays on; None: as the network's own settings say.
    """

    baseline: LoadedBaseline
    n_samples: int = 5
    seed: int = 0
    sample_dropout: bool | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.n_samples < 1:
            raise ParameterError(f"At least 1 sample is needed, not {self.n_samples}.")
        if self._sample_dropout and not self.baseline.config.dropout:
            raise ParameterError(
                f"{self.baseline.path} was trained without dropout: its members would be equal."
            )

    @property
    def _sample_dropout(self) -> bool:
        wanted = self.sample_dropout
        return self.baseline.config.sample_dropout if wanted is None else wanted

    @property
    def n_members(self) -> int:
        """How many different members there are."""
        return self.n_samples if self._sample_dropout else 1

    @property
    def system(self) -> str:
        """SegNet or U-Net, with or without members."""
        config = dataclasses.replace(self.baseline.config, sample_dropout=self._sample_dropout)
        return config.system

    @property
    def preprocessing(self) -> PreprocessingConfig:
        """The network's own."""
        return self.baseline.preprocessing

    @property
    def key(self) -> dict[str, Any]:
        """Network, members and seed."""
        return {"model": self.baseline.sha256, "members": self.n_members, "seed": self.seed}

    @property
    def settings(self) -> dict[str, Any]:
        """Network and training."""
        return {
            "model": self.baseline.name,
            "model_sha256": self.baseline.sha256,
            "samples": self.n_members,
            "sampler": "dropout" if self._sample_dropout else "none",
            "steps": 1,
            "seed": self.seed,
            **describe_effort(self.baseline.network, self.baseline.provenance),
        }

    @property
    def trained_on(self) -> frozenset[str]:
        """Of the network."""
        return find_training_patients(self.baseline.provenance)

    def segment(
        self,
        case: Case,
        prepared: PreparedCase,
        z_range: ZRange | None,
        on_event: OnEvent | None = None,  # noqa: ARG002 - an answer at once has no progress
    ) -> Ensemble:
        """Run the network on each slice that holds brain."""
        device = resolve_device(self.device)
        network = self.baseline.network.to(device)

        def draw(images: Tensor, source_slices: list[int]) -> Tensor:
            return draw_members(
                network,
                images.to(device),
                source_slices,
                n_members=self.n_members,
                seed=self.seed,
                sample_dropout=self._sample_dropout,
            )

        return collect_members(case, prepared, z_range, self.n_members, draw)


def collect_members(
    case: Case,
    prepared: PreparedCase,
    z_range: ZRange | None,
    n_members: int,
    draw: Callable[[Tensor, list[int]], Tensor],
) -> Ensemble:
    """Return the members that a network draws at once of each slice that holds brain.

    Parameters
    ----------
    draw
        From images (B, C, Y, X) and the slices' numbers in their files to probabilities
        (``n_members``, B, Y, X).
    """
    ensemble = Ensemble(n_members, case.geometry.shape)
    chosen = order_slices(prepared.z_indices, z_range, None)
    row_of = {int(z): row for row, z in enumerate(prepared.z_indices)}
    for start in range(0, len(chosen), _BATCH_SIZE):
        batch = chosen[start : start + _BATCH_SIZE]
        images = torch.from_numpy(prepared.prior_images([row_of[z] for z in batch]))
        members = draw(images, [case.geometry.to_source_slice(z) for z in batch])
        restored = prepared.window.restore(members.cpu().numpy())
        for member, slices in enumerate(restored):
            for z, probability in zip(batch, slices, strict=True):
                levels = encode_probability(probability)
                inside = np.where(prepared.brain[z], levels, np.uint8(0))
                ensemble.add(member, z, inside)
    return ensemble


def describe_effort(network: torch.nn.Module, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters, hours and images seen, with those of the model that a run began from."""
    effort = sum_effort(provenance)
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "training_hours": "" if effort is None else f"{effort.seconds / 3600:.2f}",
        "images_seen": "" if effort is None else effort.images,
    }
