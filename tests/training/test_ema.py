from __future__ import annotations

import pytest
import torch
from torch import nn

from training.ema import ExponentialMovingAverage


def make_network(value: float) -> nn.Linear:
    network = nn.Linear(1, 1, bias=False)
    set_weight(network, value)
    return network


def set_weight(network: nn.Linear, value: float) -> None:
    nn.init.constant_(network.weight, value)


def test_average_follows_the_formula() -> None:
    network = make_network(1.0)
    ema = ExponentialMovingAverage(network, 0.9, warmup=False)
    expected = 1.0
    for step, value in enumerate((2.0, 5.0, -3.0), start=1):
        set_weight(network, value)
        ema.update(network, step)
        expected = 0.9 * expected + 0.1 * value
    assert ema.weights["weight"].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("step", "decay"), [(1, 2 / 11), (8, 0.5), (1000, 0.9)])
def test_warmup_forgets_the_first_weights_soon(step: int, decay: float) -> None:
    network = make_network(0.0)
    ema = ExponentialMovingAverage(network, 0.9)
    set_weight(network, 1.0)
    ema.update(network, step)
    assert ema.weights["weight"].item() == pytest.approx(1.0 - decay, rel=1e-6)


def test_applied_weights_are_taken_back_even_after_an_error() -> None:
    network = make_network(1.0).train()
    ema = ExponentialMovingAverage(network, 0.5, warmup=False)
    set_weight(network, 3.0)
    ema.update(network, 1)

    def look() -> None:
        with ema.applied_to(network):
            assert network.weight.item() == 2.0
            assert not network.training
            raise InterruptedError

    with pytest.raises(InterruptedError):
        look()
    assert network.weight.item() == 3.0
    assert network.training
    assert ema.weights["weight"].item() == 2.0


def test_average_is_no_view_of_the_network() -> None:
    network = make_network(1.0)
    ema = ExponentialMovingAverage(network, 0.5)
    set_weight(network, 7.0)
    assert ema.weights["weight"].item() == 1.0
    other = make_network(0.0)
    ema.copy_to(other)
    ema.load({"weight": torch.tensor([[4.0]])})
    assert other.weight.item() == 1.0
    assert ema.weights["weight"].item() == 4.0
