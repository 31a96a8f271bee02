"""What is left on the table by searching networks and recipes apart, whatever the searcher.

    python -m benchmarks.search.joint --out benchmarks/results/search/joint.json

The fixed part is that of the best of ten random trainings. The other part is then chosen
perfectly, by the truth, as no real search can; one after the other does so for the network first,
then for the recipe. The regrets are lower bounds of every such search, and what a joint search
must stay below to be worth it. Runs in seconds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.records import write
from fbnetv3.search.execution.objective import TableObjective

from .truths import TRUTHS, load

WAYS = {"arch_only": ("arch",), "recipe_only": ("recipe",), "arch_then_recipe": ("arch", "recipe")}
TABLES = tuple(name for name in TRUTHS if name.startswith(("fcnet", "jahs")))


def best_within(table: TableObjective, start: int, groups: tuple[str, ...]) -> float:
    """Returns the best truth that perfect choices of some groups, in turn, lead to."""
    truth, here = table.truth(), start
    for group in groups:
        fixed = [n for n, gene in enumerate(table.space.genes) if gene.group != group]
        same = np.flatnonzero((table.rows[:, fixed] == table.rows[here, fixed]).all(1))
        here = int(same[np.argmax(truth[same])])
    return float(truth[here])


def measure(name: str, seeds: int) -> dict[str, Any]:
    """Returns mean regret of each way, with a 95 % bootstrap interval over seeds."""
    table = load(name)
    truth = table.truth()
    gaps: dict[str, list[float]] = {way: [] for way in WAYS}
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        drawn = rng.choice(len(truth), 10, replace=False)
        start = int(drawn[np.argmax(table.labels[drawn, 0, -1])])
        for way, groups in WAYS.items():
            gaps[way].append(float(truth.max()) - best_within(table, start, groups))
    return {way: _interval(np.array(values)) for way, values in gaps.items()}


def _interval(values: npt.NDArray[np.float64]) -> dict[str, float]:
    draws = np.random.default_rng(0).integers(len(values), size=(10_000, len(values)))
    low, high = np.percentile(values[draws].mean(1), (2.5, 97.5))
    return {"mean": round(float(values.mean()), 4), "low": round(float(low), 4),
            "high": round(float(high), 4)}  # fmt: skip


def main() -> None:
    """Parses, measures, writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--seeds", type=int, default=100)
    args = parser.parse_args()
    found = {name: measure(name, args.seeds) for name in args.tables}
    print(json.dumps(found, indent=1))
    if args.out is not None:
        write(args.out, {"seeds": args.seeds, "regret": found})


if __name__ == "__main__":
    main()
