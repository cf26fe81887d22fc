"""A part of the review that can be folded away, and then costs nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_diffseg._widgets.form import Fold

if TYPE_CHECKING:
    from qtpy.QtWidgets import QWidget

    from napari_diffseg._widgets.run import Run
    from napari_diffseg._widgets.stage import Stage


class Panel(Fold):
    """Shows something of the run on stage; subclasses say what.

    While it is folded nothing is computed; when it is unfolded it catches up.
    """

    def __init__(
        self, stage: Stage, title: str, body: QWidget, tooltip: str, *, is_open: bool = False
    ) -> None:
        super().__init__(title, body, tooltip, is_open=is_open)
        self.stage = stage
        self._shown_id: str | None = ""  # nothing yet, not even that there is no run
        stage.shown.connect(self._update)
        stage.settled.connect(self._update)
        stage.moved.connect(self._move)
        stage.released.connect(self.release)
        self.toggled.connect(self._update)
        self.body.setEnabled(False)

    def refresh(self, run: Run) -> None:
        """Show a run whose view or samples have changed. Long work goes into a `Task`."""
        raise NotImplementedError

    def clear(self) -> None:
        """Show nothing, and drop what is under way: there is no run with a sample, or another."""
        raise NotImplementedError

    def show_slice(self, z: int) -> None:
        """The viewer shows another canonical slice (of a run with samples)."""

    def release(self) -> None:
        """Stop what would come later."""

    @property
    def _run(self) -> Run | None:
        run = self.stage.run
        return run if run is not None and run.is_sampled.any() else None

    def _update(self) -> None:
        run = self._run
        self.body.setEnabled(run is not None)
        shown_id = None if run is None else run.id
        if shown_id != self._shown_id:  # folded or not: what it shows is of another case
            self._shown_id = shown_id
            self.clear()
        if run is not None and self.is_open:
            self.refresh(run)

    def _move(self, z: int) -> None:
        if self.is_open and self._run is not None:
            self.show_slice(z)
