"""What the user chooses for a run: one frozen record for viewer, command line and evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from napari_diffseg.core.errors import ParameterError

SamplerName = Literal["ddpm", "ddim", "dpmpp-2m", "dpmpp-2m-sde"]
SAMPLERS: tuple[SamplerName, ...] = get_args(SamplerName)

MAX_SEED = 2**31 - 1
"""The largest number that a field of the dock can hold."""

MAX_TOLERANCE = 0.2
"""The largest `SegmentParams.tolerance` that dock and command line take: a mask of which a fifth
may change is not stable."""


@dataclass(frozen=True)
class SegmentParams:
    """Parameters of :func:`napari_diffseg.core.segment.segment`."""

    n_samples: int = 5
    """Members to draw; with `tolerance` the most that are drawn."""
    tolerance: float | None = None
    """Stop when further members change the mask by no more than this, as 1 - Dice
    (:func:`napari_diffseg.core.convergence.is_stable`); None: draw all."""
    watched_threshold: float = 0.5
    """Of the mask that has to be stable, with a `tolerance`."""
    watched_of: Literal["probabilities", "masks"] = "probabilities"
    """What the mean is made of that has to be above it (`core.levels.MapKind`)."""
    first_member: int = 0
    """Number of the first member; more than 0 to add to members that exist already."""
    n_steps: int | None = None
    """Sampling steps; None: what the model's own card recommends."""
    sampler: SamplerName = "ddpm"
    """``ddpm`` (ancestral), ``ddim``, ``dpmpp-2m`` or ``dpmpp-2m-sde``."""
    eta: float = 0.0
    """Stochasticity of ``ddim``: 0 deterministic, 1 ancestral; other samplers ignore it."""
    seed: int = 0
    """Together with member and source slice it decides every random number."""
    mirror: bool | None = None
    """Whether every second member sees the slice mirrored left to right (and its mask is mirrored
    back); None: as the model's own card says."""
    vary_contrast: bool | None = None
    """Whether every member but the first sees the slices through a contrast of its own
    (:mod:`napari_diffseg.core.views`); None: as the model's own card says."""
    z_range: tuple[int, int] | None = None
    """Canonical slices (first, one past the last); None: the whole volume."""
    priority_z: int | None = None
    """Canonical slice that is sampled first, the others follow outwards; None: the middle."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps`` ..."""
    memory_budget_mb: int = 1500
    """Working memory that a batch of slices and members may take beside the network."""

    def __post_init__(self) -> None:
        if self.n_samples < 1 or self.first_member < 0:
            raise ParameterError(f"At least 1 sample is needed, not {self.n_samples}.")
        if self.tolerance is not None and not 0.0 <= self.tolerance < 1.0:
            raise ParameterError(
                f"The tolerance must be at least 0 and below 1, it is {self.tolerance:g}."
            )
        if self.n_steps is not None and self.n_steps < 1:
            raise ParameterError(f"At least 1 step is needed, not {self.n_steps}.")
        if self.sampler not in SAMPLERS:
            raise ParameterError(
                f"Unknown sampler {self.sampler!r}: choose one of {', '.join(SAMPLERS)}."
            )
        if not 0.0 <= self.eta <= 1.0:
            raise ParameterError(f"eta must be between 0 and 1, not {self.eta}.")
        if not 0 <= self.seed <= MAX_SEED:
            raise ParameterError(f"The seed must be between 0 and {MAX_SEED}, it is {self.seed}.")
        if self.z_range is not None and not 0 <= self.z_range[0] < self.z_range[1]:
            raise ParameterError(f"The slice range {self.z_range} is empty.")
        if self.memory_budget_mb < 1:
            raise ParameterError("The memory budget must be positive.")

    @property
    def members(self) -> range:
        """Numbers of the members that are drawn."""
        return range(self.first_member, self.first_member + self.n_samples)
