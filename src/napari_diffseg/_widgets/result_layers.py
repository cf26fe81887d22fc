"""The layers of a run in the viewer: the only class that adds, updates and removes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from napari_diffseg._layers import (
    Role,
    draw_outline,
    find_layers,
    find_slice,
    get_tag,
    make_result_layers,
)

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer

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

    def show(self, run: Run, overlay: Overlay) -> None:
        """Add those layers of a run that are not there; which layer is active does not change.

        Maps go below the outline of the truth, the mask on top.
        """
        with _steady_view(self._viewer):
            self._add_missing(run)
        samples = self.of_run(run)["samples"]
        if len(samples.data) != run.ensemble.n_members:  # they have moved in memory
            samples.data = run.ensemble.members_uint8()
        self.set_overlay(run, overlay)

    def _add_missing(self, run: Run) -> None:
        from napari.layers import Layer as AnyLayer

        layers = self._viewer.layers
        active = set(layers.selection)
        there = self.of_run(run)
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
                continue
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
        layers.selection = active & set(layers)

    def set_overlay(self, run: Run, overlay: Overlay) -> None:
        """Show one of the maps."""
        there = self.of_run(run)
        for role in ("mean", "variance"):
            if role in there:
                there[role].visible = role == overlay

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

    def retire_others(self, run: Run, *, keep: bool) -> None:
        """Take the results of the case's earlier runs away, or keep them, hidden and renamed.

        Also those of a widget that has been closed. What was kept once is left alone.
        """
        with _steady_view(self._viewer):
            for layer in find_layers(self._viewer.layers, case=run.case):
                tag = get_tag(layer)
                if tag is None or tag.get("run") in (None, run.id) or tag.get("is_kept"):
                    continue
                if keep:
                    tag["is_kept"] = True
                    layer.visible = False
                    layer.name = f"{layer.name} (seed {tag['seed']}, {tag['run'][:4]})"
                else:
                    self._viewer.layers.remove(layer)


@contextmanager
def _steady_view(viewer: ViewerModel) -> Iterator[None]:
    """Keep what is on screen: napari fits all to the view when the sample axis comes or goes."""
    camera = viewer.scene.camera
    kept = {name: getattr(camera, name) for name in ("center", "zoom", "angles")}
    yield
    camera.update(kept)


def _details(run: Run) -> dict[str, object]:
    recipe = run.recipe
    return {
        "model": "bundled" if recipe.model_path is None else str(recipe.model_path),
        "model_sha256": recipe.model_sha256,
        "n_steps": recipe.n_steps,
        "sampler": recipe.sampler,
        "seed": recipe.seed,
    }
