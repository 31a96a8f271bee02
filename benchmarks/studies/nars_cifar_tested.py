"""What the arms of `nars_cifar_final` found, on the 10,000 test images that no arm saw.

    python -m benchmarks.studies.nars_cifar_tested --data cifar-10-batches-py --work runs/final

Each candidate that an arm trained in full with three seeds, its last stage, is judged by the
weights that the search kept; nothing is trained. An arm's answer is the candidate with the best
mean on its own 5,000 held-out images. Writes results/nars_cifar/final/tested.jsonl, and tested.md
from it. Half a minute for each arm.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.conditions import conditions
from benchmarks.records import append, read_lines
from fbnetv3.search.data.datasets import open_images
from fbnetv3.search.data.image_set import ImageSet
from fbnetv3.search.execution.spec import space_of
from fbnetv3.search.execution.train_objective import weights_name
from fbnetv3.search.storage.store import Store
from fbnetv3.search.training.evaluate import evaluate
from fbnetv3.search.training.networks import open_network

from .nars_cifar_final import ARMS, KEPT
from .training_ablation import spread

LINES = KEPT / "tested.jsonl"
SEEDS = 3


def candidates(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Returns the full trainings of each candidate that has all seeds, by the candidate's name."""
    found: dict[str, list[dict[str, Any]]] = {}
    with Store.read(folder) as store:
        space = space_of(store.settings)
        for trial in store.trials("done"):
            if trial.fidelity < 1:
                continue
            name, seed = weights_name(space, trial.genes, trial.seed).rsplit("-", 1)
            found.setdefault(name, []).append(
                {
                    "candidate": name,
                    "seed": int(seed),
                    "values": space.values(np.array(trial.genes)),
                    "macs": int(trial.costs["macs_paper"]),
                    "params": int(trial.costs["params"]),
                    "val_top1_pct": store.curve(trial.seq)[-1],
                }
            )
    return {name: rows for name, rows in found.items() if len(rows) >= SEEDS}


def tested(arm: str, work: Path, images: ImageSet, done: set[str]) -> Iterator[dict[str, Any]]:
    """Yields a record of each training of an arm that has none yet."""
    for rows in candidates(work / arm).values():
        for row in rows:
            folder = work / arm / "checkpoints" / f"{row['candidate']}-{row['seed']}"
            if f"{arm}/{folder.name}" in done:
                continue
            found = evaluate(open_network(f"local-dir:{folder}"), images)
            yield {
                "arm": arm,
                **row,
                "top1_pct": round(found.top1, 2),
                "num_test": found.num_images,
                "conditions": conditions(),
            }


def by_candidate(rows: list[dict[str, Any]], arm: str) -> list[list[dict[str, Any]]]:
    """Returns an arm's candidates, each its trainings in the order of seeds; the answer first."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["seed"]):
        if row["arm"] == arm:
            groups.setdefault(row["candidate"], []).append(row)
    return sorted(groups.values(), key=_judged, reverse=True)


def _judged(rows: list[dict[str, Any]]) -> float:
    return statistics.mean([float(row["val_top1_pct"]) for row in rows])


def page(rows: list[dict[str, Any]]) -> str:
    """Returns the tables as Markdown."""
    arms = [arm for arm in ARMS if any(row["arm"] == arm for row in rows)]
    lines = [
        "# Found at the length that counts, tested",
        "",
        "Written by `python -m benchmarks.studies.nars_cifar_tested`. Top-1 in percent; "
        "validation: the 5,000 images that the search judged by; test: the 10,000 that "
        "none saw. Every line has three seeds; an arm's first is its answer.",
        "",
        "| arm | MACs (M) | parameters | validation | test, by seed | test, mean |",
        "|---|---|---|---|---|---|",
    ]
    for arm in arms:
        for one in by_candidate(rows, arm):
            seeds = ", ".join(f"{row['top1_pct']:.2f}" for row in one)
            mean = spread([row["top1_pct"] for row in one])
            lines.append(
                f"| `{arm}` | {one[0]['macs'] / 1e6:.2f} | {one[0]['params']:,} "
                f"| {_judged(one):.2f} | {seeds} | {mean['mean']:.2f} ± {mean['reach']:.2f} |"
            )
    if len(arms) > 1:
        lines += [
            "",
            f"What the answer of `{arms[0]}` has more than that of another arm, paired by seed, "
            "with half of its 95 % interval over seeds:",
            "",
            "| arm | difference in points |",
            "|---|---|",
        ]
        ours = by_candidate(rows, arms[0])[0]
        for arm in arms[1:]:
            pairs = zip(ours, by_candidate(rows, arm)[0], strict=True)
            more = spread([one["top1_pct"] - other["top1_pct"] for one, other in pairs])
            lines.append(f"| `{arm}` | {more['mean']:+.2f} ± {more['reach']:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Judges what has ended, then writes the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    images = open_images(args.data, split="val")
    done = {f"{row['arm']}/{row['candidate']}-{row['seed']}" for row in read_lines(LINES)}
    for arm in ARMS:
        if not (args.work / arm / "search.json").is_file():
            continue
        for row in tested(arm, args.work, images, done):
            append(LINES, [row])
            print(
                f"{arm} {row['candidate']} seed {row['seed']}: {row['top1_pct']:.2f} %", flush=True
            )
    text = page(read_lines(LINES))
    (KEPT / "tested.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
