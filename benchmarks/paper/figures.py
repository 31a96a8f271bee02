"""Draws the figures of docs/paper.md from committed results.

    python -m benchmarks.paper.figures

Each SVG file carries the digest of what it was drawn from; a test compares it with the file's.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.records import RESULTS, ROOT

PREDICTOR = RESULTS / "nars_cifar" / "predictor.json"
CURVE = RESULTS / "training" / "fbnetv3_nano.cifar10.log.json"
OUT = ROOT / "docs" / "paper"
# Dark enough on white and light enough on black: the page has both backgrounds.
_WITH, _WITHOUT, _GREY = "#1f77b4", "#e07b00", "0.5"
# Typed by name in matplotlib, one literal for each of its parameters.
_STYLE: Any = {
    "svg.hashsalt": "fbnetv3",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "legend.frameon": False,
    "figure.facecolor": "white",
}


def digest(source: Path) -> str:
    """Returns the digest of the results that a figure shows."""
    return hashlib.sha256(source.read_bytes()).hexdigest()


def predictor(found: dict[str, Any]) -> Figure:
    """Returns (a), (b) costs, (c), (d) labels, predicted and true; (e) error against labels."""
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    axes = iter(figure.subplots(2, 3).flat)
    for letter, name, title in (("a", "macs_paper", "MACs"), ("b", "params", "parameters")):
        one, ax = found["proxies"][name], next(axes)
        _against(ax, one["truth"], one["predicted"], _WITH)
        ax.set(
            title=f"({letter}) {title} of unseen candidates, R2 {one['r2']:.3f}",
            xlabel="true, standardized",
            ylabel="predicted",
        )
    cross = found["cross_validated"]
    for letter, name, colour in (("c", "without", _WITHOUT), ("d", "with", _WITH)):
        one, ax = cross[name], next(axes)
        _against(ax, cross["truth"], one["predicted"], colour)
        ax.set(
            title=f"({letter}) accuracy {name} pretraining, tau {one['tau']:.2f}",
            xlabel="label, %",
            ylabel="predicted, %",
        )
    records = found["labels"]["records"]
    for figured, title, label in (
        ("mse", "(e) error on held-out trainings", "mean squared error"),
        ("tau", "(e) rank correlation on them", "Kendall's tau"),
    ):
        ax = next(axes)
        for arm, name, colour in (
            ("paper", "pretrained", _WITH),
            ("paper_scratch", "without", _WITHOUT),
        ):
            nums = sorted({r["num"] for r in records})
            held = [[r[figured] for r in records if (r["arm"], r["num"]) == (arm, n)] for n in nums]
            low, middle, high = (np.quantile(held, q, axis=1) for q in (0.25, 0.5, 0.75))
            ax.plot(nums, middle, color=colour, marker="o", markersize=3, label=name)
            ax.fill_between(nums, low, high, color=colour, alpha=0.2, linewidth=0)
        ax.set(title=title, xlabel="labels", ylabel=label)
        ax.legend()
    return figure


def _against(ax: Axes, truth: list[float], predicted: list[float], colour: str) -> None:
    ends = [min(truth), max(truth)]
    ax.plot(ends, ends, color=_GREY, linewidth=0.8, linestyle="--")
    ax.scatter(truth, predicted, s=9, color=colour, alpha=0.7, linewidths=0)


def epochs(found: dict[str, Any]) -> Figure:
    """Returns the rank correlation of each epoch with the last, and its bootstrap bound."""
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    ax = figure.subplots()
    for (name, one), colour in zip(found["epochs"].items(), (_WITH, _WITHOUT), strict=True):
        x = range(1, len(one["correlation"]) + 1)
        ax.plot(
            x,
            one["correlation"],
            color=colour,
            marker="o",
            markersize=4,
            label=f"{name}, {one['candidates']} trainings",
        )
        ax.fill_between(x, one["lower"], one["correlation"], color=colour, alpha=0.15, linewidth=0)
    ax.axhline(0.92, color=_GREY, linewidth=0.8, linestyle="--")
    ax.set(xlabel="epoch", ylabel="Spearman's correlation with the last epoch", xticks=list(x))
    ax.legend(loc="lower right")
    return figure


def rounds(found: dict[str, Any]) -> Figure:
    """Returns cost and label of every training, by round."""
    figure = Figure(figsize=(11, 3), layout="constrained")
    panels = figure.subplots(1, len(found["rounds"]), sharex=True, sharey=True)
    everything = [(m, y) for one in found["rounds"] for m, y in _points(one)]
    for ax, one in zip(panels, found["rounds"], strict=True):
        ax.scatter(*zip(*everything, strict=True), s=6, color="0.85", linewidths=0)
        ax.scatter(*zip(*_points(one), strict=True), s=10, color=_WITH, linewidths=0)
        median = float(np.median(one["labels"]))
        ax.axhline(median, color=_WITHOUT, linewidth=0.8)
        name = "random round" if one["round"] == 0 else f"round {one['round']}"
        ax.set(title=f"{name}, median {median:.1f}", xlabel="MACs, millions")
    panels[0].set_ylabel("label, %")
    return figure


def _points(one: dict[str, Any]) -> list[tuple[float, float]]:
    return [(m / 1e6, y) for m, y in zip(one["macs"], one["labels"], strict=True)]


def averaged(curve: list[dict[str, Any]]) -> Figure:
    """Returns the accuracy of raw and averaged weights in the course of a training."""
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    ax = figure.subplots()
    judged = [one for one in curve if one["top1_pct"] is not None]
    x = [one["epoch"] for one in judged]
    for key, name, colour in (("ema_top1", "averaged weights", _WITH), ("top1", "raw", _WITHOUT)):
        y = [one[f"{key}_pct"] for one in judged]
        ax.plot(x, y, color=colour, marker="o", markersize=3, label=name)
    ax.set(xlabel="epoch", ylabel="top-1, %")
    ax.legend(loc="lower right")
    return figure


FIGURES: dict[str, tuple[Path, Callable[[Any], Figure]]] = {
    "predictor": (PREDICTOR, predictor),
    "epochs": (PREDICTOR, epochs),
    "rounds": (PREDICTOR, rounds),
    "averaged": (CURVE, averaged),
}


def write(folder: Path) -> None:
    """Writes the SVG files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (source, make) in FIGURES.items():
        metadata = {"Date": None, "Identifier": digest(source)}
        with mpl.rc_context(_STYLE):
            make(json.loads(source.read_text())).savefig(folder / f"{name}.svg", metadata=metadata)


def main() -> None:
    """Writes the figures of the page."""
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    write(OUT)
    print(f"wrote {', '.join(f'{name}.svg' for name in FIGURES)} to {OUT}")


if __name__ == "__main__":
    main()
