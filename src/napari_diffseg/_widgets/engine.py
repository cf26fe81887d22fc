"""From a request to a stream of events: loads, prepares and samples. No Qt; runs in any thread."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_diffseg._widgets.plan import Part, count_leading, plan_parts
from napari_diffseg.core.convergence import StabilityWatch, plan_rounds
from napari_diffseg.core.describe import describe_model
from napari_diffseg.core.events import (
    Cancelled,
    CancelToken,
    Event,
    Failed,
    Finished,
    SampleDone,
    Started,
)
from napari_diffseg.core.params import SamplerName, SegmentParams

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_diffseg.core.brats import Case
    from napari_diffseg.core.checkpoint import LoadedModel, ModelCard
    from napari_diffseg.core.levels import MapKind
    from napari_diffseg.core.preprocessing import PreparedCase
    from napari_diffseg.core.record import ModelRecord


@dataclass(frozen=True, eq=False)
class Request:
    """What the user asked for; None stands for what the model's card recommends."""

    case: Case
    model_path: Path | None
    """None: the bundled model."""
    n_samples: int
    n_steps: int | None
    sampler: SamplerName | None
    seed: int
    device: str
    z_range: tuple[int, int] | None
    priority_z: int
    sampled: NDArray[np.bool_]
    """(S, Z): slices of members that are there already; S is at least `n_samples`."""
    memory_budget_mb: int = 1500
    threads: int = 0
    """On the CPU; 0: as torch chooses."""
    tolerance: float | None = None
    """Stop when more samples change the mask no more than this; None: draw all."""
    watched_threshold: float = 0.5
    watched_of: MapKind = "probabilities"
    """The mask that it is about."""
    members: NDArray[np.uint8] | None = None
    """(S, Z, Y, X): those that are there; they count for the tolerance. Complete members may be
    read while others are added to the ensemble."""
    mirror: bool | None = None
    """As the members that are there already."""
    vary_contrast: bool | None = None
    """As the members that are there already."""
    eta: float = 0.0


@dataclass(frozen=True)
class Preparing:
    """Something takes a moment before the first sample."""

    message: str


@dataclass(frozen=True)
class ModelReady:
    """The model is loaded, so now it is known what it recommends, and what torch can use."""

    card: ModelCard
    sha256: str
    devices: tuple[str, ...]
    auto_device: str
    record: ModelRecord
    """What exported results say of it."""


@dataclass(frozen=True)
class NothingToDo:
    """Every sample that was asked for is there already."""


RunEvent = Event | Preparing | ModelReady | NothingToDo


class Engine:
    """What a run needs of the core, imported when it is needed; tests replace the functions.

    The model and the prepared images that were used last are kept. Threads that want them at the
    same time wait for each other: the second one finds them there.
    """

    def __init__(
        self,
        load_model: Callable[[Path | None], LoadedModel] | None = None,
        segment: Callable[..., Iterator[Event]] | None = None,
    ) -> None:
        self._load_model = load_model or _load_model
        self._segment = segment
        self._model: tuple[tuple[Path | None, int], LoadedModel] | None = None
        self._prepared: tuple[weakref.ref[Case], LoadedModel, PreparedCase] | None = None
        self._lock = threading.RLock()

    def load(self, path: Path | None) -> LoadedModel:
        """Return the model, from memory if the file has not changed since."""
        with self._lock:
            key, kept = get_version(path), self._model
            if kept is None or kept[0] != key:
                self._model = kept = None  # two models at once may be too much
                self._model = kept = key, self._load_model(path)
            return kept[1]

    def peek(self, path: Path | None) -> LoadedModel | None:
        """Return the model if it is in memory."""
        kept = self._model  # another thread may load another one meanwhile
        return kept[1] if kept is not None and kept[0] == get_version(path) else None

    def load_another(self, path: Path | None) -> LoadedModel:
        """Return the model, read once more from its file, with a network that nobody else has."""
        return self._load_model(path)

    def prepare(self, case: Case, model: LoadedModel) -> PreparedCase:
        """Return the network's view of a case, from memory if it was used last."""
        from napari_diffseg.core.preprocessing import prepare_case

        with self._lock:
            kept = self._prepared
            if kept is None or kept[0]() is not case or kept[1] is not model:
                self._prepared = None
                prepared = prepare_case(case, model.preprocessing)
                kept = self._prepared = (weakref.ref(case), model, prepared)
            return kept[2]

    def get_ready(self, case: Case, path: Path | None) -> Case:
        """Do before a run what it would have to do first; return the case."""
        model = self.load(path)
        self.prepare(case, model)
        import napari_diffseg.core.segment  # noqa: F401 (a run waits for it otherwise)

        return case

    def find_slices(self, case: Case) -> NDArray[np.int64] | None:
        """Return the slices that show brain, ascending; None if the case is not prepared."""
        kept = self._prepared
        return None if kept is None or kept[0]() is not case else kept[2].z_indices

    def forget_case(self, case: Case) -> None:
        """Let go of the images of a case that is closed."""
        kept = self._prepared  # another thread may let go of it meanwhile
        if kept is not None and kept[0]() in (case, None):
            self._prepared = None

    def segment(self, *args: Any) -> Iterator[Event]:
        """Call `napari_diffseg.core.segment.segment`."""
        if self._segment is None:
            from napari_diffseg.core.segment import segment

            self._segment = segment
        return self._segment(*args)


def get_version(path: Path | None) -> tuple[Path | None, int]:
    """Tell a model file from another one that was written over it."""
    return path, path.stat().st_mtime_ns if path is not None and path.is_file() else 0


def iter_run(request: Request, engine: Engine, cancel: CancelToken) -> Iterator[RunEvent]:
    """Load, prepare, and sample what is missing.

    The events of `segment()`, as if all were one run of it, with `Preparing` and `ModelReady`
    before them. The last one is `Finished`, `Cancelled`, `Failed` or `NothingToDo`.

    With a tolerance the rounds are made here, because samples that are there already count too.
    """
    began = time.perf_counter()
    yield Preparing("Loading the model …")
    model = engine.load(request.model_path)
    if request.threads:
        import torch

        torch.set_num_threads(request.threads)
    yield ModelReady(model.card, model.sha256, *find_devices(), describe_model(model))
    if cancel.is_set():
        yield Cancelled()
        return
    yield Preparing("Preparing the images …")
    engine.prepare(request.case, model)
    yield from _iter_sampling(request, engine, cancel, model, began)


def _iter_sampling(
    request: Request, engine: Engine, cancel: CancelToken, model: LoadedModel, began: float
) -> Iterator[RunEvent]:
    """Draw what is missing, in one round or, with a tolerance, member by member."""
    prepared = engine.prepare(request.case, model)
    first, end = request.z_range or (0, request.case.geometry.shape[0])
    wanted = [int(z) for z in prepared.z_indices if first <= z < end]
    sampled = request.sampled.copy()
    plan = partial(plan_parts, sampled, wanted, priority_z=request.priority_z)
    parts = plan(n_samples=request.n_samples)
    if wanted and not parts:
        yield NothingToDo()
        return
    # Without a slice of brain nothing is planned, and segment() says what is wrong.
    parts = parts or [Part((first, end - 1), range(request.n_samples))]
    watch, n_there = _make_watch(request, wanted)
    has_started = False
    for n_members in plan_rounds(request.n_samples, request.tolerance, n_there):
        for part in plan(n_samples=n_members) if wanted else parts:
            params = _make_params(request, model.card, part)
            for event in engine.segment(request.case, model, params, cancel, prepared):
                if isinstance(event, SampleDone):
                    sampled[event.member, event.z] = True
                    watch.add(event.z, event.probability)
                if isinstance(event, Started):
                    if not has_started:
                        yield _merge(event, parts)
                    has_started = True
                elif not isinstance(event, Finished):
                    yield event
                if isinstance(event, Cancelled | Failed):
                    return
        if converged := watch.look():
            yield converged
            break
    yield Finished(time.perf_counter() - began) if has_started else NothingToDo()


def _make_watch(request: Request, wanted: Sequence[int]) -> tuple[StabilityWatch, int]:
    """Return a watch that has seen what is there, and the number of members on every slice."""
    watch = StabilityWatch(wanted, request.tolerance, request.watched_threshold, request.watched_of)
    n_there = count_leading(request.sampled[: request.n_samples])
    if request.tolerance is not None and request.members is not None:
        for z in wanted:
            for member in range(int(n_there[z])):
                watch.add(z, request.members[member, z])
    return watch, min((int(n_there[z]) for z in wanted), default=0)


def find_devices() -> tuple[tuple[str, ...], str]:
    """Return the names of torch's devices on this machine, and the one that "auto" stands for."""
    import torch

    from napari_diffseg.core.segment import resolve_device

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    names = ("cpu", *(name for name, is_there in available.items() if is_there))
    return names, str(resolve_device("auto"))


def _make_params(request: Request, card: ModelCard, part: Part) -> SegmentParams:
    return SegmentParams(
        n_samples=len(part.members),
        first_member=part.members.start,
        n_steps=request.n_steps or card.recommended_steps,
        sampler=request.sampler or card.recommended_sampler,
        seed=request.seed,
        z_range=(min(part.z_indices), max(part.z_indices) + 1),
        priority_z=request.priority_z,
        device=request.device,
        mirror=request.mirror,
        vary_contrast=request.vary_contrast,
        eta=request.eta,
        memory_budget_mb=request.memory_budget_mb,
    )


def _merge(event: Started, parts: Sequence[Part]) -> Started:
    """Announce all parts as one run."""
    return Started(
        z_indices=tuple(dict.fromkeys(z for part in parts for z in part.z_indices)),
        members=tuple(sorted({member for part in parts for member in part.members})),
        n_steps=event.n_steps,
        device=event.device,
        batch_size=event.batch_size,
        n_network_calls=sum(part.n_samples for part in parts) * event.n_steps,
        mirror=event.mirror,
        vary_contrast=event.vary_contrast,
    )


def _load_model(path: Path | None) -> LoadedModel:
    from napari_diffseg.core.checkpoint import bundled_checkpoint, load_checkpoint

    return load_checkpoint(bundled_checkpoint() if path is None else path)
