"""What the parts of detectors at 320 pixels cost, by counting: on our trunks and torchvision's.

    python -m benchmarks.detection.parts --out benchmarks/results/detection_parts.json

Multiply-adds of convolutions and matrix products for one image of 480 x 640 pixels, by torch's own
counter, and parameters. Weights are random; a two-stage detector's box head looks at 150 regions.
Nothing is timed: `detection.latency` does. Written beside the JSON as a table.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import detection

from benchmarks.detection.latency import NO_WEIGHTS, NUM_CLASSES, SMALL
from benchmarks.records import write
from fbnetv3.integrations import torchvision_backbone as ours

TWO_LEVELS: dict[str, Any] = {**SMALL, "features": ("res4", "res5")}
TRUNKS = ("fbnetv3_a", "fbnetv3_a0", "fbnetv3_nano")
PARTS = ("trunk", "maps", "proposals", "head")


def contestants() -> dict[tuple[str, str], Callable[[], nn.Module]]:
    """Returns (kind, name) -> what builds a detector."""
    given: dict[str, Any] = {"num_classes": NUM_CLASSES}
    found: dict[tuple[str, str], Callable[[], nn.Module]] = {}
    for trunk in TRUNKS:
        found["SSDlite", trunk] = partial(ours.ssdlite, trunk, **given)
        found["Faster R-CNN", trunk] = partial(ours.faster_rcnn, trunk, **given, **TWO_LEVELS)
        found["Faster R-CNN", f"{trunk}, 128 channels"] = partial(
            ours.faster_rcnn, trunk, out_channels=128, **given, **TWO_LEVELS
        )
    peer = "torchvision's mobilenet_v3_large"
    found["SSDlite", peer] = partial(detection.ssdlite320_mobilenet_v3_large, **given, **NO_WEIGHTS)
    found["Faster R-CNN", peer] = partial(
        detection.fasterrcnn_mobilenet_v3_large_320_fpn, **given, **NO_WEIGHTS
    )
    return found


def parts_of(model: nn.Module) -> dict[str, dict[str, int]]:
    """Returns the multiply-adds and parameters of a detector's parts."""
    torch.manual_seed(0)
    image = torch.rand(3, 480, 640)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.eval()([image])
    macs = {name: sum(ops.values()) // 2 for name, ops in counter.get_flop_counts().items()}
    root = type(model).__name__
    inner = "body" if hasattr(model.backbone, "body") else "features"

    def counted(path: str) -> dict[str, int]:
        module = model.get_submodule(path)
        params = sum(p.numel() for p in module.parameters())
        # torchvision's SSDlite calls the sequences inside its features one by one.
        inside = sum(macs.get(f"{root}.{path}.{name}", 0) for name, _ in module.named_children())
        return {"macs": macs.get(f"{root}.{path}", inside), "params": params}

    trunk, backbone = counted(f"backbone.{inner}"), counted("backbone")
    two_stages = hasattr(model, "rpn")
    nothing = {"macs": 0, "params": 0}
    return {
        "trunk": trunk,
        "maps": {key: backbone[key] - trunk[key] for key in trunk},
        "proposals": counted("rpn") if two_stages else nothing,
        "head": counted("roi_heads" if two_stages else "head"),
        "all": {"macs": macs["Global"], "params": sum(p.numel() for p in model.parameters())},
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Returns the page."""
    lines = [
        "# What the parts of detectors at 320 pixels cost",
        "",
        "Written by `python -m benchmarks.detection.parts`: millions of multiply-adds of an image "
        "of 480 x 640, and millions of parameters. Maps are the pyramid, or SSDlite's additional "
        "maps.",
        "",
        "| Detector | Trunk | Trunk's MACs | Maps | Proposals | Head | All | Parameters |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        numbers = " | ".join(f"{row['parts'][part]['macs'] / 1e6:.0f}" for part in (*PARTS, "all"))
        params = row["parts"]["all"]["params"] / 1e6
        lines.append(f"| {row['kind']} | {row['name']} | {numbers} | {params:.2f} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Counts and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON")
    out: Path = parser.parse_args().out
    rows = [
        {"kind": kind, "name": name, "parts": parts_of(make())}
        for (kind, name), make in sorted(contestants().items())
    ]
    write(out, {"detectors": rows})
    out.with_suffix(".md").write_text(table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
