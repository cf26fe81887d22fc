"""The diffusion model's formulas: one equation, one function, one citation.

Tensors are (B, 1, Y, X) and live on the network's device; schedules stay float64 NumPy tables
(:mod:`napari_diffseg.core.schedule`) and are gathered per sample. ``row`` (B,) numbers rows of
the schedule; the network's timesteps are ``schedule.timesteps[row]``.

Sources: Ho et al. 2020 (2006.11239), Nichol & Dhariwal 2021 (2102.09672), Wolleb et al. 2021
(2112.03145).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from napari_diffseg.core.errors import ParameterError
from napari_diffseg.core.schedule import FloatArray, NoiseSchedule, ScheduleName, make_schedule


@dataclass(frozen=True)
class DiffusionConfig:
    """What the network predicts and how a mask is coded; the defaults are the published model."""

    num_train_timesteps: int = 1000
    """T, the length of the forward process."""
    schedule: ScheduleName = "linear"
    """The noise schedule."""
    prediction: Literal["epsilon", "x_0"] = "epsilon"
    """``epsilon``: the noise; ``x_0``: logits of the mask."""
    variance: Literal["learned_range", "fixed_small"] = "learned_range"
    """Variance of the ancestral step: interpolated by the network, or beta-tilde."""
    signal: tuple[float, float] = (0.0, 1.0)
    """What background and tumour are coded as in x_0."""
    clip: tuple[float, float] = (-1.0, 1.0)
    """Range that ``x_0_hat`` is clamped to when epsilon is predicted."""

    def __post_init__(self) -> None:
        if self.prediction not in ("epsilon", "x_0"):
            raise ParameterError(f"Unknown prediction {self.prediction!r}: epsilon or x_0.")
        if self.variance not in ("learned_range", "fixed_small"):
            raise ParameterError(
                f"Unknown variance {self.variance!r}: learned_range or fixed_small."
            )
        if self.prediction == "x_0" and self.variance == "learned_range":
            raise ParameterError("A learned variance needs epsilon prediction.")
        if not self.signal[0] < self.signal[1]:
            raise ParameterError("signal must be (background, tumour) with background < tumour.")
        make_schedule(self.schedule, self.num_train_timesteps)

    @property
    def out_channels(self) -> int:
        """Channels that the denoiser must have."""
        return 2 if self.variance == "learned_range" else 1

    def make_schedule(self) -> NoiseSchedule:
        """Return the schedule of training."""
        return make_schedule(self.schedule, self.num_train_timesteps)


@dataclass(frozen=True)
class Denoised:
    """What the model says about x_0 at one step.

    Attributes
    ----------
    x_0_hat : (B, 1, Y, X)
        Estimate of the clean mask, in signal units.
    variance_fraction : (B, 1, Y, X) or None
        ``v`` of Nichol & Dhariwal 2021, Eq. 15, mapped to [0, 1]; None for a fixed variance.
    """

    x_0_hat: Tensor
    variance_fraction: Tensor | None = None


class Denoiser(Protocol):
    """Anything that turns a noised mask into an estimate of the clean one."""

    def __call__(self, x_t: Tensor, row: Tensor, schedule: NoiseSchedule) -> Denoised:
        """Return the estimate for ``x_t`` (B, 1, Y, X) at the schedule's rows ``row`` (B,)."""
        ...


def gather(table: FloatArray, row: Tensor, like: Tensor) -> Tensor:
    """Return ``table[row]`` (B,) as (B, 1, 1, 1) with the device and type of ``like``."""
    values = torch.from_numpy(table)[row.cpu()]  # shares the table's memory; only B values move
    # The type first: not every device has float64.
    return values.to(like.dtype).to(like.device).view(-1, *(1,) * (like.ndim - 1))


def q_sample(x_0: Tensor, row: Tensor, noise: Tensor, schedule: NoiseSchedule) -> Tensor:
    """Noise a clean mask in one step (Ho et al. 2020, Eq. 4)."""
    signal_rate = gather(np.sqrt(schedule.alphas_cumprod), row, x_0)
    noise_rate = gather(np.sqrt(1.0 - schedule.alphas_cumprod), row, x_0)
    return signal_rate * x_0 + noise_rate * noise


def predict_x_0(x_t: Tensor, row: Tensor, epsilon: Tensor, schedule: NoiseSchedule) -> Tensor:
    """Return the x_0 that ``epsilon`` implies (Ho et al. 2020, Eq. 4 solved for x_0)."""
    inverse_rate = gather(np.sqrt(1.0 / schedule.alphas_cumprod), row, x_t)
    noise_ratio = gather(np.sqrt(1.0 / schedule.alphas_cumprod - 1.0), row, x_t)
    return inverse_rate * x_t - noise_ratio * epsilon


def predict_epsilon(x_t: Tensor, row: Tensor, x_0: Tensor, schedule: NoiseSchedule) -> Tensor:
    """Return the noise that ``x_0`` implies (Ho et al. 2020, Eq. 4 solved for epsilon)."""
    signal_rate = gather(np.sqrt(schedule.alphas_cumprod), row, x_t)
    noise_rate = gather(np.sqrt(1.0 - schedule.alphas_cumprod), row, x_t)
    return (x_t - signal_rate * x_0) / noise_rate


def predict_posterior_mean(
    x_0: Tensor, x_t: Tensor, row: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """Return mu-tilde, the mean of q(x_t_prev | x_t, x_0) (Ho et al. 2020, Eq. 7)."""
    of_x_0, of_x_t = schedule.posterior_mean_coefficients
    return gather(of_x_0, row, x_t) * x_0 + gather(of_x_t, row, x_t) * x_t


def predict_log_variance(
    denoised: Denoised, x_t: Tensor, row: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """Return the log variance of the reverse step, broadcastable to ``x_t``.

    Fixed: log beta-tilde (Ho et al. 2020, section 3.2). Learned: the interpolation between log
    beta-tilde and log beta in log space (Nichol & Dhariwal 2021, Eq. 15).
    """
    lower = gather(schedule.posterior_log_variance, row, x_t)
    if denoised.variance_fraction is None:
        return lower
    upper = gather(np.log(schedule.betas), row, x_t)
    fraction = denoised.variance_fraction
    return fraction * upper + (1.0 - fraction) * lower


def decode_output(
    output: Tensor, x_t: Tensor, row: Tensor, schedule: NoiseSchedule, config: DiffusionConfig
) -> Denoised:
    """Read the network's output (B, out_channels, Y, X) as an estimate of x_0."""
    output = output.float()
    if config.prediction == "x_0":
        low, high = config.signal
        return Denoised(low + (high - low) * torch.sigmoid(output[:, :1]))
    x_0_hat = predict_x_0(x_t, row, output[:, :1], schedule).clamp(*config.clip)
    if config.variance == "learned_range":
        return Denoised(x_0_hat, (output[:, 1:2] + 1.0) / 2.0)
    return Denoised(x_0_hat)


def encode_mask(wt_mask: Tensor, config: DiffusionConfig) -> Tensor:
    """Return x_0 for a mask in {0, 1}."""
    low, high = config.signal
    return low + (high - low) * wt_mask


def decode_probability(x_0: Tensor, config: DiffusionConfig) -> Tensor:
    """Return the tumour probability in [0, 1] that a final x_0 stands for."""
    low, high = config.signal
    return ((x_0 - low) / (high - low)).clamp(0.0, 1.0)


# --- training losses -----------------------------------------------------------------------------


def compute_hybrid_loss(
    output: Tensor, x_0: Tensor, x_t: Tensor, row: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> tuple[Tensor, Tensor]:
    """Return (mse, vlb), each (B,), whose sum is the published loss.

    The mean squared error of epsilon (Ho et al. 2020, Eq. 14) and the variational bound, which
    trains the variance alone: the mean is detached (Nichol & Dhariwal 2021, section 3.1). As in
    the published code x_0_hat is not clamped here and the bound is not scaled down.
    """
    epsilon_hat, variance_values = output[:, :1].float(), output[:, 1:2].float()
    mse = (noise - epsilon_hat).square().flatten(1).mean(1)
    x_0_hat = predict_x_0(x_t, row, epsilon_hat.detach(), schedule)
    denoised = Denoised(x_0_hat, (variance_values + 1.0) / 2.0)
    return mse, compute_variational_bound(denoised, x_0, x_t, row, schedule)


def compute_variational_bound(
    denoised: Denoised, x_0: Tensor, x_t: Tensor, row: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """Return one term of the bound (B,) in bits per voxel (Ho et al. 2020, Eq. 5).

    The Kullback-Leibler divergence of the reverse step from the true posterior, or, at the first
    row, the negative log-likelihood of x_0 under the discretised decoder.
    """
    true_mean = predict_posterior_mean(x_0, x_t, row, schedule)
    true_log_variance = gather(schedule.posterior_log_variance, row, x_t)
    mean = predict_posterior_mean(denoised.x_0_hat, x_t, row, schedule)
    log_variance = predict_log_variance(denoised, x_t, row, schedule).expand_as(x_t)
    divergence = compute_gaussian_kl(true_mean, true_log_variance, mean, log_variance)
    likelihood = compute_discretised_log_likelihood(x_0, mean, 0.5 * log_variance)
    bits = math.log(2.0)
    kl = divergence.flatten(1).mean(1) / bits
    nll = -likelihood.flatten(1).mean(1) / bits
    return torch.where(row.to(kl.device) == 0, nll, kl)


def compute_gaussian_kl(
    mean_1: Tensor, log_variance_1: Tensor, mean_2: Tensor, log_variance_2: Tensor
) -> Tensor:
    """Return KL(N1 || N2) of diagonal Gaussians, voxelwise, in nats."""
    return 0.5 * (
        -1.0
        + log_variance_2
        - log_variance_1
        + torch.exp(log_variance_1 - log_variance_2)
        + (mean_1 - mean_2).square() * torch.exp(-log_variance_2)
    )


def compute_discretised_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Return the log-likelihood of ``x`` in bins of width 2 / 255 (Ho et al. 2020, Eq. 13).

    With the tanh approximation of the normal distribution function that the published code uses.
    """
    centred = x - mean
    inverse = torch.exp(-log_scale)
    upper = _approximate_normal_cdf(inverse * (centred + 1.0 / 255.0))
    lower = _approximate_normal_cdf(inverse * (centred - 1.0 / 255.0))
    log_inside = (upper - lower).clamp(min=1e-12).log()
    log_upper = upper.clamp(min=1e-12).log()
    log_above = (1.0 - lower).clamp(min=1e-12).log()
    return torch.where(x < -0.999, log_upper, torch.where(x > 0.999, log_above, log_inside))


def _approximate_normal_cdf(x: Tensor) -> Tensor:
    return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def compute_mask_loss(logits: Tensor, wt_mask: Tensor, dice_weight: float) -> Tensor:
    """Return binary cross-entropy plus weighted soft Dice, (B,), for x_0 prediction.

    The Dice term of a sample is ``1 - (2 sum(p y) + 1) / (sum(p) + sum(y) + 1)`` (Milletari et al.
    2016, 1606.04797, without the squares). Samples without tumour have none: there is no overlap
    to be gained, and the term would teach silence on the faint ends of a tumour too; the
    cross-entropy alone says what is false there.
    """
    logits, wt_mask = logits.float(), wt_mask.float()
    entropy = F.binary_cross_entropy_with_logits(logits, wt_mask, reduction="none")
    probability = torch.sigmoid(logits).flatten(1)
    target = wt_mask.flatten(1)
    overlap = 2.0 * (probability * target).sum(1) + 1.0
    dice = 1.0 - overlap / (probability.sum(1) + target.sum(1) + 1.0)
    return entropy.flatten(1).mean(1) + dice_weight * dice * target.amax(1)
