"""Which of several open cases is looked at: its layers are shown, those of the others hidden."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from napari_diffseg._layers import find_layers, get_tag

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer

    from napari_diffseg.core.brats import Case


class CaseSwitch:
    """Hides and shows layers of ours; the user's own are never touched."""

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._hidden: weakref.WeakSet[Layer] = weakref.WeakSet()
        self._case: Callable[[], Case | None] = lambda: None

    def look_at(self, case: Case) -> None:
        """Show what was hidden of this case, and hide what is visible of others."""
        self._case = weakref.ref(case)
        for layer in find_layers(self._viewer.layers):
            tag = get_tag(layer)
            if tag is None:
                continue
            if tag["source"] is case:
                if layer in self._hidden:
                    self._hidden.discard(layer)
                    layer.visible = True
            elif layer.visible:
                self._hidden.add(layer)
                layer.visible = False

    def set_visible(self, layer: Layer, *, is_visible: bool) -> None:
        """Show or hide a layer; one of a case that is not looked at is shown with its case."""
        tag, case = get_tag(layer), self._case()
        if tag is not None and case is not None and tag["source"] is not case:
            (self._hidden.add if is_visible else self._hidden.discard)(layer)
            is_visible = False
        if layer.visible != is_visible:  # even to say the same again would draw it again
            layer.visible = is_visible
