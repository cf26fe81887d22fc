"""The volume of every slice as a drawing: mask, band of the members, and the truth if known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_diffseg.core.record import SliceRecord

WIDTH, HEIGHT = 860, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 10, 12, 40
_STEPS = (1.0, 2.0, 5.0, 10.0)
_N_TICKS = 5


def draw_profile(slices: Sequence[SliceRecord]) -> str:
    """Return an SVG element; colours are those of the page's style. Empty with under two slices."""
    if len(slices) < 2:
        return ""
    highest = max(
        max(entry.mask_ml or 0, entry.high_ml or 0, entry.truth_ml or 0) for entry in slices
    )
    frame = _Frame(slices[0].slice, slices[-1].slice, highest or 1.0)
    upper = [frame.point(entry.slice, _edge(entry, entry.high_ml)) for entry in slices]
    lower = [frame.point(entry.slice, _edge(entry, entry.low_ml)) for entry in reversed(slices)]
    mask = " ".join(frame.point(entry.slice, entry.mask_ml or 0) for entry in slices)
    lines = [f'<polygon points="{" ".join([*upper, *lower])}" fill="var(--band)"/>']
    if all(entry.truth_ml is not None for entry in slices):
        truth = " ".join(frame.point(entry.slice, entry.truth_ml or 0) for entry in slices)
        lines.append(_draw_line(truth, "var(--truth)", ' stroke-dasharray="5 3"'))
    lines.append(_draw_line(mask, "var(--mask)"))
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'aria-label="Tumour volume of every slice">'
        f"{frame.draw()}{''.join(lines)}</svg>"
    )


def _edge(entry: SliceRecord, ml: float | None) -> float:
    """Return an edge of the band; where one sample is no band, that is the mask."""
    return (entry.mask_ml or 0.0) if ml is None else ml


class _Frame:
    """Axes, and where a slice and a volume lie in the drawing."""

    def __init__(self, first: int, last: int, highest_ml: float) -> None:
        self._first, self._last, self._highest = first, last, highest_ml

    def point(self, number: int, ml: float) -> str:
        return f"{self._x(number):.1f},{self._y(ml):.1f}"

    def draw(self) -> str:
        bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
        parts = []
        for ml in _ticks(0.0, self._highest):
            y = self._y(ml)
            parts.append(
                f'<line x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>'
            )
            parts.append(_write(_LEFT - 6, y + 4, f"{ml:g}", "end"))
        numbers = _ticks(float(self._first), float(self._last))
        parts.extend(
            _write(self._x(number), bottom + 16, f"{number:.0f}", "middle")
            for number in numbers
            if number == round(number)
        )
        parts.append(_write((_LEFT + right) / 2, HEIGHT - 6, "slice", "middle"))
        parts.append(
            f'<text transform="translate(14 {(_TOP + bottom) / 2:.0f}) rotate(-90)" '
            f'text-anchor="middle" {_FONT}>mL per slice</text>'
        )
        return "".join(parts)

    def _x(self, number: float) -> float:
        share = (number - self._first) / (self._last - self._first)
        return _LEFT + share * (WIDTH - _LEFT - _RIGHT)

    def _y(self, ml: float) -> float:
        return HEIGHT - _BOTTOM - ml / self._highest * (HEIGHT - _TOP - _BOTTOM)


_FONT = 'font-size="12" fill="var(--soft)"'


def _write(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {_FONT}>{text}</text>'


def _draw_line(points: str, colour: str, more: str = "") -> str:
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{more}/>'


def _ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers from `low` to `high`."""
    power = 10.0 ** len(str(int((high - low) / _N_TICKS))) / 10 if high - low >= _N_TICKS else 1.0
    while power > (high - low) / _N_TICKS:
        power /= 10
    step = power * next(s for s in _STEPS if s * power * _N_TICKS >= (high - low) * 0.999)
    first = -(-low // step)
    count = int((high - first * step) / step + 1e-9) + 1
    return [float(f"{(first + index) * step:.10g}") for index in range(count)]
