"""Curves as SVG and PNG, by matplotlib without its global state: the same bytes every time."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which people with any colour vision can tell apart.
COLOURS: Final = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#999999",
)
_PANEL_INCHES: Final = (3.8, 2.7)
_LEGEND_INCHES: Final = 0.26
_MOST_TICKS: Final = 9
_MOST_MARKERS: Final = 50
_LETTERS_PER_INCH: Final = 13
_DPI: Final = 110
_STYLE: Final[Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#dddddd",
    "path.simplify": False,  # what is drawn is what was given
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "diffseg",  # no random names
}

Curve = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """One plot: curves by name, all on the same axes."""

    title: str
    x_label: str
    curves: Mapping[str, Curve]
    markers: bool = True
    """Whether points are marked, which helps where there are few; those of many never are."""
    log_x: bool = False
    """Ticks at the places that occur or, if they are many, at 1, 2, 5, 10 ..."""
    log_y: bool = False
    diagonal: bool = False
    """Whether y = x is drawn, where a reliability curve should be."""


def draw_panels(panels: Sequence[Panel], columns: int = 2) -> str:
    """Return an SVG with the panels in rows, and one legend; a name has one colour everywhere."""
    return _render(panels, columns, "svg").decode("utf-8")


def write_figure(panels: Sequence[Panel], path: Path, columns: int = 2) -> None:
    """Write the panels as ``path`` with ``.svg`` and with ``.png``, each complete or not at all."""
    for kind in ("svg", "png"):
        target = path.with_suffix(f".{kind}")
        temporary = target.with_name(f".{target.name}.part")
        try:
            temporary.write_bytes(_render(panels, columns, kind))
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


def _render(panels: Sequence[Panel], columns: int, kind: str) -> bytes:
    import matplotlib as mpl

    buffer = io.BytesIO()
    with mpl.rc_context(_STYLE):
        # Neither file says when it was made, or it would differ each time.
        undated = {"Date": None} if kind == "svg" else {"Software": None}
        _make_figure(panels, columns).savefig(buffer, format=kind, dpi=_DPI, metadata=undated)
    return buffer.getvalue()


def _make_figure(panels: Sequence[Panel], columns: int) -> Figure:
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for panel in panels for name in panel.curves))
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    n_rows = -(-len(panels) // columns)
    width = columns * _PANEL_INCHES[0]
    longest = max(map(len, names), default=0) + len("line and space")
    legend_columns = max(1, int(width * _LETTERS_PER_INCH / longest))
    legend_inches = -(-len(names) // legend_columns) * _LEGEND_INCHES
    height = n_rows * _PANEL_INCHES[1] + legend_inches
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(n_rows, columns, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, panel in zip(grid.flat, panels, strict=False):
        _draw(axes, panel, colours)
    handles = {
        label: handle
        for axes in grid.flat
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if handles:
        figure.legend(
            [handles[name] for name in names if name in handles],
            [name for name in names if name in handles],
            loc="outside lower center",
            ncols=legend_columns,
            frameon=False,
        )
    return figure


def _draw(axes: Axes, panel: Panel, colours: Mapping[str, str]) -> None:
    axes.set_title(panel.title, loc="left")
    axes.set_xlabel(panel.x_label)
    curves = {name: curve for name, curve in panel.curves.items() if curve}
    if not curves:
        axes.text(0.5, 0.5, "nothing to show", ha="center", transform=axes.transAxes)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    if panel.diagonal:
        axes.plot([0, 1], [0, 1], color="#bbbbbb", linestyle="--", linewidth=1)
    for name, curve in curves.items():
        x, y = zip(*curve, strict=True)
        # A point for each of a hundred members would hide the line; one alone has no line.
        size = 3.5 if len(curve) == 1 or (panel.markers and len(curve) <= _MOST_MARKERS) else 0
        axes.plot(x, y, label=name, color=colours[name], linewidth=1.6, marker="o", markersize=size)
    if panel.log_y:
        axes.set_yscale("log")
    if panel.log_x:
        _set_log_ticks(axes, sorted({x for curve in curves.values() for x, _ in curve}))


def _set_log_ticks(axes: Axes, places: Sequence[float]) -> None:
    from matplotlib.ticker import NullLocator

    shown = list(places)
    if len(places) > _MOST_TICKS:
        is_wide = places[-1] > 1000 * places[0]
        mantissas = (1,) if is_wide else (1, 2, 5)
        round_numbers = (m * 10.0**power for power in range(-4, 6) for m in mantissas)
        shown = [place for place in round_numbers if places[0] <= place <= places[-1]]
    axes.set_xscale("log")
    axes.set_xticks(shown, [f"{place:g}" for place in shown])
    axes.xaxis.set_minor_locator(NullLocator())
