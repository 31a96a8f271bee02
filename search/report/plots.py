"""Charts for a page: matplotlib draws them, and they become SVG text whose colours are the page's.

A page's colours are CSS variables, light and dark, which matplotlib does not know. It is given the
light ones; in the SVG each is replaced by its variable.
"""

from __future__ import annotations

import dataclasses
import io
import math
import re
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup

from fbnetv3._internal.messages import one_line

from .templates import COLOURS, render
from .words import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LIGHT = {name: light for name, (light, _) in COLOURS.items()}
_VARIABLES = {light: f"var(--{name})" for name, light in _LIGHT.items()}
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": _LIGHT["soft"],
    "axes.labelpad": 7,
    "axes.labelcolor": _LIGHT["ink"],
    "axes.edgecolor": _LIGHT["soft"],
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.xmargin": 0.04,
    "axes.ymargin": 0.04,
    "figure.facecolor": "none",
    "grid.color": _LIGHT["line"],
    "lines.linewidth": 1.5,
    "lines.markersize": 5,
    "lines.markeredgewidth": 0,
    "xtick.color": _LIGHT["soft"],
    "ytick.color": _LIGHT["soft"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}
_WIDTH, _HEIGHT = 5.6, 3.4  # in inches, of 72 units each
_KINDS: dict[str, dict[str, Any]] = {
    "points": {"linestyle": "none", "marker": "o", "alpha": 0.8},
    "line": {},
    "steps": {"drawstyle": "steps-post"},
}
_DASHED: dict[str, Any] = {
    "color": _LIGHT["soft"],
    "linewidth": 0.8,
    "linestyle": "--",
    "zorder": 1,
}
_NOTHING = Markup('<p class="note">Nothing to draw yet.</p>')
# So many points of a series are drawn at most, evenly picked.
MOST_POINTS = 4000
# Of a name beside bars or an axis; a longer one would leave no room for the picture.
MOST_LETTERS = 28


@dataclass(frozen=True)
class Series:
    """Numbers to draw.

    Attributes:
        name: for the legend; empty leaves it out.
        x: horizontal positions.
        y: vertical positions; not finite is left out.
        kind: "points", "line", "steps" (a line that keeps its height), "spans" (upright strokes,
            two numbers of x and y for each: its ends), or "diagonal" (y = x).
        colour: a name of `COLOURS`.
        titles: what a pointer over each point shows.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    kind: Literal["points", "line", "steps", "spans", "diagonal"] = "points"
    colour: str = "c0"
    titles: Sequence[str] = ()


def chart(
    series: Sequence[Series],
    *,
    x: str,
    y: str,
    marks: Sequence[float] = (),
    whole_x: bool = False,
    cut_tail: bool = False,
) -> Markup:
    """Returns a chart with its legend.

    Args:
        series: drawn in order.
        x: label of the horizontal axis.
        y: label of the vertical axis.
        marks: heights of dashed horizontal lines.
        whole_x: horizontal ticks at whole numbers only.
        cut_tail: where a few points are far below all others, draw them at the lower edge, so that
            the others can be told apart; the legend says so.
    """
    found = [_finite(one) for one in series]
    points = [v for one in found if one.kind == "points" for v in one.y]
    floor = _floor(points) if cut_tail else -math.inf
    num_below = sum(v < floor for v in points)
    if not any(one.x for one in found):
        return _NOTHING
    with _style():
        figure, axes = _figure(_HEIGHT)
        axes.set(xlabel=one_line(x, MOST_LETTERS), ylabel=y)
        for number, one in enumerate(found):
            raised = dataclasses.replace(one, y=[max(v, floor) for v in one.y])
            _draw(axes, raised, f"series_{number}")
        for height in marks:
            axes.axhline(height, **_DASHED)
            beside = axes.get_yaxis_transform()
            axes.text(1, height, short(height), transform=beside, ha="right", va="bottom")
        if any(one.kind == "diagonal" for one in found):
            ends = [*axes.get_xlim(), *axes.get_ylim()]
            both = (min(ends), max(ends))
            axes.plot(both, both, **_DASHED)
            axes.set(xlim=both, ylim=both)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: short(value))
        axes.locator_params(axis="x", nbins=7, integer=whole_x)
        titles = {f"series_{n}": one.titles for n, one in enumerate(found) if one.titles}
        legend = [one for one in found if one.name]
        listed = ", ".join(f"{one.name} ({len(one.x)} points)" for one in legend)
        svg = _svg(figure, f"{y} against {x}: {listed}", titles)
    below = f"{num_below} points below {short(floor)} are drawn there" if num_below else ""
    return render("chart.html", svg=svg, series=legend, below=below)


def bars(rows: Sequence[tuple[str, float]], *, name: str, unit: str) -> Markup:
    """Returns horizontal bars in the order given; `name` is what they show."""
    if not rows:
        return _NOTHING
    with _style():
        figure, axes = _figure(0.2 + 0.23 * len(rows))
        drawn = axes.barh(range(len(rows)), [v for _, v in rows], 0.65, color=_LIGHT["c0"])
        axes.bar_label(drawn, [f"{value:.3g} {unit}" for _, value in rows], padding=4)
        axes.set_yticks(range(len(rows)), [one_line(row, MOST_LETTERS) for row, _ in rows])
        axes.invert_yaxis()
        axes.margins(x=0.16, y=0.01)
        axes.grid(visible=False)
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)
        return _svg(figure, name, {})


def _style() -> AbstractContextManager[None]:
    """Draws as this file says, whatever the user's own settings of matplotlib are."""
    import matplotlib.style

    return matplotlib.style.context(_STYLE, after_reset=True)


def _figure(height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _draw(axes: Axes, one: Series, gid: str) -> None:
    colour = _LIGHT[one.colour]
    if one.kind == "spans":
        axes.vlines(one.x[::2], one.y[::2], one.y[1::2], colors=colour)
    elif one.kind != "diagonal":
        axes.plot(one.x, one.y, color=colour, gid=gid, **_KINDS[one.kind])


def _svg(figure: Figure, name: str, titles: dict[str, Sequence[str]]) -> Markup:
    """Returns a figure as an element of a page.

    Args:
        figure: what to draw.
        name: read in place of the picture.
        titles: `gid` of points -> what a pointer over each shows.
    """
    import matplotlib as mpl

    file = io.BytesIO()
    # The names inside a picture then repeat, and differ from those of the page's other pictures.
    with mpl.rc_context({"svg.hashsalt": name}), warnings.catch_warnings():
        # A letter that the font lacks is drawn by the browser.
        warnings.filterwarnings("ignore", "Glyph")
        figure.savefig(file, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(file.getvalue())
    for element in root.iter():
        # Within HTML an element's name has no namespace, and a page has a style of its own.
        element.tag = element.tag.rpartition("}")[2]
        element.text, element.tail = (element.text or "").strip(), None
        for child in list(element):
            if child.tag.endswith(("}metadata", "}style", "}clipPath")):
                element.remove(child)
        given, element.attrib = element.attrib, {}
        for key, value in given.items():
            if key == "style":
                element.set(key, re.sub("#[0-9a-f]{6}", _variable, value))
            elif key != "clip-path":
                element.set(key.rpartition("}")[2], re.sub(r"(\.\d\d)\d+", r"\1", value))
    for group in root.iter("g"):
        uses = group.findall("use")
        for use in uses:  # of one look
            group.set("style", use.attrib.pop("style"))
    for gid, texts in titles.items():
        uses = root.findall(f".//g[@id='{gid}']//use")
        for use, text in zip(uses, texts, strict=True):
            ElementTree.SubElement(use, "title").text = text
    for group in root.iter("g"):
        group.attrib.pop("id", None)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": name}
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _variable(found: re.Match[str]) -> str:
    return _VARIABLES.get(found[0], found[0])


def _finite(one: Series) -> Series:
    kept = [n for n, ends in enumerate(zip(one.x, one.y, strict=True)) if np.isfinite(ends).all()]
    if one.kind == "points" and len(kept) > MOST_POINTS:
        kept = [kept[n * len(kept) // MOST_POINTS] for n in range(MOST_POINTS)]
    x, y = ([values[n] for n in kept] for values in (one.x, one.y))
    titles = [one.titles[n] for n in kept] if one.titles else []
    return dataclasses.replace(one, x=x, y=y, titles=titles)


def _floor(values: Sequence[float]) -> float:
    """Returns four interquartile ranges below the median."""
    if len(values) < 8:
        return -math.inf
    low, middle, high = np.percentile(values, (25, 50, 75))
    return float(middle - 4 * (high - low))
