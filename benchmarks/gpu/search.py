"""Trains candidates of the joint CIFAR-10 search at the length that counts, several at once.

    python -m benchmarks.gpu.search --out runs/gpu --data DIR --seconds 240

The candidates are those of results/nars_cifar/trainings.jsonl, in an order that mixes the arms.
Each was trained there for 250 steps. Here it is trained for ten epochs of all images that the
search did not hold out, with its weight decay scaled to the length: this tells how well short
trainings rank candidates for the length that counts. Networks of this size leave most of a GPU
idle, so that several are trained at once: in processes, and in turns within them, each on its own
stream. Results: finals_0.jsonl, a line for each training, much like trainings.jsonl.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.conditions import conditions
from benchmarks.records import append, read_lines, write
from benchmarks.studies.nars_cifar import JOINT, LINES, PROXY
from fbnetv3._internal.errors import Diverged
from fbnetv3.arch.arch import Arch
from fbnetv3.arch.counts import count
from fbnetv3.models.model import build
from fbnetv3.search.data.image_set import ImageSet
from fbnetv3.search.data.splitting import hold_out
from fbnetv3.search.training.batches import default_preprocess
from fbnetv3.search.training.config import Hardware, TrainConfig
from fbnetv3.search.training.logbook import EpochLog
from fbnetv3.search.training.loop import Loop
from fbnetv3.search.training.recipe import SCHEMA, Recipe
from fbnetv3.search.training.scoring import score
from fbnetv3.search.training.seeds import derive_seed

from .cifar10 import open_cifar10

EPOCHS = 10
PROCESSES, AT_ONCE = 3, 4
ARMS = ("random", "nars", "evolution")


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A network and its recipe, with what the short training said of it."""

    digest: str
    arm: str
    values: dict[str, Any]
    short_pct: float
    arch: Arch
    recipe: Recipe


def candidates(num_images: int) -> list[Candidate]:
    """Returns the candidates that were trained with seed 0, each once, in a mixed order."""
    seen: dict[str, dict[str, Any]] = {}
    for line in read_lines(LINES):
        if line["arm"] in ARMS and line["seed"] == 0 and line["space"] == JOINT.name:
            seen.setdefault(line["digest"], line)
    made = []
    for digest, line in seen.items():
        arch, fields = JOINT.decode(JOINT.from_values(line["values"]))
        short = Recipe.from_dict(
            {"schema": SCHEMA, **fields, **PROXY["recipe"], "epochs": PROXY["epochs"]}
        )
        # Weight decay only: `Recipe.lengthened` has since come to change the average's horizon too.
        times = EPOCHS / short.epochs * num_images / PROXY["num_train"]
        recipe = dataclasses.replace(short, epochs=EPOCHS, weight_decay=short.weight_decay / times)
        made.append(Candidate(digest, line["arm"], line["values"], line["curve"][-1], arch, recipe))
    random.Random(0).shuffle(made)
    return made


@dataclasses.dataclass
class Training:
    """One training on a stream of its own."""

    candidate: Candidate
    loop: Loop
    stream: Any
    running: Iterator[EpochLog | None]

    @staticmethod
    def started(candidate: Candidate, train: ImageSet, val: ImageSet, device: str) -> Training:
        """Returns the training of a candidate, before its first step."""
        recipe = candidate.recipe
        torch.manual_seed(derive_seed(0, "weights"))
        model = build(
            candidate.arch,
            num_classes=len(train.classes),
            drop_rate=recipe.dropout,
            drop_path_rate=recipe.drop_path,
        )
        config = TrainConfig(
            recipe=recipe,
            preprocess=default_preprocess(train, recipe.resolution or candidate.arch.resolution),
            validate_epochs=recipe.epochs,
            hardware=Hardware.of(device),
        )
        stream = torch.cuda.Stream() if device == "cuda" else None  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            loop = Loop(model, train, val, config, None)
        return Training(candidate, loop, stream, loop.running(lambda *_: None))

    def step(self) -> EpochLog | None:
        """Makes a step; returns the log of the last epoch once it is there."""
        with torch.cuda.stream(self.stream):
            log = next(self.running)
        return log if log is not None and log.epoch == self.candidate.recipe.epochs else None

    def line(self, log: EpochLog, test: ImageSet, seconds: float) -> dict[str, Any]:
        """Returns what is kept of a finished training."""
        recipe, config = self.candidate.recipe, self.loop.config
        best = self.loop.model if self.loop.ema is None else self.loop.ema.module
        with torch.cuda.stream(self.stream):
            tested = score(
                best,
                test,
                config.preprocess,
                device=config.hardware.device,
                half=config.hardware.half,
                batch_size=1000,
            )
        counts = count(self.candidate.arch, self.candidate.arch.resolution, num_classes=10)
        return {
            "arm": self.candidate.arm,
            "digest": self.candidate.digest,
            "seed": 0,
            "values": self.candidate.values,
            "epochs": recipe.epochs,
            "steps": log.steps,
            "macs": counts.macs_paper,
            "params": counts.params,
            "weight_decay": recipe.weight_decay,
            "val_top1_pct": log.top1_pct if log.ema_top1_pct is None else log.ema_top1_pct,
            "test_top1_pct": tested.top1_pct,
            "loss": log.loss,
            "short_val_top1_pct": self.candidate.short_pct,
            "seconds": seconds,
        }


def finish(options: argparse.Namespace) -> None:
    """Trains candidate after candidate until the time is over; unfinished ones are lost."""
    images, test = open_cifar10(options.data)
    dry = options.dry_run
    num_val = 64 if dry else PROXY["num_val"]
    train, val = hold_out(images, num_val, seed=0)
    path = options.out / f"finals_{options.shard[0]}.jsonl"
    done = {line["digest"] for line in read_lines(path)}
    shard, shards = options.shard
    mine = candidates(len(train))[shard::shards]
    waiting = [c for c in mine if c.digest not in done]
    if dry:
        waiting = [
            dataclasses.replace(c, recipe=dataclasses.replace(c.recipe, epochs=1))
            for c in waiting[:3]
        ]
    device = "cpu" if dry else "cuda"
    started = time.monotonic()
    begun: dict[str, float] = {}
    going: list[Training] = []
    slowest = 0.0
    steps = 0
    while True:
        left = options.seconds - (time.monotonic() - started)
        # One that could not end in time is not begun.
        while waiting and len(going) < options.at_once and left > 1.2 * slowest + 5:
            candidate = waiting.pop(0)
            begun[candidate.digest] = time.monotonic()
            going.append(Training.started(candidate, train, val, device))
        if not going or left < 2:
            break
        for training in list(going):
            digest = training.candidate.digest
            try:
                log = training.step()
            except Diverged as error:
                going.remove(training)
                append(path, [{"arm": training.candidate.arm, "digest": digest, "seed": 0,
                               "values": training.candidate.values, "diverged": str(error),
                               "short_val_top1_pct": training.candidate.short_pct}])  # fmt: skip
                continue
            steps += 1
            if log is None:
                continue
            going.remove(training)
            seconds = time.monotonic() - begun[digest]
            slowest = max(slowest, seconds)
            line = training.line(log, test, seconds)
            append(path, [line])
            print(f"{digest[:8]} {line['test_top1_pct']:.2f} % in {seconds:.0f} s", flush=True)
    seconds = time.monotonic() - started
    summary = {
        "steps_per_s": steps / seconds,
        "at_once": options.at_once,
        "seconds": seconds,
        "trainings": len(read_lines(path)),
        "conditions": conditions(),
    }
    write(options.out / f"search_{shard}.json", summary)
    print(json.dumps({k: v for k, v in summary.items() if k != "conditions"}), flush=True)


def in_processes(options: argparse.Namespace) -> int:
    """Runs the shards side by side; returns 1 if one failed.

    Before a network's first step cuDNN builds a program for each of its layers, which takes the
    processor seconds: processes do it at the same time.
    """
    command = [sys.executable, "-m", "benchmarks.gpu.search", *sys.argv[1:]]
    shards = [
        subprocess.Popen([*command, "--shard", str(number), str(options.processes)])
        for number in range(options.processes)
    ]
    return max(abs(shard.wait()) for shard in shards) and 1


def main() -> None:
    """Parses and trains."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--at-once", type=int, default=AT_ONCE, help="trainings in turns, each")
    parser.add_argument("--processes", type=int, default=PROCESSES)
    parser.add_argument(
        "--shard", nargs=2, type=int, metavar=("NUMBER", "OF"), help="of the candidates, from 0"
    )
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    if options.shard is None and not options.dry_run:
        raise SystemExit(in_processes(options))
    options.shard = options.shard or (0, 1)
    finish(options)


if __name__ == "__main__":
    main()
