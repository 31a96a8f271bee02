r"""Two experiments of the paper on CIFAR-10, at a size that two cores can train.

    python -m benchmarks.studies.paper_trainings recipes --data D --work runs/recipes
    python -m benchmarks.studies.paper_trainings transfer --data D --work runs/transfer

* `recipes`: torchvision's AlexNet, ResNet-18, 50 and 152, DenseNet-121 and ResNeXt-50 for small
  images, at a quarter of their width, each with a person's recipe and with the one that
  `studies.resnet_recipe` found for the ResNet-18.
* `transfer`: FBNetV3-A to G with inputs in proportion to theirs, and EfficientNet-B0 and B1, whose
  inputs are chosen likewise, all with the preset `cifar10` and without distillation.

A finished training is a line of results/paper/recipes.jsonl or transfer.jsonl and is not run again;
a stopped one resumes from its last checkpoint.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from torch import nn

from benchmarks.conditions import conditions
from benchmarks.records import RESULTS, append, read_lines
from benchmarks.training.networks import fresh
from fbnetv3._internal.errors import Diverged
from fbnetv3.arch.tables import ARCHS
from fbnetv3.search.data.datasets import cifar_arch, open_train_val
from fbnetv3.search.data.image_set import ImageSet
from fbnetv3.search.training.batches import default_preprocess
from fbnetv3.search.training.presets import get_recipe
from fbnetv3.search.training.recipe import Recipe
from fbnetv3.search.training.train import TrainConfig, train

from .other_networks import cost_of, narrow_network
from .resnet_recipe import BASELINE, FOUND
from .resnet_recipe import recipe_of as recipe_of_genes
from .training_ablation import spread

KEPT = RESULTS / "paper"
OTHERS = ("alexnet", "resnet18", "resnet50", "densenet121", "resnext50_32x4d", "resnet152")
FBNETS = tuple(f"fbnetv3_{letter}" for letter in "aceg")
# Input of the published network, in pixels.
EFFICIENTNETS = {"efficientnet_b0": 224, "efficientnet_b1": 240}
USUAL, SEARCHED, PAPER = "usual", "found", "cifar10"
NUM_IMAGES, EPOCHS = 5_000, 10


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
        return Recipe.from_dict(json.loads(FOUND.read_bytes())["recipe"]).lengthened(epochs)
    if arm.recipe == USUAL:
        # AlexNet has no batch norms: a tenth of the rate, as in torchvision's references.
        rate = BASELINE["lr"] / (10 if arm.network == "alexnet" else 1)
        return recipe_of_genes({**BASELINE, "lr": rate}).lengthened(epochs)
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
    return narrow_network(arm.network, num_classes, seed), 32


def trained(arm: Arm, seed: int, images: ImageSet, test: ImageSet, work: Path, epochs: int) -> Any:
    """Returns an arm's line; trains, or resumes, in its folder."""
    recipe = recipe_of(arm, epochs)
    model, side = network_of(arm, recipe, len(images.classes), seed)
    cost = cost_of(model, side)
    run = TrainConfig(
        recipe=recipe,
        preprocess=default_preprocess(images, side),
        seed=seed,
        folder=work / f"{arm.network}-{arm.recipe}-{seed}",
        validate_epochs=epochs,
    )
    try:
        last = train(model, images, test, run).curve[-1]
        raw, ema = last.top1_pct, last.ema_top1_pct
    except Diverged:
        raw, ema = None, None
    return {
        "network": arm.network,
        "recipe": arm.recipe,
        "seed": seed,
        "num_images": len(images),
        "epochs": epochs,
        "resolution": side,
        **cost,
        "top1_pct": raw,
        "ema_top1_pct": ema,
        "fields": recipe.to_dict(),
        "conditions": conditions(),
    }


def report(lines: Sequence[dict[str, Any]]) -> str:
    """Returns accuracies, and what the found recipe has more than the usual one, paired by seed."""
    groups: dict[tuple[str, str], dict[int, float]] = {}
    cost = {}
    for line in lines:
        key = line["network"], line["recipe"]
        found = groups.setdefault(key, {})
        cost[line["network"]] = line
        top1 = line["top1_pct"] if line["ema_top1_pct"] is None else line["ema_top1_pct"]
        if top1 is not None:
            found[line["seed"]] = top1
    out = [
        "| network | pixels | MACs (M) | recipe | top-1 % | +- | seeds | more than usual |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (network, recipe), found in groups.items():
        usual = groups.get((network, USUAL), {})
        both = sorted(found.keys() & usual.keys()) if recipe == SEARCHED else []
        gap = spread([found[seed] - usual[seed] for seed in both]) if both else None
        more = "" if gap is None else f"{gap['mean']:+.2f} +- {gap['reach']:.2f}"
        own, one = spread(list(found.values())) if found else None, cost[network]
        top1 = "diverged |" if own is None else f"{own['mean']:.2f} | {own['reach']:.2f}"
        out.append(
            f"| {network} | {one['resolution']} | {one['fvcore_macs'] / 1e6:.1f} | {recipe} | "
            f"{top1} | {len(found)} | {more} |"
        )
    return "\n".join(out) + "\n"


def main() -> None:
    """Parses, trains what has no line yet, a seed at a time, and writes the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=tuple(ARMS))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs' checkpoints")
    parser.add_argument("--images", type=int, default=NUM_IMAGES)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", help="networks")
    parser.add_argument("--recipe", choices=(USUAL, SEARCHED, PAPER), help="only trainings with it")
    args = parser.parse_args()
    images, test = open_train_val(args.data)
    images = images.subset(torch.arange(min(args.images, len(images))))
    path = KEPT / f"{args.what}.jsonl"
    keys = ("network", "recipe", "seed", "num_images", "epochs")
    for seed in range(args.seeds):
        for arm in ARMS[args.what]:
            done = {tuple(line[key] for key in keys) for line in read_lines(path)}
            wanted = args.only is None or arm.network in args.only
            wanted = wanted and args.recipe in (None, arm.recipe)
            if wanted and (*arm, seed, len(images), args.epochs) not in done:
                line = trained(arm, seed, images, test, args.work, args.epochs)
                append(path, [line])
                print(f"seed {seed}, {arm.network}, {arm.recipe}: {line['top1_pct']} %", flush=True)
    table = report(read_lines(path))
    path.with_suffix(".md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
