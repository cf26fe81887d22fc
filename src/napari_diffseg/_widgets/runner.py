"""Starts and stops runs, and turns their events into ensembles. One run at a time."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import QObject, Signal

from napari_diffseg._settings import read_settings
from napari_diffseg._widgets.engine import (
    Engine,
    ModelReady,
    NothingToDo,
    Preparing,
    Request,
    get_version,
    iter_run,
)
from napari_diffseg._widgets.plan import count_leading
from napari_diffseg._widgets.run import Recipe, Run, View
from napari_diffseg._worker import Job
from napari_diffseg.core.consensus import find_watched
from napari_diffseg.core.describe import describe_run, describe_stopping
from napari_diffseg.core.errors import CheckpointError
from napari_diffseg.core.events import (
    Cancelled,
    Converged,
    Downgraded,
    Failed,
    Finished,
    SampleDone,
    Started,
    StepDone,
)
from napari_diffseg.core.params import SegmentParams
from napari_diffseg.core.progress import Progress

if TYPE_CHECKING:
    from pathlib import Path

    from napari_diffseg._widgets.engine import RunEvent
    from napari_diffseg.core.brats import Case

ENDS = (Finished, Cancelled, Failed, NothingToDo)


class Runner(QObject):
    """Holds the latest run of each case, and the job that is going on."""

    preparing = Signal(str)
    model_ready = Signal(object)  # ModelReady
    planned = Signal(int)  # samples to draw
    began = Signal(object)  # the run, which has something to show now
    sampled = Signal(object, object)  # the run, SampleDone
    progressed = Signal(object)  # Progress
    warned = Signal(str)
    ended = Signal(object, object)  # the run, the last event

    def __init__(self, engine: Engine, parent: QObject) -> None:
        super().__init__(parent)
        self._engine = engine
        self._job: Job | None = None
        self._run: Run | None = None
        self._request: Request | None = None
        self._progress = Progress()
        self._began_s: float | None = None
        self._runs: list[Run] = []
        self._models: dict[tuple[Path | None, int], ModelReady] = {}
        self._seconds_per_call: dict[tuple[str | None, str], float] = {}

    @property
    def engine(self) -> Engine:
        """What runs call; the queue uses the same model."""
        return self._engine

    @property
    def is_running(self) -> bool:
        """Whether a run is going on."""
        return self._job is not None

    @property
    def running_run(self) -> Run | None:
        """The run that is going on."""
        return self._run

    @property
    def running_case(self) -> Case | None:
        """The case that is being sampled."""
        return None if self._run is None else self._run.case

    def find_run(self, case: Case | None) -> Run | None:
        """Return the latest run of a case."""
        return next((run for run in self._runs if run.case is case), None)

    def find_model(self, path: Path | None) -> ModelReady | None:
        """Return what is known of a model, if it has been loaded."""
        return self._models.get(get_version(path))

    def continues(self, case: Case, recipe: Recipe) -> Run | None:
        """Return the run of a case that samples of this recipe would be added to."""
        run = self.find_run(case)
        return run if run is not None and _fits(run, self._resolve(recipe)) else None

    def estimate_s(
        self, case: Case, recipe: Recipe, n_samples: int, z_range: tuple[int, int] | None
    ) -> float | None:
        """Return how long it would take to draw what is missing, as the last run took.

        None if no run of this session has used the model on this device, or the images are not
        prepared yet.
        """
        resolved = self._resolve(recipe)
        pace = self._seconds_per_call.get((resolved.model_sha256, resolved.device))
        slices = self._engine.find_slices(case)
        if pace is None or slices is None or resolved.n_steps is None:
            return None
        first, end = z_range or (0, case.geometry.shape[0])
        wanted = slices[(slices >= first) & (slices < end)]
        n_missing = n_samples * len(wanted)
        run = self.continues(case, recipe)
        if run is not None:
            n_missing -= int(count_leading(run.ensemble.sampled[:n_samples])[wanted].sum())
        return n_missing * resolved.n_steps * pace

    def count_missing(
        self, case: Case, recipe: Recipe, n_samples: int, z_range: tuple[int, int] | None
    ) -> int | None:
        """Return how many samples are missing on the slice that has the fewest of those chosen.

        None if none of these slices has any: nothing is added to there.
        """
        run = self.continues(case, recipe)
        if run is None:
            return None
        slices = self._engine.find_slices(case)
        if slices is None:  # the images are not prepared yet
            slices = np.flatnonzero(run.planned | run.is_sampled)
        first, end = z_range or (0, case.geometry.shape[0])
        wanted = slices[(slices >= first) & (slices < end)]
        there = count_leading(run.ensemble.sampled[:n_samples])[wanted]
        return n_samples - int(there.min()) if there.any() else None

    def adopt(self, run: Run) -> None:
        """Take in a run that was saved; it is the latest one of its case."""
        self._runs = [*(kept for kept in self._runs if kept.case is not run.case), run]

    def start(
        self,
        case: Case,
        recipe: Recipe,
        n_samples: int,
        z_range: tuple[int, int] | None,
        visible_z: int,
        tolerance: float | None = None,
        view: View | None = None,
    ) -> None:
        """Draw the samples that are missing; what is there of the same recipe is kept.

        With a tolerance fewer are drawn, if more would not change the mask of this view.

        Raises
        ------
        ParameterError
            If there is no memory for so many samples.
        """
        if self._job is not None:
            return
        run = self.continues(case, recipe) or Run(case, self._resolve(recipe), n_samples)
        run.make_room(n_samples)
        if run.is_reopened:  # its file does not say where the model is
            run.recipe = replace(run.recipe, model_path=recipe.model_path, device=recipe.device)
        settings = read_settings()
        view = view or View()
        threshold, of = find_watched(view.consensus, view.threshold, view.of)
        self._run = run
        self._request = Request(
            case=case,
            model_path=recipe.model_path,
            n_samples=n_samples,
            n_steps=run.recipe.n_steps,
            sampler=run.recipe.sampler,
            seed=recipe.seed,
            device=recipe.device,
            mirror=run.record.mirror if run.record is not None else None,
            vary_contrast=run.record.vary_contrast if run.record is not None else None,
            eta=(run.record.eta or 0.0) if run.record is not None else 0.0,
            z_range=z_range,
            priority_z=visible_z,
            sampled=run.ensemble.sampled.copy(),
            # Not a copy: what is complete is never written again.
            members=run.ensemble.members_uint8(),
            tolerance=tolerance,
            watched_threshold=threshold,
            watched_of=of,
            memory_budget_mb=settings.memory_budget_mb,
            threads=settings.threads,
        )
        self._progress = Progress()
        self._job = Job(partial(iter_run, self._request, self._engine))
        self._job.reported.connect(self._take)
        self._job.start()

    def cancel(self) -> None:
        """Stop before the next step."""
        if self._job is not None:
            self._job.cancel()

    def release(self) -> None:
        """Stop, and hear nothing of it any more."""
        if self._job is not None:
            self._job.release()
            self._job.reported.disconnect(self._take)
        self._job = self._request = self._run = self._began_s = None

    def forget_run(self, run: Run) -> None:
        """Add no samples any more to a run."""
        self._runs = [kept for kept in self._runs if kept is not run]

    def forget_case(self, case: Case) -> None:
        """Let go of a case that is closed."""
        self._runs = [run for run in self._runs if run.case is not case]
        self._engine.forget_case(case)

    def _take(self, event: RunEvent) -> None:
        run = self._run
        assert run is not None
        if isinstance(event, Started | StepDone | SampleDone | Downgraded):
            self._progress.update(event)
        if isinstance(event, SampleDone):
            if run not in self._runs:
                self._replace(run)
            run.add(event)
            self.sampled.emit(run, event)
        elif isinstance(event, StepDone):
            self.progressed.emit(self._progress)
        elif isinstance(event, Preparing):
            self.preparing.emit(event.message)
        elif isinstance(event, ModelReady):
            self._models[get_version(run.recipe.model_path)] = event
            if run.is_reopened and event.sha256 != run.recipe.model_sha256:
                self._refuse(run, event)
                return
            run.is_reopened = False
            run.recipe = self._resolve(run.recipe)
            self.model_ready.emit(event)
        elif isinstance(event, Started):
            self._plan(run, event)
        elif isinstance(event, Converged):
            self._note_converged(run, event)
        elif isinstance(event, Downgraded):
            self._note(run, message=event.message)
            self.warned.emit(event.message)
        elif isinstance(event, ENDS):
            self._end(run, event)

    def _refuse(self, run: Run, model: ModelReady) -> None:
        """Add nothing to members that another model has drawn."""
        assert self._job is not None
        self._job.release()
        self._job.reported.disconnect(self._take)
        self.model_ready.emit(model)
        name = "another model" if run.record is None else run.record.model.file
        error = CheckpointError(
            f"These samples were drawn by another model ({name}). Choose its file under Model to "
            "add to them; to start anew with this model, press Segment again."
        )
        self._end(run, Failed(error, str(error)))

    def _plan(self, run: Run, event: Started) -> None:
        assert self._request is not None
        run.ask(self._request.z_range, event.z_indices)
        self._began_s = time.monotonic()
        self._describe(run, event)
        self.planned.emit(event.n_network_calls // event.n_steps)
        if run in self._runs:
            self.began.emit(run)

    def _describe(self, run: Run, started: Started) -> None:
        """Write down how the members are drawn; what was there of the same recipe stays."""
        model = self.find_model(run.recipe.model_path)
        assert model is not None
        assert self._request is not None
        sampler = run.recipe.sampler or model.card.recommended_sampler
        before = run.record
        run.record = describe_run(
            model.record,
            replace(self._stopping(), sampler=sampler, seed=run.recipe.seed, eta=self._request.eta),
            started,
            elapsed_s=None if before is None else before.elapsed_s,
            messages=() if before is None else before.messages,
        )

    def _stopping(self) -> SegmentParams:
        """Return how many samples are drawn at most, and when fewer."""
        request = self._request
        assert request is not None
        return SegmentParams(
            n_samples=request.n_samples,
            tolerance=request.tolerance,
            watched_threshold=request.watched_threshold,
            watched_of=request.watched_of,
        )

    def _note_converged(self, run: Run, event: Converged) -> None:
        if run.record is not None:
            stopping = describe_stopping(self._stopping(), event)
            run.record = replace(run.record, stopping=stopping)

    def _note(self, run: Run, message: str | None = None, elapsed_s: float = 0.0) -> None:
        if run.record is not None:
            messages = run.record.messages if message is None else (*run.record.messages, message)
            elapsed_s += run.record.elapsed_s or 0.0
            run.record = replace(
                run.record, messages=tuple(dict.fromkeys(messages)), elapsed_s=elapsed_s
            )

    def _replace(self, run: Run) -> None:
        """Let a run take the place of the one before, now that it has a sample to show."""
        self._runs = [*(kept for kept in self._runs if kept.case is not run.case), run]
        self.began.emit(run)

    def _end(self, run: Run, event: RunEvent) -> None:
        self._job = self._request = self._run = None
        pace = self._progress.seconds_per_call
        if pace is not None:
            self._seconds_per_call[run.recipe.model_sha256, run.recipe.device] = pace
        if self._began_s is not None:
            self._note(run, elapsed_s=time.monotonic() - self._began_s)
            self._began_s = None
        self.ended.emit(run, event)

    def _resolve(self, recipe: Recipe) -> Recipe:
        """Put in what the model recommends, as far as it is known."""
        model = self.find_model(recipe.model_path)
        if model is None:
            return recipe
        return replace(
            recipe,
            n_steps=recipe.n_steps or model.card.recommended_steps,
            sampler=recipe.sampler or model.card.recommended_sampler,
            device=model.auto_device if recipe.device == "auto" else recipe.device,
            model_sha256=model.sha256,
        )


def _fits(run: Run, recipe: Recipe) -> bool:
    """Tell whether samples of a recipe belong to a run.

    Of a model that is not loaded yet it is not known whether it is that of a result from a file:
    that is looked at when it is (`Runner._refuse`). Such a result goes on on any device.
    """
    theirs = run.recipe
    if not run.is_reopened:
        return theirs == recipe
    return (
        recipe.n_steps or theirs.n_steps,
        recipe.sampler or theirs.sampler,
        recipe.seed,
        recipe.model_sha256 or theirs.model_sha256,
    ) == (theirs.n_steps, theirs.sampler, theirs.seed, theirs.model_sha256)
