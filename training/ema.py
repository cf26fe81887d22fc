"""Exponential moving average of a network's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class ExponentialMovingAverage:
    """Averages the weights of a network; the average is what is validated and shipped.

    Parameters
    ----------
    network
        Its weights are where the average starts.
    decay
        Share of the old average that an update keeps.
    warmup
        Whether the decay is ``min(decay, (1 + step) / (10 + step))``, so that the random first
        weights are forgotten soon.
    """

    def __init__(self, network: nn.Module, decay: float, *, warmup: bool = True) -> None:
        self.decay = decay
        self.warmup = warmup
        self.weights = {
            name: p.detach().clone().float() for name, p in network.state_dict().items()
        }

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move the average towards the network after optimiser step ``step`` (from 1)."""
        decay = min(self.decay, (1.0 + step) / (10.0 + step)) if self.warmup else self.decay
        averages = list(self.weights.values())
        current = [p.detach().float() for p in network.state_dict().values()]
        torch._foreach_lerp_(averages, current, 1.0 - decay)

    def copy_to(self, network: nn.Module) -> None:
        """Overwrite the network's weights with the average."""
        network.load_state_dict(self.weights)

    @contextmanager
    def applied_to(self, network: nn.Module) -> Iterator[None]:
        """Give the network the averaged weights, in evaluation mode, and then its own again."""
        own = {name: value.detach().clone() for name, value in network.state_dict().items()}
        was_training = network.training
        try:
            self.copy_to(network)
            network.eval()
            yield
        finally:
            network.load_state_dict(own)
            network.train(was_training)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Continue from saved averages."""
        for name, average in self.weights.items():
            average.copy_(weights[name])
