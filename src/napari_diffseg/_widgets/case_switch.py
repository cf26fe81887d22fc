"""Which of several open cases is looked at: its layers are shown, those of the others hidden."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from napari_diffseg._layers import find_layers, get_tag

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer
    from numpy.typing import NDArray

    from napari_diffseg.core.brats import Case
    from napari_diffseg.core.geometry import Geometry

LEAST_SHARE = 0.75
"""Cases that have a smaller share of an axis in common lie elsewhere."""


class CaseSwitch:
    """Hides and shows layers of ours; the user's own are never touched."""

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._case: Callable[[], Case | None] = lambda: None
        self._geometry: Geometry | None = None

    def look_at(self, case: Case) -> None:
        """Show what was hidden of this case, hide what is visible of others, and lead to it."""
        self._case = weakref.ref(case)
        for layer in find_layers(self._viewer.layers):
            tag = get_tag(layer)
            if tag is None:
                continue
            if tag["source"] is case:
                if tag.pop("is_away", False):
                    layer.visible = True
            elif layer.visible:
                tag["is_away"] = True
                layer.visible = False
        self._go_to(case)

    def _go_to(self, case: Case) -> None:
        """Bring a case into view if it lies elsewhere than the one before.

        napari does so for the first layer only. Where cases lie over each other, slice and camera
        stay as they are.
        """
        before, self._geometry = self._geometry, case.geometry
        if before is None or before is case.geometry:
            return
        dims, extent = self._viewer.dims, find_extent_mm(case.geometry)
        is_elsewhere = find_shares(extent, find_extent_mm(before)) < LEAST_SHARE
        first = dims.ndim - len(extent)
        for axis in range(len(extent)):
            (low, high), step = extent[axis], case.geometry.spacing_mm[axis]
            is_left = not low - step / 2 <= dims.point[first + axis] <= high + step / 2
            if (is_elsewhere[axis] or is_left) and first + axis in dims.not_displayed:
                middle = (case.geometry.shape[axis] - 1) // 2
                dims.set_point(first + axis, float(low + middle * step))
        if any(is_elsewhere[axis - first] for axis in dims.displayed if axis >= first):
            images = find_layers(self._viewer.layers, role="image", case=case)
            self._viewer.fit_to_view(layers=images)

    def set_visible(self, layer: Layer, *, is_visible: bool) -> None:
        """Show or hide a layer; one of a case that is not looked at is shown with its case."""
        tag, case = get_tag(layer), self._case()
        if tag is not None and case is not None and tag["source"] is not case:
            tag["is_away"] = is_visible
            is_visible = False
        if layer.visible != is_visible:  # even to say the same again would draw it again
            layer.visible = is_visible


def find_extent_mm(geometry: Geometry) -> NDArray[np.float64]:
    """Return the world coordinates of the first and the last voxel, (3, 2) for z, y and x."""
    first = np.array(geometry.translate_mm)
    length = (np.array(geometry.shape) - 1) * geometry.spacing_mm
    return np.stack([first, first + length], axis=1)


def find_shares(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what two extents (3, 2) have in common, for each axis as a share of the smaller one.

    0 to 1; 0 or less if they do not touch.
    """
    common = np.minimum(one[:, 1], other[:, 1]) - np.maximum(one[:, 0], other[:, 0])
    smaller = np.minimum(one[:, 1] - one[:, 0], other[:, 1] - other[:, 0])
    return np.where(smaller > 0, common / np.maximum(smaller, 1e-9), (common >= 0).astype(float))
