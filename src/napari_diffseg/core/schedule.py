"""Noise schedules and the timesteps that a sampler visits.

Everything here is float64 NumPy and 0-based: ``alphas_cumprod[t]`` is the paper's alpha-bar at
step ``t + 1``. A respaced schedule is an ordinary schedule with fewer steps, whose ``timesteps``
remember what the network was trained with.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from napari_diffseg.core.errors import ParameterError

ScheduleName = Literal["linear", "cosine"]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class NoiseSchedule:
    """The forward process as a table, one row for each step a sampler takes.

    Attributes
    ----------
    alphas_cumprod : (T,) float64
        Strictly decreasing in (0, 1).
    timesteps : (T,) int64
        What the network is told at each row: ascending, ``0 .. num_train_timesteps - 1``.
    """

    alphas_cumprod: FloatArray
    timesteps: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.alphas_cumprod)

    @cached_property
    def alphas_cumprod_prev(self) -> FloatArray:
        """(T,) alpha-bar one row earlier; 1 before the first row."""
        return np.append(1.0, self.alphas_cumprod[:-1])

    @cached_property
    def betas(self) -> FloatArray:
        """(T,) variance that each row of this (perhaps respaced) process adds."""
        return 1.0 - self.alphas_cumprod / self.alphas_cumprod_prev

    @cached_property
    def posterior_variance(self) -> FloatArray:
        """(T,) beta-tilde, Ho et al. 2020 (2006.11239), Eq. 7; 0 at the first row."""
        return self.betas * (1.0 - self.alphas_cumprod_prev) / (1.0 - self.alphas_cumprod)

    @cached_property
    def posterior_log_variance(self) -> FloatArray:
        """(T,) log beta-tilde; the first row, whose variance is 0, repeats the second one's."""
        variance = self.posterior_variance.copy()
        variance[0] = variance[1] if len(self) > 1 else self.betas[0]
        return np.log(variance)

    @cached_property
    def posterior_mean_coefficients(self) -> tuple[FloatArray, FloatArray]:
        """(T,) factors of x_0 and of x_t in mu-tilde, Ho et al. 2020, Eq. 7."""
        remaining = 1.0 - self.alphas_cumprod
        of_x_0 = self.betas * np.sqrt(self.alphas_cumprod_prev) / remaining
        of_x_t = (1.0 - self.alphas_cumprod_prev) * np.sqrt(1.0 - self.betas) / remaining
        return of_x_0, of_x_t

    def respaced(self, n_steps: int) -> NoiseSchedule:
        """Return the schedule that visits ``n_steps`` of these rows, trailing spacing.

        Trailing spacing always starts at the last row, pure noise, so that a short run is not
        biased by signal that the network expects (Lin et al. 2024, 2305.08891, section 3.3).

        Raises
        ------
        ParameterError
            If ``n_steps`` is not between 1 and the number of rows.
        """
        rows = trailing_rows(len(self), n_steps)
        return NoiseSchedule(self.alphas_cumprod[rows], self.timesteps[rows])


def trailing_rows(n_rows: int, n_steps: int) -> NDArray[np.int64]:
    """Return ``n_steps`` ascending row numbers that end at ``n_rows - 1``."""
    if not 1 <= n_steps <= n_rows:
        raise ParameterError(
            f"The number of steps must be between 1 and {n_rows}, not {n_steps}. "
            "Choose a smaller number of steps or a model that was trained with more."
        )
    rows = np.round(np.arange(n_rows, 0, -n_rows / n_steps)[:n_steps]).astype(np.int64) - 1
    return rows[::-1].copy()


def make_schedule(name: ScheduleName, num_train_timesteps: int) -> NoiseSchedule:
    """Return the schedule that a model is trained with.

    ``linear``: betas from 1e-4 to 0.02 at 1000 steps, scaled for other lengths (Ho et al. 2020,
    section 4). ``cosine``: ``alpha_bar = cos^2(pi u / 2)`` with ``u = (t + 1) / (T + 1)``, the
    schedule of Nichol & Dhariwal 2021 (2102.09672), Eq. 17, without its offset; ``u`` stays
    inside of (0, 1), so the signal-to-noise ratio is finite at both ends.
    """
    if num_train_timesteps < 1:
        raise ParameterError(f"num_train_timesteps must be positive, not {num_train_timesteps}.")
    steps = np.arange(num_train_timesteps, dtype=np.int64)
    if name == "linear":
        scale = 1000.0 / num_train_timesteps
        betas = np.linspace(scale * 1e-4, scale * 0.02, num_train_timesteps, dtype=np.float64)
        if betas[-1] >= 1.0:
            raise ParameterError("A linear schedule needs more than 20 training steps.")
        return NoiseSchedule(np.cumprod(1.0 - betas, dtype=np.float64), steps)
    if name == "cosine":
        u = (steps + 1.0) / (num_train_timesteps + 1.0)
        return NoiseSchedule(np.cos(0.5 * np.pi * u) ** 2, steps)
    raise ParameterError(f"Unknown noise schedule {name!r}: choose 'linear' or 'cosine'.")
