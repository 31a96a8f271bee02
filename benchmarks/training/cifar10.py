"""Trains a network of the zoo on CIFAR-10 and writes its weights and its test accuracy.

Plain on purpose: one process, float32, channels-last, everything in memory. It made
`fbnetv3_nano.cifar10` in under an hour on one core:

    python -m benchmarks.training.cifar10 --data DIR/cifar-10-batches-py --out runs/nano

`--data` is the unpacked python version of CIFAR-10. A stopped run goes on from its last epoch.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fbnetv3._internal.files import write_atomically
from fbnetv3.arch.tables import ARCHS
from fbnetv3.checkpoints.checkpoint import write_tensors
from fbnetv3.models.model import build

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
PADDING, CUTOUT = 4, 8


def read_batches(folder: Path, names: list[str]) -> tuple[Tensor, Tensor]:
    """Returns images (N, 3, 32, 32), normalised, and labels (N,)."""
    images, labels = [], []
    for name in names:
        with (folder / name).open("rb") as file:
            batch = pickle.load(file, encoding="bytes")  # the data set's own format
        images.append(np.asarray(batch[b"data"]).reshape(-1, 3, 32, 32))
        labels.extend(batch[b"labels"])
    x = torch.from_numpy(np.concatenate(images)).float().div_(255)
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    return x.sub_(mean).div_(std), torch.tensor(labels)


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Returns each image flipped by chance, shifted by up to 4 pixels, with a square left out."""
    n, _, side, _ = x.shape
    padded = F.pad(x, (PADDING,) * 4, mode="reflect")
    draw = torch.randint(2 * PADDING + 1, (2, n, 1, 1), generator=generator)
    rows = draw[0] + torch.arange(side).view(1, side, 1)
    cols = draw[1] + torch.arange(side).view(1, 1, side)
    flip = torch.rand(n, 1, 1, generator=generator) < 0.5
    cols = torch.where(flip, cols.flip(2), cols)
    out = padded.permute(0, 2, 3, 1)[torch.arange(n).view(n, 1, 1), rows, cols]
    hole = torch.randint(-CUTOUT // 2, side, (2, n, 1, 1), generator=generator)
    place = torch.arange(side)
    below, right = place.view(1, side, 1) - hole[0], place.view(1, 1, side) - hole[1]
    inside = (below >= 0) & (below < CUTOUT) & (right >= 0) & (right < CUTOUT)
    return out.masked_fill(inside.unsqueeze(3), 0.0).permute(0, 3, 1, 2)


def floats(model: nn.Module) -> list[Tensor]:
    """Returns the parameters and running statistics, for averaging."""
    return [v.detach() for v in model.state_dict().values() if v.is_floating_point()]


@torch.inference_mode()
def accuracy_pct(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Returns top-1 in percent."""
    model.eval()
    hits = torch.zeros(())
    for start in range(0, len(x), 500):
        images = x[start : start + 500].contiguous(memory_format=torch.channels_last)
        hits += (model(images).argmax(1) == y[start : start + 500]).sum()
    return 100 * hits.item() / len(y)


def make_optimizer(model: nn.Module, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """Returns SGD with Nesterov momentum; biases and batch-norms are not decayed."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    kept = [p for p in model.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": kept},
    ]
    return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True)


def lr_scale(step: int, total: int) -> float:
    """Returns the share of the learning rate: a twentieth of linear warm-up, then a cosine."""
    warm_up = total // 20
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, total - warm_up)))


def arguments() -> argparse.Namespace:
    """Returns the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="fbnetv3_nano", choices=sorted(ARCHS))
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.2)
    parser.add_argument("--weight-decay", type=float, default=5e-4)
    parser.add_argument("--ema-decay", type=float, default=0.998)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Trains, printing a line an epoch."""
    args = arguments()
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    x, y = read_batches(args.data, [f"data_batch_{n}" for n in range(1, 6)])
    test_x, test_y = read_batches(args.data, ["test_batch"])
    arch = ARCHS[args.model].small_image()
    model = build(arch, num_classes=10).to(memory_format=torch.channels_last)
    ema = copy.deepcopy(model).eval()
    averaged, current = floats(ema), floats(model)
    steps_an_epoch = len(x) // args.batch_size
    total = steps_an_epoch * args.epochs
    optimizer = make_optimizer(model, args.lr, args.weight_decay)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_scale(step, total))
    parts: dict[str, Any] = {
        "model": model,
        "ema": ema,
        "optimizer": optimizer,
        "scheduler": scheduler,
    }
    log: list[dict[str, float]] = []
    state_file = args.out / "state.pt"
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        log = state["log"]

    for epoch in range(len(log), args.epochs):
        generator = torch.Generator().manual_seed(args.seed * 1000 + epoch)
        order = torch.randperm(len(x), generator=generator)
        model.train()
        start, losses = time.perf_counter(), 0.0
        for step in range(steps_an_epoch):
            picked = order[step * args.batch_size : (step + 1) * args.batch_size]
            images = augment(x[picked], generator).contiguous(memory_format=torch.channels_last)
            loss = F.cross_entropy(model(images), y[picked], label_smoothing=0.1)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it without types
            optimizer.step()
            scheduler.step()
            losses += loss.item()
            seen = epoch * steps_an_epoch + step + 1
            decay = min(args.ema_decay, (1 + seen) / (10 + seen))
            torch._foreach_lerp_(averaged, current, 1 - decay)
        log.append(
            {
                "epoch": epoch + 1,
                "loss": losses / steps_an_epoch,
                "seconds": time.perf_counter() - start,
                "top1_raw_pct": accuracy_pct(model, test_x, test_y),
                "top1_ema_pct": accuracy_pct(ema, test_x, test_y),
            }
        )
        print(json.dumps(log[-1]), flush=True)
        temporary = state_file.with_suffix(".tmp")
        torch.save({**{k: part.state_dict() for k, part in parts.items()}, "log": log}, temporary)
        temporary.replace(state_file)
    write_tensors(args.out / "model.safetensors", ema.state_dict(), {"arch": arch.to_json()})
    write_atomically(args.out / "log.json", json.dumps(log, indent=1).encode())


if __name__ == "__main__":
    main()
