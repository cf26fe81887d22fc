"""Where members agree: outlines of what one, half and all of them say, on the visible slice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import QObject

from napari_diffseg._layers import AGREEMENT_COLOURS, RESULT_NAMES
from napari_diffseg.core.levels import MASK_LEVEL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_diffseg._widgets.run import Run
    from napari_diffseg._widgets.stage import Stage

AT_LEAST_ONE, HALF, ALL = 1, 2, 3


class AgreementContours(QObject):
    """Draws a slice when it is looked at, and again when it has changed: it takes 1 ms or two."""

    def __init__(self, stage: Stage, parent: QObject) -> None:
        super().__init__(parent)
        self._stage = stage
        self._is_on = False
        self._is_to_show = False  # later the user may hide or delete the layer
        self._run: Run | None = None
        self._labels: NDArray[np.uint8] | None = None
        self._drawn: set[int] = set()
        for signal in (stage.shown, stage.viewed, stage.changed, stage.settled):
            signal.connect(self._start_anew)
        stage.moved.connect(self._draw)
        stage.released.connect(self._forget)

    def set_on(self, is_on: bool) -> None:
        """Show or hide the outlines."""
        self._is_on = is_on
        run = self._stage.run
        if is_on:
            self._is_to_show = True
            self._start_anew()
        elif run is not None:
            self._stage.layers.hide(run, "agreement")

    def _start_anew(self) -> None:
        run = self._stage.run
        if not self._is_on or run is None or not run.is_sampled.any():
            return
        if run is not self._run:
            self._run, self._labels = run, np.zeros(run.mask.shape, np.uint8)
            self._is_to_show = True
        self._drawn.clear()
        self._draw()

    def _draw(self, _: int = 0) -> None:
        run, z, labels = self._stage.run, self._stage.visible_z, self._labels
        if not self._is_on or run is not self._run or z is None or labels is None:
            return
        if z in self._drawn or run is None:
            return
        self._drawn.add(z)
        labels[z] = 0
        box = run.overlaps.box([z])
        if box is not None:
            members = np.flatnonzero(run.ensemble.sampled[: run.view.k, z])
            levels = run.ensemble.members_uint8()[(members, z, *box)]
            labels[(z, *box)] = draw_agreement(levels >= MASK_LEVEL)
        name = f"{RESULT_NAMES['agreement']} · {run.case.name}"
        show, self._is_to_show = self._is_to_show, False
        self._stage.layers.draw(run, "agreement", labels, name, AGREEMENT_COLOURS, show=show)

    def _forget(self) -> None:
        self._run = self._labels = None


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
