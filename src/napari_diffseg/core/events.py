"""What :func:`napari_diffseg.core.segment.segment` reports: frozen records, drained by everyone.

``z`` is always the canonical slice number (:mod:`napari_diffseg.core.volume`).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


class CancelToken:
    """Set from any thread; the step loop looks at it before every step."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Ask the run to stop before its next step."""
        self._event.set()

    def is_set(self) -> bool:
        """Return whether somebody asked."""
        return self._event.is_set()


@dataclass(frozen=True)
class Started:
    """The run is ready to sample."""

    z_indices: tuple[int, ...]
    """Slices that will be sampled, in this order; slices without brain are left out."""
    members: tuple[int, ...]
    n_steps: int
    device: str
    batch_size: int
    n_network_calls: int
    """Sum of ``StepDone.n_samples`` over the whole run: what an ETA counts down. The most there can
    be, when the run stops by itself."""
    mirror: bool = False
    """Whether every second member sees the slice mirrored."""
    vary_contrast: bool = False
    """Whether every member but the first sees a contrast of its own."""


@dataclass(frozen=True)
class StepDone:
    """One step of one batch is done."""

    step: int
    """From 1 to ``n_steps``."""
    n_steps: int
    n_samples: int
    """(member, slice) pairs in the batch."""


@dataclass(frozen=True, eq=False)
class SampleDone:
    """One member of one slice is complete."""

    member: int
    z: int
    probability: NDArray[np.uint8]
    """(Y, X) on the case's canonical grid; 255 is certain tumour."""


@dataclass(frozen=True)
class MemberDone:
    """A member has all of its slices."""

    member: int


@dataclass(frozen=True)
class Converged:
    """Further members no longer change the mask, so none are drawn; ``Finished`` follows."""

    n_members: int
    """That there are, on every slice."""
    dice: float
    """Smallest of the last Dice coefficients between the mask with a member and without it."""


@dataclass(frozen=True)
class Downgraded:
    """Memory ran out; the run goes on with less."""

    message: str
    """For the user: what happened and what is done now."""
    device: str
    batch_size: int


@dataclass(frozen=True)
class Finished:
    """Everything that was asked for is sampled, or more was not needed (``Converged``)."""

    elapsed_s: float


@dataclass(frozen=True)
class Cancelled:
    """The token was set; samples that were reported stay valid."""


@dataclass(frozen=True, eq=False)
class Failed:
    """The run stopped with an error; samples that were reported stay valid."""

    exception: Exception
    message: str
    """For the user."""


Event = (
    Started
    | StepDone
    | SampleDone
    | MemberDone
    | Converged
    | Downgraded
    | Finished
    | Cancelled
    | Failed
)
