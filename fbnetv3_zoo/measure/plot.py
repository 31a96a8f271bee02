"""Latency rows as a picture: accuracy against latency, multiply-adds and parameters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fbnetv3._internal.files import check_output
from fbnetv3._internal.optional import need

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".svg", ".png")
_AXES = {
    "latency_ms": "latency, ms per image (median)",
    "macs": "multiply-adds, millions",
    "params": "parameters, millions",
}


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Returns which points (cost, quality) no other one beats, by rising cost."""
    order = sorted(range(len(points)), key=lambda n: (points[n][0], -points[n][1]))
    front: list[int] = []
    for number in order:
        if not front or points[number][1] > points[front[-1]][1]:
            front.append(number)
    return front


def check_plot(path: Path) -> None:
    """Checks that a picture can be written, before the work that it is to show.

    Raises:
        ValueError: the file's ending is not .svg or .png, or there is a folder of that name.
        FileNotFoundError: its folder does not exist.
        ImportError: matplotlib is missing.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"output is {path}; expected a name that ends in {' or '.join(SUFFIXES)}")
    check_output(path)
    need("matplotlib")


def plot_rows(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Writes a picture of rows as `bench.Row.to_dict` gives them; those without accuracy are left.

    Raises:
        ValueError: no row has an accuracy, or see `check_plot`.
        FileNotFoundError: see `check_plot`.
        ImportError: see `check_plot`.
    """
    check_plot(path)
    shown = [row for row in rows if row.get("top1_pct") is not None]
    if not shown:
        raise ValueError("no row has an accuracy (top1_pct); measure with labelled images")
    import matplotlib as mpl

    # Neither a display nor the date and random names that SVG files carry otherwise.
    with mpl.rc_context({"svg.hashsalt": "fbnetv3", "font.size": 9}):
        metadata = {"Date": None} if path.suffix == ".svg" else None
        draw(shown).savefig(path, metadata=metadata, dpi=150)


def draw(rows: Sequence[dict[str, Any]]) -> Figure:
    """Returns the picture of `plot_rows`, of rows that all have an accuracy."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 5), layout="constrained")
    for axes, (key, title) in zip(figure.subplots(1, 3), _AXES.items(), strict=True):
        _draw(axes, rows, key)
        axes.set(xlabel=title, ylabel="top-1, %")
    figure.draw_without_rendering()  # the layout: where each point will be
    for axes, key in zip(figure.axes, _AXES, strict=True):
        _label(axes, {(row["model"], _point(row, key)) for row in rows})
    return figure


def _draw(axes: Axes, rows: Sequence[dict[str, Any]], key: str) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    for backend in sorted({row["backend"] for row in rows}):
        own = [_point(row, key) for row in rows if row["backend"] == backend]
        axes.scatter([x for x, _ in own], [y for _, y in own], label=backend, s=18)
    points = [_point(row, key) for row in rows]
    front = [points[number] for number in pareto(points)]
    axes.plot(*zip(*front, strict=True), color="0.6", linewidth=0.8, zorder=0)
    axes.set_xscale("log")
    # 20 and 50 as they stand, not as powers of ten, and so few that they keep apart.
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.legend(fontsize=7, loc="lower right")


def _label(axes: Axes, models: set[tuple[str, tuple[float, float]]]) -> None:
    """Writes models' names beside their points, where there is room; a crowd keeps some without."""
    from matplotlib.transforms import Bbox

    middles = axes.transData.transform([point for _, point in models])
    taken = [Bbox([middle - 2, middle + 2]) for middle in middles]
    for name, point in sorted(models):
        for x, y in ((3, 3), (3, -3), (-3, 3), (-3, -3)):
            sides: dict[str, Any] = {
                "ha": "left" if x > 0 else "right",
                "va": "bottom" if y > 0 else "top",
            }
            text = axes.annotate(
                name, point, fontsize=6, xytext=(x, y), textcoords="offset points", **sides
            )
            box = text.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()


def _point(row: dict[str, Any], key: str) -> tuple[float, float]:
    return _cost(row, key), float(row["top1_pct"])


def _cost(row: dict[str, Any], key: str) -> float:
    if key == "latency_ms":
        return float(row["latency"]["median_ms"]) / int(row["batch"])
    return float(row["macs_paper" if key == "macs" else "params"]) / 1e6
