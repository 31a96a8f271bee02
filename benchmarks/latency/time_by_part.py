"""Where OpenVINO's time goes, by part of the network, beside what the arithmetic alone would take.

    python -m benchmarks.latency.time_by_part --work /tmp/latency

One thread, one image, random weights: speed does not depend on them. Writes results/
time_by_part.json and .md. A minute on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import collections
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.records import RESULTS, write
from fbnetv3.deploy.runtimes.openvino import has_bf16
from fbnetv3.measure.roofline import Roofline, measure_roofline

from .networks import prepare

PARTS = ("stem", "expand", "depthwise", "se", "project", "head", "layout")
RUNS, WARM_UP = 30, 10


def part_of(name: str) -> str:
    """Returns the part that a module, or the node of one, belongs to."""
    if not name.startswith("stages."):
        return "stem" if name.startswith("stem") else "head"
    words = name.replace("/", ".").split(".")
    return next((word for word in words if word in PARTS), "head")


def macs_by_part(module: nn.Module, side: int) -> dict[str, int]:
    """Returns the multiply-adds of convolutions and matrix products of one image."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.zeros(1, 3, side, side))
    layers = {
        name for name, one in module.named_modules() if isinstance(one, nn.Conv2d | nn.Linear)
    }
    found: collections.Counter[str] = collections.Counter()
    for path, operators in counter.get_flop_counts().items():
        # Below the name of the network's class.
        name = path.partition(".")[2]
        if name in layers:
            found[part_of(name)] += sum(operators.values()) // 2
    return dict(found)


def milliseconds_by_part(path: Path, side: int, precision: str) -> dict[str, float]:
    """Returns the mean time of each part, as OpenVINO's own counters have it."""
    import openvino

    core = openvino.Core()
    model = core.read_model(str(path))
    model.reshape([1, 3, side, side])
    options = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "PERF_COUNT": True,
    }
    request = core.compile_model(model, "CPU", options).create_infer_request()
    batch = np.zeros((1, 3, side, side), np.float32)
    found: collections.Counter[str] = collections.Counter()
    for run in range(WARM_UP + RUNS):
        request.infer([batch])
        for node in request.profiling_info if run >= WARM_UP else ():
            if str(node.status).endswith("EXECUTED"):
                part = "layout" if node.node_type == "Reorder" else part_of(node.node_name)
                found[part] += node.real_time.total_seconds() * 1e3 / RUNS
    return dict(found)


def measure(name: str, work: Path, peak: Roofline) -> list[dict[str, Any]]:
    """Returns a row for each part and precision."""
    network = prepare(name, work)
    macs = macs_by_part(network.module, network.side)
    rows = []
    for precision in ("f32", *(("bf16",) if has_bf16() else ())):
        spent = milliseconds_by_part(network.onnx_path, network.side, precision)
        rows += [
            {
                "network": name,
                "precision": precision,
                "part": part,
                "ms": spent.get(part, 0.0),
                "macs": macs.get(part, 0),
                "floor_ms": peak.floor_ms(macs.get(part, 0), 0, bf16=precision == "bf16"),
            }
            for part in PARTS
        ]
    return rows


def report(rows: list[dict[str, Any]], peak: Roofline) -> str:
    """Returns the page."""
    out = [
        "# Where OpenVINO's time goes",
        "",
        "Milliseconds of one image on one thread, by OpenVINO's counters; the floor is the part's "
        f"multiply-adds over the fastest matrix product of the machine: {peak.fp32_gmacs:.0f} "
        f"billion a second in float32, {peak.bf16_gmacs:.0f} in bfloat16. Layout is reordering "
        "between kernels; a part has the activations and additions that are fused into it.",
    ]
    for name, precision in dict.fromkeys((row["network"], row["precision"]) for row in rows):
        own = [r for r in rows if (r["network"], r["precision"]) == (name, precision)]
        total = sum(row["ms"] for row in own)
        floor = sum(row["floor_ms"] for row in own)
        out += [
            "",
            f"## `{name}`, {precision}: {total:.2f} ms, floor {floor:.2f} ms",
            "",
            "| part | ms | share | MACs (M) | floor, ms | share of the floor |",
            "|---|---|---|---|---|---|",
        ]
        for row in own:
            reached = f"{row['floor_ms'] / row['ms']:.0%}" if row["macs"] else ""
            out.append(
                f"| {row['part']} | {row['ms']:.2f} | {row['ms'] / total:.0%} | "
                f"{row['macs'] / 1e6:.1f} | {row['floor_ms']:.2f} | {reached} |"
            )
    return "\n".join(out) + "\n"


def main() -> None:
    """Measures, writes numbers and page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["fbnetv3_a", "fbnetv3_d", "fbnetv3_g"])
    parser.add_argument("--work", type=Path, required=True, help="folder for exported files")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    peak = measure_roofline(1)
    rows = [row for name in args.networks for row in measure(name, args.work, peak)]
    write(RESULTS / "time_by_part.json", {"rows": rows, "roofline": peak.to_dict()})
    page = report(rows, peak)
    (RESULTS / "time_by_part.md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
