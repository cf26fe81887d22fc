"""The layers of a run in the viewer: the only class that adds, updates and removes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from napari_diffseg._layers import (
    MAP_ROLES,
    TAG,
    LayerData,
    Role,
    claim,
    draw_outline,
    find_layers,
    find_slice,
    get_tag,
    lock,
    make_drawing_layer,
    make_result_layers,
    shows_axial_slice,
)
from napari_diffseg._widgets.turns import Turns

if TYPE_CHECKING:
    import numpy as np
    from napari.components import ViewerModel
    from napari.layers import Layer
    from numpy.typing import NDArray
    from qtpy.QtWidgets import QWidget

    from napari_diffseg._widgets.case_switch import CaseSwitch
    from napari_diffseg._widgets.ensemble_section import Overlay
    from napari_diffseg._widgets.run import Run

LEGEND_MS = 300


class ResultLayers:
    """Shows the arrays of runs. A layer that the user has deleted is left alone.

    What belongs to a case that is not looked at stays hidden until it is.
    """

    def __init__(self, viewer: ViewerModel, switch: CaseSwitch, parent: QWidget) -> None:
        self._viewer = viewer
        self._switch = switch
        self._overlay: Overlay = "mean"
        self._overlays: dict[str, Overlay] = {}
        self._turns = Turns(parent)
        self._without_legend: list[Layer] = []

    @property
    def is_busy(self) -> bool:
        """Whether layers are still to come."""
        return self._turns.is_waiting

    def release(self) -> None:
        """Add nothing any more."""
        self._turns.clear()
        self._without_legend.clear()

    def of_run(self, run: Run) -> dict[Role, Layer]:
        """Return the layers that are left of a run."""
        tags = ((layer, get_tag(layer)) for layer in find_layers(self._viewer.layers))
        return {tag["role"]: layer for layer, tag in tags if tag and tag.get("run") == run.id}

    def show(
        self, run: Run, overlay: Overlay, *, keep_others: bool = False, at_once: bool = False
    ) -> None:
        """Show a run instead of what was there of the case's earlier runs.

        Their layers, also those that a closed widget has left, are taken over with the colours that
        the user has given them; or they are kept, hidden and renamed. Which layer is active does
        not change, nor does the view.

        What is new comes one layer in each turn of the event loop (unless `at_once`): all in one
        would let the window stand still for half a second. The samples are first, since napari
        slices whatever is there anew when their axis comes. Legends come with `show_legends`.
        """
        self._turns.clear()
        others = self._others(run)
        with _steady_view(self._viewer):
            if keep_others:
                for layer in others:
                    self._put_aside(layer)
                others = []
            missing = self._take_over(run, others)
        if missing:
            self.set_overlay(run, overlay)
        order = sorted(missing, key=("samples", "mask", *reversed(MAP_ROLES)).index)
        self._turns.add(partial(self._add, run, role, missing[role]) for role in order)
        if at_once:
            self._turns.finish()

    def leave(self, run: Run, *, keep: bool) -> None:
        """Hide and rename the layers of a run that is worked on no more, or remove them."""
        self._turns.finish()  # some of them may be still to come
        with _steady_view(self._viewer):
            for layer in self.of_run(run).values():
                if keep:
                    self._put_aside(layer)
                else:
                    self._viewer.layers.remove(layer)

    def _others(self, run: Run) -> list[Layer]:
        """Return the results of other runs of the case, without those that are to be kept."""
        tags = ((layer, get_tag(layer)) for layer in find_layers(self._viewer.layers))
        return [
            layer
            for layer, tag in tags
            if tag
            and tag["source"] is run.case
            and tag.get("run") not in (None, run.id)
            and not tag.get("is_kept")
        ]

    def _take_over(self, run: Run, others: list[Layer]) -> dict[Role, LayerData]:
        """Give a run the layers of others; return those that it still lacks, lowest first."""
        layers = self._viewer.layers
        active = set(layers.selection)
        there = self.of_run(run)
        missing: dict[Role, LayerData] = {}
        data = make_result_layers(
            run.case,
            run.id,
            run.ensemble.members_uint8(),
            run.mean,
            run.variance,
            run.disagreement,
            run.mask,
            _details(run),
        )
        data["mask"][1]["metadata"][TAG]["live"] = run
        for role, (array, parameters, kind) in data.items():
            if role in there:
                if role == "mask":
                    there[role].metadata[TAG]["live"] = run
                if role == "samples" and len(there[role].data) != len(array):
                    _set_array(there[role], array)  # there is room for more, elsewhere
                continue
            heir = next((layer for layer in others if _role_of(layer) == role), None)
            if heir is None:
                missing[role] = array, parameters, kind
            else:
                others.remove(heir)
                tag = heir.metadata[TAG]
                heir.metadata = {**heir.metadata, **parameters["metadata"]}
                if tag.get("is_away"):
                    heir.metadata[TAG]["is_away"] = True
                claim(heir)
                _set_array(heir, array)
        for layer in others:
            layers.remove(layer)
        layers.selection = active & set(layers)
        return missing

    def _add(self, run: Run, role: Role, data: LayerData) -> None:
        """Add a layer: the mask on top, maps below the outline of the truth."""
        from napari.layers import Layer as AnyLayer

        if not find_layers(self._viewer.layers, role="image", case=run.case):
            return  # the case was closed meanwhile
        layer = AnyLayer.create(*data)
        if role in MAP_ROLES:
            layer.visible = role == self._overlay
            self._without_legend.append(layer)
        self._switch.set_visible(layer, is_visible=layer.visible)
        self._insert(run, layer, on_top=role == "mask", outline=data[2] == "labels")

    def _put_aside(self, layer: Layer) -> None:
        tag = get_tag(layer)
        if tag is not None:
            tag["is_kept"] = True
            tag.pop("live", None)  # it would keep the samples in memory when their layer is deleted
            self._switch.set_visible(layer, is_visible=False)
            layer.name = f"{layer.name} (seed {tag['seed']}, {tag['run'][:4]})"

    def _insert(self, run: Run, layer: Layer, *, on_top: bool, outline: bool) -> None:
        """Put a layer on top, or below the outlines of truth and mask."""
        layers = self._viewer.layers
        active = set(layers.selection)
        above = [*find_layers(layers, role="truth", case=run.case), *self.of_run(run).values()]
        above = [each for each in above if _role_of(each) in ("truth", "mask")]
        with _steady_view(self._viewer):
            if on_top or not above:
                layers.append(layer)
            else:
                layers.insert(min(map(layers.index, above)), layer)
            if outline:
                draw_outline(layer)
        self._keep_axes()
        layers.selection = active

    def _keep_axes(self) -> None:
        """Let napari's button roll the axes of space alone: samples have no view from the side."""
        dims = self._viewer.dims
        n_others = max(dims.ndim - 3, 0)
        dims.rollable = (False,) * n_others + tuple(dims.rollable[n_others:])

    def dress(self, layers: Iterable[Layer]) -> None:
        """Let layers of a saved result look like those of a run; legends by `show_legends`."""
        self._keep_axes()
        for layer in layers:
            role = _role_of(layer)
            if role == "mask":
                draw_outline(layer)
            elif role in MAP_ROLES:
                self._without_legend.append(layer)

    def show_legends(self, *, at_once: bool = False) -> None:
        """Show the colour bars of the maps that were added since the last time.

        To be called when sampling is over. They come a moment later: the first colour bar of a
        window takes as long to draw as two layers, and the last samples are to be seen first.
        """
        self._turns.add([partial(self._turns.add, [self._show_next_legend], LEGEND_MS)])
        if at_once:
            self._turns.finish()

    def _show_next_legend(self) -> None:
        if self._without_legend:
            self._without_legend.pop(0).colorbar.visible = True
        if self._without_legend:
            self._turns.add([self._show_next_legend])

    def set_overlay(self, run: Run, overlay: Overlay) -> None:
        """Show one of the maps."""
        self._overlay = self._overlays[run.id] = overlay
        there = self.of_run(run)
        for role in MAP_ROLES:
            if role in there:
                self._switch.set_visible(there[role], is_visible=role == overlay)

    def follow_overlay(self, run: Run, overlay: Overlay) -> None:
        """Show one of the maps, unless it is what was chosen last for this run.

        A map that the user has hidden meanwhile then stays hidden.
        """
        if self._overlays.get(run.id) != overlay:
            self.set_overlay(run, overlay)

    def draw(
        self,
        run: Run,
        role: Role,
        data: NDArray[np.uint8],
        name: str,
        colours: Sequence[str],
        *,
        contour: int = 0,
        show: bool = True,
    ) -> None:
        """Show labels over the maps, and a single member over all: in their layer, or a new one.

        Parameters
        ----------
        run, role, name, colours
            See `_layers.make_drawing_layer`.
        data : (Z, Y, X) uint8
            The same array each time, written in place.
        contour
            Width of the outlines that are drawn of the labels; 0: as they are.
        show
            Whether the layer is to be seen if the user has hidden or deleted it.
        """
        from napari.layers import Layer as AnyLayer

        layer = self.of_run(run).get(role)
        if layer is not None:
            if layer.name != name:
                layer.name = name
            if show:
                self._switch.set_visible(layer, is_visible=True)
            if layer.data is data:
                layer.refresh(extent=False, thumbnail=False)
            else:
                layer.data = data
                lock(layer)
            return
        if not show:
            return
        drawing = make_drawing_layer(run.case, run.id, role, data, name, colours, _details(run))
        layer = AnyLayer.create(*drawing)
        self._insert(run, layer, on_top=role == "member", outline=bool(contour))

    def hide(self, run: Run, role: Role) -> None:
        """Hide a layer of a run, if it is there."""
        layer = self.of_run(run).get(role)
        if layer is not None:
            self._switch.set_visible(layer, is_visible=False)

    def toggle(self, run: Run, role: Role) -> None:
        """Show or hide one layer of a run."""
        layer = self.of_run(run).get(role)
        if layer is not None:
            layer.visible = not layer.visible

    def refresh(self, run: Run, z_indices: Iterable[int], *, thumbnails: bool = False) -> None:
        """Draw what has changed on these slices, if it is to be seen."""
        dims = self._viewer.dims
        if (
            shows_axial_slice(dims)
            and not thumbnails
            and find_slice(dims, run.case.geometry) not in set(z_indices)
        ):
            return
        for layer in self.of_run(run).values():
            layer.refresh(extent=False, thumbnail=thumbnails)


def _role_of(layer: Layer) -> Role | None:
    tag = get_tag(layer)
    return tag["role"] if tag else None


def _set_array(layer: Layer, array: NDArray[Any]) -> None:
    """Let a layer show another array, of another size perhaps."""
    layer.data = array
    lock(layer)
    if not layer.visible:  # napari does not look at the new size of a hidden layer by itself
        layer.scale = layer.scale


@contextmanager
def _steady_view(viewer: ViewerModel) -> Iterator[None]:
    """Keep what is on screen: napari fits all to the view when the sample axis comes or goes."""
    camera = viewer.scene.camera
    kept = {name: getattr(camera, name) for name in ("center", "zoom", "angles")}
    yield
    for name, value in kept.items():
        if getattr(camera, name) != value:  # to set angles makes napari import a large library
            setattr(camera, name, value)


def _details(run: Run) -> dict[str, object]:
    recipe = run.recipe
    return {
        "model": "bundled" if recipe.model_path is None else str(recipe.model_path),
        "model_sha256": recipe.model_sha256,
        "n_steps": recipe.n_steps,
        "sampler": recipe.sampler,
        "seed": recipe.seed,
    }
