"""Every formula against the float64 oracle, on a grid of values and rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from napari_diffseg.core import diffusion
from napari_diffseg.core.diffusion import Denoised, DiffusionConfig
from napari_diffseg.core.errors import ParameterError
from napari_diffseg.core.schedule import make_schedule
from tests import reference

SCHEDULE = make_schedule("linear", 1000)
ALPHA_BAR = reference.cumulate(reference.linear_betas())
ROWS = [1, 2, 250, 998, 999]


def image(*values: float) -> torch.Tensor:
    """One sample per value, of one voxel."""
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1, 1)


def rows(*values: int) -> torch.Tensor:
    return torch.tensor(values)


def test_gather_takes_each_samples_own_row_in_the_type_of_the_images():
    table = np.array([10.0, 20.0, 30.0])
    like = torch.zeros(2, 1, 4, 4, dtype=torch.float32)
    gathered = diffusion.gather(table, rows(2, 0), like)
    assert gathered.dtype == torch.float32
    torch.testing.assert_close(gathered, torch.tensor([30.0, 10.0]).view(2, 1, 1, 1))


@pytest.mark.parametrize("row", [0, *ROWS])
def test_noising_and_its_two_inverses(row):
    x_0, noise = image(0.25, -1.0, 1.0), image(-0.5, 2.0, 0.0)
    row_of_each = rows(row, row, row)
    x_t = diffusion.q_sample(x_0, row_of_each, noise, SCHEDULE)
    expected = math.sqrt(ALPHA_BAR[row]) * x_0 + math.sqrt(1 - ALPHA_BAR[row]) * noise
    torch.testing.assert_close(x_t, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(diffusion.predict_x_0(x_t, row_of_each, noise, SCHEDULE), x_0)
    torch.testing.assert_close(diffusion.predict_epsilon(x_t, row_of_each, x_0, SCHEDULE), noise)


def test_samples_of_a_batch_are_noised_at_their_own_rows():
    x_t = diffusion.q_sample(image(1.0, 1.0), rows(0, 999), image(0.0, 0.0), SCHEDULE)
    expected = image(math.sqrt(ALPHA_BAR[0]), math.sqrt(ALPHA_BAR[999]))
    torch.testing.assert_close(x_t, expected)


@pytest.mark.parametrize("row", ROWS)
def test_posterior_is_bayes_rule(row):
    mean, variance = reference.posterior(0.6, -1.3, ALPHA_BAR[row], ALPHA_BAR[row - 1])
    x_0, x_t = image(0.6), image(-1.3)
    ours = diffusion.predict_posterior_mean(x_0, x_t, rows(row), SCHEDULE)
    assert float(ours) == pytest.approx(mean, rel=1e-9)
    log_variance = diffusion.predict_log_variance(Denoised(x_0), x_t, rows(row), SCHEDULE)
    assert math.exp(float(log_variance)) == pytest.approx(variance, rel=1e-9)


def test_posterior_at_the_first_row_is_x_0():
    mean = diffusion.predict_posterior_mean(image(0.6), image(-1.3), rows(0), SCHEDULE)
    assert float(mean) == 0.6


@pytest.mark.parametrize("row", ROWS)
def test_learned_variance_lies_between_beta_tilde_and_beta_in_log_space(row):
    _, small = reference.posterior(0.0, 0.0, ALPHA_BAR[row], ALPHA_BAR[row - 1])
    large = reference.linear_betas()[row]
    fraction = image(0.0, 0.5, 1.0)
    x_t = image(0.0, 0.0, 0.0)
    log_variance = diffusion.predict_log_variance(
        Denoised(x_t, fraction), x_t, rows(row, row, row), SCHEDULE
    )
    expected = image(small, math.sqrt(small * large), large).log()
    torch.testing.assert_close(log_variance, expected, rtol=1e-9, atol=1e-9)


def test_epsilon_output_is_decoded_and_clamped():
    config = DiffusionConfig()
    x_0, noise, row = image(0.4, 5.0), image(0.3, -0.2), rows(400, 400)
    x_t = diffusion.q_sample(x_0, row, noise, SCHEDULE).float()
    output = torch.cat([noise, image(-1.0, 1.0)], dim=1).float()
    denoised = diffusion.decode_output(output, x_t, row, SCHEDULE, config)
    torch.testing.assert_close(denoised.x_0_hat, image(0.4, 1.0).float(), atol=1e-5, rtol=0)
    torch.testing.assert_close(denoised.variance_fraction, image(0.0, 1.0).float())


def test_logits_are_decoded_to_signal_units_and_to_probabilities():
    config = DiffusionConfig(
        schedule="cosine", prediction="x_0", variance="fixed_small", signal=(-0.2, 0.2)
    )
    logits = image(-50.0, 0.0, math.log(3.0)).float()
    denoised = diffusion.decode_output(logits, logits, rows(5, 5, 5), SCHEDULE, config)
    assert denoised.variance_fraction is None
    torch.testing.assert_close(denoised.x_0_hat, image(-0.2, 0.0, 0.1).float())
    torch.testing.assert_close(
        diffusion.decode_probability(denoised.x_0_hat, config), image(0.0, 0.5, 0.75).float()
    )


@pytest.mark.parametrize("signal", [(0.0, 1.0), (-0.2, 0.2), (-1.0, 1.0)])
def test_a_mask_survives_coding_and_overshoot_is_clamped(signal):
    config = DiffusionConfig(signal=signal)
    mask = image(0.0, 1.0)
    x_0 = diffusion.encode_mask(mask, config)
    assert x_0.flatten().tolist() == pytest.approx(signal)
    torch.testing.assert_close(diffusion.decode_probability(x_0, config), mask)
    beyond = diffusion.decode_probability(x_0 + image(-0.3, 0.3), config)
    torch.testing.assert_close(beyond, mask)


# --- losses --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mean_1", "variance_1", "mean_2", "variance_2"),
    [(0.0, 1.0, 0.0, 1.0), (0.3, 0.2, -0.1, 0.5), (-1.0, 2.0, 1.0, 0.7)],
)
def test_divergence_of_gaussians(mean_1, variance_1, mean_2, variance_2):
    ours = diffusion.compute_gaussian_kl(
        image(mean_1), image(math.log(variance_1)), image(mean_2), image(math.log(variance_2))
    )
    expected = reference.gaussian_kl(mean_1, variance_1, mean_2, variance_2)
    assert float(ours) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("x", "mean", "std"), [(0.0, 0.01, 0.02), (0.5, 0.2, 0.4)])
def test_likelihood_of_a_bin_is_the_normal_distributions(x, mean, std):
    upper = reference.normal_cdf((x + 1 / 255 - mean) / std)
    lower = reference.normal_cdf((x - 1 / 255 - mean) / std)
    ours = diffusion.compute_discretised_log_likelihood(image(x), image(mean), image(math.log(std)))
    # The published code approximates the distribution function, to a few parts in a thousand.
    assert float(ours) == pytest.approx(math.log(upper - lower), abs=0.01)


def test_outermost_bins_are_open():
    log_scale = image(math.log(0.05), math.log(0.05))
    ours = diffusion.compute_discretised_log_likelihood(
        image(-1.0, 1.0), image(-1.2, 1.2), log_scale
    )
    assert (ours > -1e-3).all()
    assert (ours <= 0.0).all()


def test_bound_is_the_divergence_of_the_posteriors_in_bits():
    row, x_0, x_t, x_0_hat, fraction = 300, 0.8, 0.1, 0.5, 0.3
    alpha_bars = ALPHA_BAR[row], ALPHA_BAR[row - 1]
    true_mean, small = reference.posterior(x_0, x_t, *alpha_bars)
    mean, _ = reference.posterior(x_0_hat, x_t, *alpha_bars)
    variance = small ** (1 - fraction) * reference.linear_betas()[row] ** fraction
    bound = diffusion.compute_variational_bound(
        Denoised(image(x_0_hat), image(fraction)), image(x_0), image(x_t), rows(row), SCHEDULE
    )
    expected = reference.gaussian_kl(true_mean, small, mean, variance) / math.log(2)
    assert float(bound) == pytest.approx(expected, rel=1e-6)


def test_bound_of_the_first_row_is_the_likelihood_of_x_0():
    _, small = reference.posterior(0.0, 0.0, ALPHA_BAR[1], ALPHA_BAR[0])
    x_0, x_0_hat = 0.0, 0.002
    bound = diffusion.compute_variational_bound(
        Denoised(image(x_0_hat), image(0.0)), image(x_0), image(0.3), rows(0), SCHEDULE
    )
    std = math.sqrt(small)
    upper = reference.normal_cdf((x_0 + 1 / 255 - x_0_hat) / std)
    lower = reference.normal_cdf((x_0 - 1 / 255 - x_0_hat) / std)
    assert float(bound) == pytest.approx(-math.log2(upper - lower), abs=0.01)


def test_hybrid_loss_trains_the_variance_by_the_bound_and_the_noise_by_the_error():
    torch.manual_seed(0)
    x_0 = (torch.rand(2, 1, 4, 4) > 0.5).float()
    noise, row = torch.randn(2, 1, 4, 4), rows(0, 500)
    x_t = diffusion.q_sample(x_0, row, noise, SCHEDULE)
    output = torch.randn(2, 2, 4, 4, requires_grad=True)
    mse, bound = diffusion.compute_hybrid_loss(output, x_0, x_t, row, noise, SCHEDULE)
    assert mse.shape == bound.shape == (2,)
    torch.testing.assert_close(mse, ((noise - output[:, :1]) ** 2).mean(dim=(1, 2, 3)))

    (of_bound,) = torch.autograd.grad(bound.sum(), output, retain_graph=True)
    (of_mse,) = torch.autograd.grad(mse.sum(), output)
    assert not of_bound[:, 0].any()
    assert of_bound[1, 1].any()
    assert of_mse[:, 0].any()
    assert not of_mse[:, 1].any()


def test_mask_loss_by_hand():
    mask = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])
    undecided = diffusion.compute_mask_loss(torch.zeros_like(mask), mask, dice_weight=0.5)
    # p = 1/2 everywhere: entropy log 2, Dice 1 - (2 * 1 + 1) / (2 + 2 + 1).
    assert float(undecided) == pytest.approx(math.log(2) + 0.5 * 0.4)
    perfect = diffusion.compute_mask_loss((mask - 0.5) * 60.0, mask, dice_weight=0.5)
    assert float(perfect) == pytest.approx(0.0, abs=1e-6)
    # Without tumour it is the cross-entropy alone.
    empty = diffusion.compute_mask_loss(torch.zeros_like(mask), 0 * mask, dice_weight=0.5)
    assert float(empty) == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prediction": "v"}, "epsilon or x_0"),
        ({"variance": "learned"}, "learned_range or fixed_small"),
        ({"prediction": "x_0"}, "learned variance needs epsilon"),
        ({"signal": (1.0, 0.0)}, "background < tumour"),
        ({"schedule": "sigmoid"}, "'linear' or 'cosine'"),
        ({"num_train_timesteps": 0}, "positive"),
    ],
)
def test_impossible_configurations_are_refused(changes, message):
    with pytest.raises(ParameterError, match=message):
        DiffusionConfig(**changes)
