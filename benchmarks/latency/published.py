"""Writes the published figures of ImageNet networks that `fbnetv3 find --against` compares with.

    python -m benchmarks.latency.published PATH/TO/timm/results

The folder is `results/` of huggingface/pytorch-image-models (Apache-2.0) at the commit below: its
CSV files give accuracies and throughputs, which timm's author measured. Multiply-adds and
parameters are counted here, of the installed timm's networks as they are for inference, at each
resolution; of FBNetV3 by `fbnetv3.count`. The licenses are those that timm states of the weights.
Weights trained with more images than ImageNet's 1.28 million are left out.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from timm.models import get_pretrained_cfg, is_model
from torch import nn

import fbnetv3
from benchmarks.latency.networks import count_macs
from benchmarks.records import ROOT
from fbnetv3.hub.published import COLUMNS, FILE
from fbnetv3.measure.contenders import timm_network

COMMIT = "aa4b5850c1543fa488abf260f18390eda46cf85d"
FAMILIES = {
    "FBNetV3": r"fbnetv3_\w",
    "EfficientNet": r"(tf_)?efficientnet_b[0-4]",
    "EfficientNet-Lite": r"(tf_)?efficientnet_lite\d",
    "MobileNetV3": r"(tf_)?mobilenetv3_(large|small)_(minimal_)?\d+d?",
    "MobileNetV4": r"mobilenetv4_\w+",
    "MixNet": r"(tf_)?mixnet_\w+",
    "RepViT": r"repvit_m\d(_\d)?",
    "FastViT": r"fastvit_\w+",
    "ResNeSt": r"resnest\d+d?e?",
    "ResNet": r"resnet(18|34|50|101|152)d?",
    "RegNetY": r"regnety_\d+(_tv)?",
    "GhostNet": r"ghostnet(v\d)?_\d+",
}
# Tags of weights that have seen more than ImageNet-1k.
_MORE_IMAGES = re.compile(r"in12k|in21k|in22k|jft|swsl|ssl|wsl|yfcc|ig1b|swag|seer")
# No phone, browser or processor runs more than this at once.
_MAX_MACS = 12e9
_ACCURACIES = {
    "real_pct": "results-imagenet-real.csv",
    "v2_pct": "results-imagenetv2-matched-frequency.csv",
    "a_pct": "results-imagenet-a.csv",
    "r_pct": "results-imagenet-r.csv",
    "sketch_pct": "results-sketch.csv",
}
_SPEEDS = {
    "gpu_images_per_s": "benchmark-infer-amp-nchw-pt291-cu130-5090-dynamo.csv",
    "cpu_images_per_s": "benchmark-infer-fp32-nchw-pt240-cpu-i9_10940x-dynamo.csv",
}
# docs.ultralytics.com/tasks/classify: top-1, parameters (M), FLOPs (G) at 224 pixels. They count a
# multiply-add as two.
_YOLO = {
    "yolo11n-cls": (70.0, 2.8, 0.5),
    "yolo11s-cls": (75.4, 6.7, 1.6),
    "yolo11m-cls": (77.3, 11.6, 4.9),
    "yolo11l-cls": (78.3, 14.1, 6.2),
    "yolo11x-cls": (79.5, 29.6, 13.6),
}
ABOUT = {
    "accuracy": "ImageNet validation, top-1 in percent, each by its `source`: timm's results are "
    f"huggingface/pytorch-image-models, results/, commit {COMMIT} (Apache-2.0); Ultralytics' are "
    "docs.ultralytics.com/tasks/classify.",
    "macs": "Multiply-adds of one image, and parameters: counted by fbnetv3-zoo, of the network as "
    "it is for inference; Ultralytics' are half of the FLOPs that it publishes.",
    "gpu_images_per_s": "timm's: RTX 5090, mixed precision, torch 2.9.1, compiled, batch 1024 or "
    "the largest that fits.",
    "cpu_images_per_s": "timm's: Core i9-10940X, float32, torch 2.4, compiled, batch 1.",
    "license": "Of the weights, as timm or Ultralytics states it.",
    "made_by": "python -m benchmarks.latency.published",
}


def family_of(model: str) -> str | None:
    """Returns the family of a network that is to be listed, None for others."""
    return next((name for name, form in FAMILIES.items() if re.fullmatch(form, model)), None)


@cache
def counted(name: str, resolution: int) -> tuple[int, int]:
    """Returns multiply-adds and parameters of timm's network, or of ours."""
    if name.startswith("fbnetv3_"):
        counts = fbnetv3.count(fbnetv3.get_arch(name), resolution)
        return counts.macs_paper, counts.params
    with torch.device("meta"):
        module: nn.Module = timm_network(name)
        return count_macs(module, resolution), sum(p.numel() for p in module.parameters())


def read(path: Path, key: str, value: str) -> dict[tuple[str, int], float]:
    """Returns a column of timm's CSV file by the name and the resolution of its rows."""
    size = "img_size" if "results" in path.name else "infer_img_size"
    with path.open(newline="") as file:
        return {(row[key], int(row[size])): float(row[value]) for row in csv.DictReader(file)}


def rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Yields a row for each set of weights and resolution, as `COLUMNS` has them."""
    top1 = read(folder / "results-imagenet.csv", "model", "top1")
    others = {key: read(folder / name, "model", "top1") for key, name in _ACCURACIES.items()}
    speeds = {
        key: read(folder / name, "model", "infer_samples_per_sec") for key, name in _SPEEDS.items()
    }
    for (name, resolution), accuracy in top1.items():
        model, _, tag = name.partition(".")
        family = family_of(model)
        if family is None or not is_model(model) or _MORE_IMAGES.search(tag):
            continue
        macs, params = counted(name if family == "FBNetV3" else model, resolution)
        if macs > _MAX_MACS:
            continue
        cfg, default = get_pretrained_cfg(name), get_pretrained_cfg(model)
        assert cfg is not None
        assert default is not None
        yield {
            "name": name,
            "family": family,
            "resolution": resolution,
            "default": tag == default.tag and resolution == default.input_size[1],
            "top1_pct": accuracy,
            "macs": macs,
            "params": params,
            "source": "timm",
            "license": cfg.license or "unknown",
            **{key: found.get((name, resolution)) for key, found in others.items()},
            **{key: found.get((model, resolution)) for key, found in speeds.items()},
        }
    for name, (accuracy, millions, gflops) in _YOLO.items():
        yield {
            "name": name,
            "family": "YOLO11-cls",
            "resolution": 224,
            "default": True,
            "top1_pct": accuracy,
            "macs": round(gflops * 1e9 / 2),
            "params": round(millions * 1e6),
            "source": "Ultralytics",
            "license": "AGPL-3.0",
        }


def text_of(found: list[dict[str, Any]]) -> str:
    """Returns the file's text: one line for each row."""
    ordered = sorted(found, key=lambda row: (row["family"], row["name"], row["resolution"]))
    lines = ",\n".join(json.dumps([row.get(column) for column in COLUMNS]) for row in ordered)
    about = json.dumps(ABOUT, indent=1)
    return f'{{"about": {about},\n"columns": {json.dumps(COLUMNS)},\n"rows": [\n{lines}\n]}}\n'


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="timm's folder results/")
    path = ROOT / "fbnetv3_zoo" / "data" / FILE
    found = list(rows(parser.parse_args().folder))
    path.write_text(text_of(found))
    print(f"{path}: {len(found)} rows, {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
