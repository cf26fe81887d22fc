"""What a step minimises: the diffusion model's loss, and that of a network that answers at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from napari_diffseg.core.diffusion import (
    compute_hybrid_loss,
    compute_mask_loss,
    decode_output,
    encode_mask,
    q_sample,
)
from napari_diffseg.core.model import DiffusionModel, EncodedPrior
from training.baselines.networks import make_network
from training.config import TrainingConfig
from training.shares import BatchRandom

Autocast = Callable[..., AbstractContextManager[Any]]
"""Makes the context of reduced precision; takes ``cache_enabled``."""


class Objective(Protocol):
    """Makes the network of a run, and the terms of its loss."""

    def make_network(self) -> nn.Module:
        """Return a network with random weights, from torch's own generator."""

    def compute_terms(
        self,
        network: Any,
        images: Tensor,
        masks: Tensor,
        random: BatchRandom,
        autocast: Autocast,
    ) -> dict[str, Tensor]:
        """Return the terms, to be added, of images (B, C, Y, X) and masks (B, 1, Y, X).

        Each is a mean over the images, so that of a batch is the mean of its equal parts'.
        """


def make_objective(config: TrainingConfig) -> Objective:
    """Return what a configuration trains."""
    return DiffusionObjective(config) if config.baseline is None else MaskObjective(config)


class TrainingLoss(nn.Module):
    """Network and objective as one module, whose forward pass is all that a gradient comes from.

    This is what processes connect: the objective calls parts of the network several times.
    """

    def __init__(self, network: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.network, self._objective = network, objective

    def forward(
        self, images: Tensor, masks: Tensor, random: BatchRandom, autocast: Autocast
    ) -> dict[str, Tensor]:
        """Return the objective's terms."""
        return self._objective.compute_terms(self.network, images, masks, random, autocast)


class MaskObjective:
    """Cross-entropy and Dice, as the fast model's prior encoder has them."""

    def __init__(self, config: TrainingConfig) -> None:
        self._config = config

    def make_network(self) -> nn.Module:
        """Return the network of ``[baseline]``."""
        assert self._config.baseline is not None
        return make_network(self._config.baseline, self._config.preprocessing.n_prior_channels)

    def compute_terms(
        self,
        network: nn.Module,
        images: Tensor,
        masks: Tensor,
        random: BatchRandom,
        autocast: Autocast,
    ) -> dict[str, Tensor]:
        """Return one term, ``mask``."""
        images = images.contiguous(memory_format=torch.channels_last)
        with _seeded(random.seed(), images.device), autocast():
            logits = network(images)
        return {"mask": compute_mask_loss(logits, masks, self._config.loss.dice_weight).mean()}


class DiffusionObjective:
    """Noise is added to the masks at random timesteps; the network is to remove it."""

    def __init__(self, config: TrainingConfig) -> None:
        self._config = config
        self._schedule = config.diffusion.make_schedule()

    def make_network(self) -> DiffusionModel:
        """Return the networks of ``[model]``."""
        return DiffusionModel(self._config.model, self._config.diffusion)

    def compute_terms(
        self,
        network: DiffusionModel,
        images: Tensor,
        masks: Tensor,
        random: BatchRandom,
        autocast: Autocast,
    ) -> dict[str, Tensor]:
        """Return ``mse`` and ``vlb``, or ``mask`` and ``prior``."""
        config, schedule, device = self._config, self._schedule, images.device
        draws = config.loss.n_draws
        which = torch.arange(len(images)).repeat(draws)
        random = random.in_groups(draws)
        row = self._draw_rows(len(which), random)
        noise = random.normal(len(which), *masks.shape[1:]).to(device)
        targets = masks[which]
        x_0 = encode_mask(targets, config.diffusion)
        x_t = q_sample(x_0, row, noise, schedule)
        t = torch.from_numpy(schedule.timesteps)[row].to(device)
        images = images.contiguous(memory_format=torch.channels_last)
        with _seeded(random.seed(), device), autocast():
            prior = network.encode_prior(images)
            given = prior[which.to(device)]
            if given.second is not None:
                given = given.with_second((random.uniform(len(which)) < 0.5).to(device))
            x_t = self._with_own_estimates(network, x_0, x_t, row, noise, given, random, autocast)
            output = network(x_t, t, given)
        if config.diffusion.prediction == "epsilon":
            if config.diffusion.variance == "learned_range":
                mse, vlb = compute_hybrid_loss(output, x_0, x_t, row, noise, schedule)
                return {"mse": mse.mean(), "vlb": vlb.mean()}
            return {"mse": (noise - output.float()).square().mean()}
        weight = config.loss.dice_weight
        terms = {"mask": compute_mask_loss(output, targets, weight).mean()}
        if network.prior_encoder is not None and config.loss.prior_weight > 0:
            answers = [prior.image] if prior.second is None else [prior.image, prior.second]
            own = [compute_mask_loss(logits, masks, weight).mean() for logits in answers]
            terms["prior"] = config.loss.prior_weight * torch.stack(own).mean()
        return terms

    @torch.no_grad()
    def _with_own_estimates(
        self,
        network: DiffusionModel,
        x_0: Tensor,
        x_t: Tensor,
        row: Tensor,
        noise: Tensor,
        prior: EncodedPrior,
        random: BatchRandom,
        autocast: Autocast,
    ) -> Tensor:
        """Noise the network's own estimate of x_0 instead of the truth, for some of the draws.

        When sampling, the network is fed its own earlier estimates. Trained on noised truth alone
        it trusts them too much, and errors grow with the number of steps (self-aligned denoising,
        Ji et al. 2023, 2303.17559).
        """
        fraction = self._config.loss.own_estimates
        if fraction == 0.0:
            return x_t
        schedule, diffusion = self._schedule, self._config.diffusion
        own = random.uniform(len(row)) < fraction
        share = random.uniform(len(row))
        earlier_noise = random.normal(*noise.shape).to(noise.device)
        if not bool(own.any()):
            return x_t
        # A state that sampling visits before this one: anywhere from here to pure noise.
        earlier = (row + share * (len(schedule) - row)).long().clamp(max=len(schedule) - 1)[own]
        here = own.to(noise.device)
        state = q_sample(x_0[here], earlier, earlier_noise[here], schedule)
        t = torch.from_numpy(schedule.timesteps)[earlier].to(noise.device)
        # Weights that are cast here carry no gradient: they must not stay in autocast's cache.
        with autocast(cache_enabled=False):
            output = network(state, t, prior[here])
        estimate = decode_output(output, state, earlier, schedule, diffusion).x_0_hat
        out = x_t.clone()
        out[here] = q_sample(estimate, row[own], noise[here], schedule)
        return out

    def _draw_rows(self, n: int, random: BatchRandom) -> Tensor:
        total = len(self._schedule)
        u = random.uniform(n, dtype=torch.float64)
        if self._config.loss.t_density == "linear":
            u = u.sqrt()
        return (u * total).long().clamp(max=total - 1)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Dropout takes torch's own generator; so it is a function of (run seed, step) as well."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
