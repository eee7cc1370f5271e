"""Static SVG: one column for each layer, in order, with dots and ranges on a linear or logarithmic axis."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 1000, 230
LEFT, RIGHT, TOP, BOTTOM = 60, 992, 24, 208
"""The drawing in SVG units, and the plot's frame in it."""

LABEL_WIDTH = 7.0
"""About what a character of a label takes."""

Range = tuple[float, float]


@dataclass(frozen=True)
class Column:
    """One layer.

    Attributes:
        label: text shown on hovering.
        series: 1 to 4, the number of planes: chooses the colour.
        dots: values to mark.
        thin: ranges (low, high) to draw as thin lines.
        thick: ranges to draw as thick lines.
    """

    label: str
    series: int
    dots: tuple[float, ...]
    thin: tuple[Range, ...] = ()
    thick: tuple[Range, ...] = ()


@dataclass(frozen=True)
class Axis:
    """Maps values to heights in the plot.

    Attributes:
        low, high: ends of the axis.
        ticks: values with a grid line.
        logarithmic: else linear.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    def height(self, value: float) -> float:
        """The y coordinate; values off the axis lie on its ends."""
        low, high, value = self.low, self.high, min(max(value, self.low), self.high)
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return BOTTOM - (BOTTOM - TOP) * (value - low) / (high - low)


def linear_axis(values: Iterable[float], low: float | None = None, high: float | None = None) -> Axis:
    """An axis with about five round ticks for the finite values, from ``low`` and to ``high`` where given."""
    finite = [v for v in values if math.isfinite(v)] or [0.0]
    start = min(finite) if low is None else low
    stop = max(finite) if high is None else high
    span = max(stop - start, 1e-3)
    unit = 10.0 ** math.floor(math.log10(span / 5))
    step = next(unit * factor for factor in (1, 2, 5, 10) if span / (unit * factor) <= 6)
    first, last = math.floor(start / step + 1e-9), math.ceil(stop / step - 1e-9)
    ticks = tuple(round(i * step, 9) for i in range(first, max(last, first + 1) + 1))
    return Axis(ticks[0], ticks[-1], ticks)


def log_axis(values: Iterable[float]) -> Axis:
    """An axis from and to a round number for the positive values, with ticks at 1, 2 and 5 or at powers of ten."""
    positive = [v for v in values if v > 0] or [1.0]
    first, last = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive))) + 1
    digits = (1, 2, 5) if last - first <= 5 else (1,)
    round_numbers = [float(f"{digit}e{power}") for power in range(first, last + 1) for digit in digits]
    low = max(i for i, number in enumerate(round_numbers) if number <= min(positive))
    high = min(i for i, number in enumerate(round_numbers) if number >= max(positive) and i > low)
    ticks = round_numbers[low : high + 1 : math.ceil((high - low) / 12)]
    return Axis(round_numbers[low], round_numbers[high], tuple(ticks), logarithmic=True)


def plot(description: str, columns: Sequence[Column], axis: Axis, groups: Sequence[tuple[str, int]]) -> str:
    """One ``<svg>``.

    Args:
        description: what it shows, for those who cannot see it.
        columns: the layers from left to right.
        axis: the vertical axis.
        groups: name and number of layers of each stretch of columns, from left to right.
    """
    pitch = (RIGHT - LEFT) / max(1, len(columns))
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(description)}">',
        *(_tick(axis, tick) for tick in axis.ticks),
        *_group_marks(groups, pitch),
    ]
    centres = [LEFT + (i + 0.5) * pitch for i in range(len(columns))]
    thick = max(1.0, min(7.0, pitch * 0.7))
    mark = max(4.5, min(9.0, pitch * 0.2))
    for series in sorted({column.series for column in columns}):
        chosen = [(x, column) for x, column in zip(centres, columns, strict=True) if column.series == series]
        thin_lines = _lines(((x, r) for x, column in chosen for r in column.thin), axis)
        thick_lines = _lines(((x, r) for x, column in chosen for r in column.thick), axis)
        dots = "".join(f"M{x:.1f} {axis.height(v):.1f}h0" for x, column in chosen for v in column.dots)
        parts.append(f'<g class="s{series}"><path d="{thin_lines}" class="thin"/>')
        parts.append(f'<path d="{thick_lines}" stroke-width="{thick:.1f}" class="thick"/>')
        parts.append(f'<path d="{dots}" stroke-width="{mark:.1f}" class="dots"/></g>')
    for x, column in zip(centres, columns, strict=True):
        parts.append(
            f'<rect class="hit" x="{x - pitch / 2:.2f}" y="{TOP}" width="{pitch:.2f}" height="{BOTTOM - TOP}">'
            f"<title>{escape(column.label)}</title></rect>"
        )
    return "\n".join([*parts, "</svg>"])


def _tick(axis: Axis, tick: float) -> str:
    y = axis.height(tick)
    return (
        f'<path class="grid" d="M{LEFT} {y:.1f}H{RIGHT}"/>'
        f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{format_tick(tick)}</text>'
    )


def format_tick(value: float) -> str:
    """A short decimal number; powers of ten below 0.001."""
    return f"{value:.3g}" if value == 0 or abs(value) >= 0.001 else f"{value:.1e}".replace("e-0", "e-")


def _group_marks(groups: Sequence[tuple[str, int]], pitch: float) -> Iterable[str]:
    """A line where a group begins, and its name where there is room."""
    x = float(LEFT)
    for name, count in groups:
        width = count * pitch
        yield f'<path class="group" d="M{x:.1f} {TOP - 14}V{BOTTOM}"/>'
        room = int((width - 8) / LABEL_WIDTH)
        if room >= 4:
            text = name if len(name) <= room else name[: room - 1] + "…"
            yield f'<text x="{x + 5:.1f}" y="{TOP - 6}">{escape(text)}</text>'
        x += width


def _lines(ranges: Iterable[tuple[float, Range]], axis: Axis) -> str:
    return "".join(f"M{x:.1f} {axis.height(low):.1f}V{axis.height(high):.1f}" for x, (low, high) in ranges)
