"""Exponential moving average of a network's weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ExponentialMovingAverage:
    """Averages the parameters of a network; the average is what is validated and shipped.

    The decay is warmed up, ``min(decay, (1 + step) / (10 + step))``, so that the random first
    weights are forgotten soon.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {
            name: p.detach().clone().float() for name, p in network.state_dict().items()
        }

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move the average towards the network after optimiser step ``step`` (from 1)."""
        decay = min(self.decay, (1.0 + step) / (10.0 + step))
        averages = list(self.weights.values())
        current = [p.detach().float() for p in network.state_dict().values()]
        torch._foreach_lerp_(averages, current, 1.0 - decay)

    def copy_to(self, network: nn.Module) -> None:
        """Overwrite the network's weights with the average."""
        network.load_state_dict(self.weights)

    def load(self, weights: dict[str, Tensor]) -> None:
        """Continue from saved averages."""
        for name, average in self.weights.items():
            average.copy_(weights[name])
