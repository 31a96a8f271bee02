r"""Trains and scores torchvision's detectors with our trunk on a folder in COCO's format.

    python -m benchmarks.detection.torchvision draw runs/shapes
    python -m benchmarks.detection.torchvision train FOLDER --model fbnetv3_e --pretrained \
        --out runs/faster_e
    python -m benchmarks.detection.torchvision eval FOLDER --run runs/faster_e

A folder holds `annotations.json` and `images/` (COCO's own: link `instances_train2017.json` and
`train2017` under these names). Training has the paper's constants for COCO: learning rate 0.16 for
32 images, in proportion for other batches, warm-up and then a cosine, and averaged weights, which
are what is kept. A step draws its random numbers from its own number, so that a run that stopped
and goes on from its last checkpoint is the run that did not stop. One process, one device; for many
GPUs take Detectron2 (`detectron2.py` here). `draw` makes a small folder to try things on.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.records import write
from fbnetv3.checkpoints.checkpoint import read_tensors, write_tensors
from fbnetv3.integrations import torchvision_backbone
from fbnetv3.integrations.coco_folder import CocoFolder
from fbnetv3.integrations.drawn_shapes import draw_shapes

DETECTORS: dict[str, Callable[..., nn.Module]] = {
    "faster_rcnn": torchvision_backbone.faster_rcnn,
    "faster_rcnn_c4": torchvision_backbone.faster_rcnn_c4,
    "mask_rcnn": torchvision_backbone.mask_rcnn,
    "retinanet": torchvision_backbone.retinanet,
}
LR_PER_IMAGE, MOMENTUM, WEIGHT_DECAY = 0.16 / 32, 0.9, 1e-4
# Keeps the first steps of fresh heads finite; trained ones stay below.
MAX_GRAD_NORM = 10.0
# What may differ when a stopped run goes on.
NOT_THE_RUN = ("run_command", "out", "device", "workers", "save", "report")
Item = tuple[Tensor, dict[str, Tensor]]


def build(settings: dict[str, Any], num_classes: int, *, pretrained: bool) -> nn.Module:
    """Returns the detector of a run's settings."""
    return DETECTORS[settings["detector"]](
        settings["model"],
        num_classes=num_classes,
        pretrained=pretrained,
        # All of it, and the same again where a run is resumed without loading them.
        trainable_backbone_layers=5,
        norm="BN",
        min_size=settings["min_size"],
        max_size=settings["max_size"],
    )


def batches(num_images: int, batch_size: int, steps: range, seed: int) -> Iterator[list[int]]:
    """Yields the images of each step; every image once before any comes again."""
    order: list[int] = []
    first, last = steps.start * batch_size, steps.stop * batch_size
    held = -1
    for place in range(first, last):
        epoch, offset = divmod(place, num_images)
        if epoch != held:
            generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
            order_of_epoch = torch.randperm(num_images, generator=generator).tolist()
            held = epoch
        order.append(order_of_epoch[offset])
        if len(order) == batch_size:
            yield order
            order = []


def flip(image: Tensor, target: dict[str, Tensor]) -> Item:
    """Returns an item mirrored left to right."""
    width = image.shape[-1]
    boxes = target["boxes"].clone()
    boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
    mirrored = target | {"boxes": boxes}
    if "masks" in target:
        mirrored["masks"] = target["masks"].flip(-1)
    return image.flip(-1), mirrored


def optimizer_of(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """Returns SGD; norms and biases do not decay."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in trained if p.ndim <= 1]},
    ]
    return torch.optim.SGD(groups, lr=lr, momentum=MOMENTUM)


def train(options: argparse.Namespace) -> None:
    """Trains, keeping a checkpoint, the averaged weights and what was asked for."""
    from timm.utils import ModelEmaV3  # type: ignore[attr-defined]  # timm re-exports

    settings = {
        key: str(value) if isinstance(value, Path) else value
        for key, value in vars(options).items()
        if key not in NOT_THE_RUN
    }
    options.out.mkdir(parents=True, exist_ok=True)
    data = CocoFolder(options.folder, masks=options.detector == "mask_rcnn")
    state_file = options.out / "state.pt"
    fresh = not state_file.exists()
    torch.manual_seed(options.seed)
    model = build(settings, data.num_classes, pretrained=options.pretrained and fresh)
    model.to(options.device).train()
    average = ModelEmaV3(model, decay=options.ema_decay, use_warmup=True)
    lr = LR_PER_IMAGE * options.batch_size if options.lr is None else options.lr
    optimizer = optimizer_of(model, lr)

    warm_up: int = options.warm_up
    steps_left: int = max(1, options.steps - warm_up)

    def scale(step: int) -> float:
        if step < warm_up:
            return (step + 1) / (warm_up + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / steps_left))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, scale)
    parts: dict[str, Any] = {
        "model": model,
        "average": average.module,
        "optimizer": optimizer,
        "schedule": schedule,
    }
    log: list[dict[str, float]] = []
    if not fresh:
        state = torch.load(state_file, weights_only=True, map_location=options.device)
        if state["settings"] != settings:
            raise ValueError(
                f"{options.out} holds a run with {state['settings']}; this one has {settings}. "
                "Give the same settings to go on with it, or another --out"
            )
        for name, part in parts.items():
            part.load_state_dict(state[name])
        log = state["log"]

    steps = range(len(log), options.steps)
    loader = DataLoader(
        data,
        batch_sampler=list(batches(len(data), options.batch_size, steps, options.seed)),
        num_workers=options.workers,
        collate_fn=list,
    )
    for step, items in zip(steps, loader, strict=True):
        # The detectors sample boxes with the global generator.
        torch.manual_seed(options.seed * 1_000_003 + step)
        log.append(take_step(model, optimizer, items, options))
        schedule.step()
        average.update(model, step=step)
        done = step + 1
        if done % options.report == 0 or done == options.steps:
            losses = ", ".join(f"{name} {value:.4f}" for name, value in log[-1].items())
            print(f"step {done}: {losses}", flush=True)
        if done % options.save == 0 or done == options.steps:
            states = {name: part.state_dict() for name, part in parts.items()}
            temporary = state_file.with_suffix(".tmp")
            torch.save({**states, "log": log, "settings": settings}, temporary)
            os.replace(temporary, state_file)
    write_tensors(options.out / "model.safetensors", average.module.state_dict(), {})
    write(options.out / "run.json", {"settings": settings, "lr": lr, "log": log})


def take_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    items: Sequence[Item],
    options: argparse.Namespace,
) -> dict[str, float]:
    """Trains on some images, each mirrored by chance; returns the losses."""
    items = [flip(*item) if torch.rand(()) < 0.5 else item for item in items]
    images = [image.to(options.device) for image, _ in items]
    targets = [{k: v.to(options.device) for k, v in target.items()} for _, target in items]
    with torch.autocast(options.device.split(":")[0], torch.bfloat16, enabled=options.bf16):
        losses = model(images, targets)
    total = torch.stack([loss.float() for loss in losses.values()]).sum()
    if not total.isfinite():
        raise ValueError(f"the loss is {float(total)}; give a lower --lr, or a longer --warm-up")
    optimizer.zero_grad()
    total.backward()  # type: ignore[no-untyped-call]  # torch's own
    nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
    optimizer.step()
    return {"loss": float(total.detach())} | {k: float(v.detach()) for k, v in losses.items()}


def evaluate(options: argparse.Namespace) -> None:
    """Scores a run's averaged weights and writes the scores beside them."""
    settings = json.loads((options.run / "run.json").read_text())["settings"]
    data = CocoFolder(options.folder, empty=True)
    model = build(settings, data.num_classes, pretrained=False)
    model.load_state_dict(read_tensors(options.run / "model.safetensors"))
    model.to(options.device).eval()
    found = {}
    with torch.inference_mode():
        for number in range(len(data)):
            image, target = data[number]
            (output,) = model([image.to(options.device)])
            found[int(target["image_id"])] = {
                key: output[key].cpu() for key in ("boxes", "labels", "scores")
            }
    scores = data.score(found)
    about = {"folder": str(options.folder), "num_images": len(data), **scores}
    write(options.run / "scores.json", about)
    print(", ".join(f"{name} {value:.4f}" for name, value in scores.items()))


def draw(options: argparse.Namespace) -> None:
    """Writes a folder of drawn shapes."""
    rng = np.random.default_rng(options.seed)
    draw_shapes(options.folder, num_images=options.num_images, side=options.side, rng=rng)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses and runs a command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    drawn = commands.add_parser("draw", help=draw.__doc__)
    drawn.set_defaults(run_command=draw)
    drawn.add_argument("folder", type=Path)
    drawn.add_argument("--num-images", type=int, default=8)
    drawn.add_argument("--side", type=int, default=128)
    drawn.add_argument("--seed", type=int, default=0)

    trained = commands.add_parser("train", help=train.__doc__)
    trained.set_defaults(run_command=train)
    trained.add_argument("folder", type=Path)
    trained.add_argument("--out", type=Path, required=True)
    trained.add_argument("--detector", choices=DETECTORS, default="faster_rcnn")
    trained.add_argument("--model", default="fbnetv3_e", help="what fbnetv3.create takes")
    trained.add_argument("--pretrained", action="store_true", help="start from the zoo's weights")
    trained.add_argument("--steps", type=int, default=135_000)
    trained.add_argument("--batch-size", type=int, default=32)
    trained.add_argument("--lr", type=float, help=f"default: {LR_PER_IMAGE} an image of the batch")
    trained.add_argument("--warm-up", type=int, default=1000, help="steps")
    trained.add_argument("--ema-decay", type=float, default=0.9998)
    trained.add_argument("--min-size", type=int, default=800)
    trained.add_argument("--max-size", type=int, default=1333)
    trained.add_argument("--bf16", action="store_true", help="bfloat16 autocast")
    trained.add_argument("--device", default=device)
    trained.add_argument("--workers", type=int, default=0)
    trained.add_argument("--seed", type=int, default=0)
    trained.add_argument("--save", type=int, default=1000, help="steps between checkpoints")
    trained.add_argument("--report", type=int, default=20, help="steps between lines")

    scored = commands.add_parser("eval", help=evaluate.__doc__)
    scored.set_defaults(run_command=evaluate)
    scored.add_argument("folder", type=Path)
    scored.add_argument("--run", type=Path, required=True, help="--out of a training")
    scored.add_argument("--device", default=device)

    options = parser.parse_args(arguments)
    options.run_command(options)


if __name__ == "__main__":
    main()
