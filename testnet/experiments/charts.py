"""Small charts as SVG: lines and bars, with axes, in one string. No script, nothing fetched from anywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 150, 14, 40
# Told apart by people who see colours differently too (Okabe and Ito), then by their dashes.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555", "#a6761d")
DASHES = ("", "6 3", "2 2", "8 2 2 2")

Points = Sequence[tuple[float, float]]


def lines(
    series: Mapping[str, Points],
    *,
    x: str,
    y: str,
    y_range: tuple[float, float] | None = None,
    x_range: tuple[float, float] | None = None,
    x_log: bool = False,
) -> str:
    """A chart of lines. x, y: what the axes are. x_log: decades (x above 0)."""
    drawn = {name: points for name, points in series.items() if points}
    if not drawn:
        return "<p>nothing to draw</p>"
    every = [point for points in drawn.values() for point in points]
    place = _Place(
        x_range or _range([at for at, _ in every]), y_range or _range([at for _, at in every]), x_log=x_log
    )
    parts = [place.axes(x, y)]
    for index, (name, points) in enumerate(drawn.items()):
        colour, dash = COLOURS[index % len(COLOURS)], DASHES[index // len(COLOURS) % len(DASHES)]
        path = " ".join(f"{place.x(a):.1f},{place.y(b):.1f}" for a, b in points)
        style = f'stroke="{colour}" stroke-dasharray="{dash}"'
        parts.append(f'<polyline points="{path}" fill="none" {style} stroke-width="1.8"/>')
        parts.append(_key(index, name, style))
    return _svg(parts, rows=len(drawn))


def bars(values: Mapping[str, Mapping[str, float]], *, y: str) -> str:
    """Groups of bars between 0 and 1: by what is below them, then by what the colour says."""
    names = list(dict.fromkeys(name for each in values.values() for name in each))
    if not names:
        return "<p>nothing to draw</p>"
    width = max(WIDTH, LEFT + RIGHT + 14 * len(names) * len(values))
    step = (width - LEFT - RIGHT) / len(values)
    place = _Place((0, 1), (0, 1), width=width)
    parts = [place.axes("", y, numbers=False)]
    for at, (group, each) in enumerate(values.items()):
        for index, name in enumerate(names):
            if name in each:
                bar = step * 0.85 / len(names)
                left = LEFT + at * step + index * bar
                top = place.y(each[name])
                title = f"<title>{escape(f'{group}, {name}: {each[name]:.3f}')}</title>"
                shape = f'x="{left:.1f}" y="{top:.1f}" width="{bar:.1f}" height="{place.y(0) - top:.1f}"'
                parts.append(f'<rect {shape} fill="{COLOURS[index % len(COLOURS)]}">{title}</rect>')
        middle, below = LEFT + (at + 0.42) * step, HEIGHT - BOTTOM + 14
        turned = f'x="{middle:.1f}" y="{below}" transform="rotate(18 {middle:.1f} {below})"'
        parts.append(f"<text {turned}>{escape(group)}</text>")
    for index, name in enumerate(names):
        parts.append(_key(index, name, f'stroke="{COLOURS[index % len(COLOURS)]}"', width=width))
    return _svg(parts, rows=len(names), width=width)


class _Place:
    """Where a value lies in the picture."""

    def __init__(
        self, x: tuple[float, float], y: tuple[float, float], *, x_log: bool = False, width: int = WIDTH
    ) -> None:
        self._x, self._y, self._log, self._width = x, y, x_log, width

    def x(self, value: float) -> float:
        low, high = self._x
        if self._log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, low))
        share = (value - low) / (high - low)
        return LEFT + min(1.0, max(0.0, share)) * (self._width - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = (value - self._y[0]) / (self._y[1] - self._y[0])
        return HEIGHT - BOTTOM - min(1.0, max(0.0, share)) * (HEIGHT - TOP - BOTTOM)

    def axes(self, x: str, y: str, *, numbers: bool = True) -> str:
        parts: list[str] = []
        for value in _ticks(*self._y):
            at, right = self.y(value), self._width - RIGHT
            parts.append(f'<line x1="{LEFT}" y1="{at:.1f}" x2="{right}" y2="{at:.1f}" stroke="#ddd"/>')
            parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{value:g}</text>')
        for value in (_decades(*self._x) if self._log else _ticks(*self._x)) if numbers else ():
            middle = f'x="{self.x(value):.1f}" text-anchor="middle"'
            parts.append(f'<text {middle} y="{HEIGHT - BOTTOM + 16}">{value:g}</text>')
        middle = (LEFT + self._width - RIGHT) / 2
        parts.append(f'<text x="{middle:.0f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x)}</text>')
        height = (TOP + HEIGHT - BOTTOM) / 2
        turned = f'x="14" y="{height:.0f}" transform="rotate(-90 14 {height:.0f})" text-anchor="middle"'
        parts.append(f"<text {turned}>{escape(y)}</text>")
        return "".join(parts)


def _key(index: int, name: str, style: str, *, width: int = WIDTH) -> str:
    left, at = width - RIGHT + 12, TOP + 10 + 16 * index
    line = f'<line x1="{left}" y1="{at}" x2="{left + 22}" y2="{at}" {style} stroke-width="3"/>'
    return f'{line}<text x="{left + 28}" y="{at + 4}">{escape(name)}</text>'


def _svg(parts: Sequence[str], *, rows: int, width: int = WIDTH) -> str:
    height = max(HEIGHT, TOP + 24 + 16 * rows)
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">{"".join(parts)}</svg>'


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low, low + 1)


def _ticks(low: float, high: float) -> list[float]:
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step *= next(each for each in (1, 2, 5, 10) if (high - low) / (step * each) <= 6)
    first = math.ceil(low / step - 1e-9)
    return [round(at * step, 10) for at in range(first, math.floor(high / step + 1e-9) + 1)]


def _decades(low: float, high: float) -> list[float]:
    return [10.0**at for at in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
