"""The oracle: published formulas in float64 NumPy, written without looking at the package.

Where a formula can be had in two ways, this is the other one: the posterior from Bayes' rule
instead of Eq. 7, the schedule by loops, the likelihood from the exact normal distribution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


def linear_betas(n: int = 1000) -> list[float]:
    """Ho et al. 2020, section 4."""
    return [(1e-4 + (0.02 - 1e-4) * i / (n - 1)) * 1000.0 / n for i in range(n)]


def cumulate(betas) -> list[float]:
    """alpha-bar, one factor at a time."""
    product, table = 1.0, []
    for beta in betas:
        product *= 1.0 - beta
        table.append(product)
    return table


def posterior(x_0, x_t, alpha_bar: float, alpha_bar_prev: float):
    """Mean and variance of q(x_t_prev | x_t, x_0): prior times likelihood, precisions add."""
    alpha = alpha_bar / alpha_bar_prev
    prior_precision = 1.0 / (1.0 - alpha_bar_prev)
    likelihood_precision = alpha / (1.0 - alpha)
    precision = prior_precision + likelihood_precision
    from_prior = prior_precision * math.sqrt(alpha_bar_prev) * x_0
    from_likelihood = likelihood_precision * x_t / math.sqrt(alpha)
    return (from_prior + from_likelihood) / precision, 1.0 / precision


def gaussian_kl(mean_1, variance_1, mean_2, variance_2):
    """KL(N1 || N2) by quadrature."""
    z = np.linspace(-12.0, 12.0, 20001)
    x = mean_1 + math.sqrt(variance_1) * z
    log_1 = -0.5 * z**2 - 0.5 * math.log(2 * math.pi * variance_1)
    log_2 = -0.5 * (x - mean_2) ** 2 / variance_2 - 0.5 * math.log(2 * math.pi * variance_2)
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    return float(np.trapezoid(density * (log_1 - log_2), z))


def normal_cdf(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2.0))


@dataclass(frozen=True)
class GaussianTarget:
    """x_0 ~ N(mean, std^2): the one distribution whose diffusion is known in closed form."""

    mean: float = 0.3
    std: float = 0.5

    def std_at(self, alpha_bar):
        """Standard deviation of x_t."""
        return (alpha_bar * self.std**2 + 1.0 - alpha_bar) ** 0.5

    def denoise(self, x_t, alpha_bar):
        """E[x_0 | x_t], the answer of a perfect network."""
        gain = alpha_bar**0.5 * self.std**2 / self.std_at(alpha_bar) ** 2
        return self.mean + gain * (x_t - alpha_bar**0.5 * self.mean)

    def solve_ode(self, x_T, alpha_bar):
        """End of the probability-flow ODE from x_T: it keeps the standardised value."""
        return self.mean + self.std * (x_T - alpha_bar**0.5 * self.mean) / self.std_at(alpha_bar)


# --- the published network's parameters ----------------------------------------------------------


class _Layers(dict[str, tuple[int, ...]]):
    """Names and shapes of guided-diffusion's parameters, layer by layer."""

    def add_convolution(self, name: str, n_in: int, n_out: int, *kernel: int) -> None:
        self[f"{name}.weight"], self[f"{name}.bias"] = (n_out, n_in, *kernel), (n_out,)

    def add_norm(self, name: str, n: int) -> None:
        self[f"{name}.weight"] = self[f"{name}.bias"] = (n,)

    def add_residual(self, name: str, n_in: int, n_out: int, n_embedding: int) -> None:
        self.add_norm(f"{name}.in_layers.0", n_in)
        self.add_convolution(f"{name}.in_layers.2", n_in, n_out, 3, 3)
        self.add_convolution(f"{name}.emb_layers.1", n_embedding, n_out)
        self.add_norm(f"{name}.out_layers.0", n_out)
        self.add_convolution(f"{name}.out_layers.3", n_out, n_out, 3, 3)
        if n_in != n_out:
            self.add_convolution(f"{name}.skip_connection", n_in, n_out, 1, 1)

    def add_attention(self, name: str, n: int) -> None:
        self.add_norm(f"{name}.norm", n)
        self.add_convolution(f"{name}.qkv", n, 3 * n, 1)
        self.add_convolution(f"{name}.proj_out", n, n, 1)


def published_shapes(config) -> dict[str, tuple[int, ...]]:
    """Every parameter of guided-diffusion's ``UNetModel``, as its constructor makes them."""
    base, layers = config.base_channels, _Layers()
    widths = [base * multiplier for multiplier in config.channel_multipliers]
    layers.add_convolution("time_embed.0", base, 4 * base)
    layers.add_convolution("time_embed.2", 4 * base, 4 * base)
    layers.add_convolution("input_blocks.0.0", config.in_channels, widths[0], 3, 3)
    skips, block = [widths[0]], 1
    for level, width in enumerate(widths):
        for _ in range(config.n_res_blocks):
            layers.add_residual(f"input_blocks.{block}.0", skips[-1], width, 4 * base)
            if 2**level in config.attention_factors:
                layers.add_attention(f"input_blocks.{block}.1", width)
            skips.append(width)
            block += 1
        if level < len(widths) - 1:
            layers.add_convolution(f"input_blocks.{block}.0.op", width, width, 3, 3)
            skips.append(width)
            block += 1
    n = widths[-1]
    layers.add_residual("middle_block.0", n, n, 4 * base)
    layers.add_attention("middle_block.1", n)
    layers.add_residual("middle_block.2", n, n, 4 * base)
    _add_output_blocks(layers, config, widths, skips)
    layers.add_norm("out.0", widths[0])
    layers.add_convolution("out.2", widths[0], config.out_channels, 3, 3)
    return dict(layers)


def _add_output_blocks(layers: _Layers, config, widths: list[int], skips: list[int]) -> None:
    n, number = widths[-1], 0
    for level, width in reversed(list(enumerate(widths))):
        for block in range(config.n_res_blocks + 1):
            name = f"output_blocks.{number}"
            layers.add_residual(f"{name}.0", n + skips.pop(), width, 4 * config.base_channels)
            n, number, position = width, number + 1, 1
            if 2**level in config.attention_factors:
                layers.add_attention(f"{name}.1", n)
                position = 2
            if level > 0 and block == config.n_res_blocks:
                layers.add_convolution(f"{name}.{position}.conv", n, n, 3, 3)


# --- the published training loss -----------------------------------------------------------------


def gaussian_kl_of_arrays(mean_1, variance_1, mean_2, variance_2):
    """KL(N1 || N2), voxelwise, in nats: Kullback's closed form, in variances and not their logs."""
    variances = (variance_1 + (mean_1 - mean_2) ** 2) / variance_2
    return 0.5 * (variances - 1.0 - np.log(variance_1 / variance_2))


def hybrid_loss(output, x_0, x_t, t: int) -> tuple[float, float]:
    """MSE and variational bound of one sample (1, Y, X) at timestep t > 0, as published.

    The error of epsilon (Ho et al. 2020, Eq. 14), and the divergence of the reverse step from the
    true posterior in bits per voxel (Eq. 5), with a variance between those two bounds in log space
    (Nichol & Dhariwal 2021, Eq. 15) and an estimate of x_0 that is not clamped.
    """
    output, x_0, x_t = (np.asarray(a, np.float64) for a in (output, x_0, x_t))
    betas = linear_betas()
    alpha_bars = cumulate(betas)
    alpha_bar, alpha_bar_prev = alpha_bars[t], alpha_bars[t - 1]
    noise = (x_t - math.sqrt(alpha_bar) * x_0) / math.sqrt(1.0 - alpha_bar)
    epsilon_hat, variance_value = output[:1], output[1:]
    x_0_hat = (x_t - math.sqrt(1.0 - alpha_bar) * epsilon_hat) / math.sqrt(alpha_bar)
    true_mean, smallest = posterior(x_0, x_t, alpha_bar, alpha_bar_prev)
    mean, _ = posterior(x_0_hat, x_t, alpha_bar, alpha_bar_prev)
    share = (variance_value + 1.0) / 2.0
    variance = betas[t] ** share * smallest ** (1.0 - share)
    divergence = gaussian_kl_of_arrays(true_mean, smallest, mean, variance)
    return float(((noise - epsilon_hat) ** 2).mean()), float(divergence.mean() / math.log(2.0))
