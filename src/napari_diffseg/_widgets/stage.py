"""What the parts of the review share: the run that is looked at, and where the viewer is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, Signal

from napari_diffseg._layers import find_slice, slice_position_mm
from napari_diffseg.core.convergence import DEFAULT_TOLERANCE

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_diffseg._widgets.result_layers import ResultLayers
    from napari_diffseg._widgets.run import Run


class Stage(QObject):
    """The run on screen, told to everybody who shows something of it.

    Attributes
    ----------
    viewer, layers
        Where it is shown.
    run : Run or None
        What is looked at. Its arrays are changed in the GUI's thread only: copy what goes to
        another one.
    is_running : bool
        Whether samples are being added to it.
    tolerance : float
        Largest change of the mask that counts as none, as 1 - Dice.
    """

    shown = Signal()
    """Another run is looked at, or none."""
    viewed = Signal()
    """The user looks at the run differently; on the visible slice all maps are up to date."""
    changed = Signal()
    """New samples, or another view of them, are in the run's maps on some slices: a few times a
    second at most, for what is quick."""
    settled = Signal()
    """The sliders rest, or sampling has ended: all maps are up to date. For what takes longer."""
    moved = Signal(int)
    """The viewer shows another canonical slice."""
    turned = Signal()
    """The viewer shows other axes, or 3-D."""
    tolerance_changed = Signal()
    """Another change of the mask counts as none."""
    released = Signal()
    """The widget is going: stop timers and tasks, and touch nothing any more."""

    def __init__(self, viewer: ViewerModel, layers: ResultLayers, parent: QObject) -> None:
        super().__init__(parent)
        self.viewer = viewer
        self.layers = layers
        self.run: Run | None = None
        self.is_running = False
        self.tolerance = DEFAULT_TOLERANCE

    @property
    def visible_z(self) -> int | None:
        """The canonical slice on screen; None without a run."""
        return None if self.run is None else find_slice(self.viewer.dims, self.run.case.geometry)

    def set_tolerance(self, tolerance: float | None) -> None:
        """Choose the largest change of the mask that counts as none; None: the default."""
        tolerance = DEFAULT_TOLERANCE if tolerance is None else tolerance
        if tolerance != self.tolerance:
            self.tolerance = tolerance
            self.tolerance_changed.emit()

    def go_to_slice(self, z: int) -> None:
        """Show a canonical slice of the run's case."""
        if self.run is not None:
            dims = self.viewer.dims
            dims.set_point(dims.ndim - 3, slice_position_mm(self.run.case.geometry, z))
