r"""What averaged weights, distillation and a recipe of one's own are worth, on CIFAR-10.

    python -m benchmarks.studies.training_ablation --data DIR/cifar-10-batches-py \
        --work runs/ablation
    python -m benchmarks.studies.training_ablation --report

Two networks, nano with one block a row ("large") and the same at half the width ("small"), each
with two recipes: small rates of dropout, stochastic depth and mixup, as the paper's B prefers, and
larger ones, as its E does. Both are also distilled from the large one, itself included. Every seed
draws weights, order and augmentation anew. The small one is also distilled from a teacher that is
larger than the whole family, as the paper does with a RegNet: torchvision's ResNet-18 for small
images at half its width, trained once. EMA does not change training, so on and off are the two
weights of one run.

A finished training is a line of results/training/ablation.jsonl and is not run again; a stopped one
goes on from its last checkpoint. About 25 minutes of one core.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from pathlib import Path
from typing import Any, NamedTuple

import torch
from scipy.stats import t
from torch import nn

from benchmarks.conditions import conditions
from benchmarks.records import ROOT, append, read_lines
from benchmarks.training.networks import fresh, networks
from fbnetv3.arch.counts import count
from fbnetv3.search.data.datasets import open_train_val
from fbnetv3.search.data.image_set import ImageSet
from fbnetv3.search.training.batches import default_preprocess
from fbnetv3.search.training.distill import NetworkTeacher
from fbnetv3.search.training.presets import get_recipe
from fbnetv3.search.training.recipe import Recipe
from fbnetv3.search.training.train import TrainConfig, train

from .other_networks import cost_of, narrow_network

RESULTS = ROOT / "benchmarks" / "results" / "training"
LINES = RESULTS / "ablation.jsonl"
NUM_IMAGES, EPOCHS, SEEDS = 5_000, 16, 3
# As the paper says of its searched recipes, smaller networks prefer smaller rates. Values are ours.
RATES = {
    "small rates": {"dropout": 0.05, "drop_path": 0.02, "mixup": 0.05},
    "large rates": {"dropout": 0.2, "drop_path": 0.1, "mixup": 0.2},
}


# Networks that teach.
FAMILY, OUTSIDE = "large", "ResNet-18"


class Arm(NamedTuple):
    """One kind of training."""

    network: str
    rates: str
    teacher: str = ""

    @property
    def name(self) -> str:
        """What its lines are called."""
        taught = {"": "", FAMILY: ", distilled", OUTSIDE: ", distilled from a ResNet"}
        return f"{self.network}, {self.rates}{taught[self.teacher]}"


TEACHERS = {FAMILY: Arm(FAMILY, "large rates"), OUTSIDE: Arm(OUTSIDE, "large rates")}
ARMS = (
    TEACHERS[FAMILY],
    Arm("large", "small rates"),
    Arm("small", "small rates"),
    Arm("small", "large rates"),
    Arm("small", "small rates", FAMILY),
    Arm("large", "large rates", FAMILY),
    TEACHERS[OUTSIDE],
    Arm("small", "small rates", OUTSIDE),
)
DIFFERENCES = (
    ("small network: small rates - large rates", ARMS[2], ARMS[3]),
    ("large network: large rates - small rates", ARMS[0], ARMS[1]),
    ("small network: distilled - labels only", ARMS[4], ARMS[2]),
    ("large network: distilled from itself - labels only", ARMS[5], ARMS[0]),
    ("small network: distilled from a ResNet - from the large network", ARMS[7], ARMS[4]),
)


def recipe_of(rates: str, epochs: int) -> Recipe:
    """Returns the recipe with some rates."""
    fields: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": 64,
        "lr": 0.025,
        "augment": "crop",
        "ema_decay": 0.995,
        **RATES[rates],
    }
    return dataclasses.replace(get_recipe("short"), **fields)


def trained(
    arm: Arm, seed: int, images: ImageSet, val: ImageSet, work: Path, epochs: int
) -> tuple[nn.Module, dict[str, Any]]:
    """Returns an arm's network and its line; a finished run is read from its folder."""
    recipe, num_classes = recipe_of(arm.rates, epochs), len(images.classes)
    if arm.network == OUTSIDE:
        model = narrow_network("resnet18", num_classes, seed, narrower=2)
        found = cost_of(model, 32)
        cost, side = {"macs": found["fvcore_macs"], "params": found["params"]}, 32
    else:
        arch = networks()[arm.network]
        model, side = fresh(arch, recipe, num_classes, seed), arch.resolution
        counts = count(arch, side, num_classes=num_classes)
        cost = {"macs": counts.macs_paper, "params": counts.params}
    run = TrainConfig(
        recipe=recipe,
        preprocess=default_preprocess(images, side),
        seed=seed,
        folder=work / f"{arm.name.replace(', ', '-').replace(' ', '_')}-{seed}",
        validate_epochs=max(1, epochs // 2),
    )
    teacher = None
    if arm.teacher:
        # The teacher from outside is one for all seeds.
        taught_with = 0 if arm.teacher == OUTSIDE else seed
        taught_by, _ = trained(TEACHERS[arm.teacher], taught_with, images, val, work, epochs)
        teacher = NetworkTeacher(
            taught_by, preprocess=run.preprocess, student=run.preprocess, hardware=run.hardware
        )
    result = train(model, images, val, run, teacher=teacher)
    half, last = result.curve[run.validate_epochs - 1], result.curve[-1]
    return result.best, {
        "arm": arm.name,
        "seed": seed,
        "num_images": len(images),
        "num_test_images": len(val),
        "epochs": epochs,
        **cost,
        "raw_top1_pct": last.top1_pct,
        "ema_top1_pct": last.ema_top1_pct,
        "raw_top1_pct_half_way": half.top1_pct,
        "ema_top1_pct_half_way": half.ema_top1_pct,
        "training_loss": last.loss,
        # Training only; on a machine with other work it says little.
        "seconds": round(sum(log.seconds for log in result.curve), 1),
        "recipe": recipe.to_dict(),
        "conditions": conditions(),
    }


def measure(data: Path, work: Path, num_images: int, epochs: int, seeds: int) -> None:
    """Trains what has no line yet, a seed at a time, and appends its lines."""
    images, val = open_train_val(data)
    # CIFAR-10's own files are in random order.
    images = images.subset(torch.arange(min(num_images, len(images))))
    done = {(r["arm"], r["seed"], r["num_images"], r["epochs"]) for r in read_lines(LINES)}
    for seed in range(seeds):
        for arm in ARMS:
            once = arm.network == OUTSIDE and seed > 0
            if once or (arm.name, seed, len(images), epochs) in done:
                continue
            _, line = trained(arm, seed, images, val, work, epochs)
            append(LINES, [line])
            print(
                f"seed {seed}: {arm.name}: EMA {line['ema_top1_pct']:.2f} %, raw "
                f"{line['raw_top1_pct']:.2f} %",
                flush=True,
            )


def spread(values: list[float]) -> dict[str, float]:
    """Returns n, mean, standard deviation and half the 95 % interval of a mean over seeds."""
    n = len(values)
    deviation = statistics.stdev(values) if n > 1 else float("nan")
    reach = float(t.ppf(0.975, n - 1)) * deviation / n**0.5
    return {"n": n, "mean": statistics.mean(values), "sd": deviation, "reach": reach}


def report(lines: list[dict[str, Any]]) -> str:
    """Returns the tables as Markdown: arms, EMA on and off, and differences paired by seed.

    Raises:
        ValueError: there is no line.
    """
    if not lines:
        raise ValueError(f"{LINES} holds no finished training; run with --data and --work first")
    by_arm = {arm: {r["seed"]: r for r in lines if r["arm"] == arm.name} for arm in ARMS}
    by_arm = {arm: rows for arm, rows in by_arm.items() if rows}

    def text(values: list[float], *, signed: bool = False) -> str:
        found = spread(values)
        sign = "+" if signed else ""
        return (
            f"{found['mean']:{sign}.2f} | {found['sd']:.2f} | {found['reach']:.2f} | {found['n']}"
        )

    out = [
        f"{lines[0]['num_images']} training images, {lines[0]['epochs']} epochs, "
        f"{lines[0]['num_test_images']} test images; sd over seeds; +- is half of the 95 % "
        "interval of the mean (Student's t).",
        "",
        "| arm | top-1 (EMA), % | sd | +- | seeds |",
        "|---|---|---|---|---|",
    ]
    for arm, rows in by_arm.items():
        out.append(f"| {arm.name} | {text([r['ema_top1_pct'] for r in rows.values()])} |")
    out += ["", "| EMA on - off, points | mean | sd | +- | seeds |", "|---|---|---|---|---|"]
    for arm, rows in by_arm.items():
        for when, key in (("at the end", ""), ("half way", "_half_way")):
            gain = [r[f"ema_top1_pct{key}"] - r[f"raw_top1_pct{key}"] for r in rows.values()]
            out.append(f"| {arm.name}, {when} | {text(gain, signed=True)} |")
    out += [
        "",
        "| paired difference (EMA), points | mean | sd | +- | seeds |",
        "|---|---|---|---|---|",
    ]
    for title, one, other in DIFFERENCES:
        both = sorted(by_arm.get(one, {}).keys() & by_arm.get(other, {}).keys())
        if both:
            gain = [by_arm[one][s]["ema_top1_pct"] - by_arm[other][s]["ema_top1_pct"] for s in both]
            out.append(f"| {title} | {text(gain, signed=True)} |")
    held = lines[-1]["conditions"]
    out += [
        "",
        f"On {held['cpu']}, {held['threads']} thread(s), torch {held['torch']}.",
    ]
    return "\n".join(out) + "\n"


def main() -> None:
    """Parses, trains what is missing, writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--work", type=Path, help="folder of the runs' checkpoints")
    parser.add_argument("--images", type=int, default=NUM_IMAGES)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--report", action="store_true", help="only write the tables")
    args = parser.parse_args()
    if not args.report:
        if args.data is None or args.work is None:
            parser.error("give --data and --work, or --report")
        measure(args.data, args.work, args.images, args.epochs, args.seeds)
    lines = [
        r for r in read_lines(LINES) if (r["num_images"], r["epochs"]) == (args.images, args.epochs)
    ]
    tables = report(lines)
    (RESULTS / "ablation.md").write_text(tables)
    print(tables)


if __name__ == "__main__":
    main()
