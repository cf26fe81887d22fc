"""Where mask and truth differ, as a layer: too much, missed, and what is filtered out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import QObject, QTimer, Signal

from napari_diffseg.core.uncertainty_filter import MAX_UNCERTAINTY, scale_variance

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_diffseg._widgets.run import Run
    from napari_diffseg._widgets.stage import Stage

FALSE_POSITIVE, FALSE_NEGATIVE, FILTERED = 1, 2, 3
FALSE_POSITIVE_COLOUR = "#d55e00"
FALSE_NEGATIVE_COLOUR = "#009e73"
FILTERED_COLOUR = "#808080"
"""Vermilion and bluish green: of Okabe and Ito's colours, and neither the mask's nor the truth's.
"""

SLICES_AT_ONCE = 24  # about 5 ms at 240x240: the other slices are written while nobody waits


class ErrorOverlay(QObject):
    """One layer of labels that follows samples, threshold and filter while it is switched on.

    The slice on screen is written first, all others in small portions afterwards.
    """

    deleted = Signal()
    """The user has deleted the layer, so it is switched off."""

    def __init__(self, stage: Stage, parent: QObject) -> None:
        super().__init__(parent)
        self._stage = stage
        self._is_on = False
        self._is_to_show = False  # later the user may hide the layer
        self._tau = MAX_UNCERTAINTY
        self._run: Run | None = None
        self._labels: NDArray[np.uint8] | None = None
        self._waiting: list[int] = []
        self._timer = QTimer(self)
        self._timer.setInterval(0)
        self._timer.timeout.connect(self._write_others)
        for signal in (stage.shown, stage.viewed, stage.changed, stage.settled):
            signal.connect(self._update)
        stage.moved.connect(self._show_slice)
        stage.released.connect(self.release)

    def show(self, is_on: bool) -> None:
        """Switch it on or off."""
        self._is_on = is_on
        if is_on:
            self._update()
        else:
            self._hide()

    def set_limit(self, tau: int) -> None:
        """Cover voxels that are more uncertain than this, 0 to 100; 100 covers none."""
        self._tau = tau
        self._update()

    def release(self) -> None:
        """Stop, and let go of the run."""
        self._timer.stop()
        self._run = self._labels = None

    def _update(self) -> None:
        """The maps are others: write the slice on screen, and all others soon."""
        run = self._stage.run
        if not self._is_on or run is None or run.case.wt_truth is None:
            self._hide()
            return
        if run is not self._run or self._labels is None:
            self._hide()
            self._run, self._labels = run, np.zeros(run.case.geometry.shape, np.uint8)
            self._is_to_show = True
        elif "errors" not in self._stage.layers.of_run(run):
            self._is_on = False
            self._hide()
            self.deleted.emit()
            return
        visible = self._stage.visible_z
        self._waiting = np.flatnonzero(run.is_sampled | run.evaluated).tolist()
        if visible is not None:
            self._write([visible])
        self._draw()
        self._timer.start()

    def _show_slice(self, z: int) -> None:
        if self._timer.isActive() and z in self._waiting:
            self._write([z])
            self._draw()

    def _write_others(self) -> None:
        self._write(self._waiting[:SLICES_AT_ONCE])
        if not self._waiting:
            self._timer.stop()
            self._draw()

    def _write(self, z_indices: list[int]) -> None:
        run, labels = self._run, self._labels
        if run is None or labels is None or run.case.wt_truth is None:
            self._waiting = []
            return
        for z in z_indices:
            if run.evaluated[z]:
                write_errors(
                    run.mask[z], run.case.wt_truth[z], run.variance[z], self._tau, labels[z]
                )
            else:
                labels[z] = 0
        done = set(z_indices)
        self._waiting = [z for z in self._waiting if z not in done]

    def _draw(self) -> None:
        if self._run is not None and self._labels is not None:
            show, self._is_to_show = self._is_to_show, False
            self._stage.layers.draw(
                self._run,
                "errors",
                self._labels,
                f"Errors · {self._run.case.name}",
                (FALSE_POSITIVE_COLOUR, FALSE_NEGATIVE_COLOUR, FILTERED_COLOUR),
                show=show,
            )

    def _hide(self) -> None:
        self._timer.stop()
        if self._run is not None:
            self._stage.layers.hide(self._run, "errors")
        self._run = self._labels = None


def write_errors(
    mask: NDArray[np.uint8],
    truth: NDArray[np.bool_],
    variance: NDArray[np.float32],
    tau: int,
    out: NDArray[np.uint8],
) -> None:
    """Write one slice, (Y, X): 1 too much, 2 missed, 3 more uncertain than tau, 0 all else."""
    np.subtract(mask, truth, out=out, dtype=np.uint8)  # 1, 0, or 255 for -1
    np.minimum(out, FALSE_NEGATIVE, out=out)
    if tau < MAX_UNCERTAINTY:
        out[scale_variance(variance) > tau] = FILTERED
