"""How far a run is and how long it will take, from its events; for a progress bar of any kind."""

from __future__ import annotations

import time
from collections.abc import Callable

from napari_diffseg.core.events import Downgraded, Event, SampleDone, Started, StepDone


class Progress:
    """Follows the events of one run.

    Work is counted in network calls, which take equally long, so that the estimate is good from the
    second batch on. A batch that has to be repeated for lack of memory counts anew.

    Parameters
    ----------
    clock
        Seconds; replaced in tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start = clock()
        self._sampling_since: float | None = None
        self._n_calls = 0
        self._done = 0
        self._in_batch = 0
        self._n_samples = 0
        self._samples_done = 0

    def update(self, event: Event) -> None:
        """Take note of an event."""
        match event:
            case Started():
                self._sampling_since = self._clock()
                self._n_calls = event.n_network_calls
                self._n_samples = len(event.z_indices) * len(event.members)
            case StepDone():
                self._done += event.n_samples
                self._in_batch = self._in_batch * (event.step > 1) + event.n_samples
            case SampleDone():
                self._samples_done += 1
                self._in_batch = 0
            case Downgraded():
                self._done -= self._in_batch
                self._in_batch = 0
            case _:
                pass

    @property
    def fraction(self) -> float:
        """Share of the work that is done, 0 to 1."""
        return min(1.0, self._done / self._n_calls) if self._n_calls else 0.0

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run was called."""
        return self._clock() - self._start

    @property
    def remaining_s(self) -> float | None:
        """Estimated seconds to the end; None before the first step."""
        seconds = self.seconds_per_call
        return None if seconds is None else seconds * max(0, self._n_calls - self._done)

    @property
    def seconds_per_call(self) -> float | None:
        """How long a network call took so far, on the average; None before the first step."""
        if self._sampling_since is None or not self._done:
            return None
        return (self._clock() - self._sampling_since) / self._done

    def describe(self) -> str:
        """Return the state in one short line."""
        if self._sampling_since is None:
            return "preparing"
        left = "" if self.remaining_s is None else f", {format_time(self.remaining_s)} left"
        return (
            f"{self.fraction:4.0%}  {self._samples_done}/{self._n_samples} slice samples  "
            f"{format_time(self.elapsed_s)}{left}"
        )


def format_time(seconds: float) -> str:
    """Format as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
