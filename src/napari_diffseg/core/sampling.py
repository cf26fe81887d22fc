"""Samplers: generators of one record per step, over any denoiser.

A script drains one, ``*_, last = iter_ddpm(...)``, and ``last.x_t`` is the sample; a viewer
iterates and stops when it likes. Samplers know no network and draw no noise themselves:
``draw_noise(like)`` is the caller's, who can give every element of a batch a generator of its own.
It is asked once in each step that adds noise and never in the last one, whatever the batch size.

The schedule is the respaced one (:meth:`~napari_diffseg.core.schedule.NoiseSchedule.respaced`):
its last row is visited first, and the first row leads to the clean mask. All of these solvers end
at zero noise, where the answer is ``x_0_hat`` itself.

Sources: Ho et al. 2020 (2006.11239), Song et al. 2021 (2010.02502), Lu et al. 2022 (2211.01095).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from napari_diffseg.core.diffusion import (
    Denoised,
    Denoiser,
    predict_epsilon,
    predict_log_variance,
    predict_posterior_mean,
)
from napari_diffseg.core.errors import ParameterError
from napari_diffseg.core.params import SAMPLERS, SamplerName
from napari_diffseg.core.schedule import NoiseSchedule

DrawNoise = Callable[[Tensor], Tensor]
"""Standard normal noise with the shape, type and device of its argument."""


@dataclass(frozen=True, eq=False)
class SamplerStep:
    """What one step did.

    Attributes
    ----------
    step : int
        From 1 to ``n_steps``.
    n_steps : int
        Steps of the whole run.
    x_t : (B, 1, Y, X)
        The state that the step left behind; after the last step the sample, in signal units.
    x_0_hat : (B, 1, Y, X)
        The denoiser's estimate of the clean mask at this step, in signal units.
    """

    step: int
    n_steps: int
    x_t: Tensor
    x_0_hat: Tensor


def iter_sample(
    name: SamplerName,
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    x_T: Tensor,
    draw_noise: DrawNoise,
    eta: float = 0.0,
) -> Iterator[SamplerStep]:
    """Return the sampler with this name, ready to run.

    Parameters
    ----------
    name : str
        ``ddpm``, ``ddim``, ``dpmpp-2m`` or ``dpmpp-2m-sde``.
    denoiser : Denoiser
        For example :meth:`napari_diffseg.core.model.DiffusionModel.bind`.
    schedule : NoiseSchedule
        Already respaced: every row is one step.
    x_T : (B, 1, Y, X)
        Standard normal noise.
    draw_noise : callable
        Gives the noise of a step; see :mod:`napari_diffseg.core.sampling`.
    eta : float
        Stochasticity of ``ddim``, from 0 (deterministic) to 1 (ancestral).

    Raises
    ------
    ParameterError
        At once, if there is no such sampler or ``eta`` is outside of [0, 1].
    """
    if not 0.0 <= eta <= 1.0:
        raise ParameterError(f"eta must be between 0 and 1, not {eta}.")
    match name:
        case "ddpm":
            return iter_ddpm(denoiser, schedule, x_T, draw_noise)
        case "ddim":
            return iter_ddim(denoiser, schedule, x_T, draw_noise, eta)
        case "dpmpp-2m":
            return iter_dpmpp_2m(denoiser, schedule, x_T)
        case "dpmpp-2m-sde":
            return iter_dpmpp_2m_sde(denoiser, schedule, x_T, draw_noise)
    raise ParameterError(f"Unknown sampler {name!r}: choose one of {', '.join(SAMPLERS)}.")


def iter_ddpm(
    denoiser: Denoiser, schedule: NoiseSchedule, x_T: Tensor, draw_noise: DrawNoise
) -> Iterator[SamplerStep]:
    """Sample ancestrally, with the variance that the model has (Ho et al. 2020, Algorithm 2)."""
    x_t, n_steps = x_T, len(schedule)
    for step, row in enumerate(reversed(range(n_steps)), start=1):
        denoised, rows = _denoise(denoiser, x_t, row, schedule)
        x_t = predict_posterior_mean(denoised.x_0_hat, x_t, rows, schedule)
        if row > 0:
            log_variance = predict_log_variance(denoised, x_t, rows, schedule)
            x_t = x_t + torch.exp(0.5 * log_variance) * draw_noise(x_t)
        yield SamplerStep(step, n_steps, x_t, denoised.x_0_hat)


def iter_ddim(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    x_T: Tensor,
    draw_noise: DrawNoise,
    eta: float = 0.0,
) -> Iterator[SamplerStep]:
    """Sample with DDIM (Song et al. 2021, Eq. 12, with the sigma of Eq. 16).

    ``eta`` = 0 is deterministic and draws no noise; 1 is the ancestral sampler with the variance
    beta-tilde. Where a model clamps ``x_0_hat``, the direction is derived from the clamped one.
    """
    x_t, n_steps = x_T, len(schedule)
    for step, row in enumerate(reversed(range(n_steps)), start=1):
        denoised, rows = _denoise(denoiser, x_t, row, schedule)
        x_0_hat = denoised.x_0_hat
        epsilon_hat = predict_epsilon(x_t, rows, x_0_hat, schedule)
        alpha_bar_prev = float(schedule.alphas_cumprod_prev[row])
        sigma_t = eta * math.sqrt(schedule.posterior_variance[row])
        direction_rate = math.sqrt(max(1.0 - alpha_bar_prev - sigma_t**2, 0.0))
        x_t = math.sqrt(alpha_bar_prev) * x_0_hat + direction_rate * epsilon_hat
        if sigma_t > 0.0:
            x_t = x_t + sigma_t * draw_noise(x_t)
        yield SamplerStep(step, n_steps, x_t, x_0_hat)


def iter_dpmpp_2m(
    denoiser: Denoiser, schedule: NoiseSchedule, x_T: Tensor
) -> Iterator[SamplerStep]:
    """Solve the diffusion ODE to second order: DPM-Solver++(2M) (Lu et al. 2022, Algorithm 2).

    Deterministic: all randomness is in ``x_T``. The first step, which has no predecessor, and the
    last one, which leads to zero noise, are of first order.
    """
    x_t, n_steps = x_T, len(schedule)
    alphas, sigmas, lambdas = _half_log_snr(schedule)
    x_0_hat_before: Tensor | None = None
    for step, row in enumerate(reversed(range(n_steps)), start=1):
        x_0_hat = _denoise(denoiser, x_t, row, schedule)[0].x_0_hat
        if row == 0:
            x_t = x_0_hat
        else:
            h = lambdas[row - 1] - lambdas[row]
            data = _extrapolate(x_0_hat, x_0_hat_before, row, lambdas)
            decay = sigmas[row - 1] / sigmas[row]
            x_t = decay * x_t - alphas[row - 1] * math.expm1(-h) * data
        x_0_hat_before = x_0_hat
        yield SamplerStep(step, n_steps, x_t, x_0_hat)


def iter_dpmpp_2m_sde(
    denoiser: Denoiser, schedule: NoiseSchedule, x_T: Tensor, draw_noise: DrawNoise
) -> Iterator[SamplerStep]:
    """Solve the diffusion SDE to second order: SDE-DPM-Solver++(2M) (Lu et al. 2022).

    The noise of a step is exact, so its first-order form is the ancestral sampler with the
    variance beta-tilde. The first and the last step are of first order, as in the ODE solver.
    """
    x_t, n_steps = x_T, len(schedule)
    alphas, sigmas, lambdas = _half_log_snr(schedule)
    x_0_hat_before: Tensor | None = None
    for step, row in enumerate(reversed(range(n_steps)), start=1):
        x_0_hat = _denoise(denoiser, x_t, row, schedule)[0].x_0_hat
        if row == 0:
            x_t = x_0_hat
        else:
            h = lambdas[row - 1] - lambdas[row]
            data = _extrapolate(x_0_hat, x_0_hat_before, row, lambdas)
            decay = sigmas[row - 1] / sigmas[row] * math.exp(-h)
            fresh = -math.expm1(-2.0 * h)
            x_t = decay * x_t + alphas[row - 1] * fresh * data
            x_t = x_t + sigmas[row - 1] * math.sqrt(fresh) * draw_noise(x_t)
        x_0_hat_before = x_0_hat
        yield SamplerStep(step, n_steps, x_t, x_0_hat)


@torch.inference_mode()  # decorates the one call that needs it: never hold it across a yield
def _denoise(
    denoiser: Denoiser, x_t: Tensor, row: int, schedule: NoiseSchedule
) -> tuple[Denoised, Tensor]:
    """Return the estimate at one row, and that row for each of the batch.

    Rows stay on the CPU, beside the tables that they index, so that a GPU is never waited for.
    """
    rows = torch.full((len(x_t),), row, dtype=torch.int64)
    return denoiser(x_t, rows, schedule), rows


def _half_log_snr(schedule: NoiseSchedule) -> tuple[list[float], list[float], list[float]]:
    """Return alpha, sigma and lambda = log(alpha / sigma) of each row (Lu et al. 2022, section 2).

    Here ``alpha`` is the signal rate sqrt(alpha-bar), as in that paper.
    """
    alphas = np.sqrt(schedule.alphas_cumprod)
    sigmas = np.sqrt(1.0 - schedule.alphas_cumprod)
    return alphas.tolist(), sigmas.tolist(), np.log(alphas / sigmas).tolist()


def _extrapolate(
    x_0_hat: Tensor, x_0_hat_before: Tensor | None, row: int, lambdas: list[float]
) -> Tensor:
    """Return D of DPM-Solver++(2M): x_0_hat in the middle of the step, linear in lambda."""
    if x_0_hat_before is None:
        return x_0_hat
    r = (lambdas[row] - lambdas[row + 1]) / (lambdas[row - 1] - lambdas[row])
    return x_0_hat + (x_0_hat - x_0_hat_before) / (2.0 * r)
