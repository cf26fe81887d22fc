"""What a click on the button would do now: with which case, on which slices, for how long."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from napari_diffseg._layers import find_slice
from napari_diffseg._widgets.run import Recipe
from napari_diffseg._widgets.run_section import format_duration
from napari_diffseg.core.errors import ParameterError
from napari_diffseg.core.geometry import find_z_range

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_diffseg._widgets.case_desk import CaseDesk
    from napari_diffseg._widgets.model_section import ModelSection
    from napari_diffseg._widgets.parameters_section import ParametersSection
    from napari_diffseg._widgets.run_section import RunSection
    from napari_diffseg._widgets.runner import Runner
    from napari_diffseg.core.brats import Case

HINT = "Open a case or a folder of cases; the arrow has a sample."


class Offer:
    """Reads the choices, and writes what they would do on the button and into the status."""

    def __init__(
        self,
        viewer: ViewerModel,
        desk: CaseDesk,
        model: ModelSection,
        parameters: ParametersSection,
        run: RunSection,
        runner: Runner,
    ) -> None:
        self._viewer = viewer
        self._desk = desk
        self._model = model
        self._parameters = parameters
        self._run = run
        self._runner = runner

    def recipe(self) -> Recipe:
        """Return how samples would be drawn."""
        choices = self._parameters.choices()
        return Recipe(
            self._model.path, choices.n_steps, choices.sampler, choices.seed, choices.device
        )

    def z_range(self, case: Case) -> tuple[int, int] | None:
        """Return the canonical slices that are chosen; None is all of them.

        Raises
        ------
        ParameterError
            None is, in a stack of slices that has gaps.
        """
        choices, geometry = self._parameters.choices(), case.geometry
        if choices.region == "slice":
            z = find_slice(self._viewer.dims, geometry)
            return z, z + 1
        if choices.region == "range":
            return find_z_range(geometry, choices.first_slice, choices.last_slice + 1)
        return None

    def show(self) -> None:
        """Say what the button would do, or how to begin."""
        case = self._desk.current
        if case is None:
            self._run.set_state("no case")
            self._run.status.setText(HINT)
            return
        self.name_button()
        self._run.status.setText(self._describe_time(case))

    def show_time(self) -> None:
        """Say how long it would take, unless there is something to read."""
        self.name_button()
        case = self._desk.current
        if case is not None and not self._run.status.full_text():
            self._run.status.setText(self._describe_time(case))

    def name_button(self) -> None:
        """Let the button say how many samples it would add where some are."""
        case = self._desk.current
        if case is None or self._runner.is_running:
            return
        choices, n_more = self._parameters.choices(), None
        with suppress(ParameterError):  # `_describe_time` tells it
            n_more = self._runner.count_missing(
                case, self.recipe(), choices.n_samples, self.z_range(case)
            )
        label = "Segment"
        if n_more:
            up_to = "" if choices.tolerance is None else "up to "
            label = f"Add {up_to}{n_more} sample{'s' if n_more > 1 else ''}"
        self._run.set_state("ready", label)

    def _describe_time(self, case: Case) -> str:
        choices = self._parameters.choices()
        try:
            z_range = self.z_range(case)
        except ParameterError as error:
            return str(error)
        seconds = self._runner.estimate_s(case, self.recipe(), choices.n_samples, z_range)
        if not seconds:
            return ""
        about = "About" if choices.tolerance is None else "At most about"
        return f"{about} {format_duration(seconds)} at the speed of the last run."
