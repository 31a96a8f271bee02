"""Latency of whole detectors: our trunk beside torchvision's own, in one run.

    python -m benchmarks.detection.latency --out benchmarks/results/detection_latency.jsonl

Every group is one kind of detector at one input size with one number of proposals; its contestants
take turns, in torch as it comes (eager, float32) or, with `--runtime onnxruntime`, exported whole.
Weights are random, for none of ours are trained on boxes, and accuracy is not compared. Random
heads leave more boxes to sort than trained ones do; `num_regions` says how many the box head had to
look at. A stopped run goes on with the groups that are not in the file yet. At most ten minutes a
group and number of threads; those of 320 pixels, `--groups "SSDlite 320" "Faster R-CNN 320"`, are
the ones to choose a small detector by.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import detection

from benchmarks.conditions import conditions
from benchmarks.records import append, read_lines
from fbnetv3.deploy.runtimes import RUNTIMES
from fbnetv3.detection.export import write_onnx
from fbnetv3.integrations import torchvision_backbone as ours
from fbnetv3.measure.latency import Contestant, measure

NUM_CLASSES = 91
NO_WEIGHTS: dict[str, Any] = {"weights": None, "weights_backbone": None}
# torchvision's own settings of fasterrcnn_mobilenet_v3_large_320_fpn, for all at that size.
SMALL: dict[str, Any] = {
    "min_size": 320,
    "max_size": 640,
    "rpn_pre_nms_top_n_test": 150,
    "rpn_post_nms_top_n_test": 150,
    "rpn_score_thresh": 0.05,
}
Make = Callable[[], nn.Module]


def ours_of(make: Callable[..., nn.Module], letter: str, **kwargs: Any) -> Make:
    """Returns what builds one of our detectors."""
    return partial(make, f"fbnetv3_{letter}", num_classes=NUM_CLASSES, **kwargs)


def theirs_of(make: Callable[..., nn.Module], **kwargs: Any) -> Make:
    """Returns what builds one of torchvision's."""
    return partial(make, num_classes=NUM_CLASSES, **NO_WEIGHTS, **kwargs)


GROUPS: dict[str, dict[str, Make]] = {
    "Faster R-CNN 320": {
        "fbnetv3_a": ours_of(ours.faster_rcnn, "a", **SMALL),
        "fbnetv3_e": ours_of(ours.faster_rcnn, "e", **SMALL),
        "fbnetv3_g": ours_of(ours.faster_rcnn, "g", **SMALL),
        # torchvision's mobile detector takes its two coarsest maps only.
        "fbnetv3_a res4-5": ours_of(ours.faster_rcnn, "a", features=("res4", "res5"), **SMALL),
        "fbnetv3_e res4-5": ours_of(ours.faster_rcnn, "e", features=("res4", "res5"), **SMALL),
        # The last is `--detector faster_rcnn_320_lite`.
        "fbnetv3_a0 res4-5": ours_of(ours.faster_rcnn, "a0", features=("res4", "res5"), **SMALL),
        "fbnetv3_a0 res4-5, 128 channels": ours_of(
            ours.faster_rcnn, "a0", features=("res4", "res5"), out_channels=128, **SMALL
        ),
        "fbnetv3_a C4": ours_of(ours.faster_rcnn_c4, "a", **SMALL),
        "fbnetv3_e C4": ours_of(ours.faster_rcnn_c4, "e", **SMALL),
        "mobilenet_v3_large 320": theirs_of(detection.fasterrcnn_mobilenet_v3_large_320_fpn),
        "resnet50": theirs_of(detection.fasterrcnn_resnet50_fpn, **SMALL),
    },
    "Faster R-CNN 800": {
        "fbnetv3_a": ours_of(ours.faster_rcnn, "a"),
        "fbnetv3_e": ours_of(ours.faster_rcnn, "e"),
        "fbnetv3_g": ours_of(ours.faster_rcnn, "g"),
        "fbnetv3_a res4-5": ours_of(ours.faster_rcnn, "a", features=("res4", "res5")),
        "mobilenet_v3_large": theirs_of(detection.fasterrcnn_mobilenet_v3_large_fpn),
        "resnet50": theirs_of(detection.fasterrcnn_resnet50_fpn),
    },
    "RetinaNet 800": {
        "fbnetv3_a": ours_of(ours.retinanet, "a"),
        "fbnetv3_g": ours_of(ours.retinanet, "g"),
        "resnet50": theirs_of(detection.retinanet_resnet50_fpn),
    },
    "SSDlite 320": {
        "fbnetv3_a0": ours_of(ours.ssdlite, "a0"),
        "fbnetv3_a": ours_of(ours.ssdlite, "a"),
        "fbnetv3_e": ours_of(ours.ssdlite, "e"),
        "mobilenet_v3_large": theirs_of(detection.ssdlite320_mobilenet_v3_large),
    },
}


class Facts(NamedTuple):
    """What one run of a detector did.

    Attributes:
        macs: multiply-adds of convolutions and matrix products.
        params: parameters.
        num_regions: regions that the box head looked at; None where there is none.
    """

    macs: int
    params: int
    num_regions: int | None


def facts_of(model: nn.Module, image: Tensor) -> Facts:
    """Returns what a detector does with an image."""
    regions: list[int] = []
    heads = getattr(model, "roi_heads", None)
    hook = heads and heads.box_roi_pool.register_forward_hook(
        lambda _module, _inputs, pooled: regions.append(len(pooled))
    )
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model([image])
    if hook:
        hook.remove()
    return Facts(
        macs=counter.get_total_flops() // 2,
        params=sum(p.numel() for p in model.parameters()),
        num_regions=regions[0] if regions else None,
    )


def contestant(
    name: str, model: nn.Module, image: Tensor, threads: int, runtime: str
) -> Contestant:
    """Returns a detector ready to be timed."""
    if runtime == "onnxruntime":
        pixels = (255 * image.permute(1, 2, 0)).to(torch.uint8).contiguous().numpy()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "detector.onnx"
            write_onnx(model, path, {})
            session = RUNTIMES[runtime].open(path, threads=threads)
        return Contestant(name, session.bind(pixels))

    def run() -> object:
        with torch.inference_mode():
            return model([image])

    return Contestant(name, run, prepare=partial(torch.set_num_threads, threads))


def measure_group(
    group: str, threads: int, *, min_runs: int, seconds: float, runtime: str
) -> list[dict[str, Any]]:
    """Returns a row for each detector of a group, all measured in turns."""
    # A photo of 480 x 640, COCO's usual shape; each detector resizes it.
    image = torch.rand(3, 480, 640, generator=torch.Generator().manual_seed(0))
    models = {}
    for name, make in GROUPS[group].items():
        torch.manual_seed(0)
        models[name] = make().eval()
    facts = {name: facts_of(model, image) for name, model in models.items()}
    timed = measure(
        [contestant(name, model, image, threads, runtime) for name, model in models.items()],
        min_runs=min_runs,
        max_seconds=seconds,
    )
    return [
        {
            "group": group,
            "threads": threads,
            "runtime": runtime,
            "detector": latency.name,
            **facts[latency.name]._asdict(),
            "latency": latency.to_dict(),
        }
        for latency in timed
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and appends rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--runtime", choices=("torch", "onnxruntime"), default="torch")
    parser.add_argument("--min-runs", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=600.0, help="for each group")
    parser.add_argument("--out", type=Path, required=True, help="JSON Lines, appended to")
    options = parser.parse_args(arguments)
    rows = read_lines(options.out)
    done = {(row["group"], row["threads"], row.get("runtime", "torch")) for row in rows}
    for group in options.groups:
        for threads in options.threads:
            if (group, threads, options.runtime) in done:
                continue
            rows = measure_group(
                group,
                threads,
                min_runs=options.min_runs,
                seconds=options.seconds,
                runtime=options.runtime,
            )
            about = conditions()
            append(options.out, ({**row, "conditions": about} for row in rows))
            show(rows)


def show(rows: list[dict[str, Any]]) -> None:
    """Prints the rows of one group."""
    for row in sorted(rows, key=lambda row: row["latency"]["median_ms"]):
        latency = row["latency"]
        regions = "" if row["num_regions"] is None else f"{row['num_regions']:5} regions"
        print(
            f"{row['group']:22} {row['runtime']} threads {row['threads']} {row['detector']:32} "
            f"{latency['median_ms']:9.1f} ms [{latency['low_ms']:.1f}, {latency['high_ms']:.1f}] "
            f"n {latency['num_runs']:3} {row['macs'] / 1e9:7.2f} G {row['params'] / 1e6:6.2f} M "
            f"{regions} {latency['verdict']}",
            flush=True,
        )


if __name__ == "__main__":
    main()
