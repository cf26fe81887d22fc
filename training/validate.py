"""Validation by what the model is for: an ensemble is sampled, and compared with the truth.

The loss does not tell when to stop: it falls on while samples get worse, and the reverse. So the
averaged weights draw a few members on a fixed choice of the validation patients' slices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_diffseg.core.diffusion import decode_probability
from napari_diffseg.core.errors import CaseError
from napari_diffseg.core.metrics import compute_dice
from napari_diffseg.core.model import DiffusionModel, EncodedPrior, begins_from_second
from napari_diffseg.core.sampling import SamplerStep, iter_sample
from napari_diffseg.core.schedule import NoiseSchedule
from napari_diffseg.core.segment import make_generator
from napari_diffseg.core.uncertainty import compute_mean_pairwise_dice
from napari_diffseg.core.views import N_MODALITIES
from training.baselines.networks import draw_members
from training.config import DataConfig, RunConfig
from training.data import SliceCache
from training.processes import ONE_PROCESS, Processes

PAPER_SLICES = (80, 129)
"""Axial slices (first, one past the last) that the paper evaluates."""
_N_PREVIEWED = 8

Array = NDArray[np.float32]
_Scores = tuple[float, float, float | None, float | None]
_T = TypeVar("_T")


@dataclass(frozen=True)
class ValidationResult:
    """Means over the slices; ``None`` where there is nothing to measure.

    Attributes
    ----------
    dice_single
        Of one run: the mean over all members.
    dice_ensemble
        Of the thresholded mean of the members' probabilities.
    dice_prior
        Of the prior encoder's own logits, before any diffusion.
    agreement
        Mean Dice between members; 1 means that they are all the same.
    """

    dice_single: float
    dice_ensemble: float
    dice_prior: float | None
    agreement: float | None
    n_slices: int

    def as_row(self, step: int) -> dict[str, float | None]:
        """Return a row for the log."""
        return {"step": step, **asdict(self)}


@dataclass(frozen=True, eq=False)
class Samples:
    """What a model drew on some slices.

    Attributes
    ----------
    members : (S, B, Y, X)
        Tumour probabilities.
    prior : (B, Y, X) or None
        The prior encoder's own probability.
    """

    members: Array
    prior: Array | None


class Validator:
    """A fixed choice of slices, and how they are sampled.

    Parameters
    ----------
    folder
        Slice cache.
    context
        The cases for validation, with the steps in z to the neighbours of a slice.
    run
        Number of slices, members and steps; batch size; seed.
    sample_dropout
        Whether the members of a network without diffusion differ by dropout that stays on.

    Raises
    ------
    CaseError
        If no slice has tumour.
    """

    def __init__(
        self,
        folder: Path,
        context: Mapping[str, tuple[int, ...]],
        run: RunConfig,
        *,
        sample_dropout: bool = False,
    ) -> None:
        self._run, self._sample_dropout = run, sample_dropout
        self.cache, self.indices = choose_slices(folder, context, run.validation_slices, run.seed)

    def __len__(self) -> int:
        return len(self.indices)

    def validate(
        self,
        network: nn.Module,
        device: torch.device,
        should_stop: Callable[[], bool] = lambda: False,
        processes: Processes = ONE_PROCESS,
    ) -> tuple[ValidationResult, tuple[Array, NDArray[np.bool_], Array]] | None:
        """Sample all slices with the network as it is (in evaluation mode).

        Several processes share the batches, and all have the whole result.

        Returns
        -------
        tuple or None
            The result, and (images, truth, members) of a few slices for a picture; None if
            ``should_stop`` (asked after each batch) said so.
        """
        run = self._run
        shown = set(np.linspace(0, len(self) - 1, min(_N_PREVIEWED, len(self))).astype(int))
        scores: dict[int, _Scores] = {}
        kept: dict[int, tuple[Array, NDArray[np.bool_], Array]] = {}
        stopped = False
        size = max(1, run.batch_size // (processes.count * run.accumulate))
        starts = range(0, len(self), size)
        for start in starts[processes.share.index :: processes.count]:
            indices = self.indices[start : start + size]
            images, masks = self.cache.load(indices)
            samples = self._sample(network, images.to(device), self.cache.source_slice[indices])
            truth = masks[:, 0].numpy() > 0.5
            for i in range(len(indices)):
                prior = None if samples.prior is None else samples.prior[i]
                scores[start + i] = _score(samples.members[:, i], prior, truth[i])
                if start + i in shown:
                    kept[start + i] = images[i].numpy(), truth[i], samples.members[:, i]
            stopped = should_stop()
            if stopped:
                break
        if processes.any(stopped):
            return None
        scores, kept = _merge(processes.gather(scores)), _merge(processes.gather(kept))
        single, ensemble, priors, agreements = zip(*scores.values(), strict=True)
        result = ValidationResult(
            float(np.mean(single)),
            float(np.mean(ensemble)),
            _mean(priors),
            _mean(agreements),
            len(scores),
        )
        shown_images, shown_truth, shown_members = zip(*kept.values(), strict=True)
        picture = np.stack(shown_images), np.stack(shown_truth), np.stack(shown_members, axis=1)
        return result, picture

    def _sample(
        self, network: nn.Module, images: Tensor, source_slices: NDArray[np.int64]
    ) -> Samples:
        run = self._run
        if isinstance(network, DiffusionModel):
            return sample_slices(
                network,
                images,
                source_slices,
                n_samples=run.validation_samples,
                n_steps=run.validation_steps,
                seed=run.seed,
            )
        members = draw_members(
            network,
            images,
            [int(number) for number in source_slices],
            n_members=run.validation_samples,
            seed=run.seed,
            sample_dropout=self._sample_dropout,
        )
        return Samples(members.cpu().numpy() * _find_brain(images), None)


def choose_slices(
    folder: Path, context: Mapping[str, tuple[int, ...]], n_slices: int, seed: int
) -> tuple[SliceCache, NDArray[np.int64]]:
    """Return a cache, and which of its slices with tumour are used: the paper's, if it has them."""
    for source_slices in (PAPER_SLICES, None):
        try:
            cache = SliceCache(folder, [*context], DataConfig(0.0, 0.0, source_slices), context)
        except CaseError:
            if source_slices is None:
                raise
            continue
        tumour = np.flatnonzero(cache.has_tumour)
        if len(tumour):
            chosen = np.random.default_rng(seed).permutation(tumour)[:n_slices]
            return cache, np.sort(chosen)
    raise CaseError(f"{folder}: no slice of the validation cases has tumour. Change the split.")


@torch.inference_mode()
def sample_slices(
    network: DiffusionModel,
    images: Tensor,
    source_slices: NDArray[np.int64],
    *,
    n_samples: int,
    n_steps: int,
    seed: int,
) -> Samples:
    """Draw members of slices (B, 4 S, Y, X) with the ancestral sampler.

    Noise is that of :mod:`napari_diffseg.core.segment`: of (seed, member, source slice).
    """
    schedule = network.diffusion.make_schedule().respaced(n_steps)
    prior = network.encode_prior(images.contiguous(memory_format=torch.channels_last))

    def choose_prior(member: int) -> EncodedPrior:
        chosen = torch.full((len(images),), begins_from_second(member), device=images.device)
        return prior.with_second(chosen)

    members = [
        _sample_member(network, choose_prior(member), source_slices, schedule, seed, member)
        for member in range(n_samples)
    ]
    brain = _find_brain(images)
    own = None
    if network.prior_encoder is not None:
        own = torch.sigmoid(prior.image.float())[:, 0].cpu().numpy() * brain
    return Samples(np.stack(members) * brain, own)


def _find_brain(images: Tensor) -> NDArray[np.bool_]:
    """Return where there is brain: as in `segment`, there is no tumour outside of it."""
    brain: NDArray[np.bool_] = (images[:, :N_MODALITIES] > 0).any(1).cpu().numpy()
    return brain


def _sample_member(
    network: DiffusionModel,
    prior: EncodedPrior,
    source_slices: NDArray[np.int64],
    schedule: NoiseSchedule,
    seed: int,
    member: int,
) -> Array:
    generators = [make_generator(seed, member, int(number)) for number in source_slices]
    shape = (1, *prior.image.shape[-2:])

    def draw_noise(like: Tensor) -> Tensor:
        noise = torch.stack([torch.randn(shape, generator=g) for g in generators])
        return noise.to(like.device)

    last: SamplerStep
    *_, last = iter_sample(
        "ddpm", network.bind(prior), schedule, draw_noise(prior.image), draw_noise
    )
    probability = decode_probability(last.x_t, network.diffusion)[:, 0]
    return np.asarray(probability.cpu().numpy(), np.float32)


def _score(members: Array, prior: Array | None, truth: NDArray[np.bool_]) -> _Scores:
    masks = members > 0.5
    return (
        float(np.mean([compute_dice(mask, truth) for mask in masks])),
        compute_dice(members.mean(axis=0) > 0.5, truth),
        None if prior is None else compute_dice(prior > 0.5, truth),
        compute_mean_pairwise_dice(masks),
    )


def _merge(parts: Sequence[Mapping[int, _T]]) -> dict[int, _T]:
    """Return what the processes have of the slices, in the order of the slices."""
    return dict(sorted(item for part in parts for item in part.items()))


def _mean(values: tuple[float | None, ...]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
