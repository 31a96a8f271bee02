"""Kills a training 20 times at random moments; the result has to be that of a run left alone.

    python -m benchmarks.training.kills --data DIR/cifar-10-batches-py --work runs/kills

Nano with one block a row and a recipe that uses every source of randomness (mixup, dropout,
stochastic depth, AutoAugment), on CIFAR-10, a checkpoint every fourth step. Each attempt is a
forked process that gets SIGKILL, as loading torch takes longer than it lives. Compared bit by bit:
raw and averaged weights, the last checkpoint's optimiser state, and the log without its times.
Writes results/training/kills.json and ends with 1 if anything differs. About two minutes of a core.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.records import RESULTS, write
from fbnetv3.checkpoints.checkpoint import read_tensors
from fbnetv3.search.data.datasets import open_train_val
from fbnetv3.search.data.image_set import ImageSet
from fbnetv3.search.training import checkpointing
from fbnetv3.search.training.batches import default_preprocess
from fbnetv3.search.training.presets import get_recipe
from fbnetv3.search.training.train import Hardware, TrainConfig, train

from .networks import fresh, networks

NUM_IMAGES, NUM_VAL, EPOCHS, CHECKPOINT_STEPS = 2_560, 500, 6, 4
# Of the run's length alone, the mean life of an attempt; below 1 all kills fall inside the run.
SHARE_ALIVE = 0.7


def work(folder: Path, images: ImageSet, val: ImageSet) -> None:
    """Trains into the folder, or goes on there."""
    arch = networks()["large"]
    recipe = dataclasses.replace(
        get_recipe("cifar10"), epochs=EPOCHS, batch_size=64, warmup_epochs=1.0, ema_decay=0.99
    )
    model = fresh(arch, recipe, len(images.classes), seed=0)
    run = TrainConfig(
        recipe=recipe,
        preprocess=default_preprocess(images, arch.resolution),
        folder=folder,
        checkpoint_steps=CHECKPOINT_STEPS,
        hardware=Hardware.of("cpu"),
    )
    train(model, images, val, run)


def forked(task: Callable[[], None], seconds: float | None = None) -> bool:
    """Returns whether the task ended by itself; else it was killed after so many seconds.

    Raises:
        RuntimeError: the task failed.
    """
    child = os.fork()
    if child == 0:
        try:
            task()
        except BaseException as error:  # the parent has to hear of any failure
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    end = None if seconds is None else time.monotonic() + seconds
    while True:
        pid, status = os.waitpid(child, 0 if end is None else os.WNOHANG)
        if pid:
            if status:
                raise RuntimeError(f"a training ended with wait status {status}; see above")
            return True
        if end is not None and time.monotonic() >= end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return False
        time.sleep(0.001)


def state_of(folder: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """Returns every tensor that a run left, and its log without what depends on the clock."""
    tensors = {
        f"{name}/{key}": tensor
        for name in ("model", "model_raw")
        for key, tensor in read_tensors(folder / f"{name}.safetensors").items()
    }
    newest = checkpointing.load_newest(folder / "checkpoints")
    assert newest is not None
    tensors |= {f"checkpoint/{key}": tensor for key, tensor in newest[0].items()}
    log = json.loads((folder / "log.json").read_text())
    clock = ("seconds", "images_per_s")
    return tensors, [{k: v for k, v in row.items() if k not in clock} for row in log]


def main() -> int:
    """Trains once alone and once killed, compares, writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="an empty or new folder")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, default=RESULTS / "training" / "kills.json")
    args = parser.parse_args()
    if args.work.exists() and any(args.work.iterdir()):
        parser.error(f"{args.work} is not empty: remove it, or give another")
    # What a training imports when it starts, so that no attempt spends its life on it.
    for module in ("timm.data.mixup", "timm.optim.rmsprop_tf", "timm.utils.model_ema"):
        importlib.import_module(module)
    torch.set_num_threads(1)
    images, val = open_train_val(args.data)
    images, val = images.subset(torch.arange(NUM_IMAGES)), val.subset(torch.arange(NUM_VAL))
    whole, killed = args.work / "whole", args.work / "killed"
    started = time.monotonic()
    forked(lambda: work(whole, images, val))
    alone_s = time.monotonic() - started

    moments = random.Random(args.seed)
    kills: list[dict[str, Any]] = []
    while len(kills) < args.kills:
        seconds = moments.uniform(0, 2 * SHARE_ALIVE * alone_s / args.kills)
        if forked(lambda: work(killed, images, val), seconds):
            raise RuntimeError(
                f"the run ended after {len(kills)} kills of {args.kills}; is the machine's load "
                "falling? Start again with an empty folder"
            )
        folder = killed / "checkpoints"
        heads = sorted(folder.glob("*.json"))
        kills.append(
            {
                "after_s": round(seconds, 3),
                "last_checkpoint_step": int(heads[-1].stem.split("-")[1]) if heads else None,
                "within_a_write": len(list(folder.glob("*.safetensors"))) != len(heads)
                or bool(list(folder.glob("*.tmp"))),
            }
        )
        print(kills[-1], flush=True)
    forked(lambda: work(killed, images, val))

    one, other = state_of(whole), state_of(killed)
    differing = [
        name
        for name in sorted(one[0].keys() | other[0].keys())
        if name not in one[0]
        or name not in other[0]
        or not torch.equal(one[0][name], other[0][name])
    ]
    found = {
        "num_kills": len(kills),
        "num_within_a_write": sum(kill["within_a_write"] for kill in kills),
        "num_tensors": len(one[0]),
        "differing_tensors": differing,
        "same_log": one[1] == other[1],
        "steps": EPOCHS * (NUM_IMAGES // 64),
        "alone_s": round(alone_s, 1),
        "kills": kills,
    }
    write(args.out, found)
    equal = not differing and found["same_log"]
    print(f"{len(kills)} kills, {len(differing)} of {len(one[0])} tensors differ: {args.out}")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
