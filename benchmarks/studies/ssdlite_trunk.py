r"""Why SSDlite on our trunk trails MobileNetV3's after a short training: one change at a time.

    python -m benchmarks.studies.ssdlite_trunk run FOLDER --work W \
        --out benchmarks/results/ssdlite_trunk.jsonl
    python -m benchmarks.studies.ssdlite_trunk report benchmarks/results/ssdlite_trunk.jsonl

FOLDER, recipe and limits are those of `benchmarks.detection.trained`; scored is the validation
split, since the best variant is chosen by it. `as it is` is what `fbnetv3 detect train` builds. The
others undo one difference to torchvision's `ssdlite320_mobilenet_v3_large` each:

- `residuals from 1`: our blocks start as the identity, since the last norm of each residual branch
  has weight 0 (as in the official implementation); torchvision's start with weight 1.
- `expanded map`: the finer map is the expansion inside the block that halves `res4`, as in
  MobileNetV2's paper (720 channels of A in place of 120).
- `norms and extras`: torchvision's batch-norm (eps 0.001, momentum 0.03) in the head and the
  additional maps, whose convolutions start from a normal distribution of 0.03.

`--lr` are the learning rates to try: 0.004 is what `fbnetv3 detect train` takes since this study,
0.001 what it took before.

A variant with fbnetv3_a0 and ten epochs takes a core two minutes. A stopped run goes on.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.ssdlite import SSDLiteHead

from benchmarks.conditions import conditions
from benchmarks.detection.trained import build, cost_of
from benchmarks.records import append, read_lines
from fbnetv3.detection.data import open_train_val
from fbnetv3.detection.detectors import BuiltDetector
from fbnetv3.detection.recipe import DetectionRecipe
from fbnetv3.detection.training import DetectionRun, train
from fbnetv3.integrations.torchvision_backbone import SsdMaps
from fbnetv3.models.blocks import InvertedResidual

PEER = "torchvision:mobilenet_v3_large"


class ExpandedMaps(nn.Module):
    """The maps of an `SsdMaps`, with the expansion behind `res4` in place of `res4`.

    Args:
        maps: ours; its parts are taken over.
    """

    def __init__(self, maps: SsdMaps) -> None:
        super().__init__()
        self.body, self.extra = maps.body, maps.extra
        self.depth = self.body.features[0].depth
        stages: Any = self.body.stages
        block = stages[self.depth][0]
        self.channels = [block.expand.conv.out_channels, *maps.channels[1:]]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Returns "0", "1", ... -> map, fine to coarse."""
        x = self.body.stem(x)
        maps = []
        for row, stage in enumerate(self.body.stages):
            blocks: list[Any] = list(stage.children())
            if row == self.depth:
                first = blocks.pop(0)
                maps.append(first.expand(x))
                x = first.project(first.se(first.depthwise(maps[0])))
            for block in blocks:
                x = block(x)
        maps.append(x)
        for block in self.extra:
            maps.append(block(maps[-1]))
        return {str(number): level for number, level in enumerate(maps)}


def residuals_from_1(module: Any) -> None:
    """Gives the last norm of each residual branch the weight 1."""
    for block in module.modules():
        if isinstance(block, InvertedResidual):
            nn.init.ones_(block.project.bn.get_parameter("weight"))


def expanded(module: Any) -> None:
    """Taps the expansion behind `res4`, and makes a head for it."""
    module.backbone = ExpandedMaps(module.backbone)
    module.head = SSDLiteHead(
        module.backbone.channels,
        module.anchor_generator.num_anchors_per_location(),
        module.head.classification_head.num_columns,
        nn.BatchNorm2d,
    )


def norms_and_extras(module: Any) -> None:
    """Has head and additional maps start and average as torchvision's."""
    for part in (module.head, module.backbone.extra):
        for layer in part.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eps, layer.momentum = 1e-3, 0.03
    for layer in module.backbone.extra.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.03)


VARIANTS: dict[str, tuple[Callable[[Any], None], ...]] = {
    "as it is": (),
    "residuals from 1": (residuals_from_1,),
    "expanded map": (expanded,),
    "norms and extras": (norms_and_extras,),
    "all of these": (residuals_from_1, expanded, norms_and_extras),
}


def run_one(options: argparse.Namespace, variant: str, lr: float, seed: int) -> dict[str, Any]:
    """Trains a variant, or the peer, and scores it on the validation split."""
    images, val_images = open_train_val(options.folder)
    recipe = DetectionRecipe.fitting(
        len(images), epochs=options.epochs, batch_size=options.batch_size, lr=lr, seed=seed
    )
    torch.manual_seed(seed)
    trunk = PEER if variant == PEER else options.trunk
    built = build(options, trunk, images.class_names)
    for change in VARIANTS.get(variant, ()):
        change(built.module)
    about = cost_of(built)
    folder = options.work / f"{options.trunk}-{variant}-{lr:g}-{options.epochs}-{seed}".replace(
        ":", "-"
    )
    run = DetectionRun(recipe=recipe, folder=folder, validate_epochs=options.epochs)
    started = time.process_time()
    _, curve = train(
        BuiltDetector(built.module.train(), built.config),
        images,
        val_images,
        run,
        on_epoch=lambda log: print(f"{variant} seed {seed} {log.line()}", flush=True),
    )
    shutil.rmtree(folder)
    return {
        "trunk": trunk,
        "variant": variant,
        "lr": recipe.lr,
        "seed": seed,
        "size": options.size,
        "epochs": options.epochs,
        **about,
        "losses": [round(log.loss, 4) for log in curve],
        "ap": curve[-1].ap,
        "ap50": curve[-1].ap50,
        "cpu_seconds": round(time.process_time() - started, 1),
    }


def run(options: argparse.Namespace) -> None:
    """Trains what is not in the file yet, seed by seed."""
    torch.set_num_threads(1)
    names = ("trunk", "variant", "lr", "seed", "size", "epochs")
    wanted = itertools.product(range(options.seeds), options.variants, options.lr)
    for seed, variant, lr in wanted:
        trunk = PEER if variant == PEER else options.trunk
        key = (trunk, variant, lr, seed, options.size, options.epochs)
        if key not in [tuple(row[name] for name in names) for row in read_lines(options.out)]:
            found = run_one(options, variant, lr, seed)
            append(options.out, [{**found, "conditions": conditions()}])


def report(options: argparse.Namespace) -> None:
    """Writes the table beside the results."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in read_lines(options.results):
        key = (row["size"], row["epochs"], row["trunk"], row["variant"], row["lr"])
        groups.setdefault(key, []).append(row)
    lines = [
        "# SSDlite after a short training, one change at a time",
        "",
        "Written by `python -m benchmarks.studies.ssdlite_trunk report`; its module explains the "
        "variants. AP in percent on the validation split, the mean over the seeds with the lowest "
        "and highest.",
        "",
        "| Pixels | Epochs | Trunk | Variant | Learning rate | AP (seeds) | AP50 | Last loss "
        "| Seeds | Multiply-adds (M) |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (size, epochs, trunk, variant, lr), group in sorted(groups.items()):
        ap = [100 * row["ap"] for row in group]
        ap50 = statistics.mean(100 * row["ap50"] for row in group)
        loss = statistics.mean(row["losses"][-1] for row in group)
        lines.append(
            f"| {size} | {epochs} | {trunk} | {variant} | {lr:.3g} "
            f"| {statistics.mean(ap):.1f} ({min(ap):.1f} to {max(ap):.1f}) | {ap50:.1f} "
            f"| {loss:.2f} | {len(group)} | {group[0]['macs'] / 1e6:.0f} |"
        )
    page = options.results.with_suffix(".md")
    page.write_text("\n".join([*lines, ""]))
    print(page.read_text())


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses and runs a command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    ran = commands.add_parser("run")
    ran.add_argument("folder", type=Path)
    ran.add_argument("--work", type=Path, required=True)
    ran.add_argument("--out", type=Path, required=True, help="JSON Lines, appended to")
    ran.add_argument("--trunk", default="fbnetv3_a0")
    ran.add_argument("--variants", nargs="+", default=[*VARIANTS, PEER])
    ran.add_argument("--lr", type=float, nargs="+", default=[1e-3, 4e-3])
    ran.add_argument("--size", type=int, default=160)
    ran.add_argument("--epochs", type=int, default=10)
    ran.add_argument("--batch-size", type=int, default=8)
    ran.add_argument("--seeds", type=int, default=2)
    ran.set_defaults(command=run, detector="ssdlite")
    reported = commands.add_parser("report")
    reported.add_argument("results", type=Path)
    reported.set_defaults(command=report)
    options = parser.parse_args(arguments)
    options.command(options)


if __name__ == "__main__":
    main()
