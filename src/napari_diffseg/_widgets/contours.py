"""Where members agree: outlines of what one, half and all of them say, where it is to be seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import QObject, QTimer

from napari_diffseg._layers import AGREEMENT_COLOURS, RESULT_NAMES, shows_axial_slice
from napari_diffseg.core.levels import MASK_LEVEL

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from napari_diffseg._widgets.run import Run
    from napari_diffseg._widgets.stage import Stage

AT_LEAST_ONE, HALF, ALL = 1, 2, 3
SLICES_AT_ONCE = 8  # about 10 ms at 240x240


class AgreementContours(QObject):
    """Draws a slice when it is looked at, and again when it has changed: it takes 1 ms or two.

    In 3-D and from the side all slices are to be seen: these are drawn in small portions.
    """

    def __init__(self, stage: Stage, parent: QObject) -> None:
        super().__init__(parent)
        self._stage = stage
        self._is_on = False
        self._is_to_show = False  # later the user may hide or delete the layer
        self._run: Run | None = None
        self._labels: NDArray[np.uint8] | None = None
        self._drawn: dict[int, bytes] = {}  # of which members a slice is drawn
        self._timer = QTimer(self)
        self._timer.setInterval(0)
        self._timer.timeout.connect(self._draw_portion)
        for signal in (stage.shown, stage.viewed, stage.changed, stage.settled):
            signal.connect(self._follow)
        stage.moved.connect(self._draw)
        stage.turned.connect(self._draw_soon)
        stage.released.connect(self._forget)

    def set_on(self, is_on: bool) -> None:
        """Show or hide the outlines."""
        self._is_on = is_on
        if is_on:
            self._is_to_show = True
            self._follow()
        elif self._run is not None:
            self._timer.stop()
            self._stage.layers.hide(self._run, "agreement")

    def _follow(self) -> None:
        run = self._stage.run
        if run is not self._run:
            self._leave()
        if not self._is_on or run is None or not run.is_sampled.any():
            return
        if self._run is None:
            self._run, self._labels = run, np.zeros(run.mask.shape, np.uint8)
            self._is_to_show = True
        self._draw()

    def _draw(self, _: int = 0) -> None:
        """Draw what is to be seen and out of date: a slice at once, all of them in portions."""
        if not self._is_on or self._run is None:
            return
        if not shows_axial_slice(self._stage.viewer.dims):
            self._timer.start()
            return
        self._timer.stop()
        visible = self._stage.visible_z
        old = [] if visible is None else self._find_old([visible])
        if old or self._is_to_show:
            self._write(old)
            self._show()

    def _draw_soon(self) -> None:
        """Draw in a turn of its own: napari also turns the view while it adds a layer."""
        if self._is_on and self._run is not None:
            self._timer.start()

    def _draw_portion(self) -> None:
        run = self._run
        if run is None or shows_axial_slice(self._stage.viewer.dims):
            self._timer.stop()
            self._draw()
            return
        old = self._find_old(range(len(run.mask)))
        self._write(old[:SLICES_AT_ONCE])
        if len(old) <= SLICES_AT_ONCE:
            self._timer.stop()
            if old or self._is_to_show:
                self._show()

    def _find_old(self, z_indices: Iterable[int]) -> list[int]:
        """Return those of the slices that are not drawn of the members that they have now."""
        run = self._run
        if run is None:
            return []
        sampled = run.ensemble.sampled[: run.view.k]
        empty = bytes(len(sampled))
        now = {z: sampled[:, z].tobytes() for z in z_indices}
        return [z for z, members in now.items() if self._drawn.get(z, empty) != members]

    def _write(self, z_indices: list[int]) -> None:
        run, labels = self._run, self._labels
        if run is None or labels is None:
            return
        for z in z_indices:
            sampled = run.ensemble.sampled[: run.view.k, z]
            self._drawn[z] = sampled.tobytes()
            labels[z] = 0
            box = run.overlaps.box([z])
            if box is not None:
                levels = run.ensemble.members_uint8()[(np.flatnonzero(sampled), z, *box)]
                labels[(z, *box)] = draw_agreement(levels >= MASK_LEVEL)

    def _show(self) -> None:
        run, labels = self._run, self._labels
        if run is None or labels is None:
            return
        name = f"{RESULT_NAMES['agreement']} · {run.case.name}"
        show, self._is_to_show = self._is_to_show, False
        self._stage.layers.draw(run, "agreement", labels, name, AGREEMENT_COLOURS, show=show)

    def _leave(self) -> None:
        """Hide what is shown of a run that is left, also for when its case is chosen again."""
        if self._run is not None:
            self._stage.layers.hide(self._run, "agreement")
        self._forget()

    def _forget(self) -> None:
        self._timer.stop()
        self._run = self._labels = None
        self._drawn.clear()


def draw_agreement(masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Draw the outlines of what at least one, at least half and all members say.

    Parameters
    ----------
    masks : (S, Y, X) bool
        What lies outside of them counts as empty.

    Returns
    -------
    (Y, X) uint8
        1, 2 and 3 on the innermost pixels of the three outlines, 0 elsewhere; where outlines meet,
        the one of more members is seen.
    """
    votes = np.count_nonzero(masks, axis=0)
    n_members = len(masks)
    labels = np.zeros(votes.shape, np.uint8)
    if not n_members:
        return labels
    for label, least in ((AT_LEAST_ONE, 1), (HALF, -(-n_members // 2)), (ALL, n_members)):
        labels[find_outline(votes >= least)] = label
    return labels


def find_outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels of (..., Y, X) masks that have a neighbour outside, side by side."""
    framed = np.pad(mask, [(0, 0)] * (mask.ndim - 2) + [(1, 1), (1, 1)])
    inside = framed[..., :-2, 1:-1] & framed[..., 2:, 1:-1]
    inside &= framed[..., 1:-1, :-2] & framed[..., 1:-1, 2:]
    return mask & ~inside
