"""One member's outline in the canvas."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_diffseg._layers import MEMBER_COLOUR
from napari_diffseg.core.levels import MASK_LEVEL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_diffseg._widgets.run import Run
    from napari_diffseg._widgets.stage import Stage


class MemberOutline:
    """Shows a member over everything else, or none; all its slices, so that it stays in 3-D."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._run: Run | None = None
        self._labels: NDArray[np.uint8] | None = None

    def show(self, member: int | None) -> None:
        """Show another member (counted from 0) of the run on stage, or none."""
        run = self._stage.run
        if run is None:
            return
        if member is None:
            self._stage.layers.hide(run, "member")
            return
        if run is not self._run or self._labels is None:
            self._run, self._labels = run, np.zeros(run.mask.shape, np.uint8)
        levels = run.ensemble.members_uint8()[member]
        np.greater_equal(levels, MASK_LEVEL, out=self._labels.view(bool))
        name = f"Sample {member + 1} · {run.case.name}"
        colours = (MEMBER_COLOUR,)
        self._stage.layers.draw(run, "member", self._labels, name, colours, contour=1)

    def leave(self) -> None:
        """Hide what is shown of a run that is left, also for when its case is chosen again."""
        if self._run is not None:
            self._stage.layers.hide(self._run, "member")

    def forget(self) -> None:
        """Let go of the run."""
        self._run = self._labels = None
