"""Keeps what is seen of a run up to date: maps, layers, numbers. Nothing here samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import QObject, QTimer, Signal

from napari_diffseg._layers import describe_slices, find_slice
from napari_diffseg._widgets.agreement import (
    compute_confidence,
    compute_distance_mm,
    compute_overlap,
    cut_out,
)
from napari_diffseg._widgets.readout_section import DASH
from napari_diffseg._widgets.stapler import Stapler
from napari_diffseg._worker import Task
from napari_diffseg.core.uncertainty import compute_volume_interval
from napari_diffseg.core.verdict import goes_on_beyond

if TYPE_CHECKING:
    from napari_diffseg._widgets.ensemble_section import EnsembleSection
    from napari_diffseg._widgets.readout_section import ReadoutSection
    from napari_diffseg._widgets.run import Run
    from napari_diffseg._widgets.stage import Stage
    from napari_diffseg.core.events import SampleDone

DRAW_MS = 80  # samples that come within this time are drawn together
DRAW_3D_MS = 1000  # whole volumes go to the graphics card
REST_MS = 30  # a slider acts on the visible slice at once, on the others when it rests so long
NUMBERS_MS = 200
DISTANCE_MS = 150
DISTANCE_WHILE_RUNNING_MS = 3000  # it takes a core, which the sampling wants


class Review(QObject):
    """Shows one run at a time."""

    warned = Signal(str)

    def __init__(
        self,
        stage: Stage,
        ensemble: EnsembleSection,
        readout: ReadoutSection,
    ) -> None:
        super().__init__(ensemble)
        self._stage = stage
        self._viewer = stage.viewer
        self._layers = stage.layers
        self._ensemble = ensemble
        self._readout = readout
        self._changed: set[int] = set()
        self._distance: Task | None = None
        self._distance_is_old = False
        self._draw_timer = self._make_timer(self._draw)
        self._rest_timer = self._make_timer(self._render_rest)
        self._numbers_timer = self._make_timer(self._show_numbers)
        self._distance_timer = self._make_timer(self._measure_distance)
        stapler = Stapler(stage, self)
        stapler.working.connect(ensemble.set_computing)
        stapler.computed.connect(self._render_rest)
        stapler.failed.connect(self.warned)
        ensemble.view_changed.connect(self._change_view)
        ensemble.overlay_changed.connect(self._change_overlay)
        self.show_run(None)

    @property
    def run(self) -> Run | None:
        """The run that is shown."""
        return self._stage.run

    def show_run(self, run: Run | None, *, is_running: bool = False) -> None:
        """Show another run, or none."""
        self._stop()
        self._stage.run = run
        self._stage.is_running = is_running
        for section in (self._ensemble, self._readout):
            section.setEnabled(run is not None)
        if run is None:
            self._ensemble.show_view(self._ensemble.own_view())
            self._ensemble.set_members(1, 1)
        else:
            self._ensemble.show_view(run.view)
            self._offer_members(run)
            self._change_view()
        self._show_numbers()
        self._stage.shown.emit()

    def begin(self, run: Run) -> None:
        """Show a run that begins, or that more samples are added to.

        New members are looked at unless the user has chosen fewer than there were.
        """
        if run.view.k >= run.n_started:
            run.set_view(replace(run.view, k=run.ensemble.n_members))
        self.show_run(run, is_running=True)

    def add(self, sample: SampleDone) -> None:
        """Draw a sample that the run has taken in: the first one now, later ones in bunches."""
        self._changed.add(sample.z)
        if not self._draw_timer.isActive():
            self._draw()
        if not self._numbers_timer.isActive():
            self._numbers_timer.start(NUMBERS_MS)

    def end(self) -> None:
        """Sampling is over: everything is brought up to date."""
        self._stage.is_running = False
        self._draw_timer.stop()
        if self.run is not None:
            self._offer_members(self.run)
            self.run.set_view(self._ensemble.view())
            self._render_rest()
            self._distance_timer.stop()
            self._show_numbers()

    def release(self) -> None:
        """Stop everything that would come later."""
        self._stop()
        self._stage.run = None
        self._stage.released.emit()

    def _stop(self) -> None:
        timers = (self._draw_timer, self._rest_timer, self._numbers_timer, self._distance_timer)
        for timer in timers:
            timer.stop()
        self._changed.clear()
        if self._distance is not None:
            self._distance.release()
            self._distance = None

    def _offer_members(self, run: Run) -> None:
        """Offer the members that there are; while it runs, those that there will be."""
        n_members = run.ensemble.n_members if self._stage.is_running else max(run.n_started, 1)
        self._ensemble.set_members(n_members, min(run.view.k, n_members))

    def _change_view(self) -> None:
        run = self.run
        if run is None:
            return
        run.set_view(self._ensemble.view())
        visible = find_slice(self._viewer.dims, run.case.geometry)
        run.render([visible])
        self._layers.refresh(run, [visible])
        self._stage.viewed.emit()
        self._rest_timer.start(REST_MS)

    def _change_overlay(self) -> None:
        if self.run is not None:
            self._layers.set_overlay(self.run, self._ensemble.chosen_overlay())

    def _render_rest(self) -> None:
        run = self.run
        if run is None:
            return
        run.render()
        running = self._stage.is_running
        self._layers.refresh(run, np.flatnonzero(run.is_sampled), thumbnails=not running)
        if not self._numbers_timer.isActive():
            self._show_numbers()
        self._stage.settled.emit()

    def _draw(self) -> None:
        if self.run is not None and self._changed:
            self._layers.refresh(self.run, self._changed)
            self._changed.clear()
            is_3d = self._viewer.dims.ndisplay == 3
            self._draw_timer.start(DRAW_3D_MS if is_3d else DRAW_MS)

    def _show_numbers(self) -> None:
        run, readout = self.run, self._readout
        comparison = None if run is None else cut_out(run)
        if run is None or not run.is_sampled.any():
            readout.show_volume(None, None)
            readout.show_likely(None)
            readout.show_confidence(None)
            readout.show_slices(DASH)
        else:
            volumes = run.member_volumes_ml()
            interval = compute_volume_interval(volumes) if volumes.size else None
            readout.show_volume(run.volume_ml(), interval, run.expected_ml())
            readout.show_likely(run.likely_volume())
            readout.show_confidence(compute_confidence(run))
            evaluated = np.flatnonzero(run.evaluated)
            is_part = len(evaluated) > 1 and goes_on_beyond(
                np.flatnonzero(run.mask.any(axis=(1, 2))), set(evaluated), len(run.mask)
            )
            readout.show_slices(describe_slices(evaluated, run.case.geometry), is_part=is_part)
        readout.show_overlap(None if comparison is None else compute_overlap(comparison))
        if comparison is None:
            readout.show_distance(None)
        elif not self._distance_timer.isActive():
            wait = DISTANCE_WHILE_RUNNING_MS if self._stage.is_running else DISTANCE_MS
            self._distance_timer.start(wait)
        self._stage.changed.emit()

    def _measure_distance(self) -> None:
        if self._distance is not None:  # one at a time, and then the newest
            self._distance_is_old = True
            return
        comparison = None if self.run is None else cut_out(self.run)
        if comparison is None:
            return
        self._distance_is_old = False
        self._distance = Task(compute_distance_mm, comparison)
        self._distance.done.connect(self._show_distance)
        self._distance.failed.connect(self._show_distance)
        self._distance.start()

    def _show_distance(self, result: object) -> None:
        self._distance = None
        self._readout.show_distance(result if isinstance(result, float) else None)
        if self._distance_is_old:
            self._measure_distance()

    def _make_timer(self, slot: Callable[[], None]) -> QTimer:
        timer = QTimer(self)
        timer.setSingleShot(True)
        timer.timeout.connect(slot)
        return timer
