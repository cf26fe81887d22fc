"""A saved result that was opened, or what a closed dock has left, becomes a run of this dock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Signal

from napari_diffseg._layers import MAP_ROLES, find_layers, get_tag
from napari_diffseg._widgets.run import Recipe, Run, View

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer
    from qtpy.QtWidgets import QWidget

    from napari_diffseg._widgets.message_bar import Kind
    from napari_diffseg._widgets.result_layers import ResultLayers
    from napari_diffseg._widgets.runner import Runner
    from napari_diffseg.core.reopen import SavedResult

MEMBERS_MISSING = (
    "The samples of this result were not saved: its maps are shown as they are, and the sliders "
    "cannot change them. Segment draws new samples, which replace it."
)
STOPPED = "The run of this case was stopped."
SEVERAL_EDITED = (
    "There are several edited masks of this case: the one that was chosen last in the list of "
    "layers is measured and saved."
)
EARLIER_KEPT = "The layers of the samples that were drawn before are kept, hidden."


class Reopener(QObject):
    """Looks for layers of results, those that are there and, of saved ones, those that come."""

    adopted = Signal(object, bool)  # Run, from a file; whether there were samples of no file
    found = Signal(object)  # Run, of a dock that was closed
    stopped = Signal()  # the run that was going on
    told = Signal(str)
    opened_without_samples = Signal(object, str, str)  # Case, kind of message, message

    def __init__(
        self, viewer: ViewerModel, runner: Runner, layers: ResultLayers, parent: QWidget
    ) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._layers = layers
        self._runner = runner

    def follow_viewer(self) -> None:
        """Begin to follow the layers."""
        self._viewer.layers.events.inserted.connect(self._take_layer)
        for layer in find_layers(self._viewer.layers, role="mask"):
            self._adopt(layer)
            self._go_on(layer)

    def leave_viewer(self) -> None:
        """Follow the layers no more."""
        self._viewer.layers.events.inserted.disconnect(self._take_layer)

    def _take_layer(self, event: Any) -> None:
        tag = get_tag(event.value)
        if tag and tag["role"] == "mask":  # the last one of a result
            self._adopt(event.value)

    def _go_on(self, layer: Layer) -> None:
        """Take in the run of a dock that was closed, unless that was this one."""
        tag = get_tag(layer)
        run: Run | None = tag.get("live") if tag else None
        if run is None or self._runner.find_run(run.case) is not None:
            return
        run.is_unsaved |= not run.is_reopened
        run.is_reopened = True
        self._runner.adopt(run)
        self.found.emit(run)

    def _adopt(self, layer: Layer) -> None:
        tag = get_tag(layer)
        saved = tag.pop("saved", None) if tag else None
        if tag is None or saved is None:
            return
        overlaps, staple, note = (tag.pop(name) for name in ("overlaps", "staple", "note"))
        of_result = {
            each["role"]: other
            for other in find_layers(self._viewer.layers, case=saved.case)
            if (each := get_tag(other)) and each.get("run") == tag["run"]
        }
        self._layers.dress(of_result.values())
        was_running = self._runner.running_case is saved.case
        if was_running:  # one result of a case is looked at
            self._runner.release()
            self.stopped.emit()
        earlier = self._runner.find_run(saved.case)
        keep_earlier = earlier is not None and earlier.has_own_samples
        notes = [STOPPED] * was_running + [EARLIER_KEPT] * keep_earlier
        if saved.ensemble is None:
            if earlier is not None:
                self._layers.leave(earlier, keep=keep_earlier)
                self._runner.forget_run(earlier)
            kind, text = explain_missing_members(saved)
            self.opened_without_samples.emit(saved.case, kind, " ".join([text, *notes]))
            return
        run = make_run(saved)
        run.id, run.overlaps = tag["run"], overlaps
        if staple is not None:
            run.set_staple(staple, run.view.k, run.n_added)
        # The layers' own arrays, which from now on the run writes; some may be deleted by now.
        for role in (*MAP_ROLES, "mask"):
            if role in of_result:
                setattr(run, role, of_result[role].data)
        run.mask.fill(0)  # before the dock was there it could be painted on
        self._runner.adopt(run)
        self.adopted.emit(run, keep_earlier)
        if len(find_layers(self._viewer.layers, role="edited", case=saved.case)) > 1:
            notes.append(SEVERAL_EDITED)
        if note:
            notes.append(note)
        if notes:
            self.told.emit(" ".join(notes))


def explain_missing_members(saved: SavedResult) -> tuple[Kind, str]:
    """Say what cannot be done with a result without samples, and what it warned of when saved."""
    verdict = saved.record.verdict
    if verdict is None or not verdict.is_warning:
        return "info", MEMBERS_MISSING
    return "warning", f"{verdict.text} {MEMBERS_MISSING}"


def make_run(saved: SavedResult) -> Run:
    """Make a run of a saved result with members; its maps are still empty."""
    assert saved.ensemble is not None
    record = saved.record
    recipe = Recipe(
        model_path=None,
        n_steps=record.run.n_steps,
        sampler=record.run.sampler,
        seed=record.run.seed,
        device=record.run.device,
        model_sha256=record.run.model.sha256,
    )
    run = Run(saved.case, recipe, saved.ensemble.n_members)
    run.ensemble = saved.ensemble
    run.planned[:] = run.is_sampled
    run.asked[:] = saved.judged
    run.record = record.run
    run.is_reopened = True
    maps = record.maps
    run.view = View(maps.n_members, maps.threshold, maps.of, maps.consensus)
    return run
