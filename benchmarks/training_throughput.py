"""Training: throughput beside timm's train.py, and what EMA, distillation and recipes are worth.

    python benchmarks/training.py throughput --data DIR/cifar-10-batches-py
    python benchmarks/training.py ablation --data DIR/cifar-10-batches-py --work runs/ablation

`throughput` trains one network in two loops in turns, in one process: ours, and one with the parts
and defaults of timm's train.py (its loader with four decoding processes, NCHW, ModelEmaV3), both in
float32 on a CPU, bfloat16 autocast on a GPU; batch, optimiser and augmentation (crop, flip)
are equal. timm's processes decode up to eight batches ahead while ours has its turn, which takes
from our share of the processor and not from theirs. It also times each loop's batches without
training. About five minutes.

`ablation` trains two networks (half of nano's widths, and nano) with two recipes each, small rates
as the paper's smaller networks prefer and larger ones, and distils the small one from the
large one; three seeds, each of which also draws the weights. EMA does not change training, so on
and off are the two weights of one run. About an hour of one core; a stopped run goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from fbnetv3.arch import Arch
from fbnetv3.counts import count
from fbnetv3.latency import environment
from fbnetv3.model import build
from fbnetv3.preprocess import CIFAR10_MEAN, CIFAR10_STD
from fbnetv3.search.batches import default_preprocess
from fbnetv3.search.data import cifar_arch, open_train_val
from fbnetv3.search.distill import NetworkTeacher
from fbnetv3.search.images import ImageSet
from fbnetv3.search.loop import Loop
from fbnetv3.search.presets import get_recipe
from fbnetv3.search.recipe import Recipe
from fbnetv3.search.train import Hardware, Run, train
from fbnetv3.tables import ARCHS

RESULTS = Path(__file__).parent / "results" / "training"
TIMM_WORKERS = 4
# Many times what timm's processes hold ready, eight batches.
ALONE_STEPS = 64
# As the paper says of its searched recipes, smaller networks prefer smaller rates. Values are ours.
SMALL_RATES = {"dropout": 0.05, "drop_path": 0.02, "mixup": 0.05}
LARGE_RATES = {"dropout": 0.2, "drop_path": 0.1, "mixup": 0.2}


class _Pictures(Dataset[tuple[Any, int]]):
    """The set as timm's loader reads one: a PIL image and a label at a time."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images
        # timm's loader puts its own in.
        self.transform: Callable[[Any], Any] = lambda image: image

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from PIL import Image

        assert self.images.pixels is not None
        image = Image.fromarray(self.images.pixels[index].numpy())
        return self.transform(image), int(self.images.labels[index])


def ours(
    arch: Arch, images: ImageSet, recipe: Recipe, hardware: Hardware
) -> tuple[Iterator[Any], Callable[[Any], None]]:
    """Returns the endless batches of our loop and what makes a step of one."""
    torch.manual_seed(0)
    run = Run(
        recipe=recipe, preprocess=default_preprocess(images, arch.resolution), hardware=hardware
    )
    loop = Loop(build(arch, num_classes=len(images.classes)), images, images, run, None)
    loop.model.train()

    def batches() -> Iterator[Any]:
        for epoch in itertools.count():
            yield from loop.batches.epoch(epoch)

    return batches(), loop._optimise


def timms(
    arch: Arch, images: ImageSet, recipe: Recipe, hardware: Hardware
) -> tuple[Iterator[Any], Callable[[Any], None]]:
    """Returns the same of a loop as timm's train.py has it."""
    from timm.data.loader import create_loader
    from timm.optim._optim_factory import create_optimizer_v2
    from timm.utils.model_ema import ModelEmaV3

    torch.manual_seed(0)
    device = hardware.device
    model = build(arch, num_classes=len(images.classes)).to(device).train()
    loader: Any = create_loader(
        _Pictures(images),  # type: ignore[arg-type]  # timm asks for its own class, uses no more
        input_size=(3, arch.resolution, arch.resolution),
        batch_size=recipe.batch_size,
        is_training=True,
        color_jitter=0.0,
        mean=CIFAR10_MEAN,
        std=CIFAR10_STD,
        num_workers=TIMM_WORKERS,
        device=device,
    )
    optimizer = create_optimizer_v2(
        model, opt="sgd", lr=recipe.lr_at(recipe.warmup_epochs), weight_decay=recipe.weight_decay
    )
    ema = ModelEmaV3(model, decay=recipe.ema_decay)

    def batches() -> Iterator[Any]:
        while True:
            yield from loader

    def step(batch: tuple[Tensor, Tensor]) -> None:
        x, y = batch
        with torch.autocast(device.type, torch.bfloat16, enabled=hardware.bf16):
            loss = F.cross_entropy(model(x), y, label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no type for it
        optimizer.step()
        ema.update(model)

    return batches(), step


def timed(batches: Iterator[Any], step: Callable[[Any], None] | None, steps: int) -> float:
    """Returns the seconds of so many steps; None times the batches alone."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    for batch in itertools.islice(batches, steps):
        if step is not None:
            step(batch)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def throughput(args: argparse.Namespace) -> None:
    """Measures both loops in turns and writes one JSON file."""
    images, _ = open_train_val(args.data)
    hardware = dataclasses.replace(Hardware.of(args.device), compile=args.compile)
    arch = cifar_arch(ARCHS[args.model])
    recipe = dataclasses.replace(
        get_recipe("short"), batch_size=args.batch_size, augment="crop", resolution=None
    )
    loops = {"ours": ours(arch, images, recipe, hardware)}
    loops["timm"] = timms(arch, images, recipe, hardware)
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    alone: dict[str, list[float]] = {name: [] for name in loops}
    for batches, step in loops.values():
        timed(batches, step, args.warmup)
    for _ in range(args.rounds):
        for name, (batches, step) in loops.items():
            seconds[name].append(timed(batches, step, args.steps))
    for _ in range(args.rounds):
        for name, (batches, _step) in loops.items():
            alone[name].append(timed(batches, None, ALONE_STEPS))
    images_a_block = args.steps * args.batch_size
    rows: dict[str, Any] = {
        name: {
            "images_per_s": images_a_block / statistics.median(seconds[name]),
            "seconds": seconds[name],
            "batches_alone_images_per_s": ALONE_STEPS
            * args.batch_size
            / statistics.median(alone[name]),
        }
        for name in loops
    }
    macs = count(arch, arch.resolution, num_classes=len(images.classes)).macs_paper
    found: dict[str, Any] = {
        "model": args.model,
        "resolution": arch.resolution,
        "batch_size": args.batch_size,
        "precision": "bf16 autocast" if hardware.bf16 else "float32",
        "compile": args.compile,
        "steps": args.steps,
        "rounds": args.rounds,
        "threads": torch.get_num_threads(),
        "rows": rows,
        "ratio": rows["ours"]["images_per_s"] / rows["timm"]["images_per_s"],
        # Forward and twice that backward, two operations a multiply-add.
        "ours_tflops": 6 * macs * rows["ours"]["images_per_s"] / 1e12,
    }
    write(f"throughput_{args.model}_{hardware.device.type}", found)


def half_width(arch: Arch) -> Arch:
    """Returns the table with half the channels in every row."""
    rows = tuple(dataclasses.replace(r, channels=max(8, r.channels // 2)) for r in arch.rows)
    stem, head = arch.stem_channels // 2, arch.head_channels // 2
    return dataclasses.replace(arch, rows=rows, stem_channels=stem, head_channels=head)


def ablation(args: argparse.Namespace) -> None:
    """Trains what is not there yet, then writes one JSON file and a table."""
    images, val = open_train_val(args.data)
    images = images.subset(torch.arange(min(args.images, len(images))))
    base = dataclasses.replace(
        get_recipe("short"), epochs=args.epochs, augment="crop", ema_decay=0.995
    )
    archs = {"large": cifar_arch(ARCHS["fbnetv3_nano"])}
    archs["small"] = half_width(archs["large"])
    recipes = {
        "small rates": dataclasses.replace(base, **SMALL_RATES),  # type: ignore[arg-type]  # names of numbers
        "large rates": dataclasses.replace(base, **LARGE_RATES),  # type: ignore[arg-type]  # names of numbers
    }
    plan = [(net, rates, False) for net in archs for rates in recipes]
    plan.append(("small", "small rates", True))
    curves: dict[str, list[dict[str, Any]]] = {}
    for seed in range(args.seeds):
        networks: dict[str, nn.Module] = {}
        for net, rates, distilled in plan:
            name = f"{net}, {rates}{', distilled' if distilled else ''}"
            folder = args.work / f"{name.replace(', ', '-').replace(' ', '_')}-{seed}"
            recipe = recipes[rates]
            torch.manual_seed(seed)
            model = build(
                archs[net],
                num_classes=len(images.classes),
                drop_rate=recipe.dropout,
                drop_path_rate=recipe.drop_path,
            )
            preprocess = default_preprocess(images, archs[net].resolution)
            run = Run(
                recipe=recipe,
                preprocess=preprocess,
                seed=seed,
                folder=folder,
                validate_epochs=args.epochs,
            )
            teacher = None
            if distilled:
                teacher = NetworkTeacher(
                    networks["large, large rates"],
                    preprocess=preprocess,
                    student=preprocess,
                    hardware=run.hardware,
                )
            result = train(model, images, val, run, teacher=teacher)
            networks[name] = result.best
            curves.setdefault(name, []).append(dataclasses.asdict(result.curve[-1]))
            print(f"seed {seed}: {name}: {result.curve[-1].line()}", flush=True)
    found = {
        "num_images": len(images),
        "num_test_images": len(val),
        "epochs": args.epochs,
        "seeds": args.seeds,
        "recipes": {name: recipe.to_dict() for name, recipe in recipes.items()},
        "runs": curves,
        "table": table(curves),
    }
    write("ablation", found)
    print("\n".join(found["table"]))


def table(curves: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Returns a Markdown table: mean and standard deviation over seeds, and paired differences."""

    def cell(values: list[float]) -> str:
        spread = statistics.stdev(values) if len(values) > 1 else float("nan")
        return f"{statistics.mean(values):.2f} +- {spread:.2f}"

    ema = {name: [row["ema_top1_pct"] for row in rows] for name, rows in curves.items()}
    raw = {name: [row["top1_pct"] for row in rows] for name, rows in curves.items()}
    lines = ["| run | EMA top-1, % | raw top-1, % | EMA - raw, points |", "|---|---|---|---|"]
    for name in curves:
        gain = [a - b for a, b in zip(ema[name], raw[name], strict=True)]
        lines.append(f"| {name} | {cell(ema[name])} | {cell(raw[name])} | {cell(gain)} |")
    lines += ["", "| paired difference, EMA | points |", "|---|---|"]
    for title, one, other in (
        ("small: small rates - large rates", "small, small rates", "small, large rates"),
        ("large: large rates - small rates", "large, large rates", "large, small rates"),
        ("small: distilled - not", "small, small rates, distilled", "small, small rates"),
    ):
        gain = [a - b for a, b in zip(ema[one], ema[other], strict=True)]
        lines.append(f"| {title} | {cell(gain)} |")
    return lines


def write(name: str, found: dict[str, Any]) -> None:
    """Writes a result with its environment and commit."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    content = {**found, "environment": environment(), "commit": done.stdout.strip()}
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps({k: v for k, v in found.items() if k not in ("runs", "table")}, indent=1))
    print(f"written to {path}")


def main() -> None:
    """Parses and runs one of the two."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    speed = commands.add_parser("throughput")
    speed.add_argument("--model", default="fbnetv3_a", choices=sorted(ARCHS))
    speed.add_argument("--device", default=None)
    speed.add_argument("--compile", action="store_true")
    speed.add_argument("--batch-size", type=int, default=128)
    speed.add_argument("--steps", type=int, default=8)
    speed.add_argument("--rounds", type=int, default=7)
    speed.add_argument("--warmup", type=int, default=4)
    speed.set_defaults(run=throughput)
    compare = commands.add_parser("ablation")
    compare.add_argument("--work", type=Path, required=True)
    compare.add_argument("--images", type=int, default=10_000)
    compare.add_argument("--epochs", type=int, default=12)
    compare.add_argument("--seeds", type=int, default=3)
    compare.set_defaults(run=ablation)
    for command in (speed, compare):
        command.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
