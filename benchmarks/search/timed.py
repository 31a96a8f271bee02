"""Whether a search with a budget in time takes that time: `fbnetv3-search run --time`.

    python -m benchmarks.search.timed --data DIR/cifar-10-batches-py --time 20m --work runs/timed

Networks and recipes of `cifar_joint` within 1.5 M multiply-adds, one epoch of CIFAR-10 as the full
training. The command runs as a user starts it, and its whole time counts, also what it takes to
start. `--objective FILE:NAME` measures another objective in place of `--data`. Writes
results/search/timed.json; ends with 1 if the time differs by more than 15 % from the one given.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.records import RESULTS, write
from fbnetv3.search.nars.budget import parse_time
from fbnetv3.search.nars.spending import spent_of
from fbnetv3.search.storage.store import Store

TOLERANCE = 0.15


def took(store: Store) -> list[dict[str, Any]]:
    """Returns number and seconds of the trainings of each kind and length."""
    kinds = {batch.number: batch.kind for batch in store.batches()}
    groups: dict[tuple[str, float], list[float]] = {}
    for trial in store.trials("done"):
        if trial.started is not None and trial.ended is not None:
            kind = kinds[trial.batch] if kinds[trial.batch] in ("measure", "final") else "rounds"
            groups.setdefault((kind, trial.fidelity), []).append(trial.ended - trial.started)
    return [
        {
            "kind": kind,
            "fidelity": fidelity,
            "trainings": len(seconds),
            "mean_s": round(statistics.mean(seconds), 3),
            "max_s": round(max(seconds), 3),
        }
        for (kind, fidelity), seconds in groups.items()
    ]


def main() -> int:
    """Runs the search, compares, writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", type=Path)
    what.add_argument("--objective")
    parser.add_argument("--time", default="20m")
    parser.add_argument("--work", type=Path, required=True, help="a new folder, for the search")
    parser.add_argument("--num-train", type=int, help="images of an epoch, fewer than all")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / "search" / "timed.json")
    args = parser.parse_args()
    command = [
        *(sys.executable, "-m", "fbnetv3.search", "run", str(args.work)),
        *("--space", "cifar_joint", "--limit", "macs<=1.5e6"),
        *("--time", args.time, "--workers", str(args.workers)),
    ]
    if args.data is not None:
        command += ["--data", str(args.data), "--epochs", "1"]
        command += ["--set", f"num_train={args.num_train}"] if args.num_train else []
    else:
        command += ["--objective", args.objective]
    planned_s, begun = parse_time(args.time), time.monotonic()
    subprocess.run(command, check=True)
    real_s = time.monotonic() - begun
    spent = spent_of(args.work) or {}
    with Store.read(args.work) as store:
        groups = took(store)
    ratio = real_s / planned_s
    found = {
        "what": "timed",
        "objective": "CIFAR-10, one epoch" if args.data is not None else Path(args.objective).name,
        "num_train": args.num_train,
        "workers": args.workers,
        "planned_s": planned_s,
        "real_s": round(real_s, 1),
        "ratio": round(ratio, 4),
        "within_15_percent": abs(ratio - 1) <= TOLERANCE,
        "before_the_clock_s": round(real_s - float(spent["spent_s"]), 1),
        "setup_s": round(float(spent["setup_s"]), 1),
        "between_rounds_s": [round(wait, 1) for wait in spent["between_s"]],
        "measured_s": spent["seconds"],
        "trainings": groups,
    }
    print(json.dumps(found, indent=1))
    write(args.out, found)
    return 0 if found["within_15_percent"] else 1


if __name__ == "__main__":
    sys.exit(main())
