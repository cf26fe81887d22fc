"""One case of the queue, from its files to saved results. No Qt; runs in another thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from napari_diffseg._widgets.found import Found, Wanted, find_result, is_to_do, make_wanted
from napari_diffseg.core.events import (
    Cancelled,
    CancelToken,
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
    from napari_diffseg._widgets.engine import Engine
    from napari_diffseg._widgets.run import Recipe, View
    from napari_diffseg.core.brats import Case, CaseFiles
    from napari_diffseg.core.checkpoint import LoadedModel
    from napari_diffseg.core.ensemble import Ensemble


@dataclass(frozen=True)
class QueueOptions:
    """What is the same for all cases of a queue; whole volumes are segmented."""

    recipe: Recipe
    n_samples: int
    view: View
    """How the maps and the mask are made; of all members that there are, whatever its ``k``."""
    folder: Path
    """Where the results go."""
    tolerance: float | None = None
    """Stop when more samples change the mask no more than this; None: draw all."""
    replaceable: Mapping[str, Found] = field(default_factory=dict)
    """Results by case that were drawn with another model or settings, and may be replaced."""
    memory_budget_mb: int = 1500
    threads: int = 0
    may_go: threading.Event = field(default_factory=threading.Event)
    """While it is not set the run waits before its next step."""


@dataclass(frozen=True)
class Share:
    """How much of a case is done, 0 to 1."""

    fraction: float


QueueEvent = Share | Found | Finished | Cancelled | Failed


def iter_case(
    files: CaseFiles, options: QueueOptions, engine: Engine, cancel: CancelToken
) -> Iterator[QueueEvent]:
    """Load a case, draw its members one after the other, and save after each of them.

    With a tolerance no more are drawn once the mask is stable.

    What is on disk is replaced by a result with more members of the whole volume only: a case that
    is begun again after a crash does not lose what was there. One that was finished, edited or
    drawn with other settings meanwhile, in the dock or by somebody else, is left alone.
    """
    model = _load_own(options, engine)
    wanted = make_wanted(options.recipe, options.n_samples, options.tolerance, options.view, model)
    saved = find_result(options.folder, files)
    if is_to_do(saved, wanted, options.replaceable.get(files.name)):
        yield from _iter_members(files, options, engine, cancel, model, wanted)
    else:
        yield saved
        yield Finished(0.0)


def _iter_members(
    files: CaseFiles,
    options: QueueOptions,
    engine: Engine,
    cancel: CancelToken,
    model: LoadedModel,
    wanted: Wanted,
) -> Iterator[QueueEvent]:
    from napari_diffseg.core.convergence import StabilityWatch
    from napari_diffseg.core.ensemble import Ensemble
    from napari_diffseg.core.preprocessing import prepare_case

    case = _load_case(files, options)
    prepared = prepare_case(case, model.preprocessing)
    ensemble = Ensemble(options.n_samples, case.geometry.shape)
    params = _make_params(options, model)
    watch = StabilityWatch(
        prepared.z_indices, options.tolerance, params.watched_threshold, params.watched_of
    )
    messages: list[str] = []
    elapsed_s = 0.0
    for member in range(options.n_samples):
        part = replace(params, n_samples=1, first_member=member, tolerance=None)
        started: Started | None = None
        progress = Progress()
        for event in engine.segment(case, model, part, cancel, prepared):
            _wait(options, cancel)
            progress.update(event)
            if isinstance(event, Started):
                started = event
            elif isinstance(event, SampleDone):
                ensemble.add(event.member, event.z, event.probability)
                watch.add(event.z, event.probability)
            elif isinstance(event, StepDone):
                yield Share((member + progress.fraction) / options.n_samples)
            elif isinstance(event, Downgraded):
                messages.append(event.message)
            elif isinstance(event, Finished):
                elapsed_s += event.elapsed_s
            elif isinstance(event, Cancelled | Failed):
                yield event
                return
        assert started is not None
        n_members = member + 1
        saved = find_result(options.folder, files)
        if not is_to_do(saved, wanted, options.replaceable.get(files.name)):
            break
        n_kept = 0 if wanted.is_of_another(saved) else saved.n_whole
        converged = watch.look() if n_members >= n_kept else None
        if n_members > n_kept or converged:
            run = params, started, elapsed_s, tuple(messages), converged
            _save(case, ensemble, n_members, options, model, run)
            yield find_result(options.folder, files)
        if converged:
            break
    yield find_result(options.folder, files)
    yield Finished(elapsed_s)


def _load_case(files: CaseFiles, options: QueueOptions) -> Case:
    """Load a case, once it is known that its results can be saved, and will replace only such."""
    from napari_diffseg.core.batch import check_replaceable
    from napari_diffseg.core.brats import load_case
    from napari_diffseg.core.export import (
        RECORD,
        check_outputs,
        make_output_folder,
        output_paths,
    )

    make_output_folder(options.folder)
    outputs = output_paths(options.folder, files.name, samples=True)
    check_outputs(outputs.values(), files)
    # What was drawn otherwise, of these images, may still have been edited in another program.
    replaceable = options.replaceable.get(files.name)
    if replaceable is None or not replaceable.other_images:
        check_replaceable(outputs.values(), outputs[RECORD], files)
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    return load_case(files)


def _load_own(options: QueueOptions, engine: Engine) -> LoadedModel:
    """Return the model; where there are several devices, with a network of the queue's own.

    A run of the user that goes first may need its network on another device, or be brought to
    another one for lack of memory, in the middle of a batch of the queue.
    """
    from napari_diffseg.core.segment import has_accelerator

    path = options.recipe.model_path
    return engine.load_another(path) if has_accelerator() else engine.load(path)


def _wait(options: QueueOptions, cancel: CancelToken) -> None:
    """Let a run that the user has started go first."""
    while not options.may_go.wait(0.2):
        if cancel.is_set():
            return


def _make_params(options: QueueOptions, model: LoadedModel) -> SegmentParams:
    from napari_diffseg.core.consensus import find_watched

    recipe, card, view = options.recipe, model.card, options.view
    threshold, of = find_watched(view.consensus, view.threshold, view.of)
    return SegmentParams(
        n_samples=options.n_samples,
        n_steps=recipe.n_steps or card.recommended_steps,
        sampler=recipe.sampler or card.recommended_sampler,
        seed=recipe.seed,
        tolerance=options.tolerance,
        watched_threshold=threshold,
        watched_of=of,
        device=recipe.device,
        memory_budget_mb=options.memory_budget_mb,
    )


def _save(
    case: Case,
    ensemble: Ensemble,
    n_members: int,
    options: QueueOptions,
    model: LoadedModel,
    run: tuple[SegmentParams, Started, float, tuple[str, ...], Converged | None],
) -> None:
    from napari_diffseg.core.describe import describe_model, describe_result, describe_run
    from napari_diffseg.core.export import save_result

    record = describe_result(
        case,
        ensemble,
        describe_run(describe_model(model), *run),
        threshold=options.view.threshold,
        of=options.view.of,
        consensus=options.view.consensus,
        k=n_members,
    )
    save_result(options.folder, case, ensemble, record, samples=True)
