"""Line charts with two logarithmic axes, as SVG text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WIDTH: Final = 470
HEIGHT: Final = 360
COLOURS: Final = ("#0b6e4f", "#3a86c8", "#8d6a9f", "#d1495b", "#edae49", "#555555")

_LEFT: Final = 58
_RIGHT: Final = 14
_TOP: Final = 40
_BOTTOM: Final = 46
_LEGEND: Final = 17


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines of points (x, y), all above 0; y is in milliseconds."""

    title: str
    x: str
    lines: Mapping[str, Sequence[tuple[float, float]]]


def svg(charts: Sequence[Chart]) -> str:
    """The charts beside one another."""
    rows = max(len(chart.lines) for chart in charts)
    width, height = WIDTH * len(charts), HEIGHT + _LEGEND * rows
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for place, chart in enumerate(charts):
        parts += [f'<g transform="translate({place * WIDTH} 0)">', *_drawn(chart), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def _drawn(chart: Chart) -> list[str]:
    points = [point for line in chart.lines.values() for point in line]
    across = _decades([x for x, _ in points])
    up = _decades([y for _, y in points])
    parts = [f'<text x="{_LEFT}" y="22" font-size="14">{escape(chart.title)}</text>']
    for decade in range(across[0], across[1] + 1):
        x = _across(10**decade, across)
        parts.append(f'<path d="M{x:.1f} {_TOP}V{HEIGHT - _BOTTOM}" stroke="#dddddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - _BOTTOM + 16}" text-anchor="middle">{10**decade:,}</text>')
    for decade in range(up[0], up[1] + 1):
        y = _up(10**decade, up)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}" stroke="#dddddd"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{10**decade:g} ms</text>')
    parts.append(
        f'<text x="{(_LEFT + WIDTH - _RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">{escape(chart.x)}</text>'
    )
    for place, (name, line) in enumerate(chart.lines.items()):
        colour = COLOURS[place % len(COLOURS)]
        drawn = [(_across(x, across), _up(y, up)) for x, y in line]
        corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in drawn)
        parts.append(f'<polyline points="{corners}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in drawn]
        y = HEIGHT + _LEGEND * place + 6
        parts.append(f'<path d="M{_LEFT} {y - 4}h24" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{_LEFT + 30}" y="{y}">{escape(name)}</text>')
    return parts


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """The powers of ten that enclose `values`, at least one apart."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _across(x: float, decades: tuple[int, int]) -> float:
    return _LEFT + (math.log10(x) - decades[0]) / (decades[1] - decades[0]) * (WIDTH - _LEFT - _RIGHT)


def _up(y: float, decades: tuple[int, int]) -> float:
    return HEIGHT - _BOTTOM - (math.log10(y) - decades[0]) / (decades[1] - decades[0]) * (HEIGHT - _TOP - _BOTTOM)
