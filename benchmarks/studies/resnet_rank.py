"""Whether a wide and a deep small ResNet change places with the recipe, on CIFAR-10.

    python -m benchmarks.studies.resnet_rank --data cifar-10-batches-py --work runs/resnet_rank
    python -m benchmarks.studies.resnet_rank --report

The paper's motivating experiment (its Table 1): a ResNet-18 made wider and one made deeper, to
about equal cost, are ranked one way after 30 epochs and the other way after 90. Here with the
ResNet for small images that has one block in each of three stages, made wider or twice as deep, on
5,000 images with the recipes of that table (`table1-30` and `table1-90`) at a fifth of their
epochs, and the longer one also with a hundred times the weight decay, as there are a hundred times
fewer steps than on ImageNet.

A finished training is a line of results/nars_cifar/resnet_rank.jsonl and is not run again. About an
hour of one core for ten seeds.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.conditions import conditions
from benchmarks.records import append, read_lines
from fbnetv3.search.data.datasets import open_train_val
from fbnetv3.search.training.batches import default_preprocess
from fbnetv3.search.training.presets import get_recipe
from fbnetv3.search.training.recipe import Recipe
from fbnetv3.search.training.train import TrainConfig, train

from .nars_cifar import RESULTS
from .other_networks import cost_of
from .training_ablation import spread

LINES = RESULTS / "resnet_rank.jsonl"
NUM_IMAGES, SEEDS, RESOLUTION = 5_000, 10, 32
WIDE, DEEP = "1.45 x width", "2 x depth"
# Channels of the three stages and blocks of each; the base has (8, 16, 32) and one.
NETWORKS = {WIDE: ((12, 23, 46), 1), DEEP: ((8, 16, 32), 2)}
SHORT = dataclasses.replace(get_recipe("table1-30"), epochs=6, batch_size=64)
LONG = dataclasses.replace(get_recipe("table1-90"), epochs=18, batch_size=64)
RECIPES = {
    "6 epochs": SHORT,
    "18 epochs": LONG,
    "18 epochs, decay 4e-3": dataclasses.replace(LONG, weight_decay=4e-3),
}


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2015)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(in_channels, channels, 3, stride),
            nn.ReLU(inplace=True),
            _conv(channels, channels, 3, 1),
        )
        same = stride == 1 and in_channels == channels
        self.shortcut = nn.Identity() if same else _conv(in_channels, channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) to (N, channels, H / stride, W / stride)."""
        return torch.relu(self.body(x) + self.shortcut(x))


def _conv(in_channels: int, channels: int, kernel: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out")
    return nn.Sequential(conv, nn.BatchNorm2d(channels))


def resnet(network: str, seed: int) -> nn.Sequential:
    """Returns an untrained ResNet of ten classes; logits (N, 10) of images (N, 3, 32, 32)."""
    torch.manual_seed(seed)
    widths, depth = NETWORKS[network]
    layers: list[nn.Module] = [_conv(3, widths[0], 3, 1), nn.ReLU(inplace=True)]
    before = widths[0]
    for stage, channels in enumerate(widths):
        for number in range(depth):
            layers.append(Block(before, channels, 2 if stage > 0 and number == 0 else 1))
            before = channels
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10)]
    return nn.Sequential(*layers, *head)


def measure(data: Path, work: Path, seeds: int) -> None:
    """Trains what has no line yet, a seed at a time, and appends its lines."""
    images, test = open_train_val(data)
    images = images.subset(torch.arange(NUM_IMAGES))
    done = {(line["network"], line["recipe"], line["seed"]) for line in read_lines(LINES)}
    for seed in range(seeds):
        for network in NETWORKS:
            for name, recipe in RECIPES.items():
                if (network, name, seed) in done:
                    continue
                model = resnet(network, seed)
                folder = work / f"{network}-{name}-{seed}".replace(" ", "_").replace(",", "")
                run = TrainConfig(
                    recipe=recipe,
                    preprocess=default_preprocess(images, RESOLUTION),
                    seed=seed,
                    folder=folder,
                    validate_epochs=recipe.epochs,
                )
                result = train(model, images, test, run)
                line = _line(network, name, recipe, seed, model, result.top1_pct)
                append(LINES, [line])
                print(f"seed {seed}, {network}, {name}: {result.top1_pct:.2f} %", flush=True)


def _line(
    network: str, name: str, recipe: Recipe, seed: int, model: nn.Module, top1_pct: float
) -> dict[str, Any]:
    return {
        "network": network,
        "recipe": name,
        "seed": seed,
        "num_images": NUM_IMAGES,
        "top1_pct": top1_pct,
        **cost_of(model, RESOLUTION),
        "fields": recipe.to_dict(),
        "conditions": conditions(),
    }


def report(lines: list[dict[str, Any]]) -> str:
    """Returns the accuracies, and by how much the wide network is ahead, paired by seed.

    Raises:
        ValueError: there is no line.
    """
    if not lines:
        raise ValueError(f"{LINES} holds no finished training; run with --data and --work first")
    found = {(line["network"], line["recipe"], line["seed"]): line for line in lines}
    cost = {line["network"]: line for line in lines}
    out = [
        f"{NUM_IMAGES:,} training images, 10,000 test images; +- is half of the 95 % interval over "
        "seeds (Student's t). Wide less deep is paired by seed.",
        "",
        f"| recipe | {' | '.join(NETWORKS)} | wide - deep | +- | seeds |",
        "|---|---|---|---|---|---|",
    ]
    for recipe in RECIPES:
        both = sorted(
            seed
            for network, name, seed in found
            if (network, name) == (WIDE, recipe) and (DEEP, recipe, seed) in found
        )
        if not both:
            continue
        values = [[found[n, recipe, s]["top1_pct"] for s in both] for n in NETWORKS]
        gap = spread([wide - deep for wide, deep in zip(*values, strict=True)])
        means = " | ".join(f"{spread(each)['mean']:.2f}" for each in values)
        out.append(f"| {recipe} | {means} | {gap['mean']:+.2f} | {gap['reach']:.2f} | {gap['n']} |")
    costs = (
        f"{name}: {one['fvcore_macs'] / 1e6:.2f} M multiply-adds, {one['params']:,} parameters"
        for name, one in cost.items()
    )
    return "\n".join([*out, "", "; ".join(costs) + "."]) + "\n"


def main() -> None:
    """Parses, trains what is missing, writes the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--work", type=Path, help="folder of the runs' checkpoints")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--report", action="store_true", help="only write the table")
    args = parser.parse_args()
    if not args.report:
        if args.data is None or args.work is None:
            parser.error("give --data and --work, or --report")
        measure(args.data, args.work, args.seeds)
    table = report(read_lines(LINES))
    (RESULTS / "resnet_rank.md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
