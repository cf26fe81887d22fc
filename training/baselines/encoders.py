"""A diffusion model without its diffusion: what its encoders answer before any denoising."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from napari_diffseg.core.brats import Case
from napari_diffseg.core.checkpoint import LoadedModel
from napari_diffseg.core.ensemble import Ensemble
from napari_diffseg.core.errors import ParameterError
from napari_diffseg.core.model import DiffusionModel
from napari_diffseg.core.preprocessing import PreparedCase, PreprocessingConfig
from napari_diffseg.core.segment import resolve_device
from training.baselines.segmenter import OnEvent, ZRange, collect_members, describe_effort
from training.known_patients import find_training_patients


@dataclass(frozen=True, eq=False)
class EncoderSegmenter:
    """The answers that members of a diffusion model begin from, one member for each encoder.

    It is the ablation that tells what the denoiser adds to them.

    Raises
    ------
    ParameterError
        The model has no encoder, as the paper's.
    """

    model: LoadedModel
    device: str = "auto"

    def __post_init__(self) -> None:
        if not self.model.network.config.encoders:
            raise ParameterError(
                f"{self.model.card.name} has no encoder that answers by itself: without diffusion "
                "nothing is left to evaluate."
            )

    @property
    def n_members(self) -> int:
        """How many encoders there are."""
        return len(self.model.network.config.encoders)

    @property
    def system(self) -> str:
        """``encoders``."""
        return "encoders"

    @property
    def preprocessing(self) -> PreprocessingConfig:
        """The model's own."""
        return self.model.preprocessing

    @property
    def key(self) -> dict[str, Any]:
        """The model, and that it is its encoders alone."""
        return {"model": self.model.sha256, "members": "encoders"}

    @property
    def settings(self) -> dict[str, Any]:
        """Model and training; the parameters are those of the encoders."""
        network = self.model.network
        effort = describe_effort(network, self.model.provenance)
        denoiser = sum(p.numel() for p in network.denoiser.parameters())
        return {
            "model": self.model.card.name,
            "model_sha256": self.model.sha256,
            "samples": self.n_members,
            "sampler": "none",
            "steps": 1,
            "seed": "-",
            **effort,
            "parameters": effort["parameters"] - denoiser,
        }

    @property
    def trained_on(self) -> frozenset[str]:
        """Of the model's networks."""
        return find_training_patients(self.model.provenance)

    def segment(
        self,
        case: Case,
        prepared: PreparedCase,
        z_range: ZRange | None,
        on_event: OnEvent | None = None,  # noqa: ARG002 - an answer at once has no progress
    ) -> Ensemble:
        """Run the encoders on each slice that holds brain."""
        device = resolve_device(self.device)
        network = self.model.network.to(device)

        def draw(images: Tensor, _: list[int]) -> Tensor:
            return _answer(network, images.to(device))

        return collect_members(case, prepared, z_range, self.n_members, draw)


@torch.inference_mode()
def _answer(network: DiffusionModel, images: Tensor) -> Tensor:
    """Return the encoders' tumour probabilities (S, B, Y, X) of images (B, C, Y, X)."""
    prior = network.encode_prior(images.contiguous(memory_format=torch.channels_last))
    logits = [prior.image] if prior.second is None else [prior.image, prior.second]
    return torch.sigmoid(torch.stack(logits).float())[:, :, 0]
