r"""Detectors trained from scratch on a small set of photos: our trunks beside torchvision's own.

    python -m benchmarks.detection.trained run FOLDER --work W \
        --out benchmarks/results/detection_trained.jsonl
    python -m benchmarks.detection.trained report benchmarks/results/detection_trained.jsonl

FOLDER has splits to train on and to test on, in any layout that `fbnetv3 detect train` reads. The
published results are of BCCD (364 photos of blood cells with boxes, MIT license): the folder `BCCD`
of https://github.com/Shenggan/BCCD_Dataset at d272fb1.

No trunk is pretrained, since trained weights of all of them cannot be had from one source: each
starts from its own initialisation, sees the same images in the same order under the same recipe
(the command's defaults, whose learning rate used to be 0.001), and the last epoch's averaged
weights are scored once on the test split, which nothing was chosen on. The peer is torchvision's
complete `ssdlite320_mobilenet_v3_large`, at the same size of images and with the same limits of
boxes. What differs between detectors is the trunk, its maps and the initialisation.

A run that was stopped goes on; finished ones are not repeated. `cpu_seconds` is time of the
processor, which a busy machine inflates little.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.conditions import conditions
from benchmarks.records import append, read_lines
from fbnetv3.detection.data import open_train_val
from fbnetv3.detection.detectors import BuiltDetector, TorchDetector, new_detector
from fbnetv3.detection.recipe import DetectionRecipe
from fbnetv3.detection.scoring import evaluate
from fbnetv3.detection.training import DetectionLog, DetectionRun, train
from fbnetv3.integrations.coco_folder import CocoFolder

TRUNKS = ("fbnetv3_a", "torchvision:mobilenet_v3_large")
# Of torchvision's SSDlite; the others get the same.
LIMITS = {"score_thresh": 0.001, "detections_per_img": 300, "topk_candidates": 300}


def build(options: argparse.Namespace, trunk: str, names: Sequence[str]) -> BuiltDetector:
    """Returns a fresh detector; the caller has seeded torch."""
    built = new_detector(options.detector, trunk, names, pretrained=False, size=options.size)
    if options.detector == "ssdlite":
        for name, value in LIMITS.items():
            setattr(built.module, name, value)
    return built


def cost_of(built: BuiltDetector) -> dict[str, int]:
    """Returns the multiply-adds of an image, and the parameters."""
    built.module.eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        built.module([torch.rand(3, 480, 640, generator=torch.Generator().manual_seed(0))])
    params = sum(p.numel() for p in built.module.parameters())
    return {"macs": counter.get_total_flops() // 2, "params": params}


def run_one(options: argparse.Namespace, trunk: str, seed: int) -> dict[str, Any]:
    """Trains a detector, or goes on with it, and scores it on the test split."""
    images, val_images = open_train_val(options.folder)
    test_images = CocoFolder(options.folder, split="test", empty=True)
    recipe = DetectionRecipe.fitting(
        len(images),
        detector=options.detector,
        epochs=options.epochs,
        batch_size=options.batch_size,
        seed=seed,
    )
    torch.manual_seed(seed)
    built = build(options, trunk, images.class_names)
    about = cost_of(built)
    name = f"{options.detector}-{trunk.replace(':', '-')}-{options.size}-{options.epochs}-{seed}"
    folder = options.work / name
    clock = folder / "cpu_seconds.json"
    spent = json.loads(clock.read_text()) if clock.is_file() else 0.0
    started = time.process_time()

    def on_epoch(log: DetectionLog) -> None:
        clock.write_text(json.dumps(spent + time.process_time() - started))
        print(f"{trunk} seed {seed} {log.line()}", flush=True)

    about_run = DetectionRun(recipe=recipe, folder=folder, validate_epochs=options.epochs)
    averaged, curve = train(built, images, val_images, about_run, on_epoch=on_epoch)
    cpu_seconds = spent + time.process_time() - started
    scores = evaluate(TorchDetector(averaged), test_images)
    return {
        "detector": options.detector,
        "trunk": trunk,
        "seed": seed,
        "size": options.size,
        "epochs": options.epochs,
        "images_seen": options.epochs * (len(images) // recipe.batch_size) * recipe.batch_size,
        "num_train": len(images),
        "num_test": len(test_images),
        **about,
        "recipe": recipe.to_dict(),
        "loss": curve[-1].loss,
        "cpu_seconds": round(cpu_seconds, 1),
        "scores": scores.values,
        "intervals": scores.intervals,
        "ap_of_classes": {one.name: one.ap for one in scores.classes},
    }


def run(options: argparse.Namespace) -> None:
    """Trains what is not in the file yet, seed by seed."""
    torch.set_num_threads(options.threads)
    num = options.batch_size
    lr = DetectionRecipe.fitting(num, detector=options.detector, batch_size=num).lr
    done = {
        (row["detector"], row["trunk"], row["seed"], row["size"], row["epochs"])
        for row in read_lines(options.out)
        if row["recipe"]["lr"] == lr
    }
    for seed in range(options.seeds):
        for trunk in options.trunks:
            if (options.detector, trunk, seed, options.size, options.epochs) in done:
                continue
            row = run_one(options, trunk, seed)
            append(options.out, [{**row, "conditions": conditions()}])
            low, high = row["intervals"]["AP"]
            print(
                f"{trunk} seed {seed}: AP {100 * row['scores']['AP']:.1f} % "
                f"[{100 * low:.1f}, {100 * high:.1f}], {row['cpu_seconds']:.0f} s",
                flush=True,
            )


def report(options: argparse.Namespace) -> None:
    """Writes the table beside the results."""
    page = options.results.with_suffix(".md")
    page.write_text(table(read_lines(options.results)))
    print(page.read_text())


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns the page: a line for each detector and trunk, over its seeds."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("detector", "size", "epochs", "trunk"))
        key += (row["recipe"]["lr"],)
        groups.setdefault(key, []).append(row)
    first = rows[0]
    where = first["conditions"]
    lines = [
        "# Detectors trained from scratch on a small set",
        "",
        f"{first['num_train']} photos to train and {first['num_test']} to test. Written by "
        "`python -m benchmarks.detection.trained report`; its module says what was trained and "
        "how. AP is COCO's average precision in percent, the mean over the seeds with the lowest "
        "and highest, then the mean 95 % interval of one run (a bootstrap over the test photos). "
        "Training time is of one core of a machine that was busy with other work.",
        "",
        "| Detector | Pixels | Epochs | Trunk | Learning rate | AP (seeds) | 95 % interval | AP50 "
        "| Seeds | Multiply-adds (M) | Parameters (M) | Training (core minutes) |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (detector, size, epochs, trunk, lr), group in sorted(
        groups.items(), key=lambda g: str(g[0])
    ):
        ap = [100 * row["scores"]["AP"] for row in group]
        low, high = (
            statistics.mean(100 * row["intervals"]["AP"][side] for row in group) for side in (0, 1)
        )
        ap50 = statistics.mean(100 * row["scores"]["AP50"] for row in group)
        minutes = statistics.mean(row["cpu_seconds"] for row in group) / 60
        lines.append(
            f"| {detector} | {size} | {epochs} | {trunk} | {lr:.3g} | {statistics.mean(ap):.1f} "
            f"({min(ap):.1f} to {max(ap):.1f}) | {low:.1f} to {high:.1f} | {ap50:.1f} "
            f"| {len(group)} | {group[0]['macs'] / 1e6:.0f} | {group[0]['params'] / 1e6:.2f} "
            f"| {minutes:.1f} |"
        )
    classes = list(first["ap_of_classes"])
    lines += [
        "",
        f"| Detector, trunk, learning rate | {' | '.join(f'AP of {name}' for name in classes)} |",
    ]
    lines.append("| --- |" + " --- |" * len(classes))
    for (detector, size, epochs, trunk, lr), group in sorted(
        groups.items(), key=lambda g: str(g[0])
    ):
        means = [
            statistics.mean(100 * (row["ap_of_classes"][name] or 0) for row in group)
            for name in classes
        ]
        texts = " | ".join(f"{one:.1f}" for one in means)
        lines.append(f"| {detector} {size}, {epochs} epochs, {trunk}, {lr:.3g} | {texts} |")
    versions = ", ".join(f"{key} {where[key]}" for key in ("torch", "torchvision") if key in where)
    lines += ["", f"Measured with {versions}; the results hold machine and commit.", ""]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses and runs a command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    ran = commands.add_parser("run", help=run.__doc__)
    ran.set_defaults(command=run)
    ran.add_argument("folder", type=Path)
    ran.add_argument("--work", type=Path, required=True, help="folder for checkpoints")
    ran.add_argument("--out", type=Path, required=True, help="JSON Lines, appended to")
    ran.add_argument("--detector", choices=("ssdlite", "faster_rcnn_320"), default="ssdlite")
    ran.add_argument("--trunks", nargs="+", default=list(TRUNKS))
    ran.add_argument("--size", type=int, default=160)
    ran.add_argument("--epochs", type=int, default=20)
    ran.add_argument("--batch-size", type=int, default=8)
    ran.add_argument("--seeds", type=int, default=3)
    ran.add_argument("--threads", type=int, default=1)
    shown = commands.add_parser("report", help=report.__doc__)
    shown.set_defaults(command=report)
    shown.add_argument("results", type=Path)
    options = parser.parse_args(arguments)
    options.command(options)


if __name__ == "__main__":
    main()
