"""The layers of a run in the viewer: the only class that adds, updates and removes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from napari_diffseg._layers import (
    Role,
    draw_outline,
    find_layers,
    find_slice,
    get_tag,
    make_drawing_layer,
    make_result_layers,
)

if TYPE_CHECKING:
    import numpy as np
    from napari.components import ViewerModel
    from napari.layers import Layer
    from numpy.typing import NDArray

    from napari_diffseg._widgets.ensemble_section import Overlay
    from napari_diffseg._widgets.run import Run


class ResultLayers:
    """Shows the arrays of runs. A layer that the user has deleted is left alone."""

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer

    def of_run(self, run: Run) -> dict[Role, Layer]:
        """Return the layers that are left of a run."""
        tags = ((layer, get_tag(layer)) for layer in find_layers(self._viewer.layers))
        return {tag["role"]: layer for layer, tag in tags if tag and tag.get("run") == run.id}

    def show(self, run: Run, overlay: Overlay, *, keep_others: bool = False) -> None:
        """Show a run instead of what was there of the case's earlier runs.

        Their layers, also those that a closed widget has left, are taken over with the colours that
        the user has given them; or they are kept, hidden and renamed. Which layer is active does
        not change, nor does the view.
        """
        others = self._others(run)
        with _steady_view(self._viewer):
            if keep_others:
                for layer in others:
                    _put_aside(layer)
                others = []
            if self._fill(run, others):
                self.set_overlay(run, overlay)

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

    def _fill(self, run: Run, others: list[Layer]) -> bool:
        """Give a run the layers that it lacks: those of others, or new ones (then return True)."""
        layers = self._viewer.layers
        active = set(layers.selection)
        there = self.of_run(run)
        has_new = False
        data = make_result_layers(
            run.case,
            run.id,
            run.ensemble.members_uint8(),
            run.mean,
            run.variance,
            run.mask,
            _details(run),
        )
        for role, (array, parameters, kind) in data.items():
            if role in there:
                if role == "samples" and len(there[role].data) != len(array):
                    there[role].data = array  # there is room for more, elsewhere in memory
                continue
            heir = next((layer for layer in others if _role_of(layer) == role), None)
            if heir is None:
                self._add(run, role, array, parameters, kind)
                has_new = True
            else:
                others.remove(heir)
                heir.metadata = {**heir.metadata, **parameters["metadata"]}
                heir.data = array
        for layer in others:
            layers.remove(layer)
        layers.selection = active & set(layers)
        return has_new

    def _add(
        self, run: Run, role: Role, array: object, parameters: dict[str, object], kind: str
    ) -> None:
        """Add a layer: the mask on top, maps below the outline of the truth."""
        from napari.layers import Layer as AnyLayer

        layers = self._viewer.layers
        layer = AnyLayer.create(array, parameters, kind)
        truth = find_layers(layers, role="truth", case=run.case)
        if role == "mask" or not truth:
            layers.append(layer)
        else:
            layers.insert(layers.index(truth[0]), layer)
        if kind == "labels":
            draw_outline(layer)
        elif role != "samples":
            layer.colorbar.visible = True

    def set_overlay(self, run: Run, overlay: Overlay) -> None:
        """Show one of the maps."""
        there = self.of_run(run)
        for role in ("mean", "variance"):
            if role in there:
                there[role].visible = role == overlay

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
            if show and not layer.visible:  # even to say the same again would draw it again
                layer.visible = True
            if layer.data is data:
                layer.refresh(extent=False, thumbnail=False)
            else:
                layer.data = data
            return
        if not show:
            return
        layers = self._viewer.layers
        active = set(layers.selection)
        drawing = make_drawing_layer(run.case, run.id, role, data, name, colours, _details(run))
        layer = AnyLayer.create(*drawing)
        there = self.of_run(run)
        outlines = [*find_layers(layers, role="truth", case=run.case), *there.values()]
        above = [each for each in outlines if _role_of(each) in ("truth", "mask")]
        with _steady_view(self._viewer):
            if role == "member" or not above:
                layers.append(layer)
            else:
                layers.insert(min(map(layers.index, above)), layer)
            if contour:
                draw_outline(layer)
        layers.selection = active

    def hide(self, run: Run, role: Role) -> None:
        """Hide a layer of a run, if it is there."""
        layer = self.of_run(run).get(role)
        if layer is not None and layer.visible:
            layer.visible = False

    def toggle(self, run: Run, role: Role) -> None:
        """Show or hide one layer of a run."""
        layer = self.of_run(run).get(role)
        if layer is not None:
            layer.visible = not layer.visible

    def refresh(self, run: Run, z_indices: Iterable[int], *, thumbnails: bool = False) -> None:
        """Draw what has changed on these slices, if it is to be seen."""
        dims = self._viewer.dims
        shows_a_slice = dims.ndisplay == 2 and dims.displayed == (dims.ndim - 2, dims.ndim - 1)
        if (
            shows_a_slice
            and not thumbnails
            and find_slice(dims, run.case.geometry) not in set(z_indices)
        ):
            return
        for layer in self.of_run(run).values():
            layer.refresh(extent=False, thumbnail=thumbnails)


def _role_of(layer: Layer) -> Role | None:
    tag = get_tag(layer)
    return tag["role"] if tag else None


def _put_aside(layer: Layer) -> None:
    tag = get_tag(layer)
    if tag is not None:
        tag["is_kept"] = True
        layer.visible = False
        layer.name = f"{layer.name} (seed {tag['seed']}, {tag['run'][:4]})"


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
