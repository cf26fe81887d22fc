"""Curves as SVG, written by hand: no plotting library is needed, and the text stays text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

import numpy as np

# Okabe and Ito's colours, which people with any colour vision can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
_WIDTH, _HEIGHT = 380, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 22, 30, 42
_LEGEND = 30
_SWATCH = 6  # what a line of the legend and its margins take, in letters

Curve = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """One plot: curves by name, all on the same axes."""

    title: str
    x_label: str
    curves: Mapping[str, Curve]
    markers: bool = True
    """Whether points are marked, which helps where there are few."""


def draw_panels(panels: Sequence[Panel], columns: int = 2) -> str:
    """Return an SVG with the panels in rows, and one legend; a name has one colour everywhere."""
    names = list(dict.fromkeys(name for panel in panels for name in panel.curves))
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    rows = -(-len(panels) // columns)
    width, height = columns * _WIDTH, rows * _HEIGHT + _LEGEND
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        parts.append(f'<g transform="translate({column * _WIDTH},{row * _HEIGHT})">')
        parts += _draw_panel(panel, colours)
        parts.append("</g>")
    x, y = float(_LEFT), height - _LEGEND / 2
    letters = sum(len(name) + _SWATCH for name in names)
    for name, colour in colours.items():
        parts.append(f'<path d="M{x:.1f},{y} h18" stroke="{colour}" stroke-width="2.5"/>')
        parts.append(f'<text x="{x + 23:.1f}" y="{y + 4}">{escape(name)}</text>')
        x += (width - _LEFT) * (len(name) + _SWATCH) / letters
    return "\n".join([*parts, "</svg>", ""])


def _draw_panel(panel: Panel, colours: Mapping[str, str]) -> list[str]:
    points = [point for curve in panel.curves.values() for point in curve]
    title = f'<text x="{_LEFT}" y="18" font-weight="bold">{escape(panel.title)}</text>'
    if not points:
        return [title, f'<text x="{_LEFT}" y="{_HEIGHT / 2}">nothing to show</text>']
    x_ticks, y_ticks = (_find_ticks([point[axis] for point in points]) for axis in (0, 1))
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            _LEFT + (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (right - _LEFT),
            bottom - (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (bottom - _TOP),
        )

    parts = [title]
    for tick in y_ticks:
        _, y = place(x_ticks[0], tick)
        parts.append(f'<path d="M{_LEFT},{y:.1f} H{right}" stroke="#dddddd"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:.6g}</text>')
    for tick in x_ticks:
        x, _ = place(tick, y_ticks[0])
        parts.append(f'<path d="M{x:.1f},{bottom} v4" stroke="black"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{tick:.6g}</text>')
    parts.append(f'<path d="M{_LEFT},{_TOP} V{bottom} H{right}" fill="none" stroke="black"/>')
    middle = (_LEFT + right) / 2
    parts.append(
        f'<text x="{middle}" y="{bottom + 34}" text-anchor="middle">{escape(panel.x_label)}</text>'
    )
    for name, curve in panel.curves.items():
        places = [place(x, y) for x, y in curve]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        colour = colours[name]
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        if panel.markers or len(places) == 1:
            parts += [
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>' for x, y in places
            ]
    return parts


def _find_ticks(values: Sequence[float]) -> list[float]:
    """Return about five round numbers around the values, at least two."""
    low, high = min(values), max(values)
    if high - low < 1e-9:
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    rough = (high - low) / 4
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough)
    first, last = np.floor(low / step + 1e-9), np.ceil(high / step - 1e-9)
    return [round(float(i * step), 10) for i in np.arange(first, last + 1)]
