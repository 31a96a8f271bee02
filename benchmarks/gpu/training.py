"""Training on a GPU: images per second beside timm's loop, where the time goes, and an accuracy.

    python -m benchmarks.gpu.training --out runs/gpu --data DIR --seconds 240

`throughput` times our loop and one as timm's train.py has it in turns, in bfloat16 on CIFAR-10, at
two batch sizes; `profile` lists the kernels of a step by their time; `accuracy` trains fbnetv3_a
from fresh weights for as many epochs as the time allows and scores the test images, which decide
nothing. Results: training.jsonl, a line each, the epochs of the last, and its weights in float16.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.conditions import conditions
from benchmarks.records import append, read_lines
from benchmarks.release.embed_weights import halved
from benchmarks.training.throughput import ours, timed, timms
from fbnetv3.arch.arch import Arch
from fbnetv3.arch.counts import count
from fbnetv3.arch.tables import ARCHS
from fbnetv3.checkpoints.checkpoint import write_tensors
from fbnetv3.models.model import build
from fbnetv3.search.data.datasets import cifar_arch
from fbnetv3.search.data.image_set import ImageSet
from fbnetv3.search.training.batches import default_preprocess
from fbnetv3.search.training.config import Hardware, TrainConfig
from fbnetv3.search.training.presets import get_recipe
from fbnetv3.search.training.recipe import Recipe
from fbnetv3.search.training.train import train

from .card import measure_ceilings
from .cifar10 import open_cifar10

BATCH_SIZES = (256, 1024)
# Of the images that the accuracy is trained on: twice CIFAR-10's, where depthwise layers have maps
# of 4 pixels left at the end.
RESOLUTION = 64
MODEL, DRY_MODEL = "fbnetv3_a", "fbnetv3_nano"
ACCURACY_BATCH = 512
PARTS = ("peak", "throughput", "profile", "accuracy", "compiled")
# Compiling a training step takes this long.
COMPILE_S = 90.0
# Epochs, at most and at least, of the accuracy's training.
MOST, LEAST = 250, 5


def accuracy_recipe(epochs: int, file: Path | None = None) -> Recipe:
    """Returns how fbnetv3_a is trained from fresh weights: a file's recipe, or the kit's own."""
    if file is not None:
        return dataclasses.replace(Recipe.from_dict(json.loads(file.read_text())), epochs=epochs)
    return dataclasses.replace(
        get_recipe("short"),
        lr=0.06,
        batch_size=ACCURACY_BATCH,
        epochs=epochs,
        warmup_epochs=min(5.0, epochs / 4),
        weight_decay=5e-4,
        dropout=0.1,
        drop_path=0.05,
        ema_decay=0.998,
        augment="autoaugment",
    )


def throughput(
    images: ImageSet,
    hardware: Hardware,
    model: str,
    batch_size: int,
    steps: int,
    rounds: int,
    compiled: bool,
) -> dict[str, Any]:
    """Returns the images per second of both loops, in turns."""
    arch = cifar_arch(ARCHS[model])
    recipe = dataclasses.replace(
        get_recipe("short"), batch_size=batch_size, augment="crop", resolution=None
    )
    sides = {"ours": ours(arch, images, recipe, hardware)}
    if compiled:
        faster = dataclasses.replace(hardware, compile=True)
        sides["ours, compiled"] = ours(arch, images, recipe, faster)
    else:
        sides["timm"] = timms(arch, images, recipe, hardware)
    # The first steps choose kernels, compile, and capture the graph.
    first_s = {name: timed(side.batches, side.step, 6) for name, side in sides.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            seconds[name].append(timed(side.batches, side.step, steps))
    rates = {name: batch_size * steps / statistics.median(s) for name, s in seconds.items()}
    macs = count(arch, arch.resolution, num_classes=len(images.classes)).macs_paper
    return {
        "part": "compiled" if compiled else "throughput",
        "model": model,
        "resolution": arch.resolution,
        "batch_size": batch_size,
        "steps": steps,
        "seconds": seconds,
        "first_steps_s": first_s,
        "images_per_s": rates,
        # Forward and twice that backward, two operations for each multiply-add.
        "tflops": {name: 6 * macs * rate / 1e12 for name, rate in rates.items()},
    }


def profile(images: ImageSet, hardware: Hardware, batch_size: int) -> dict[str, Any]:
    """Returns the kernels of three steps, the longest first, in microseconds for each step."""
    from torch.profiler import ProfilerActivity

    recipe = dataclasses.replace(get_recipe("short"), batch_size=batch_size, augment="crop")
    side = ours(cifar_arch(ARCHS[MODEL]), images, recipe, hardware)
    timed(side.batches, side.step, 6)
    kinds = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as taken:
        timed(side.batches, side.step, 3)
    spent = [
        (event.key, event.count / 3, event.self_device_time_total / 3)
        for event in taken.key_averages()
    ]
    spent.sort(key=lambda row: -row[2])
    return {
        "part": "profile",
        "batch_size": batch_size,
        "kernels_us": sum(row[2] for row in spent),
        "launched": sum(row[1] for row in spent if row[0].startswith("cuda")),
        "kernels": [row for row in spent if row[2] > 0][:40],
    }


def accuracy(
    images: ImageSet,
    test: ImageSet,
    hardware: Hardware,
    model: str,
    seconds: float,
    side: int,
    most: int,
    out: Path,
    work: Path,
    recipe_file: Path | None,
) -> dict[str, Any]:
    """Trains for as many epochs as fit into the time, at most `most`; a stopped run goes on."""
    arch: Arch = ARCHS[model].small_image(side)
    preprocess = default_preprocess(images, side)
    started = time.monotonic()

    def configured(epochs: int, **fields: Any) -> TrainConfig:
        recipe = accuracy_recipe(epochs, recipe_file)
        batch_size = min(recipe.batch_size, len(images) // 4)
        recipe = dataclasses.replace(recipe, batch_size=batch_size)
        return TrainConfig(recipe=recipe, preprocess=preprocess, hardware=hardware, **fields)

    def fresh() -> torch.nn.Module:
        torch.manual_seed(0)
        return build(arch, num_classes=10, drop_rate=0.1, drop_path_rate=0.05)

    plan = work / "epochs.json"
    if not plan.exists():
        trial = configured(LEAST, stop_epoch=2, validate_epochs=2)
        curve = train(fresh(), images, test, trial).curve
        left = seconds - (time.monotonic() - started)
        # The second epoch has no choosing of kernels in it; the rest is for scoring and disk.
        epochs = int(0.85 * left / curve[-1].seconds)
        plan.write_text(json.dumps(max(LEAST, min(most, epochs))))
    epochs = json.loads(plan.read_text())
    rare = max(1, epochs // 8)
    config = configured(
        epochs, folder=work / "accuracy", validate_epochs=rare, checkpoint_epochs=rare
    )
    log = out / "accuracy_log.jsonl"
    log.unlink(missing_ok=True)

    def on_epoch(epoch: Any) -> None:
        append(log, [dataclasses.asdict(epoch)])
        print(epoch.line(), flush=True)

    print(f"{epochs} epochs planned, {time.monotonic() - started:.0f} s so far", flush=True)
    trained = train(fresh(), images, test, config, on_epoch=on_epoch)
    last = trained.curve[-1]
    write_tensors(
        out / f"{model}_cifar10.safetensors",
        halved(trained.best.state_dict()),
        {"arch": arch.to_json()},
    )
    return {
        "part": "accuracy",
        "model": model,
        "resolution": side,
        "macs": count(arch, side, num_classes=10).macs_paper,
        "recipe": config.recipe.to_dict(),
        "top1_pct": last.top1_pct,
        "ema_top1_pct": last.ema_top1_pct,
        "train_s": sum(epoch.seconds for epoch in trained.curve),
        "images_per_s": statistics.median(epoch.images_per_s for epoch in trained.curve),
        "seconds": time.monotonic() - started,
    }


def results(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields what is not in the file yet, the most telling first."""
    lines = read_lines(options.out / "training.jsonl")
    done = {(line["part"], line.get("batch_size")) for line in lines}
    deadline = time.monotonic() + options.seconds
    images, test = open_cifar10(options.data)
    dry = options.dry_run
    hardware = Hardware.of("cpu" if dry else "cuda")
    model = DRY_MODEL if dry else MODEL
    sizes = (8,) if dry else BATCH_SIZES
    steps, rounds = (1, 1) if dry else (40, 5)

    def due(part: str, batch_size: int | None = None) -> bool:
        on_a_cpu = part in ("throughput", "accuracy")
        return (part, batch_size) not in done and part in options.only and (on_a_cpu or not dry)

    if due("peak"):
        yield {"part": "peak", "bf16_matmul_tflops": measure_ceilings("cuda").tflops["bf16"]}
    for size in sizes:
        if due("throughput", size):
            yield throughput(images, hardware, model, size, steps, rounds, compiled=False)
    if due("profile", sizes[0]):
        yield profile(images, hardware, sizes[0])
    if due("accuracy"):
        left = deadline - time.monotonic()
        most, side = (LEAST, 16) if dry else (MOST, options.resolution)
        work = options.work or options.out / "work"
        work.mkdir(parents=True, exist_ok=True)
        yield accuracy(
            images, test, hardware, model, left, side, most, options.out, work, options.recipe
        )
    for size in sizes:
        if due("compiled", size) and deadline - time.monotonic() > COMPILE_S:
            yield throughput(images, hardware, model, size, steps, rounds, compiled=True)


def main() -> None:
    """Measures and appends a line for each result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--work", type=Path, help="folder of checkpoints; OUT/work unless given")
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--resolution", type=int, default=RESOLUTION, help="of the accuracy")
    parser.add_argument("--recipe", type=Path, help="of the accuracy; JSON, epochs as time allows")
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    for found in results(options):
        line = {**found, "conditions": conditions()}
        if not options.dry_run:
            line["gpu_memory_mib"] = torch.cuda.max_memory_allocated() / 2**20
        append(options.out / "training.jsonl", [line])
        print(json.dumps({k: v for k, v in found.items() if k != "kernels"})[:600], flush=True)


if __name__ == "__main__":
    main()
