"""Throughput of the training loop beside a loop as timm's train.py has it, in one run.

    python -m benchmarks.training.throughput --data DIR/cifar-10-batches-py
    python -m benchmarks.training.throughput --data DIR/of/photos --model fbnetv3_b

One network is trained by two loops in turns, in one process: ours, and one with the parts and
defaults of timm's train.py (its loader with four decoding processes, NCHW, ModelEmaV3), both in
float32 on a CPU, in bfloat16 autocast on a GPU; batch, optimiser and augmentation (crop, flip)
are equal. timm's processes decode up to eight batches ahead while ours has its turn, which takes
from our share of the processor and not from theirs. Each loop's batches are then timed without
training: that they come faster than they are used shows that the loader is no bottleneck. Photos
are decoded by as many processes in both. Where our loop has its own gradient of depthwise layers
(`search/training/depthwise.py`), it is also timed with torch's. About five minutes on small images.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from benchmarks.records import RESULTS, write
from fbnetv3.arch.arch import Arch
from fbnetv3.arch.counts import count
from fbnetv3.arch.tables import ARCHS
from fbnetv3.models.model import build
from fbnetv3.search.data.datasets import cifar_arch, open_train_val
from fbnetv3.search.data.image_set import ImageSet, readable
from fbnetv3.search.training.batches import default_preprocess
from fbnetv3.search.training.depthwise import helps
from fbnetv3.search.training.loop import Loop
from fbnetv3.search.training.presets import get_recipe
from fbnetv3.search.training.recipe import Recipe
from fbnetv3.search.training.train import Hardware, TrainConfig

# timm's default.
NUM_WORKERS = 4
# Many times the eight batches that timm's processes hold ready.
ALONE_STEPS = 64


class _Side(NamedTuple):
    """A loop to be timed.

    Attributes:
        batches: endless.
        step: makes a training step of one.
        made: finishes one where `step` would, for timing the batches alone.
    """

    batches: Iterator[Any]
    step: Callable[[Any], object]
    made: Callable[[Any], object]


class Pictures(Dataset[tuple[Any, int]]):
    """The set as timm's loader reads one: a PIL image and a label at a time."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images
        # timm's loader puts its own in.
        self.transform: Callable[[Any], Any] = lambda image: image

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from PIL import Image

        if self.images.pixels is not None:
            image = Image.fromarray(self.images.pixels[index].numpy())
        else:
            assert self.images.sources is not None
            source = readable(self.images.sources[index])
            image = Image.open(source if isinstance(source, Path) else io.BytesIO(source))
        return self.transform(image.convert("RGB")), int(self.images.labels[index])


def ours(
    arch: Arch,
    images: ImageSet,
    recipe: Recipe,
    hardware: Hardware,
    *,
    workers: int = NUM_WORKERS,
) -> _Side:
    """Returns our loop."""
    torch.manual_seed(0)
    run = TrainConfig(
        recipe=recipe,
        preprocess=default_preprocess(images, arch.resolution),
        hardware=hardware,
        workers=workers,
    )
    loop = Loop(build(arch, num_classes=len(images.classes)), images, images, run, None)
    loop.model.train()

    def batches() -> Iterator[Any]:
        for epoch in itertools.count():
            yield from loop.batches.samples(epoch)

    numbers = recipe.lr_at(1.0), 1 - recipe.ema_decay, 1.0
    return _Side(batches(), lambda sample: loop.run_step(sample, numbers), loop.batches.made)


def timms(arch: Arch, images: ImageSet, recipe: Recipe, hardware: Hardware) -> _Side:
    """Returns a loop as timm's train.py has it."""
    from timm.data.loader import create_loader
    from timm.optim._optim_factory import create_optimizer_v2
    from timm.utils.model_ema import ModelEmaV3

    torch.manual_seed(0)
    device = hardware.device
    model = build(arch, num_classes=len(images.classes)).to(device).train()
    preprocess = default_preprocess(images, arch.resolution)
    loader: Any = create_loader(
        Pictures(images),  # type: ignore[arg-type]  # timm asks for its own class, uses no more
        input_size=(3, arch.resolution, arch.resolution),
        batch_size=recipe.batch_size,
        is_training=True,
        color_jitter=0.0,
        mean=preprocess.mean,
        std=preprocess.std,
        num_workers=NUM_WORKERS,
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

    return _Side(batches(), step, lambda _: None)


def timed(batches: Iterator[Any], step: Callable[[Any], object], steps: int) -> float:
    """Returns the seconds of so many steps."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    for batch in itertools.islice(batches, steps):
        step(batch)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def throughput(args: argparse.Namespace) -> None:
    """Measures both loops in turns and writes one JSON file."""
    images, _ = open_train_val(args.data)
    hardware = dataclasses.replace(Hardware.of(args.device), compile=args.compile)
    arch = ARCHS[args.model] if images.pixels is None else cifar_arch(ARCHS[args.model])
    recipe = dataclasses.replace(
        get_recipe("short"), batch_size=args.batch_size, augment="crop", resolution=None
    )
    loops = {"ours": ours(arch, images, recipe, hardware)}
    loops["timm"] = timms(arch, images, recipe, hardware)
    if helps(hardware.device):
        with mock.patch("fbnetv3.search.training.loop.helps", return_value=False):
            loops["ours, torch's gradients"] = ours(arch, images, recipe, hardware)
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    alone: dict[str, list[float]] = {name: [] for name in loops}
    for side in loops.values():
        timed(side.batches, side.step, args.warmup)
    for _ in range(args.rounds):
        for name, side in loops.items():
            seconds[name].append(timed(side.batches, side.step, args.steps))
    for _ in range(args.rounds):
        for name, side in loops.items():
            alone[name].append(timed(side.batches, side.made, args.alone_steps))
    images_a_block = args.steps * args.batch_size
    rows: dict[str, Any] = {
        name: {
            "images_per_s": images_a_block / statistics.median(seconds[name]),
            "seconds": seconds[name],
            "batches_alone_images_per_s": args.alone_steps
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
        "rows": rows,
        "ratio": rows["ours"]["images_per_s"] / rows["timm"]["images_per_s"],
        # Forward and twice that backward, two operations a multiply-add.
        "ours_tflops": 6 * macs * rows["ours"]["images_per_s"] / 1e12,
    }
    kind = "photos" if images.pixels is None else "small"
    device = hardware.device.type
    if device == "cpu":
        device = torch.backends.cpu.get_cpu_capability().lower()
    path = args.out / f"throughput_{args.model}_{kind}_{device}.json"
    write(path, found)
    print(json.dumps(found, indent=1), f"written to {path}", sep="\n")


def main() -> None:
    """Parses and measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="fbnetv3_a", choices=sorted(ARCHS))
    parser.add_argument("--device", default=None)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=8, help="of a turn")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each loop")
    parser.add_argument("--warmup", type=int, default=4)
    parser.add_argument("--alone-steps", type=int, default=ALONE_STEPS)
    parser.add_argument("--out", type=Path, default=RESULTS / "training")
    throughput(parser.parse_args())


if __name__ == "__main__":
    main()
