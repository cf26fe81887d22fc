"""The published recipe at its published size: one real step, on slices small enough for a CPU."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import reference
from tests.training.tiny import TinyData
from training.config import TrainingConfig, find_config, format_config, load_config
from training.data import BatchPlan
from training.loop import StepResult, Trainer
from training.prepare import main as prepare
from training.processes import ONE_PROCESS
from training.run_setup import Setup, make_trainer, prepare_run
from training.train import make_parser

PUBLISHED_PARAMETERS = 113_674_370
LEARNING_RATE, EMA_DECAY = 1e-4, 0.9999
# The recipe is the shipped one; what is changed is the size of the slices, not of the network.
SMALL_SLICES = ("preprocessing.window=[64, 64]", "data.source_slices=[0, 12]")
ONE_AFTER_THE_OTHER = ("run.batch_size=2", "run.accumulate=2")
WATCHED = ("stem.weight", "middle_attention.projection.weight", "head.weight", "head.bias")


@pytest.fixture(scope="module")
def options(tiny_data: TinyData, tmp_path_factory: pytest.TempPathFactory) -> argparse.Namespace:
    """Give the command line of a run of ``paper.toml`` on a cache of its own."""
    root = tmp_path_factory.mktemp("paper")
    config = load_config(find_config("paper"), SMALL_SLICES)
    (root / "paper.toml").write_text(format_config(config), encoding="utf-8")
    places = [tiny_data.cases, root / "cache", "--workers", "1", "--config", root / "paper.toml"]
    assert prepare([str(place) for place in places]) == 0
    places = ["--data", root / "cache", "--split", tiny_data.split, "--run", root / "run"]
    settings = (*SMALL_SLICES, *ONE_AFTER_THE_OTHER, "run.validate_every=0")
    arguments = ["paper", *map(str, places), *(p for s in settings for p in ("--set", s))]
    return make_parser().parse_args([*arguments, "--device", "cpu"])


class Recorder:
    """Keeps what the network was given and what it answered, part by part of the batch."""

    def __init__(self, trainer: Trainer) -> None:
        self.calls: list[dict[str, Any]] = []
        trainer.network.register_forward_hook(self._keep)

    def _keep(self, _: object, given: tuple[Any, ...], output: torch.Tensor) -> None:
        x_t, t, prior = given
        self.calls.append({"x_t": x_t, "t": t, "image": prior.image, "output": output.detach()})


@pytest.fixture(scope="module")
def step(
    options: argparse.Namespace,
) -> tuple[Setup, Trainer, Recorder, StepResult, dict[str, torch.Tensor]]:
    """Take the first step; the head, which begins with zeros, is given something to say."""
    setup = prepare_run(options, ONE_PROCESS, torch.device("cpu"))
    trainer = make_trainer(setup)
    head = trainer.network.denoiser.head
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        head.weight.copy_(0.02 * torch.randn(head.weight.shape, generator=generator))
    trainer.ema.load(trainer.network.state_dict())
    weights = dict(trainer.network.denoiser.named_parameters())
    before = {name: weights[name].detach().clone() for name in WATCHED}
    recorder = Recorder(trainer)
    return setup, trainer, recorder, trainer.run_step(), before


def test_the_network_has_the_published_size(step) -> None:
    _, trainer, *_ = step
    assert sum(p.numel() for p in trainer.network.parameters()) == PUBLISHED_PARAMETERS


def test_the_loss_of_a_real_step_is_the_published_one(step) -> None:
    setup, _, recorder, result, _ = step
    config: TrainingConfig = setup.config
    plan = BatchPlan(setup.cache.has_tumour, 2, config.data, config.run.seed)
    images, masks = setup.cache.load(plan.indices(0))
    assert len(recorder.calls) == 2
    losses = []
    for call, image, mask in zip(recorder.calls, images, masks, strict=True):
        torch.testing.assert_close(call["image"][0], image, rtol=0, atol=0)
        t = int(call["t"])
        assert t > 0  # the seed draws no likelihood term, which has a test of its own
        alpha_bar = reference.cumulate(reference.linear_betas())[t]
        noise = (call["x_t"][0] - math.sqrt(alpha_bar) * mask) / math.sqrt(1 - alpha_bar)
        assert float(noise.mean()) == pytest.approx(0.0, abs=0.06)
        assert float(noise.std()) == pytest.approx(1.0, abs=0.05)
        losses.append(reference.hybrid_loss(call["output"][0], mask, call["x_t"][0], t))
    mse, vlb = np.mean(losses, axis=0)
    assert mse > 1.0  # a head that answers makes more than the error of a silent one
    assert result.terms["mse"] == pytest.approx(mse, rel=1e-5)
    assert result.terms["vlb"] == pytest.approx(vlb, rel=1e-4)
    assert result.loss == pytest.approx(mse + vlb, rel=1e-5)


def test_the_step_is_adams_first_and_the_average_follows_it(step) -> None:
    _, trainer, _, result, before = step
    assert result.learning_rate == LEARNING_RATE
    weights = dict(trainer.network.denoiser.named_parameters())
    for name in WATCHED:
        old, new = before[name], weights[name].detach()
        gradient = weights[name].grad
        assert gradient is not None
        # The first step of Adam: the rate times the gradient's sign, no decay, no clipping.
        expected = old - LEARNING_RATE * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(new, expected, rtol=0, atol=1e-8)
        assert bool((new != old).float().mean() > 0.99)
        average = trainer.ema.weights[f"denoiser.{name}"]
        torch.testing.assert_close(average - old, (1 - EMA_DECAY) * (new - old), rtol=0, atol=1e-8)


def test_nothing_is_written_before_the_run_begins(step, options: argparse.Namespace) -> None:
    assert not Path(options.run).exists()
