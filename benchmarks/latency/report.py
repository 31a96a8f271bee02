"""Tables and a plot of the results of `networks.py`, and the short table of the documentation.

    python -m benchmarks.latency.report benchmarks/results/latency.jsonl --write-docs

Accuracies are the published ones of the official weights (`fbnetv3.hub.weights`), which
`networks.py` does not load: speed does not depend on weights.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.records import PERFORMANCE_PAGE, read_lines, write_block
from fbnetv3.hub.weights import WEIGHTS
from fbnetv3.measure.plot import plot_rows
from fbnetv3.measure.roofline import Roofline

Rows = list[dict[str, Any]]
EAGER = ("timm", "torch")
SHORT = ("fbnetv3_a", "fbnetv3_b", "fbnetv3_e", "fbnetv3_g", "efficientnet_b0", "resnet50")
SHOWN = ("torch", "torch-optimized", "onnxruntime", "openvino", "openvino-bf16", "openvino-int8")


def milliseconds(row: dict[str, Any]) -> float:
    """Returns a result's median."""
    return float(row["latency"]["median_ms"])


def eager_of(rows: Rows, network: str) -> dict[str, Any]:
    """Returns the result of plain torch, with timm's own model if there is one."""
    found = {row["backend"]: row for row in rows if row["network"] == network}
    return found.get("timm") or found["torch"]


def table(rows: Rows, networks: Sequence[str], backends: Sequence[str]) -> str:
    """Returns a Markdown table for one batch size and thread count: ms, and speedup over eager."""
    backends = [b for b in backends if any(row["backend"] == b for row in rows)]
    lines = [
        f"| model | {' | '.join(backends)} |",
        f"| --- |{' --- |' * len(backends)}",
    ]
    for network in networks:
        own = {row["backend"]: row for row in rows if row["network"] == network}
        if not own:
            continue
        eager = milliseconds(eager_of(rows, network))
        cells = [
            f"{milliseconds(own[b]):.1f} ({eager / milliseconds(own[b]):.2f}x)" if b in own else ""
            for b in backends
        ]
        lines.append(f"| `{network}` {own['torch']['side']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def shares(rows: Rows, networks: Sequence[str], batch: int) -> str:
    """Returns a Markdown table of each backend's share of the roofline on one thread.

    The roofline is the larger of MACs over the machine's fastest matrix product, in the backend's
    precision, and weights over its memory bandwidth. int8 has none: its peak is not measured.
    """
    backends = [b for b in SHOWN if b != "openvino-int8" and any(r["backend"] == b for r in rows)]
    lines = [
        f"| model | floor fp32, ms | {' | '.join(backends)} |",
        f"| --- | --- |{' --- |' * len(backends)}",
    ]
    for network in networks:
        own = {
            row["backend"]: row
            for row in rows
            if (row["network"], row["batch"], row["threads"]) == (network, batch, 1)
        }
        if not own:
            continue
        cells = [
            f"{floor_ms(own[b]) / milliseconds(own[b]):.0%}" if b in own else "" for b in backends
        ]
        lines.append(f"| `{network}` | {floor_ms(own['torch']):.1f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def floor_ms(row: dict[str, Any]) -> float:
    """Returns the roofline's time for a result: the larger of its arithmetic and its weights."""
    bf16 = "bf16" in row["backend"]
    num_bytes = row["params"] * (2 if bf16 else 4)
    return Roofline(**row["roofline"]).floor_ms(row["batch"] * row["macs"], num_bytes, bf16=bf16)


def report(rows: Rows) -> str:
    """Returns the page with all tables."""
    first = rows[0]
    about = {k: v for k, v in first["environment"].items() if k != "load_1min"}
    parts = [
        "# Latency on a CPU",
        "Medians in milliseconds per batch and, in parentheses, the speedup over plain torch (over "
        "timm's own model where it has one) with the same number of threads. The backends of a "
        "model are interleaved in one process. `python -m benchmarks.latency.report` writes this "
        "page.",
        f"```json\n{json.dumps(about, indent=1)}\n```",
    ]
    networks = list(dict.fromkeys(row["network"] for row in rows))
    backends = list(dict.fromkeys(row["backend"] for row in rows))
    for batch in sorted({row["batch"] for row in rows}):
        for threads in sorted({row["threads"] for row in rows}, key=lambda n: n or 0):
            chosen = [row for row in rows if (row["batch"], row["threads"]) == (batch, threads)]
            if not chosen:
                continue
            title = "default threads" if threads is None else f"{threads} threads"
            noisy = sum(row["latency"]["verdict"] != "ok" for row in chosen)
            parts += [
                f"## Batch {batch}, {title}",
                table(chosen, networks, backends),
                f"{noisy} of {len(chosen)} medians are marked noisy by the measurement itself.",
            ]
    peaks = [Roofline(**row["roofline"]) for row in rows]
    fp32, bf16, read = (
        sorted(getattr(peak, name) for peak in peaks)[len(peaks) // 2]
        for name in ("fp32_gmacs", "bf16_gmacs", "read_gbytes")
    )
    has_bf16 = any("bf16" in backend for backend in backends)
    said = f" and {bf16:.0f} in bfloat16" if has_bf16 else ""
    parts += [
        "## Share of the roofline",
        f"One thread. The fastest matrix product has {fp32:.0f} billion MACs (multiply-adds) per "
        f"second{said}, and the memory bandwidth is {read:.0f} GB/s (medians, measured before each "
        "model). The share is the time that a backend would need at those rates, divided by its "
        "median; for int8 no peak is measured. A library that multiplies faster than torch exceeds "
        "100 %.",
    ]
    for batch in sorted({row["batch"] for row in rows}):
        parts += [f"Batch {batch}:", shares(rows, networks, batch)]
    return "\n\n".join(parts) + "\n"


def block(rows: Rows) -> str:
    """Returns the tables that docs/performance.md shows."""
    parts = []
    for batch, threads in ((1, 1), (1, 2), (16, 1)):
        chosen = [row for row in rows if (row["batch"], row["threads"]) == (batch, threads)]
        title = f"Batch {batch}, {threads} thread{'s' * (threads > 1)}:"
        parts += [title, table(chosen, SHORT, SHOWN)]
    return "\n\n".join(parts)


def picture(rows: Rows, path: Path) -> None:
    """Draws published accuracy against latency, batch 1 on one thread."""
    shown = []
    for row in rows:
        weights = WEIGHTS.get(f"{row['network']}.meta_in1k")
        at_once = (row["threads"], row["batch"]) == (1, 1)
        # The accuracy of int8 is unknown, because the weights are untrained.
        if weights is None or not at_once or row["backend"] in (*EAGER, "openvino-int8"):
            continue
        shown.append(
            {
                "model": row["network"][-1].upper(),
                "backend": row["backend"],
                "batch": 1,
                "latency": row["latency"],
                "top1_pct": weights.top1_pct,
                "macs_paper": row["macs"],
                "params": row["params"],
            }
        )
    plot_rows(shown, path)


def main() -> None:
    """Writes the page, the plot, and the documentation's tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("rows", type=Path)
    parser.add_argument("--write-docs", action="store_true")
    args = parser.parse_args()
    rows = read_lines(args.rows)
    args.rows.with_suffix(".md").write_text(report(rows))
    picture(rows, args.rows.with_suffix(".svg"))
    if args.write_docs:
        write_block(PERFORMANCE_PAGE, "latency", block(rows))


if __name__ == "__main__":
    main()
