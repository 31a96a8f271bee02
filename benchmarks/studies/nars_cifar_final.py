r"""Searches on CIFAR-10 whose full training is the one that counts, arms at equal cost.

    python -m benchmarks.studies.nars_cifar_final search --arm joint --data cifar-10-batches-py \
        --work runs/final
    python -m benchmarks.studies.nars_cifar_final keep --work runs/final

A full training is ten epochs of 45,000 training images (7,040 steps of 64), judged on the other
5,000; the limit is 2.25 million multiply-adds (m of `nars_cifar`). Every arm has the same budget in
full trainings, and none sees a test image:

* `joint`: the search's defaults for a budget, over networks and recipes, with a person's recipe as
  prior. A tenth of the budget goes to trainings of 1/32 of the steps.
* `networks`: the same over networks alone, all with the person's recipe.
* `random`: candidates of the joint space at random, all in full.

An arm takes hours of a core. `keep` writes what it has so far to results/nars_cifar/final/: a line
for each finished training, and the search's files, with which `search` goes on elsewhere.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.records import RESULTS
from fbnetv3.search.execution.spec import space_of
from fbnetv3.search.storage.store import Store

from .nars_cifar import HAND_RECIPE, LIMITS, arch_only

KEPT = RESULTS / "nars_cifar" / "final"
COST, LAST = 40, 9
# The budget of `random`, without rungs: the last stage is as large as that of `joint`.
ARMS: dict[str, list[str]] = {
    "joint": ["--space", "cifar_joint", "--cost", str(COST), "--prior", "hand.json"],
    "networks": ["--space", "networks.json", "--cost", str(COST)],
    "random": (
        f"--space cifar_joint --batch {COST - LAST} --rounds 0 --no-early-stop "
        "--top 3 --final-seeds 3"
    ).split(),
}
TRAINING = ["--epochs", "10", "--set", "num_train=45000", "--set", "num_val=5000"]
TRAINING += ["--set", 'recipe={"batch_size": 64}', "--limit", f"macs<={LIMITS['m']:g}"]
# What a search is made again from, beside its settings.
_FILES = ("pretrained.safetensors", "batches", "trials")
# Stands for a folder of the machine in what is kept.
_ELSEWHERE = "."


def command(arm: str, data: Path, work: Path) -> list[str]:
    """Returns the command that starts an arm, or goes on with one that has begun.

    Raises:
        ValueError: a kept search cannot be made again.
    """
    folder = work / arm
    tool = [sys.executable, "-m", "fbnetv3.search"]
    kept = KEPT / f"{arm}.tar.xz"
    if not folder.exists() and kept.exists():
        unpack(kept, data, folder)
    if folder.exists():
        return [*tool, "resume", str(folder)]
    work.mkdir(parents=True, exist_ok=True)
    (work / "hand.json").write_text(json.dumps(HAND_RECIPE))
    (work / "networks.json").write_text(arch_only().to_json())
    options = [str(work / one) if one.endswith(".json") else one for one in ARMS[arm]]
    return [*tool, "run", str(folder), "--data", str(data.resolve()), *TRAINING, *options]


def pack(folder: Path, path: Path) -> None:
    """Writes a search's files without checkpoints and without the machine's folders."""
    settings = json.loads((folder / "search.json").read_bytes())
    settings["objective"] |= {"data": _ELSEWHERE, "checkpoints": _ELSEWHERE}
    settings.pop("call", None)
    content = json.dumps(settings, indent=1).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:xz") as tar:
        info = tarfile.TarInfo("search.json")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
        for name in _FILES:
            for one in sorted((folder / name).rglob("*")) or [folder / name]:
                if one.is_file() and one.name != "heartbeat":
                    tar.add(one, one.relative_to(folder), filter=_anonymous)


def _anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


def unpack(path: Path, data: Path, folder: Path) -> None:
    """Makes a search's folder again, to go on with it."""
    folder.mkdir(parents=True)
    with tarfile.open(path) as tar:
        tar.extractall(folder, filter="data")
    settings = json.loads((folder / "search.json").read_bytes())
    settings["objective"] |= {
        "data": str(data.resolve()),
        "checkpoints": str((folder / "checkpoints").resolve()),
    }
    (folder / "search.json").write_text(json.dumps(settings, indent=1))
    Store.rebuild(folder).close()


def lines_of(folder: Path, arm: str) -> list[dict[str, Any]]:
    """Returns a record of each finished training of a search, in the order of their proposal."""
    with Store.read(folder) as store:
        space = space_of(store.settings)
        kinds = {batch.number: batch.kind for batch in store.batches()}
        return [
            {
                "arm": arm,
                "space": space.name,
                "seed": trial.seed,
                "kind": kinds[trial.batch],
                "round": trial.batch,
                "share": trial.fidelity,
                "values": space.values(np.array(trial.genes)),
                "macs": int(trial.costs["macs_paper"]),
                "params": int(trial.costs["params"]),
                "curve": list(store.curve(trial.seq)),
                "seconds": round(trial.ended - trial.started, 1)
                if trial.ended and trial.started
                else None,
            }
            for trial in store.trials("done")
        ]


def keep(work: Path) -> None:
    """Writes what all arms in a folder have so far."""
    for arm in ARMS:
        folder = work / arm
        if not (folder / "search.json").is_file():
            continue
        pack(folder, KEPT / f"{arm}.tar.xz")
        lines = lines_of(folder, arm)
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (KEPT / f"{arm}.jsonl").write_text(text)
        print(f"{arm}: {len(lines)} trainings")


def main() -> None:
    """Parses and carries out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("action", choices=("search", "keep"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--arm", choices=ARMS)
    parser.add_argument("--data", type=Path)
    args = parser.parse_args()
    if args.action == "keep":
        keep(args.work)
        return
    if args.arm is None or args.data is None:
        parser.error("search needs --arm and --data")
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(subprocess.run(command(args.arm, args.data, args.work), check=False).returncode)


if __name__ == "__main__":
    main()
