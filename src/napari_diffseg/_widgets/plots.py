"""Plots in the colours of napari's theme. pyqtgraph takes the Qt binding that is there already."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QEvent, Qt
from qtpy.QtGui import QPalette

if TYPE_CHECKING:
    import pyqtgraph as pg
    from qtpy.QtWidgets import QWidget

PLOT_HEIGHT = 110


def make_plot(name: str, tooltip: str, x_label: str, y_label: str) -> pg.PlotWidget:
    """Return a small plot without menus and mouse zoom, in the colours of its surroundings."""
    import pyqtgraph as pg

    from napari_diffseg._widgets.form import describe

    class Plot(pg.PlotWidget):
        """Follows the theme; the wheel belongs to the column that it is in."""

        def changeEvent(self, event: QEvent) -> None:  # noqa: N802 (Qt's name)
            super().changeEvent(event)
            occasions = (QEvent.Type.PaletteChange, QEvent.Type.StyleChange)
            if event.type() in occasions and self.plotItem is not None:  # None while it is made
                paint_as_theme(self)

        def wheelEvent(self, event: object) -> None:  # noqa: N802 (Qt's name)
            event.ignore()  # type: ignore[attr-defined]

    plot = Plot()
    plot.setFixedHeight(PLOT_HEIGHT)
    plot.setMenuEnabled(False)
    plot.setMouseEnabled(x=False, y=False)
    plot.hideButtons()
    menu = plot.plotItem.ctrlMenu  # never shown, and of no window: it would outlive the plot
    menu.setParent(plot, menu.windowFlags())
    plot.setFocusPolicy(Qt.FocusPolicy.NoFocus)
    plot.setLabel("bottom", x_label)
    plot.setLabel("left", y_label)
    describe(plot, name, tooltip)
    paint_as_theme(plot)
    return plot


def paint_as_theme(plot: pg.PlotWidget) -> None:
    """Give a plot the text and background colours of the widget around it."""
    import pyqtgraph as pg

    ink = text_colour(plot)
    plot.setBackground(None)
    for side in ("left", "bottom"):
        axis = plot.getAxis(side)
        axis.setTextPen(pg.mkPen(ink))
        axis.setPen(pg.mkPen(ink))


def text_colour(widget: QWidget) -> str:
    """Return the colour of texts here, as #rrggbb."""
    return str(widget.palette().color(QPalette.ColorRole.WindowText).name())
