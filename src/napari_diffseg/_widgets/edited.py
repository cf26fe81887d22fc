"""The mask to paint on: made from the model's, found again, and measured while it is painted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
from qtpy.QtCore import QObject, QTimer, Signal

from napari_diffseg._layers import TAG, claim, find_layers, get_tag, make_edited_layer
from napari_diffseg._widgets.snapshot import Edit

if TYPE_CHECKING:
    from napari.layers import Labels
    from napari.utils.events import EventEmitter

    from napari_diffseg._widgets.run import Run
    from napari_diffseg._widgets.stage import Stage

MEASURE_MS = 100

PAINT = "Paint on the slices. Save and Report include what you paint."
THERE_IS_ONE = "An edited mask is there; delete its layer to begin anew."


class EditedMask(QObject):
    """Looks after the layer that the user paints on, of the case of the run on stage."""

    measured = Signal(object)
    """Its volume in mL; None: there is no such layer."""

    looked_at = Signal(bool)
    """Another layer of napari's list was chosen: whether it is the model's mask."""

    def __init__(self, stage: Stage, parent: QObject) -> None:
        super().__init__(parent)
        self._stage = stage
        self._layer: Labels | None = None
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._measure)
        stage.shown.connect(self._listen)
        stage.released.connect(self._release)

    def make(self) -> str:
        """Give the user a copy of the mask to paint on, or the one that he has begun with.

        One that nobody has painted on yet becomes a copy of the mask as it is now. Returns what
        there is to say.
        """
        from napari.layers import Layer

        run, layer = self._stage.run, self._find()
        if run is None:
            return ""
        is_painted = layer is not None and _describe(layer) is not None
        if layer is None:
            layer = Layer.create(*make_edited_layer(run.case, run.id, run.mask))
            self._stage.viewer.layers.append(layer)
        elif not is_painted:
            _copy_anew(layer, run)
        layer.visible = True
        self._stage.viewer.layers.selection.active = layer
        layer.mode = "paint"
        return THERE_IS_ONE if is_painted else PAINT

    def take(self) -> Edit | None:
        """Take what has been painted; None if there is nothing of it."""
        layer = self._find()
        return None if layer is None else _describe(layer)

    def _find(self) -> Labels | None:
        run = self._stage.run
        if run is None:
            return None
        layers = self._stage.viewer.layers
        found = find_layers(layers, role="edited", case=run.case)
        for chosen in (layers.selection.active, self._layer):
            if chosen in found:
                return cast("Labels", chosen)
        return found[-1] if found else None

    def _listen(self) -> None:
        events = self._stage.viewer.layers.events
        for event in (events.inserted, events.removed):
            event.connect(self._follow)  # napari ignores it the second time
        self._stage.viewer.layers.selection.events.active.connect(self._look_at)
        self._follow()

    def _release(self) -> None:
        events = self._stage.viewer.layers.events
        for event in (events.inserted, events.removed):
            event.disconnect(self._follow)
        self._stage.viewer.layers.selection.events.active.disconnect(self._look_at)
        self._timer.stop()
        self._follow()

    def _follow(self, event: object = None) -> None:  # noqa: ARG002 (napari passes it)
        """Follow the layer that there is now, and the one before no more."""
        layer = self._find()
        if layer is not self._layer:
            for old in () if self._layer is None else _painting(self._layer):
                old.disconnect(self._measure_soon)
            self._layer = layer
            for new in () if layer is None else _painting(layer):
                new.connect(self._measure_soon)
        self._measure()

    def _look_at(self, event: Any) -> None:
        if self._find() is not self._layer:  # there are two
            self._follow()
        tag = None if event.value is None else get_tag(event.value)
        self.looked_at.emit(tag is not None and tag["role"] == "mask")

    def _measure_soon(self, event: object = None) -> None:  # noqa: ARG002 (napari passes it)
        if not self._timer.isActive():
            self._timer.start(MEASURE_MS)

    def _measure(self) -> None:
        run, layer = self._stage.run, self._layer
        if run is None or layer is None:
            self.measured.emit(None)
        else:
            voxels = np.count_nonzero(layer.data)
            self.measured.emit(float(voxels * run.case.geometry.voxel_volume_ml))


def _painting(layer: Labels) -> tuple[EventEmitter, ...]:
    """Return the events of a stroke, and of anything else that draws the layer anew, like undo."""
    return layer.events.paint, layer.events.set_data


def _describe(layer: Labels) -> Edit | None:
    tag = layer.metadata[TAG]
    edit = Edit(layer.data > 0, tag["copied"], tag["edited_run"], tag["earlier"])
    return edit if edit.earlier is not None or (edit.mask != edit.copied).any() else None


def _copy_anew(layer: Labels, run: Run) -> None:
    data, parameters, _ = make_edited_layer(run.case, run.id, run.mask)
    layer.metadata = {**layer.metadata, **parameters["metadata"]}
    claim(layer)
    layer.data = data
