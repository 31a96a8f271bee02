"""Training throughput on photos in a folder, decoding included, beside timm's loop.

    python -m benchmarks.training.photo_throughput --work W --threads 1
    python -m benchmarks.training.photo_throughput --work W --threads 2

Both loops of `throughput` train one network at 224 pixels in turns, in one process, from the same
JPEG files: ours with the workers of `fbnetv3 train --workers auto`, and one of the parts of timm's
train.py with its defaults (four decoding processes). A loop's processes are stopped while the other
has its turn. With `--threads 1` all processes share one core. The files are crops of the package's
example photos, of the size of ImageNet's photos and of a phone's, where decoding at reduced size
counts. The batches of each loop are timed alone too. Four minutes on idle cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import random
import resource
import signal
import statistics
from pathlib import Path
from typing import Any

import torch

from benchmarks.records import RESULTS, write
from benchmarks.training import throughput
from fbnetv3.arch.tables import ARCHS
from fbnetv3.images.labels import example_photos
from fbnetv3.images.reader import open_image
from fbnetv3.search.data.datasets import open_train_val
from fbnetv3.search.training.config import Hardware
from fbnetv3.search.training.presets import get_recipe
from fbnetv3.search.training.workers import default_workers

# Width and height of the photos, and how many there are of each of three classes.
SIZES = {"imagenet": (500, 375, 96), "phone": (4000, 3000, 24)}


def write_photos(folder: Path, kind: str) -> Path:
    """Writes class folders of JPEG files, the same ones each time; returns their folder."""
    width, height, num = SIZES[kind]
    root = folder / f"photos_{kind}"
    if (root / "done").is_file():
        return root
    draw = random.Random(0)
    for photo in example_photos():
        image = open_image(photo)
        (root / photo.stem).mkdir(parents=True, exist_ok=True)
        for number in range(num):
            part = draw.uniform(0.5, 1.0) * min(image.width, image.height * width / height)
            left = draw.uniform(0, image.width - part)
            top = draw.uniform(0, image.height - part * height / width)
            box = (left, top, left + part, top + part * height / width)
            resized = image.resize((width, height), box=box)
            resized.save(root / photo.stem / f"{number:03}.jpg", quality=90)
    (root / "done").touch()
    return root


def running() -> set[int]:
    """Returns the processes that this one has started."""
    return {child.pid for child in multiprocessing.active_children() if child.pid}


def send(pids: set[int], number: signal.Signals) -> None:
    """Sends a signal to processes."""
    for pid in pids:
        os.kill(pid, number)


def measured(root: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Returns the throughput of both loops on a folder, and what their batches take alone."""
    images, _ = open_train_val(root)
    hardware = Hardware.of("cpu")
    recipe = dataclasses.replace(
        get_recipe("fine-tune"), batch_size=args.batch_size, resolution=None
    )
    arch = ARCHS[args.model]
    workers = default_workers("cpu", args.batch_size, arch.resolution)
    loops = {
        "ours": throughput.ours(arch, images, recipe, hardware, workers=workers),
        "timm": throughput.timms(arch, images, recipe, hardware),
    }
    train: dict[str, list[float]] = {name: [] for name in loops}
    alone: dict[str, list[float]] = {name: [] for name in loops}
    processes: dict[str, set[int]] = {}
    for name, side in loops.items():
        before = running()
        throughput.timed(side.batches, side.step, 2)
        processes[name] = running() - before
        send(processes[name], signal.SIGSTOP)
    memory = []
    turns = [(train, "step", args.steps), (alone, "made", args.alone_steps)]
    for found, what, steps in turns:
        for _ in range(args.rounds):
            for name, side in loops.items():
                send(processes[name], signal.SIGCONT)
                found[name].append(throughput.timed(side.batches, getattr(side, what), steps))
                send(processes[name], signal.SIGSTOP)
            memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
    for pids in processes.values():
        send(pids, signal.SIGCONT)
    per_s = {
        name: args.steps * args.batch_size / statistics.median(found)
        for name, found in train.items()
    }
    return {
        "workers": {"ours": workers, "timm": throughput.NUM_WORKERS},
        "images_per_s": per_s,
        "ratio": per_s["ours"] / per_s["timm"],
        "ratios": [t / o for o, t in zip(train["ours"], train["timm"], strict=True)],
        "batches_alone_images_per_s": {
            name: args.alone_steps * args.batch_size / statistics.median(found)
            for name, found in alone.items()
        },
        "peak_mb_after_each_round": memory,
        "seconds": train,
    }


def main() -> None:
    """Parses and measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for the photos")
    parser.add_argument("--threads", type=int, choices=(1, 2), default=2)
    parser.add_argument("--model", default="fbnetv3_a", choices=sorted(ARCHS))
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=3, help="of a turn")
    parser.add_argument("--alone-steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=4, help="turns of each loop")
    parser.add_argument("--photos", nargs="+", default=sorted(SIZES), choices=sorted(SIZES))
    parser.add_argument("--out", type=Path, default=RESULTS / "training")
    args = parser.parse_args()
    # Decoding processes inherit it.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    torch.set_num_threads(args.threads)
    found = {kind: measured(write_photos(args.work, kind), args) for kind in args.photos}
    capability = torch.backends.cpu.get_cpu_capability().lower()
    path = args.out / f"photo_throughput_{args.threads}_{capability}.json"
    write(
        path,
        {
            "model": args.model,
            "resolution": ARCHS[args.model].resolution,
            "batch_size": args.batch_size,
            "cores": args.threads,
            "photos": found,
        },
    )
    print(json.dumps(found, indent=1), f"written to {path}", sep="\n")


if __name__ == "__main__":
    main()
