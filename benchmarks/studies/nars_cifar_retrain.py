"""Retrains what the arms of `nars_cifar` found, at full length on all of CIFAR-10.

    python -m benchmarks.studies.nars_cifar_retrain --data cifar-10-batches-py --work runs/retrained
    python -m benchmarks.studies.nars_cifar_retrain --report

Each arm's answer for each limit (results/nars_cifar/search.json) is trained with its own recipe,
longer, with three seeds, on the 50,000 training images, and judged on the 10,000 test images at the
end; with `--teacher` also distilled from that network. A finished training is a line of
results/nars_cifar/retrained.jsonl and is not run again; a stopped one goes on from its last epoch.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.conditions import conditions
from benchmarks.records import append, read_lines
from benchmarks.training.networks import fresh
from fbnetv3.arch.arch import Arch
from fbnetv3.arch.counts import count
from fbnetv3.search.data.datasets import open_train_val
from fbnetv3.search.data.image_set import ImageSet
from fbnetv3.search.space.space import Space
from fbnetv3.search.training.batches import default_preprocess
from fbnetv3.search.training.distill import open_teacher
from fbnetv3.search.training.recipe import SCHEMA, Recipe
from fbnetv3.search.training.train import TrainConfig, train

from .nars_cifar import ARMS, HAND_RECIPE, JOINT, LIMITS, PROXY, RESULTS, space_of_arm
from .training_ablation import spread

LINES = RESULTS / "retrained.jsonl"
# The networks of `nars` with the recipe that a person would take: is it the network, or the recipe?
HAND_TRAINED = "nars_hand_recipe"
# After an arm's name: its networks with the recipes that `nars_cifar_recipes` found for them.
LONGER = "_longer_recipe"
# After the name of either: its weight decay scaled to the length, and nothing else.
SCALED = "_decay_scaled"
NUM_TRAIN = 50_000
SEARCH = RESULTS / "search.json"


class Answer(NamedTuple):
    """What an arm found for a limit."""

    arm: str
    limit: str
    arch: Arch
    recipe: Recipe


def answers(epochs: int) -> Iterator[Answer]:
    """Yields the answers of the arms that have ended."""
    for limit in LIMITS:
        for arm in ARMS:
            found = answer_of(arm, limit)
            if found is None:
                continue
            space, genes = found
            arch, fields = space.decode(np.array(genes, np.int16))
            yield Answer(arm, limit, arch, recipe_of(fields, epochs))
            if arm == "nars":
                yield Answer(f"{arm}{SCALED}", limit, arch, recipe_of(fields, epochs, PROXY))
                by_hand = JOINT.layout.settings(HAND_RECIPE)
                yield Answer(HAND_TRAINED, limit, arch, recipe_of(by_hand, epochs))
            longer = RESULTS / f"recipes_{arm}_{limit}.json"
            if longer.exists():
                made = json.loads(longer.read_text())
                fields = JOINT.layout.settings(made["recipe"])
                yield Answer(f"{arm}{LONGER}", limit, arch, recipe_of(fields, epochs))
                scaled = recipe_of(fields, epochs, made["training"])
                yield Answer(f"{arm}{LONGER}{SCALED}", limit, arch, scaled)


def recipe_of(
    fields: dict[str, Any], epochs: int, searched: dict[str, Any] | None = None
) -> Recipe:
    """Returns the recipe of a candidate's settings, longer than the proxy's.

    Args:
        fields: the settings.
        epochs: of all images.
        searched: the training that the settings were found with, to scale the weight decay by.
    """
    recipe = Recipe.from_dict({"schema": SCHEMA, **fields, **PROXY["recipe"], "epochs": epochs})
    if searched is None:
        return recipe
    times = epochs / searched["epochs"] * NUM_TRAIN / searched["num_train"]
    return dataclasses.replace(recipe, weight_decay=recipe.weight_decay / times)


def answer_of(arm: str, limit: str) -> tuple[Space, list[int]] | None:
    """Returns the space and genes of what an arm found within a limit, None before its end."""
    found = json.loads(SEARCH.read_text())["arms"].get(arm) if SEARCH.exists() else None
    if found is None:
        return None
    return space_of_arm(arm, limit), found["answers"][limit][0]["genes"]


class Trainer:
    """Trains answers, with the data at hand, and keeps a line of each."""

    def __init__(self, images: ImageSet, test: ImageSet, work: Path) -> None:
        self.images, self.test, self.work = images, test, work

    def line(self, one: Answer, seed: int, *, teacher: str | None = None) -> None:
        """Trains one answer, unless that is done, and appends its line."""
        key = f"{one.arm}-{one.limit}{'' if teacher is None else '-distilled'}-{seed}"
        if key in {line["name"] for line in read_lines(LINES)}:
            return
        result = self._train(one, seed, key, teacher)
        last = result.curve[-1]
        counts = count(one.arch, one.arch.resolution, num_classes=len(self.images.classes))
        line = {
            "name": key,
            "arm": one.arm,
            "limit": one.limit,
            "seed": seed,
            "distilled": teacher is not None,
            "teacher": None if teacher is None else Path(teacher).name,
            "epochs": one.recipe.epochs,
            "macs": counts.macs_paper,
            "params": counts.params,
            "raw_top1_pct": last.top1_pct,
            "ema_top1_pct": last.ema_top1_pct,
            "recipe": one.recipe.to_dict(),
            "arch": one.arch.to_dict(),
            "conditions": conditions(),
        }
        append(LINES, [line])
        print(f"{key}: {top1(line):.2f} %", flush=True)

    def _train(self, one: Answer, seed: int, name: str, teacher: str | None) -> Any:
        preprocess = default_preprocess(self.images, one.arch.resolution)
        run = TrainConfig(
            recipe=one.recipe,
            preprocess=preprocess,
            seed=seed,
            folder=self.work / name,
            validate_epochs=one.recipe.epochs,
        )
        model = fresh(one.arch, one.recipe, len(self.images.classes), seed)
        taught_by = (
            None if teacher is None else open_teacher(teacher, self.images.classes, preprocess)
        )
        return train(model, self.images, self.test, run, teacher=taught_by)


def top1(line: dict[str, Any]) -> float:
    """Returns accuracy in percent, of the averaged weights where the recipe has them."""
    averaged = line["ema_top1_pct"]
    return float(line["raw_top1_pct"] if averaged is None else averaged)


def report(lines: list[dict[str, Any]]) -> str:
    """Returns accuracies, and what `nars` has more than each other arm, paired by seed."""
    groups: dict[tuple[str, str, bool], dict[int, dict[str, Any]]] = {}
    for line in lines:
        groups.setdefault((line["limit"], line["arm"], line["distilled"]), {})[line["seed"]] = line
    out = [
        f"{lines[0]['epochs']} epochs of CIFAR-10, 10,000 test images; mean over seeds, +- is half "
        "of the 95 % interval (Student's t). The last column is `nars` less this row, paired by "
        "seed.",
        "",
        "| limit | arm | MACs (M) | params | top-1 % | +- | seeds | nars ahead by |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (limit, arm, distilled), rows in sorted(groups.items()):
        found = spread([top1(line) for line in rows.values()])
        ours = groups.get((limit, "nars", False), {})
        both = sorted(ours.keys() & rows.keys())
        ahead = ""
        if both and arm != "nars" and not distilled:
            gap = spread([top1(ours[s]) - top1(rows[s]) for s in both])
            ahead = f"{gap['mean']:+.2f}" + (f" +- {gap['reach']:.2f}" if len(both) > 1 else "")
        reach = f"{found['reach']:.2f}" if len(rows) > 1 else ""
        one = next(iter(rows.values()))
        out.append(
            f"| {limit} | {arm}{', distilled' if distilled else ''} | {one['macs'] / 1e6:.2f} | "
            f"{one['params']:,} | {found['mean']:.2f} | {reach} | {found['n']} | {ahead} |"
        )
    for (limit, arm, distilled), rows in sorted(groups.items()):
        plain = groups.get((limit, arm, False), {})
        both = sorted(plain.keys() & rows.keys())
        if distilled and both:
            gap = spread([top1(rows[s]) - top1(plain[s]) for s in both])
            text = f"{gap['mean']:+.2f} +- {gap['reach']:.2f}, {gap['n']} seeds"
            out += ["", f"Distilled less the same with labels, {arm}, {limit}: {text}."]
    return "\n".join(out) + "\n"


def main() -> None:
    """Parses, trains what is missing, writes the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--work", type=Path, help="folder of the runs' checkpoints")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3, help="of the trainings")
    parser.add_argument(
        "--arms",
        nargs="+",
        choices=(
            *ARMS,
            HAND_TRAINED,
            f"nars{SCALED}",
            *(f"{arm}{LONGER}{end}" for arm in ("nars", "arch_only") for end in ("", SCALED)),
        ),
        default=list(ARMS),
    )
    parser.add_argument("--limits", nargs="+", choices=tuple(LIMITS), default=list(LIMITS))
    parser.add_argument("--teacher", help="distil from it too, such as local-dir:RUN")
    parser.add_argument("--report", action="store_true", help="only write the table")
    args = parser.parse_args()
    if not args.report:
        if args.data is None or args.work is None:
            parser.error("give --data and --work, or --report")
        trainer = Trainer(*open_train_val(args.data), args.work)
        wanted = [
            one for one in answers(args.epochs) if one.arm in args.arms and one.limit in args.limits
        ]
        for seed in range(args.seeds):
            for one in wanted:
                trainer.line(one, seed)
                if args.teacher is not None:
                    trainer.line(one, seed, teacher=args.teacher)
    table = report(read_lines(LINES))
    (RESULTS / "retrained.md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
