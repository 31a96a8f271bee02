r"""Two experiments of the paper on CIFAR-10, prepared for a GPU.

    python -m benchmarks.studies.paper_trainings recipes --data D --work runs/recipes
    python -m benchmarks.studies.paper_trainings transfer --data D --work runs/transfer

* `recipes`: AlexNet, ResNet-18 and 50, DenseNet-121 and ResNeXt-50 in torchvision's form for small
  images, each with a usual recipe and with the one that our search found
  (`results/training/nars_cifar_m.recipe.json`, its weight decay scaled to the length).
* `transfer`: FBNetV3-A to G with inputs in proportion to theirs, and EfficientNet-B0 and B1, whose
  inputs are chosen likewise, all with the preset `cifar10` and without distillation.

A finished training is a line of W/lines.jsonl and is not run again; a stopped one resumes from its
last checkpoint. The table is written to W/table.md. `--images`, `--epochs` and `--only` make it
small. Not run yet at any length that says something.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
import torchvision
from fvcore.nn import FlopCountAnalysis
from torch import nn

from benchmarks.conditions import conditions
from benchmarks.records import RESULTS, append, read_lines
from benchmarks.training.networks import fresh
from fbnetv3.arch.tables import ARCHS
from fbnetv3.search.data.datasets import cifar_arch, open_train_val
from fbnetv3.search.data.image_set import ImageSet
from fbnetv3.search.training.batches import default_preprocess
from fbnetv3.search.training.presets import get_recipe
from fbnetv3.search.training.recipe import Recipe
from fbnetv3.search.training.train import TrainConfig, train

from .training_ablation import spread

FOUND = RESULTS / "training" / "nars_cifar_m.recipe.json"
OTHERS = ("alexnet", "resnet18", "resnet50", "densenet121", "resnext50_32x4d")
FBNETS = tuple(f"fbnetv3_{letter}" for letter in "aceg")
# Input of the published network, in pixels.
EFFICIENTNETS = {"efficientnet_b0": 224, "efficientnet_b1": 240}
USUAL, SEARCHED, PAPER = "usual", "found", "cifar10"


class Arm(NamedTuple):
    """A network and a recipe by name."""

    network: str
    recipe: str


ARMS = {
    "recipes": [Arm(network, recipe) for network in OTHERS for recipe in (USUAL, SEARCHED)],
    "transfer": [Arm(network, PAPER) for network in (*FBNETS, *EFFICIENTNETS)],
}


def recipe_of(arm: Arm, epochs: int) -> Recipe:
    """Returns an arm's recipe for a length."""
    if arm.recipe == SEARCHED:
        found = Recipe.from_json(FOUND.read_bytes()).lengthened(epochs)
        # What torchvision's networks do not have.
        return dataclasses.replace(found, dropout=0.0, drop_path=0.0)
    if arm.recipe == USUAL:
        return Recipe(
            optimizer="sgd",
            lr=0.025 if arm.network != "alexnet" else 0.0025,  # AlexNet has no batch norms
            batch_size=128,
            epochs=epochs,
            schedule="cosine",
            weight_decay=5e-4,
            ema=False,
            augment="crop",
        )
    preset = get_recipe(arm.recipe)
    # As much decay of the rate over a shorter training as over the preset's.
    decay = preset.decay_per_epoch ** (preset.epochs / epochs)
    warmup = preset.warmup_epochs * epochs / preset.epochs
    return dataclasses.replace(preset, epochs=epochs, decay_per_epoch=decay, warmup_epochs=warmup)


def network_of(arm: Arm, recipe: Recipe, num_classes: int, seed: int) -> tuple[nn.Module, int]:
    """Returns an untrained network for small images, and the side of its input."""
    if arm.network in ARCHS:
        arch = cifar_arch(ARCHS[arm.network])
        return fresh(arch, recipe, num_classes, seed), arch.resolution
    torch.manual_seed(seed)
    if arm.network in EFFICIENTNETS:
        rates: dict[str, Any] = {"drop_rate": recipe.dropout, "drop_path_rate": recipe.drop_path}
        # Its parts are not typed.
        model: Any = timm.create_model(arm.network, num_classes=num_classes, **rates)
        # One stride less, as the paper does to its own: that of the first block with stride 2.
        model.blocks[1][0].conv_dw.stride = (1, 1)
        return model, 2 * round(EFFICIENTNETS[arm.network] * 32 / 224 / 2)
    other = torchvision.models.get_model(arm.network, num_classes=num_classes)
    return small_image_form(other), 32


def small_image_form(model: nn.Module) -> nn.Module:
    """Returns a network of torchvision whose first layers keep the size of 32 x 32 images.

    ResNets and DenseNets begin with a convolution of 3 x 3 and without pooling, AlexNet with one of
    3 x 3 and stride 1; its classifier sees one average per channel.
    """
    part: Any = model
    if hasattr(part, "maxpool"):
        part.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        part.maxpool = nn.Identity()
    elif hasattr(part.features, "conv0"):
        part.features.conv0 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        part.features.pool0 = nn.Identity()
    else:
        part.features[0] = nn.Conv2d(3, 64, 3, padding=1)
        part.avgpool = nn.AdaptiveAvgPool2d(1)
        part.classifier[1] = nn.Linear(256, 4096)
    return model


def trained(arm: Arm, seed: int, images: ImageSet, test: ImageSet, work: Path, epochs: int) -> Any:
    """Returns an arm's line; trains, or resumes, in its folder."""
    recipe = recipe_of(arm, epochs)
    model, side = network_of(arm, recipe, len(images.classes), seed)
    counter = FlopCountAnalysis(model.eval(), torch.zeros(1, 3, side, side))
    macs = int(counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False).total())
    run = TrainConfig(
        recipe=recipe,
        preprocess=default_preprocess(images, side),
        seed=seed,
        folder=work / f"{arm.network}-{arm.recipe}-{seed}",
        validate_epochs=epochs,
    )
    last = train(model, images, test, run).curve[-1]
    return {
        "network": arm.network,
        "recipe": arm.recipe,
        "seed": seed,
        "num_images": len(images),
        "epochs": epochs,
        "resolution": side,
        "fvcore_macs": macs,
        "params": sum(p.numel() for p in model.parameters()),
        "top1_pct": last.top1_pct,
        "ema_top1_pct": last.ema_top1_pct,
        "fields": recipe.to_dict(),
        "conditions": conditions(),
    }


def report(lines: Sequence[dict[str, Any]]) -> str:
    """Returns accuracies, and what the found recipe has more than the usual one, paired by seed."""
    groups: dict[tuple[str, str], dict[int, float]] = {}
    cost = {}
    for line in lines:
        key = line["network"], line["recipe"]
        top1 = line["top1_pct"] if line["ema_top1_pct"] is None else line["ema_top1_pct"]
        groups.setdefault(key, {})[line["seed"]] = top1
        cost[line["network"]] = line
    out = [
        "| network | pixels | MACs (M) | recipe | top-1 % | +- | seeds | more than usual |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (network, recipe), found in groups.items():
        usual = groups.get((network, USUAL), {})
        both = sorted(found.keys() & usual.keys()) if recipe == SEARCHED else []
        gap = spread([found[seed] - usual[seed] for seed in both]) if both else None
        more = "" if gap is None else f"{gap['mean']:+.2f} +- {gap['reach']:.2f}"
        own, one = spread(list(found.values())), cost[network]
        out.append(
            f"| {network} | {one['resolution']} | {one['fvcore_macs'] / 1e6:.1f} | {recipe} | "
            f"{own['mean']:.2f} | {own['reach']:.2f} | {own['n']} | {more} |"
        )
    return "\n".join(out) + "\n"


def main() -> None:
    """Parses, trains what has no line yet, a seed at a time, and writes the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=tuple(ARMS))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--images", type=int, help="number of training images; all by default")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", help="networks")
    args = parser.parse_args()
    images, test = open_train_val(args.data)
    if args.images is not None:
        images = images.subset(torch.arange(min(args.images, len(images))))
    lines = args.work / "lines.jsonl"
    keys = ("network", "recipe", "seed", "num_images", "epochs")
    done = {tuple(line[key] for key in keys) for line in read_lines(lines)}
    for seed in range(args.seeds):
        for arm in ARMS[args.what]:
            wanted = args.only is None or arm.network in args.only
            if wanted and (*arm, seed, len(images), args.epochs) not in done:
                line = trained(arm, seed, images, test, args.work, args.epochs)
                append(lines, [line])
                print(f"seed {seed}, {arm.network}, {arm.recipe}: {line['top1_pct']:.2f} %")
    table = report(read_lines(lines))
    (args.work / "table.md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
