"""The search at ImageNet scale: what it costs, and all its steps with a hundredth of the work.

    python -m benchmarks.studies.imagenet_scale plan --images-per-second 1825 --dollars-per-hour 2
    python -m benchmarks.studies.imagenet_scale dry-run --photos imagenet_sample.zip --work runs/dry

`plan` multiplies the trainings of `fbnetv3-search run --preset paper` by a throughput that you
measured with `python -m benchmarks.training.throughput` for one network; of others it is taken to
be inverse to their multiply-adds. `dry-run` takes an archive or a folder of class folders and runs
the commands of the page `docs/imagenet.md`, with fewer and shorter trainings and the final ones one
by one (`fbnetv3-search finish` makes them together); killed, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.records import RESULTS, write
from fbnetv3.arch.counts import count
from fbnetv3.arch.tables import ARCHS
from fbnetv3.search.cost.cost import costs
from fbnetv3.search.nars.config import SearchConfig
from fbnetv3.search.nars.paper import JOINT
from fbnetv3.search.space.spaces import get_space

IMAGENET_IMAGES, IMAGENET_CLASSES = 1_281_167, 1000
# The paper's: classes and held-out images of its search, epochs of a candidate, the epoch after
# which its joint search stopped them (103 is that of its search for recipes), epochs of a final
# network.
SEARCH_CLASSES, HELD_OUT, EPOCHS, EARLY_EPOCHS, FINAL_EPOCHS = 200, 10_000, 150, 108, 400
PAPER = SearchConfig(**JOINT)
LIMITS = tuple(limit["macs_paper"][1] for limit in PAPER.limits)
# Forward alone, of the three parts that a training step has.
TEACHING = 1 / 3


def gpu_hours(images_per_second: float, network: str, limits: Sequence[float]) -> dict[str, float]:
    """Returns the steps of search and retraining with their GPU hours.

    Args:
        images_per_second: that one GPU trains of `network` at its own input.
        network: name in `tables.ARCHS`.
        limits: on multiply-adds, ascending.
    """
    arch = ARCHS[network]
    macs_per_hour = images_per_second * 3600 * count(arch, arch.resolution).macs_paper
    space = get_space("paper_joint")
    pool = costs(space, space.sample(20_000, np.random.default_rng(0))).as_dict()["macs_paper"]
    least, _ = PAPER.within["macs_paper"]
    candidate = float(pool[(pool >= least) & (pool <= max(limits))].mean())
    plan = PAPER
    images = IMAGENET_IMAGES * SEARCH_CLASSES / IMAGENET_CLASSES - HELD_OUT
    whole = candidate * images * EPOCHS / macs_per_hour
    again = plan.top * (plan.final_seeds - 1) + plan.top * (1 - EARLY_EPOCHS / EPOCHS)
    finals = IMAGENET_IMAGES * FINAL_EPOCHS / macs_per_hour
    return {
        f"first round: {plan.batch} trainings of {EPOCHS} epochs": plan.batch * whole,
        f"{plan.rounds} rounds of {plan.batch}, stopped after {EARLY_EPOCHS} epochs": plan.rounds
        * plan.batch
        * whole
        * EARLY_EPOCHS
        / EPOCHS,
        f"the best of each of {len(limits)} limits, the other epochs": again * len(limits) * whole,
        f"the largest model on labels, {FINAL_EPOCHS} epochs": max(limits) * finals,
        f"all {len(limits)} models distilled from it": (
            sum(limits) + len(limits) * max(limits) * TEACHING
        )
        * finals,
    }


def show_plan(args: argparse.Namespace) -> None:
    """Prints the plan as a Markdown table."""
    hours = gpu_hours(args.images_per_second, args.network, LIMITS)
    print(
        f"One GPU trains {args.images_per_second:g} images/s of {args.network}; "
        f"${args.dollars_per_hour:g} a GPU hour.\n"
    )
    print("| step | GPU hours | dollars |\n|---|---|---|")
    for step, value in {**hours, "total": sum(hours.values())}.items():
        print(f"| {step} | {value:,.0f} | {value * args.dollars_per_hour:,.0f} |")


def make_data(photos: Path, folder: Path) -> None:
    """Makes `train` and `val` of class folders, both of the same photos."""
    if folder.exists():
        return
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    if photos.is_dir():
        shutil.copytree(photos, part / "train")
    else:
        with zipfile.ZipFile(photos) as archive:
            archive.extractall(part / "train")
    for stray in (part / "train").iterdir():
        if stray.is_file():
            stray.unlink()
    shutil.copytree(part / "train", part / "val")
    part.rename(folder)


def steps(work: Path) -> Mapping[str, list[str]]:
    """Returns the commands of the page by what they do, made small; each can be run again."""
    data, answers = str(work / "data"), work / "answers"
    search = [sys.executable, "-m", "fbnetv3.search"]
    train = "--recipe {0}/recipe.json --epochs 1 --batch-size 16 --data {1}"

    def training(number: int, out: Path) -> list[str]:
        answer = answers / str(number)
        options = shlex.split(train.format(shlex.quote(str(answer)), shlex.quote(data)))
        return ["--model", str(answer / "architecture.json"), *options, "--out", str(out)]

    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--nproc-per-node", "2", "-m", "fbnetv3.search.cli_train"]
    finals = {n: work / f"final{n}" for n in (0, 1)}
    cli = [sys.executable, "-m", "fbnetv3"]
    begun = (work / "search" / "search.sqlite").exists()
    start = [*search, "resume", str(work / "search")] if begun else [
        *search, "run", str(work / "search"), "--space", "paper_joint", "--data", data,
        "--limit", "macs<=4e8", "--limit", "macs<=6e8", "--pool", "2000", "--batch", "4",
        "--rounds", "2", "--top", "2", "--final-seeds", "2", "--epochs", "2",
        "--set", "num_classes=200", "--set", "num_val=40", "--set", "num_train=64",
        "--set", 'recipe={"batch_size": 8}',
    ]  # fmt: skip
    return {
        "search": start,
        "report": [*search, "report", str(work / "search")],
        "answers": [*search, "export", str(work / "search"), "--out", str(answers)],
        "first step: the largest, with labels, two processes": [
            *torchrun,
            *training(1, work / "teacher"),
        ],
        **{
            f"second step: limit {n}, distilled": [
                *[*cli, "train", *training(n, out)],
                *["--teacher", f"local-dir:{work / 'teacher'}"],
            ]
            for n, out in finals.items()
        },
        "eval": [*cli, "eval", f"local-dir:{finals[0]}", "--data", f"{data}/val", "--json"],
        "export": [*cli, "export", f"local-dir:{finals[0]}", "-o", str(work / "final0.onnx")],
    }


def dry_run(args: argparse.Namespace) -> None:
    """Runs every step; a step that fails ends it."""
    args.work.mkdir(parents=True, exist_ok=True)
    make_data(args.photos, args.work / "data")
    seconds = {}
    for name, command in steps(args.work).items():
        print(f"# {name}\n$ {shlex.join(command)}", flush=True)
        began = time.perf_counter()
        subprocess.run(command, check=True)
        seconds[name] = round(time.perf_counter() - began, 1)
    write(RESULTS / "nars_cifar" / "imagenet_dry_run.json", {"seconds": seconds})
    print(json.dumps(seconds, indent=1))


def main() -> None:
    """Parses and carries out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("plan", help="trainings, GPU hours, dollars")
    one.add_argument("--images-per-second", type=float, required=True)
    one.add_argument("--network", default="fbnetv3_b", choices=sorted(ARCHS))
    one.add_argument("--dollars-per-hour", type=float, default=0.0)
    one.set_defaults(call=show_plan)
    two = commands.add_parser("dry-run", help="every step, small")
    two.add_argument(
        "--photos", type=Path, required=True, help="archive or folder of class folders"
    )
    two.add_argument("--work", type=Path, required=True)
    two.set_defaults(call=dry_run)
    args = parser.parse_args()
    args.call(args)


if __name__ == "__main__":
    main()
