"""Small charts as inline SVG text: points, lines, bars on two linear axes. Nothing else."""

from __future__ import annotations

import dataclasses
import html
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

WIDTH, HEIGHT = 560, 340
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 14, 46
# So many points of a series are drawn at most, evenly picked.
MOST_POINTS = 4000


@dataclass(frozen=True)
class Series:
    """Numbers to draw.

    Attributes:
        name: for the legend; empty leaves it out.
        x: horizontal positions.
        y: vertical positions; not finite is left out.
        kind: "points", "line", "steps" (a line that keeps its height), "spans" (upright strokes,
            two numbers of x and y for each: its ends), or "diagonal" (y = x).
        css: class that gives the colour.
        titles: what a pointer over each point shows.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    kind: Literal["points", "line", "steps", "spans", "diagonal"] = "points"
    css: str = "c0"
    titles: Sequence[str] = ()


def chart(
    series: Sequence[Series],
    *,
    x: str,
    y: str,
    marks: Sequence[tuple[float, str]] = (),
    whole_x: bool = False,
    cut_tail: bool = False,
) -> str:
    """Returns a chart with its legend.

    Args:
        series: drawn in order.
        x: label of the horizontal axis.
        y: label of the vertical axis.
        marks: (height, text) of dashed horizontal lines.
        whole_x: horizontal ticks at whole numbers only.
        cut_tail: where a few points are far below all others, draw them at the lower edge, so that
            the others can be told apart; the legend says so.
    """
    found = [_finite(one) for one in series]
    points = [v for one in found if one.kind == "points" for v in one.y]
    floor = _floor(points) if cut_tail else -math.inf
    num_below = sum(v < floor for v in points)
    found = [dataclasses.replace(one, y=[max(v, floor) for v in one.y]) for one in found]
    if not any(one.x for one in found if one.kind != "diagonal"):
        return '<p class="none">Nothing to draw yet.</p>'
    xs = [v for one in found for v in one.x]
    ys = [v for one in found for v in one.y] + [height for height, _ in marks]
    if any(one.kind == "diagonal" for one in found):
        xs = ys = xs + ys
    across, up = (
        _Axis(min(xs), max(xs), WIDTH - LEFT - RIGHT),
        _Axis(min(ys), max(ys), HEIGHT - TOP - BOTTOM),
    )
    parts = [_frame(across, up, x, y, whole_x)]
    for height, text in marks:
        level = _up(up, height)
        parts.append(
            f'<line class="mark" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{level}" y2="{level}"/>'
            f'<text class="tick" x="{WIDTH - RIGHT}" y="{level - 4:.1f}" text-anchor="end">'
            f"{html.escape(text)}</text>"
        )
    parts += [_draw(one, across, up) for one in found]
    body = "".join(parts)
    below = f"{num_below} points below {short(floor)} are drawn there" if num_below else ""
    return (
        f"{_legend(found, below)}<svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img' "
        f"aria-label='{html.escape(y)} against {html.escape(x)}'>{body}</svg>"
    )


def bars(rows: Sequence[tuple[str, float]], *, unit: str) -> str:
    """Returns horizontal bars, in the order given."""
    if not rows:
        return '<p class="none">Nothing to draw yet.</p>'
    most = max(value for _, value in rows) or 1.0
    step, left = 22, 170
    parts = []
    for number, (name, value) in enumerate(rows):
        top = number * step
        wide = max(1.0, value / most * (WIDTH - left - 70))
        parts.append(
            f'<text class="label" x="{left - 8}" y="{top + 15}" text-anchor="end">'
            f'{html.escape(name)}</text><rect class="bar" x="{left}" y="{top + 4}" rx="2" '
            f'width="{wide:.1f}" height="{step - 8}"/><text class="tick" x="{left + wide + 6:.1f}" '
            f'y="{top + 15}">{value:.3g} {html.escape(unit)}</text>'
        )
    return f"<svg viewBox='0 0 {WIDTH} {len(rows) * step + 6}' role='img'>{''.join(parts)}</svg>"


class _Axis:
    """From values to pixels, with round ticks."""

    def __init__(self, low: float, high: float, pixels: float) -> None:
        if high - low <= 1e-12 * max(abs(low), abs(high), 1e-300):
            pad = abs(low) * 0.05 or 1.0
        else:
            pad = (high - low) * 0.04
        self.low, self.high, self.pixels = low - pad, high + pad, pixels

    def place(self, value: float) -> float:
        return (value - self.low) / (self.high - self.low) * self.pixels

    def ticks(self, whole: bool) -> list[float]:
        rough = (self.high - self.low) / 6
        size = 10.0 ** math.floor(math.log10(rough))
        step = next(size * m for m in (1, 2, 2.5, 5, 10) if size * m >= rough * 0.99)
        step = max(1.0, round(step)) if whole else step
        first = math.ceil(self.low / step)
        return [n * step for n in range(first, math.floor(self.high / step) + 1)]


def _up(axis: _Axis, value: float) -> float:
    return round(HEIGHT - BOTTOM - axis.place(value), 1)


def _across(axis: _Axis, value: float) -> float:
    return round(LEFT + axis.place(value), 1)


def _finite(one: Series) -> Series:
    kept = [
        n for n, (a, b) in enumerate(zip(one.x, one.y, strict=True))
        if math.isfinite(a) and math.isfinite(b)
    ]  # fmt: skip
    if one.kind == "points" and len(kept) > MOST_POINTS:
        kept = [kept[n * len(kept) // MOST_POINTS] for n in range(MOST_POINTS)]
    titles = [one.titles[n] for n in kept] if one.titles else []
    return Series(
        one.name, [one.x[n] for n in kept], [one.y[n] for n in kept], one.kind, one.css, titles
    )


def short(value: float) -> str:
    """Returns a number as people write it: 1.2M, 340k, 0.05."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.4g}{unit}"
    return f"{value:.4g}" if value else "0"


def _frame(across: _Axis, up: _Axis, x: str, y: str, whole_x: bool) -> str:
    base = HEIGHT - BOTTOM
    parts = [f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>']
    for value in across.ticks(whole_x):
        place = _across(across, value)
        parts.append(f'<text class="tick" x="{place}" y="{base + 17}" text-anchor="middle">'
                     f"{short(value)}</text>")  # fmt: skip
    for value in up.ticks(False):
        level = _up(up, value)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{level}" y2="{level}"/>'
            f'<text class="tick" x="{LEFT - 8}" y="{level + 4}" text-anchor="end">'
            f"{short(value)}</text>"
        )
    middle = (TOP + base) / 2
    parts.append(
        f'<text class="label" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" '
        f'text-anchor="middle">{html.escape(x)}</text>'
        f'<text class="label" transform="rotate(-90 14 {middle})" x="14" y="{middle}" '
        f'text-anchor="middle">{html.escape(y)}</text>'
    )
    return "".join(parts)


def _draw(one: Series, across: _Axis, up: _Axis) -> str:
    if one.kind == "diagonal":
        low, high = max(across.low, up.low), min(across.high, up.high)
        ends = [(_across(across, v), _up(up, v)) for v in (low, high)]
        return (
            f'<line class="mark" x1="{ends[0][0]}" y1="{ends[0][1]}" x2="{ends[1][0]}" '
            f'y2="{ends[1][1]}"/>'
        )
    places = [(_across(across, a), _up(up, b)) for a, b in zip(one.x, one.y, strict=True)]
    if one.kind == "points":
        titles = one.titles or [""] * len(places)
        return "".join(
            f'<circle class="{one.css}" cx="{a}" cy="{b}" r="3.2">'
            + (f"<title>{html.escape(title)}</title>" if title else "")
            + "</circle>"
            for (a, b), title in zip(places, titles, strict=True)
        )
    if one.kind == "spans":
        strokes = "".join(
            f"M{a},{b}L{c},{d}" for (a, b), (c, d) in zip(places[::2], places[1::2], strict=True)
        )
        return f'<path class="line {one.css}" d="{strokes}"/>'
    words = []
    for number, (a, b) in enumerate(places):
        if one.kind == "steps" and number:
            words.append(f"{a},{places[number - 1][1]}")
        words.append(f"{a},{b}")
    return f'<polyline class="line {one.css}" points="{" ".join(words)}"/>'


def _floor(values: Sequence[float]) -> float:
    """Returns four interquartile ranges below the median."""
    if len(values) < 8:
        return -math.inf
    low, middle, high = statistics.quantiles(values, n=4)
    return middle - 4 * (high - low)


def _legend(series: Sequence[Series], more: str) -> str:
    named = [one for one in series if one.name]
    if not named and not more:
        return ""
    keys = "".join(
        f'<span><i class="key {one.css}"></i>{html.escape(one.name)}</span>' for one in named
    )
    return f'<p class="legend">{keys}<span>{html.escape(more)}</span></p>'
