"""Latency rows as a picture: accuracy against latency, multiply-adds and parameters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fbnetv3._internal.optional import need

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
    """Looks whether a picture can be written, before the work that it is to show.

    Raises:
        ValueError: the file's ending is not .svg or .png.
        FileNotFoundError: its folder does not exist.
        ImportError: matplotlib is missing.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"output is {path}; expected a name that ends in {' or '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} to write {path.name} to; make it first")
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
        from matplotlib.figure import Figure

        figure = Figure(figsize=(15, 5), layout="constrained")
        for axes, (key, title) in zip(figure.subplots(1, 3), _AXES.items(), strict=True):
            _draw(axes, shown, key)
            axes.set(xlabel=title, ylabel="top-1, %")
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, metadata=metadata, dpi=150)


def _draw(axes: Any, rows: Sequence[dict[str, Any]], key: str) -> None:
    points = [(_cost(row, key), float(row["top1_pct"])) for row in rows]
    for backend in sorted({row["backend"] for row in rows}):
        own = [p for p, row in zip(points, rows, strict=True) if row["backend"] == backend]
        axes.scatter(*zip(*own, strict=True), label=backend, s=18)
    front = [points[number] for number in pareto(points)]
    axes.plot(*zip(*front, strict=True), color="0.6", linewidth=0.8, zorder=0)
    for row, point in zip(rows, points, strict=True):
        axes.annotate(row["model"], point, fontsize=6, xytext=(3, 3), textcoords="offset points")
    axes.set_xscale("log")
    # 20 and 60 as they stand, not as powers of ten.
    for axis in ("major", "minor"):
        getattr(axes.xaxis, f"set_{axis}_formatter")("{x:g}")
    axes.legend(fontsize=7, loc="lower right")


def _cost(row: dict[str, Any], key: str) -> float:
    if key == "latency_ms":
        return float(row["latency"]["median_ms"]) / int(row["batch"])
    return float(row["macs_paper" if key == "macs" else "params"]) / 1e6
