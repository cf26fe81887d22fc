"""One case from beginning to end, for those who want the result and not the single events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from napari_diffseg.core.brats import Case
from napari_diffseg.core.checkpoint import LoadedModel
from napari_diffseg.core.ensemble import Ensemble
from napari_diffseg.core.errors import DiffsegError
from napari_diffseg.core.events import (
    Cancelled,
    CancelToken,
    Converged,
    Downgraded,
    Event,
    Failed,
    Finished,
    SampleDone,
    Started,
)
from napari_diffseg.core.params import SegmentParams
from napari_diffseg.core.preprocessing import PreparedCase
from napari_diffseg.core.segment import segment


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """What a run has left behind.

    Attributes
    ----------
    ensemble
        The members that were drawn, the first of them under 0 whatever
        `SegmentParams.first_member` was.
    started
        What was resolved: device, steps, slices in the order of sampling.
    elapsed_s
        From the call to the last sample.
    messages
        What the user should know: memory ran out and the run went on with less.
    converged
        Set when not all members were needed (`SegmentParams.tolerance`).
    """

    ensemble: Ensemble
    started: Started
    elapsed_s: float
    messages: tuple[str, ...] = ()
    converged: Converged | None = None


def run_case(
    case: Case,
    model: LoadedModel,
    params: SegmentParams,
    *,
    on_event: Callable[[Event], None] | None = None,
    cancel: CancelToken | None = None,
    prepared: PreparedCase | None = None,
) -> FinishedRun:
    """Drain `segment` into an ensemble.

    Parameters
    ----------
    case, model, params, cancel, prepared
        As `segment` takes them.
    on_event
        Called with every event, for example to show the progress.

    Raises
    ------
    DiffsegError
        The run failed or was cancelled; the message is for the user.
    """
    ensemble = Ensemble(params.n_samples, case.geometry.shape)
    started: Started | None = None
    converged: Converged | None = None
    messages: list[str] = []
    for event in segment(case, model, params, cancel, prepared):
        if on_event is not None:
            on_event(event)
        match event:
            case Started():
                started = event
            case SampleDone(member=member, z=z, probability=probability):
                ensemble.add(member - params.first_member, z, probability)
            case Converged():
                converged = event
            case Downgraded(message=message):
                messages.append(message)
            case Finished(elapsed_s=elapsed_s):
                assert started is not None
                if converged is not None:
                    ensemble = _without_empty(ensemble, converged.n_members)
                return FinishedRun(ensemble, started, elapsed_s, tuple(messages), converged)
            case Cancelled():
                break
            case Failed(exception=exception, message=message):
                if isinstance(exception, DiffsegError):
                    raise exception
                raise DiffsegError(message) from exception
    raise DiffsegError(f"{case.name}: cancelled.")


def _without_empty(ensemble: Ensemble, n_members: int) -> Ensemble:
    """Give the room back that was meant for members that were not needed."""
    if n_members == ensemble.n_members:
        return ensemble
    return Ensemble.from_arrays(ensemble.members_uint8(n_members), ensemble.sampled[:n_members])
