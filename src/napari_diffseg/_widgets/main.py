"""The dock widget: puts the sections together and coordinates them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from napari.utils.notifications import show_error, show_warning
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_diffseg._layers import find_slice
from napari_diffseg._settings import read_settings
from napari_diffseg._widgets.advice import Advice
from napari_diffseg._widgets.case_closer import CaseCloser
from napari_diffseg._widgets.case_desk import CaseDesk
from napari_diffseg._widgets.case_folder import CaseFolder
from napari_diffseg._widgets.case_list import CaseList
from napari_diffseg._widgets.case_section import CaseSection
from napari_diffseg._widgets.case_switch import CaseSwitch
from napari_diffseg._widgets.engine import Engine, ModelReady, NothingToDo
from napari_diffseg._widgets.ensemble_section import EnsembleSection
from napari_diffseg._widgets.export_section import ExportSection
from napari_diffseg._widgets.exporter import Exporter
from napari_diffseg._widgets.form import STYLE, Column, Fold, Heading, Stack
from napari_diffseg._widgets.lifetime import Lifetime
from napari_diffseg._widgets.model_section import ModelSection
from napari_diffseg._widgets.offer import Offer
from napari_diffseg._widgets.panels import make_panels
from napari_diffseg._widgets.parameters_section import ParametersSection
from napari_diffseg._widgets.queue_run import QueueOptions
from napari_diffseg._widgets.readout_section import ReadoutSection
from napari_diffseg._widgets.reopener import Reopener
from napari_diffseg._widgets.result_layers import ResultLayers
from napari_diffseg._widgets.review import Review
from napari_diffseg._widgets.run import Run
from napari_diffseg._widgets.run_section import RunSection
from napari_diffseg._widgets.run_texts import RunTexts
from napari_diffseg._widgets.runner import Runner
from napari_diffseg._widgets.shortcuts import Shortcuts
from napari_diffseg._widgets.stage import Stage
from napari_diffseg._widgets.warm_up import WarmUp
from napari_diffseg.core.errors import DiffsegError
from napari_diffseg.core.events import Cancelled, Failed, Finished, SampleDone
from napari_diffseg.core.params import MAX_SEED

if TYPE_CHECKING:
    from pathlib import Path

    import napari

    from napari_diffseg._widgets.engine import RunEvent
    from napari_diffseg._widgets.message_bar import Kind
    from napari_diffseg.core.brats import Case
    from napari_diffseg.core.progress import Progress

SEED_TOO_LARGE = (
    "The seed of this result, {seed}, is larger than this version draws with "
    f"({MAX_SEED}): it can be reviewed, but no samples can be added to it."
)


class DiffsegWidget(QWidget):
    """The dock widget "Diffusion segmentation".

    Parameters
    ----------
    napari_viewer
        The viewer that it works in.
    engine
        What runs call; tests bring their own.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer, engine: Engine | None = None) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self._is_following = False
        self._told_opened = ""
        self._texts = RunTexts()
        self.cases = CaseSection()
        self.case_list = CaseList()
        self.model = ModelSection()
        self.parameters = ParametersSection()
        self.run = RunSection()
        self.ensemble = EnsembleSection()
        self.readout = ReadoutSection()
        switch = CaseSwitch(napari_viewer)
        self._layers = ResultLayers(napari_viewer, switch, self)
        self.stage = Stage(napari_viewer, self._layers, self)
        self.panels = make_panels(self.stage)
        self.export = ExportSection()
        self.shortcuts = Shortcuts(self)
        self._lay_out()
        self._apply_settings()
        self._review = Review(self.stage, self.ensemble, self.readout)
        self._exporter = Exporter(self.stage, self.export)
        self._desk = CaseDesk(napari_viewer, self.cases, switch, self)
        self._runner = Runner(engine or Engine(), self)
        self._offer = Offer(
            napari_viewer, self._desk, self.model, self.parameters, self.run, self._runner
        )
        self._warm_up = WarmUp(self._runner, self)
        self._folder = CaseFolder(self.case_list, self._desk, self._runner, self._queue_options)
        self._closer = CaseCloser(self.cases, self._desk, self._runner)
        self._advice = Advice(self.run.message, self)
        self._reopener = Reopener(napari_viewer, self._runner, self._layers, self)
        self._lifetime = Lifetime(self)
        self._connect()
        self._follow_viewer()

    # -- putting it together

    def _lay_out(self) -> None:
        self.setStyleSheet(STYLE)
        self.set_up = Fold(
            "Set-up",
            Stack(self.model, self.parameters),
            "What is sampled, and how. Fold it away for more room to review.",
            is_open=True,
        )
        column = Column(
            self.cases,
            self.case_list,
            self.set_up,
            self.run,
            Heading("Review"),
            self.ensemble,
            self.readout,
            *self.panels,
            Heading("Export"),
            self.export,
            self.shortcuts,
        )
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(column, 1)
        layout.addWidget(self.run.message)  # below all: nothing moves when a message comes

    def _apply_settings(self) -> None:
        """Begin with what the user prefers; wrong values are told."""
        settings = read_settings()
        self.parameters.set_defaults(settings)
        self.ensemble.set_threshold(settings.threshold)
        self.model.set_path(settings.model)
        if settings.problems:
            self.run.message.show_message("warning", " ".join(settings.problems))

    def _connect(self) -> None:
        self._desk.current_changed.connect(self._change_case)
        self._desk.closed.connect(self._close_case)
        self._desk.reading.connect(self._show_reading)
        self._desk.opened.connect(self._show_opened)
        self._desk.failed.connect(self._fail)
        self.model.changed.connect(self._change_model)
        self.parameters.changed.connect(self._follow_parameters)
        self.run.start_wanted.connect(self._start)
        self.run.cancel_wanted.connect(self._cancel)
        self._runner.preparing.connect(self._show_preparing)
        self._runner.model_ready.connect(self._show_model)
        self._runner.planned.connect(self._texts.plan)
        self._runner.began.connect(self._begin)
        self._runner.sampled.connect(self._take_sample)
        self._runner.progressed.connect(self._show_progress)
        self._runner.warned.connect(self._warn)
        self._review.warned.connect(self._warn)
        self.stage.settled.connect(self._judge_anew)
        self._runner.ended.connect(self._end)
        self._exporter.saved.connect(self._folder.note_saved)
        self._exporter.failed.connect(self._fail)
        self._exporter.edited.measured.connect(self.readout.show_edited)
        self._reopener.adopted.connect(self._show_reopened)
        self._reopener.found.connect(self._show_found)
        self._reopener.stopped.connect(partial(self.run.set_progress, 0))
        self._reopener.told.connect(partial(self.run.message.show_message, "info"))
        self._reopener.opened_without_samples.connect(self._show_maps_only)
        self._warm_up.done.connect(self._offer.show_time)
        self._folder.settled.connect(self._show_idle)
        self._folder.told.connect(partial(self.run.message.show_message, "info"))
        self._folder.failed.connect(self._fail)
        for choice in (
            self.parameters.changed,
            self.model.changed,
            self.ensemble.view_changed,
            self._warm_up.done,
            self._runner.model_ready,
        ):
            choice.connect(self._folder.follow_choices)
        self._lifetime.ended.connect(self._shut_down)
        self._lifetime.began.connect(self._follow_viewer)
        self.shortcuts.register("Ctrl+Return", "Segment, or cancel", self.run.button.click)
        self.shortcuts.register("Ctrl+Down", "Next case", lambda: self.case_list.go(1))
        self.shortcuts.register("Ctrl+Up", "Previous case", lambda: self.case_list.go(-1))
        self.shortcuts.register("V", "Show or hide the map", self.ensemble.toggle_overlay)
        self.shortcuts.register("M", "Show or hide the mask", self._toggle_mask)

    def _follow_viewer(self) -> None:
        if self._is_following:
            return
        self._is_following = True
        self._viewer.dims.events.point.connect(self._show_slice)
        for event in (self._viewer.dims.events.ndisplay, self._viewer.dims.events.order):
            event.connect(self._turn)
        self._desk.follow_viewer()
        self._reopener.follow_viewer()
        self._change_case(self._desk.current)

    def _shut_down(self) -> None:
        """The dock or the window is going: stop what runs, and touch nothing any more."""
        if not self._is_following:
            return
        self._is_following = False
        self._runner.release()
        self._folder.release()
        self._advice.release()
        self._warm_up.release()
        self._review.release()
        self._layers.release()
        self._desk.leave_viewer()
        self._reopener.leave_viewer()
        self._viewer.dims.events.point.disconnect(self._show_slice)
        for event in (self._viewer.dims.events.ndisplay, self._viewer.dims.events.order):
            event.disconnect(self._turn)

    # -- cases and choices

    def _change_case(self, case: Case | None) -> None:
        if case is not None:
            self.parameters.set_geometry(case.geometry)
        run = self._runner.find_run(case)
        is_running = run is not None and self._runner.running_run is run
        view = None if run is None else run.view
        if run is not None:
            self._layers.follow_overlay(run, self.ensemble.chosen_overlay())
        self._review.show_run(run, is_running=is_running)
        self._show_slice()
        self._show_idle()
        self._show_counts()
        self._advice.look_at(case)
        if run is not None and not is_running:
            if run.view != view:
                run.render()  # all slices now: they are judged
            self._advice.judge_run(run)
        self._warm_up.look_at(case, self.model.path)

    def _close_case(self, case: Case) -> None:
        if self._runner.running_case is case:
            self._runner.release()
            self.run.set_progress(0)
            self._show_idle()
        self._runner.forget_case(case)

    def _show_reopened(self, run: Run, keep_others: bool = False) -> None:
        """Show a result from a file as if it had just been drawn."""
        self.ensemble.show_view(run.view)  # first: who shows a run looks at it as the sliders say
        self._desk.choose(run.case)
        overlay = self.ensemble.chosen_overlay()
        self._layers.show(run, overlay, keep_others=keep_others, at_once=True)
        self._layers.set_overlay(run, overlay)
        self._layers.show_legends()
        asked = np.flatnonzero(run.asked)
        ends = sorted(run.case.geometry.to_source_slice(int(z)) for z in asked[[0, -1]])
        self.parameters.show_slices(ends[0], ends[1], whole_volume=bool(run.asked.all()))
        if self._folder.is_opening_result:  # what the queue is to draw stays as it is
            self.parameters.make_room(run.n_started)
        else:
            self.parameters.show_recipe(run.recipe, run.n_started)
        if self._runner.running_case is not run.case:
            self._review.show_run(run)
            self._review.end()
            self._advice.judge_run(run)
        if not run.asked[find_slice(self._viewer.dims, run.case.geometry)]:
            self.stage.go_to_slice(int(asked[len(asked) // 2]))
        self._show_idle()
        name = "a model" if run.record is None else run.record.model.name
        n = run.n_started
        self._told_opened = f"Opened: {n} sample{'s' * (n != 1)}, drawn by {name}."
        self.run.status.setText(self._told_opened)
        if run.recipe.seed > MAX_SEED:
            self.run.message.show_message("info", SEED_TOO_LARGE.format(seed=run.recipe.seed))

    def _show_reading(self, text: str) -> None:
        self._told_opened = ""
        self.run.status.setText(text)

    def _show_opened(self) -> None:
        """Say what has been opened, once nothing is read any more."""
        self._show_idle()
        if self._told_opened and not self._runner.is_running:
            self.run.status.setText(self._told_opened)
        self._told_opened = ""

    def _show_found(self, run: Run) -> None:
        """Show what a dock that was closed has drawn of the case that is looked at."""
        if run.case is self._desk.current:
            self.model.set_path(run.recipe.model_path)
            self._show_reopened(run)

    def _show_maps_only(self, case: Case, kind: Kind, text: str) -> None:
        """Show a result from a file that has no samples."""
        self._desk.choose(case)
        self._review.show_run(None)
        self._layers.show_legends()
        self._show_idle()
        self.run.message.show_message(kind, text)

    def _change_model(self) -> None:
        model = self._runner.find_model(self.model.path)
        if model is None:
            self.parameters.forget_model()
        else:
            self._show_model(model)
        self._warm_up.look_at(self._desk.current, self.model.path)
        self._show_idle()

    def _show_model(self, model: ModelReady) -> None:
        self.model.show_card(model)
        self.parameters.show_model(model)

    def _show_slice(self, event: object = None) -> None:  # noqa: ARG002 (napari passes it)
        case = self._desk.current
        if case is None:
            self.parameters.show_slice(None)
        else:
            z = find_slice(self._viewer.dims, case.geometry)
            self.parameters.show_slice(case.geometry.to_source_slice(z))
            self._offer.name_button()
            self.stage.moved.emit(z)

    def _turn(self, event: object = None) -> None:  # noqa: ARG002 (napari passes it)
        self.stage.turned.emit()

    def _queue_options(self, results: Path) -> QueueOptions:
        """What the user has chosen last is what the queue does."""
        settings = read_settings()
        return QueueOptions(
            recipe=self._offer.recipe(),
            n_samples=self.parameters.choices().n_samples,
            tolerance=self.parameters.choices().tolerance,
            view=self.ensemble.own_view(),
            folder=results,
            memory_budget_mb=settings.memory_budget_mb,
            threads=settings.threads,
        )

    def _toggle_mask(self) -> None:
        if self._review.run is not None:
            self._layers.toggle(self._review.run, "mask")

    # -- runs

    def _show_idle(self) -> None:
        if not self._runner.is_running:
            self._folder.queue.resume()
            self._offer.show()

    def _follow_parameters(self) -> None:
        self.stage.set_tolerance(self.parameters.choices().tolerance)
        self._show_idle()

    def _start(self) -> None:
        case = self._desk.current
        if case is None or self._runner.is_running:
            return
        self._folder.queue.pause()
        self.run.message.clear()
        self.run.set_progress(0)
        self.run.set_state("running")
        self.run.status.setText("Starting …")
        self._texts.start(stops_early=self.parameters.choices().tolerance is not None)
        try:
            self._runner.start(
                case,
                self._offer.recipe(),
                self.parameters.choices().n_samples,
                self._offer.z_range(case),
                find_slice(self._viewer.dims, case.geometry)
                if read_settings().visible_slice_first
                else _middle(self._offer.z_range(case) or (0, case.geometry.shape[0])),
                self.parameters.choices().tolerance,
                self.ensemble.view(),
            )
        except DiffsegError as error:
            self._fail(str(error))

    def _cancel(self) -> None:
        self.run.set_state("cancelling")
        self._runner.cancel()

    def _begin(self, run: Run) -> None:
        is_current = run.case is self._desk.current
        if not run.n_started:  # a new run is looked at as the one before
            view = self.ensemble.view() if is_current else self.ensemble.own_view()
            run.set_view(replace(view, k=run.ensemble.n_members))
        keep_others = self.parameters.choices().keep_results
        self._layers.show(run, self.ensemble.chosen_overlay(), keep_others=keep_others)
        if is_current:
            self._review.begin(run)

    def _take_sample(self, run: Run, sample: SampleDone) -> None:
        self._texts.take(sample)
        self._show_counts()
        if self._review.run is run:
            self._review.add(sample)

    def _show_progress(self, progress: Progress) -> None:
        self.run.set_progress(progress.fraction)
        self._texts.take_time(progress.remaining_s)
        self._show_counts()

    def _show_counts(self) -> None:
        text = self._texts.describe_progress()
        if text is not None and self.run.state == "running":
            self.run.status.setText(self._name(self._runner.running_case, text))

    def _show_preparing(self, text: str) -> None:
        self.run.status.setText(self._name(self._runner.running_case, text))

    def _name(self, case: Case | None, text: str) -> str:
        """Say which case a text is about, unless it is the one that is looked at."""
        return text if case is None or case is self._desk.current else f"{case.name}: {text}"

    def _warn(self, text: str) -> None:
        self.run.message.show_message("warning", text)
        show_warning(text)

    def _fail(self, text: str) -> None:
        self.run.message.show_message("error", text)
        show_error(text)
        self._show_idle()

    def _judge_anew(self) -> None:
        """Warn, or warn no more, of what the sliders have made of a run."""
        run = self._review.run
        if run is not None and not self.stage.is_running and run.is_sampled.any():
            self._advice.judge_run(run)

    def _end(self, run: Run, event: RunEvent) -> None:
        if self._review.run is run:
            self._review.end()
        self._layers.show_legends()
        self.run.set_progress(float(isinstance(event, Finished)))
        self._show_idle()
        if isinstance(event, Failed):
            self._fail(self._name(run.case, event.message))
        elif isinstance(event, NothingToDo):
            text = self._texts.explain_nothing_to_do(run)
            self.run.message.show_message("info", self._name(run.case, text))
        elif isinstance(event, Cancelled):
            self._advice.judge_run(run)
            self.run.status.setText(self._name(run.case, self._texts.describe_cancelled()))
        elif isinstance(event, Finished):
            self._advice.judge_run(run)
            text = self._texts.describe_finished(run, event.elapsed_s)
            self.run.status.setText(self._name(run.case, text))


def _middle(z_range: tuple[int, int]) -> int:
    first, end = z_range
    return (first + end - 1) // 2
