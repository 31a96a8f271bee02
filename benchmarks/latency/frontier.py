"""Accuracy against cost of FBNetV3 and the networks one would take instead: page and picture.

    python -m benchmarks.latency.frontier

Writes docs/frontier.md and docs/frontier.svg from the published figures in the package
(`benchmarks.latency.published` makes that file) and the latencies in `results/latency*.jsonl`
(`benchmarks.latency.networks` measures them).
"""

from __future__ import annotations

import argparse
import io
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from benchmarks.records import RESULTS, ROOT, read_lines
from fbnetv3.hub.published import Published, about, named, published
from fbnetv3.measure.contenders import key
from fbnetv3.measure.plot import pareto

PAGE = ROOT / "docs" / "frontier.md"
PICTURE = ROOT / "docs" / "frontier.svg"
LATENCIES = (
    ("AVX-512", RESULTS / "latency.jsonl"),
    ("AVX2", RESULTS / "latency_avx2.jsonl"),
)
# Of our measurements: heading -> (processor, backend), batch 1 on one thread.
MEASURED = {
    "torch": ("AVX-512", "torch"),
    "onnxruntime": ("AVX-512", "onnxruntime"),
    "OpenVINO": ("AVX-512", "openvino"),
    "OpenVINO bf16": ("AVX-512", "openvino-bf16"),
    "onnxruntime, AVX2": ("AVX2", "onnxruntime"),
}
Times = dict[tuple[str, int], dict[str, float]]

# Letters are written to points that lie at least so far apart, as a ratio.
_LEAST_APART = 1.07
_INK, _GRID = "#222222", "#dddddd"
_DARK = {_INK: "#e6e6e6", _GRID: "#4a4a4a"}
# Readable on white and on black; FBNetV3 stands out.
_LOOKS = {
    "FBNetV3": ("#d62728", "o"),
    "EfficientNet": ("#1f77b4", "s"),
    "EfficientNet-Lite": ("#5fa2d6", "s"),
    "MobileNetV3": ("#2a9d4a", "^"),
    "MobileNetV4": ("#7bb662", "v"),
    "MixNet": ("#b8860b", "D"),
    "RepViT": ("#9467bd", "P"),
    "FastViT": ("#c77cff", "X"),
    "ResNeSt": ("#8c564b", "<"),
    "ResNet": ("#808080", ">"),
    "RegNetY": ("#17a2b8", "d"),
    "GhostNet": ("#e377c2", "p"),
    "YOLO11-cls": ("#e08a00", "h"),
}
_STYLE: Any = {
    "svg.hashsalt": "fbnetv3",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK
    ),
}


def latencies() -> Times:
    """Returns our milliseconds for one image, by network and resolution, under heads."""
    found: Times = {}
    files = {name: read_lines(path) for name, path in LATENCIES}
    for heading, (processor, backend) in MEASURED.items():
        for row in files[processor]:
            if (row["backend"], row["threads"], row["batch"]) == (backend, 1, 1):
                of_network = found.setdefault((row["network"], row["side"]), {})
                of_network[heading] = float(row["latency"]["median_ms"])
    return found


def front(rows: Sequence[Published], cost: Callable[[Published], float | None]) -> list[Published]:
    """Returns the Pareto front of those rows that have a cost."""
    known = [(row, value) for row in rows if (value := cost(row)) is not None]
    return [known[n][0] for n in pareto([(value, row.top1_pct) for row, value in known])]


def shown(rows: Sequence[Published]) -> list[Published]:
    """Returns the rows of the page's table.

    They are FBNetV3's, and of every other network its default and its most accurate weights.
    """
    found = {row: None for row in rows if row.family == "FBNetV3"}
    for model in dict.fromkeys(row.model for row in rows if row.family != "FBNetV3"):
        own = [row for row in rows if row.model == model]
        found |= {row: None for row in own if row.default}
        found[max(own, key=lambda row: row.top1_pct)] = None
    return sorted(found, key=lambda row: (row.family != "FBNetV3", row.family, row.macs))


def draw(rows: Sequence[Published], times: Times) -> Figure:
    """Returns four panels: each family's own front against MACs, parameters, ms and images/s."""
    panels: tuple[tuple[str, Callable[[Published], float | None]], ...] = (
        ("multiply-adds, millions", lambda row: row.macs / 1e6),
        ("parameters, millions", lambda row: row.params / 1e6),
        (
            "ms per image, onnxruntime, 1 thread (ours)",
            lambda row: times.get(key(row), {}).get("onnxruntime"),
        ),
        (
            "ms per 1,000 images, RTX 5090 (timm's)",
            lambda row: None if row.gpu_images_per_s is None else 1e6 / row.gpu_images_per_s,
        ),
    )
    figure = Figure(figsize=(10.5, 9.5), layout="constrained")
    for axes, (title, cost) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        for family, (colour, marker) in _LOOKS.items():
            _draw(axes, [row for row in rows if row.family == family], cost, colour, marker)
        axes.set(xlabel=title, ylabel="top-1 on ImageNet, %", xscale="log", ylim=(69, 85))
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
    handles = figure.axes[0].get_lines()
    figure.legend(handles, _LOOKS, loc="outside lower center", ncols=5)
    return figure


def _draw(
    axes: Axes,
    rows: Sequence[Published],
    cost: Callable[[Published], float | None],
    colour: str,
    marker: str,
) -> None:
    ours = marker == "o"
    found = [row for row in front(rows, cost) if row.top1_pct >= 69]
    x = [float(cost(row) or 0) for row in found]
    (line,) = axes.plot(
        x,
        [row.top1_pct for row in found],
        color=colour,
        marker=marker,
        markersize=7 if ours else 5,
        linewidth=1.8 if ours else 0.9,
        zorder=3 if ours else 2,
        clip_on=False,
    )
    line.set_in_layout(False)
    if ours:
        _label(
            axes,
            [(at, row.top1_pct, row.model[-1].upper()) for at, row in zip(x, found, strict=True)],
        )


def _label(axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Writes the letters of networks beside their points, those with room for them."""
    last = 0.0
    for x, y, letter in points:
        if x < _LEAST_APART * last:
            continue
        last = x
        axes.annotate(
            letter,
            (x, y),
            xytext=(-5, 4),
            textcoords="offset points",
            ha="right",
            weight="bold",
            color=_LOOKS["FBNetV3"][0],
        )


def svg(figure: Figure) -> str:
    """Returns a picture whose ink follows the reader's light or dark scheme."""
    content = io.StringIO()
    left_out = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(content, format="svg", metadata=left_out)
    rules = "".join(
        f'[style*="{kind}: {light}"]{{{kind}:{dark} !important}}'
        for light, dark in _DARK.items()
        for kind in ("fill", "stroke")
    )
    style = f"<style>@media (prefers-color-scheme: dark){{{rules}}}</style>"
    text = re.sub(r"(<svg [^>]*>)", rf"\1\n{style}", content.getvalue(), count=1)
    # A third of the size: a tenth of a pixel is enough, and any sans-serif font.
    text = re.sub(r"(?<![#\w.])(-?\d+\.\d)\d+", r"\1", text)
    text = re.sub(r"font-family: [^;]*;", "font-family: sans-serif;", text)
    text = text.replace("; stroke-linejoin: miter", "")
    return re.sub(r"\s*\n\s*", "\n", text)


def table(rows: Iterable[Published], times: Times) -> str:
    """Returns the Markdown table of all figures."""
    heads = ["network", "px", "top-1", "by", "ReaL", "V2", "A", "R", "Sketch", "MACs (M)"]
    heads += ["params (M)", *MEASURED, "GPU, images/s", "CPU, images/s", "license"]
    lines = [f"| {' | '.join(heads)} |", "| --- |" + " ---: |" * (len(heads) - 2) + " --- |"]
    for row in rows:
        own = times.get(key(row), {})
        cells = [
            f"`{row.name}`",
            str(row.resolution),
            f"{row.top1_pct:.2f}",
            row.source,
            *map(
                _number,
                (row.real_pct, row.v2_pct, row.a_pct, row.r_pct, row.sketch_pct),
            ),
            f"{row.macs / 1e6:,.0f}",
            f"{row.params / 1e6:.1f}",
            *(_number(own.get(heading)) for heading in MEASURED),
            "" if row.gpu_images_per_s is None else f"{row.gpu_images_per_s:,.0f}",
            _number(row.cpu_images_per_s),
            row.license,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def short_table(rows: Iterable[Published], cost: Callable[[Published], str], head: str) -> str:
    """Returns a Markdown table of a front."""
    lines = [f"| network | px | {head} | top-1 | by | license |", "| --- |" + " --- |" * 5]
    lines += [
        f"| `{row.name}` | {row.resolution} | {cost(row)} | {row.top1_pct:.2f} | {row.source} "
        f"| {row.license} |"
        for row in rows
    ]
    return "\n".join(lines)


def sentences(times: Times) -> str:
    """Returns the paper's comparisons, recomputed."""

    def at(name: str) -> Published:
        return named(name)

    g, e, a = (at(f"fbnetv3_{letter}.meta_in1k") for letter in "gea")
    b4, b4_new = at("tf_efficientnet_b4.aa_in1k@380"), at("efficientnet_b4.ra2_in1k@384")
    b2, st50 = at("tf_efficientnet_b2.aa_in1k@260"), at("resnest50d.in1k@224")
    v3, v3_wide = (
        at("mobilenetv3_large_100.ra4_e3600_r224_in1k@256"),
        at("mobilenetv3_large_150d.ra4_e3600_r256_in1k@256"),
    )

    def fewer(one: Published, other: Published) -> str:
        return f"{100 * (1 - one.macs / other.macs):.1f} % fewer"

    def beside(one: Published, other: Published) -> str:
        return (
            f"{one.top1_pct:.2f} against {other.top1_pct:.2f} % "
            f"({one.top1_pct - other.top1_pct:+.2f} points)"
        )

    # Our networks and B4 stand at 320 pixels in the measurements.
    ratio = times["efficientnet_b4", 320]["onnxruntime"] / times[key(g)]["onnxruntime"]
    lines = [
        "| the paper says | recomputed | so |",
        "| --- | --- | --- |",
        f"| G has the accuracy of EfficientNet-B4 (82.8 against 83.0 %) with 49.3 % fewer FLOPs, "
        f"2.0 times fewer | By our count of MACs {fewer(g, b4)}, {b4.macs / g.macs:.2f} times; "
        f"with the 4.2 G that EfficientNet's authors state, {100 * (1 - g.macs / 4.2e9):.1f} %. "
        f"Google's weights: {beside(g, b4)}; timm's later ones: {beside(g, b4_new)}. "
        f"In onnxruntime on one thread B4 at 320 pixels, fewer than it needs for that accuracy, "
        f"takes {ratio:.2f} times as long as G at 320. | true of MACs and of the weights of its "
        "time; the time that it saves is smaller than the MACs say |",
        f"| E is 0.2 points above ResNeSt-50 with 7.1 times fewer FLOPs | By our count "
        f"{st50.macs / e.macs:.2f} times. {beside(e, st50)}, by Meta and by timm. | true |",
        f"| A is 2.5 points above MobileNetV3-1.25x (76.6 %) at the same FLOPs | timm has no "
        f"weights of that width. With its latest recipe, MobileNetV3-1.0 "
        f"at 256 pixels ({v3.macs / 1e6:,.0f} M MACs): {beside(a, v3)}; 1.5d at 256 "
        f"({v3_wide.macs / 1e6:,.0f} M): {beside(a, v3_wide)}. | cannot be checked at that width |",
        f"| Without distillation, 27 % fewer FLOPs than EfficientNet-B2 | No weights of FBNetV3 "
        f"without distillation are published by the authors. E has {fewer(e, b2)} MACs than B2 at "
        f"260 pixels by our count. timm's D, trained without a teacher, at 256 pixels: "
        f"{beside(at('fbnetv3_d.ra2_in1k@256'), b2)}, "
        f"{fewer(at('fbnetv3_d.ra2_in1k@256'), b2)} MACs. | cannot be checked; by our count the "
        "share is smaller |",
    ]
    return "\n".join(lines)


def findings(rows: Sequence[Published], times: Times) -> str:
    """Returns in words who is on the front."""
    by_macs = front(rows, lambda row: float(row.macs))
    by_params = front(rows, lambda row: float(row.params))
    free = [row for row in rows if row.commercial]
    by_macs_free = front(free, lambda row: float(row.macs))
    by_gpu = front(rows, lambda row: row.gpu_images_per_s and 1 / row.gpu_images_per_s)
    by_ms = front(rows, lambda row: times.get(key(row), {}).get("onnxruntime"))

    def share(found: Sequence[Published]) -> str:
        ours = [row for row in found if row.family == "FBNetV3"]
        names = ", ".join(row.model[-1].upper() for row in ours)
        return f"{len(ours)} of {len(found)}" + (f" ({names})" if names else "")

    return "\n".join(
        (
            "| cost | networks on the front that are FBNetV3 |",
            "| --- | --- |",
            f"| MACs | {share(by_macs)} |",
            f"| MACs, weights that allow commercial use | {share(by_macs_free)} |",
            f"| parameters | {share(by_params)} |",
            f"| our latency in onnxruntime, one thread, of the {len(times)} networks measured "
            f"| {share(by_ms)} |",
            f"| timm's GPU throughput (of its B, D and G only) | {share(by_gpu)} |",
        )
    )


def render() -> str:
    """Returns the page."""
    rows, times = published(), latencies()
    sources = about()
    macs = front(rows, lambda row: float(row.macs))
    free = front([row for row in rows if row.commercial], lambda row: float(row.macs))
    timed = front(rows, lambda row: times.get(key(row), {}).get("onnxruntime"))
    least = 75.0
    parts = (
        "<!-- Written by `python -m benchmarks.latency.frontier`. -->",
        "# Accuracy against cost, beside other networks",
        "Which network to take within a budget, and whether it is an FBNetV3. The command answers "
        "for yours, with latencies of your machine if you like:",
        "<!-- not run: tests/cli/test_find.py runs it -->\n"
        "```sh\nfbnetv3 find --against efficientnet_b0 --license commercial\n```",
        "![Top-1 against MACs, parameters, latency and GPU time, one line for each family]"
        "(frontier.svg)",
        "A line joins the networks of a family that no other one of the family beats. Left of and "
        "above a line is better.",
        "## On the front",
        "A network is on the Pareto front if no other one is more accurate at no more cost.",
        findings(rows, times),
        f"By MACs, from {least:.0f} % on:",
        short_table(
            [row for row in macs if row.top1_pct >= least],
            lambda row: f"{row.macs / 1e6:,.0f}",
            "MACs (M)",
        ),
        "The same among weights whose license is known to allow commercial use:",
        short_table(
            [row for row in free if row.top1_pct >= least],
            lambda row: f"{row.macs / 1e6:,.0f}",
            "MACs (M)",
        ),
        "By our latency, milliseconds of one image in onnxruntime on one thread of an AMD EPYC "
        "with AVX-512:",
        short_table(
            [row for row in timed if row.top1_pct >= least],
            lambda row: f"{times[key(row)]['onnxruntime']:.1f}",
            "ms",
        ),
        "## The paper's comparisons",
        sentences(times),
        "[The paper, claim by claim](paper.md) has its other claims.",
        "## All figures",
        "\n".join(
            (
                f"- *top-1* and the other accuracies: {sources['accuracy']} The column *by* names "
                "who measured; of the official FBNetV3 it is Meta, whose pages have no other "
                "accuracies. ReaL are other labels of the same images; V2, A, R and Sketch are "
                "other images.",
                f"- *MACs*, *params*: {sources['macs']}",
                "- *torch* to *AVX2*: milliseconds of one image, ours, on one thread of an AMD "
                "EPYC, with random weights (`benchmarks/results/latency.jsonl` and "
                "`latency_avx2.jsonl`, which have the versions, numbers of runs and spread).",
                f"- *GPU*: {sources['gpu_images_per_s']} *CPU*: {sources['cpu_images_per_s']}",
                f"- *license*: {sources['license']}",
                "- Weights that were trained with more than ImageNet-1k are left out. Those of "
                "FBNetV3 by Meta, RepViT and FastViT (`dist`) were distilled from larger networks.",
            )
        ),
        table(shown(rows), times),
    )
    return "\n\n".join(parts) + "\n"


def picture() -> str:
    """Returns the picture's text."""
    with mpl.rc_context(_STYLE):
        return svg(draw(published(), latencies()))


def write(path: Path, text: str) -> None:
    """Writes a file and says so."""
    path.write_text(text)
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


def main() -> None:
    """Writes both."""
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    write(PAGE, render())
    write(PICTURE, picture())


if __name__ == "__main__":
    main()
