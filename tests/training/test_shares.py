from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.training.tiny import TRAINING, TinyData, tiny_config
from training.baseline_config import BaselineConfig
from training.config import TrainingConfig
from training.data import BatchPlan, SliceCache, load_batch
from training.objectives import TrainingLoss, make_objective
from training.shares import BatchRandom, Share

WHOLE = Share()
COUNT = 2
SHARES = [Share(index, COUNT) for index in range(COUNT)]


def numbers(share: Share = WHOLE, groups: int = 1) -> BatchRandom:
    return BatchRandom(torch.Generator().manual_seed(7), share, groups)


def test_shares_of_grouped_rows_by_hand() -> None:
    rows = np.arange(12)
    assert WHOLE.of(rows) is rows
    assert Share(0, 3).of(rows).tolist() == [0, 1, 2, 3]
    assert Share(2, 3).of(rows).tolist() == [8, 9, 10, 11]
    # Two halves go through the network one after the other: a third of each.
    assert Share(0, 3).of(rows, groups=2).tolist() == [0, 1, 6, 7]
    assert Share(2, 3).of(rows, groups=2).tolist() == [4, 5, 10, 11]


def test_shares_draw_the_numbers_of_the_whole() -> None:
    def draw(random: BatchRandom, n: int) -> list[Tensor]:
        in_threes = random.in_groups(3)
        return [random.uniform(n, 2), in_threes.normal(n), random.uniform(n, dtype=torch.float64)]

    whole = draw(numbers(groups=2), 12)
    for share in SHARES:
        own = draw(numbers(share, groups=2), 6)
        for drawn, all_of_them, groups in zip(own, whole, (2, 3, 2), strict=True):
            assert torch.equal(drawn, share.of(all_of_them, groups))


def test_shares_have_seeds_of_their_own() -> None:
    assert len({numbers(share).seed() for share in SHARES}) == COUNT
    assert numbers(SHARES[0]).seed() == numbers().seed()


def load(data: TinyData, config: TrainingConfig, share: Share) -> tuple[Tensor, Tensor]:
    context = dict.fromkeys(TRAINING, config.preprocessing.context_slices)
    cache = SliceCache(data.cache, TRAINING, config.data, context)
    plan = BatchPlan(cache.has_tumour, config.run.batch_size, config.data, seed=0)
    return load_batch(cache, plan, 3, config.augmentation, numbers(share, config.run.accumulate))


def test_shares_of_an_augmented_batch_are_the_batch(tiny_data: TinyData) -> None:
    config = tiny_config("run.accumulate=2", "run.batch_size=8", "augmentation.blur=0.5")
    whole = load(tiny_data, config, WHOLE)
    for share in SHARES:
        for own, everything in zip(load(tiny_data, config, share), whole, strict=True):
            torch.testing.assert_close(own, share.of(everything, groups=2))


@pytest.mark.parametrize("kind", ["fast", "own estimates", "paper", "baseline"])
def test_mean_of_the_shares_is_loss_and_gradient_of_the_batch(
    tiny_data: TinyData, tmp_path: Path, kind: str
) -> None:
    config = tiny_config("loss.own_estimates=0.5" if kind == "own estimates" else "loss.n_draws=3")
    if kind == "baseline":
        unet = config.model.prior_encoder
        assert unet is not None
        config = replace(config, baseline=BaselineConfig(unet=unet))
    elif kind == "paper":
        unet = replace(
            config.model.denoiser, in_channels=13, out_channels=2, context_channels=0, patch_size=1
        )
        model = replace(config.model, denoiser=unet, prior_encoder=None)
        diffusion = replace(config.diffusion, prediction="epsilon", variance="learned_range")
        config = replace(config, model=model, diffusion=diffusion)
    torch.manual_seed(0)
    objective = make_objective(config)
    loss = TrainingLoss(objective.make_network(), objective)
    for weight in loss.parameters():  # layers that start at 0 would hide what is behind them
        torch.nn.init.normal_(weight, std=0.1)

    def compute(share: Share) -> tuple[dict[str, Tensor], list[Tensor]]:
        terms = loss(*load(tiny_data, config, share), numbers(share), lambda **_: nullcontext())
        total = torch.stack(list(terms.values())).sum()
        return terms, list(torch.autograd.grad(total, list(loss.parameters())))

    (terms, gradients), (one, ones), (two, twos) = (compute(s) for s in (WHOLE, *SHARES))
    for name, value in terms.items():
        torch.testing.assert_close((one[name] + two[name]) / 2, value, rtol=1e-4, atol=1e-6)
    for whole, first, second in zip(gradients, ones, twos, strict=True):
        torch.testing.assert_close((first + second) / 2, whole, rtol=1e-3, atol=1e-5)
