"""Measures the search at small budgets, where how it divides them into rounds matters most.

    python -m benchmarks.search.budgets --tables macro jahs --budgets 24 48 96 240 --seeds 6

Every method plans for its budget, so that each budget is a run of its own. `adaptive` is the rule
of `SearchConfig.trainings` within one limit, with the Gaussian process, and `adaptive_bins` the one
without a limit; `rounds_48` and `rounds_12` are rounds of
equal size by the paper's bins and the predicted mean. Each run appends one line to
benchmarks/results/search/budgets.jsonl; what is there already is not run again. It prints the mean
regret of all lines. Protocol as in `compare`: problem U has no limit, C the 40th percentile of
cost.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.records import append, read_lines
from fbnetv3.search.nars.config import SearchConfig
from fbnetv3.search.nars.selection import Optimism, select_batch

from .compare import OUT, limits_of, missing, regret
from .nars_on_table import Nars
from .peers import METHODS
from .table_task import Method, Task, run
from .truths import TRUTHS, load

PATH = OUT / "budgets.jsonl"
KEYS = ("table", "problem", "method", "budget", "seed")


@dataclass(frozen=True)
class Rounds:
    """A search in rounds, without stage 3.

    Attributes:
        batch: trials of every round; 0: as `SearchConfig.trainings` has it.
        kind: predictor.
        bins: as in `select_batch`.
        optimistic: whether picks add multiples of the standard deviation.
    """

    batch: int = 0
    kind: str = "gp"
    bins: str = "none"
    optimistic: bool = True

    def __call__(self, task: Task) -> None:
        """Trains rounds until the budget is spent."""
        predictor, pool = Nars(kind=self.kind).begin(task)
        name = "macs" if "macs" in task.table.known else next(iter(task.table.known))
        batch = min(self.batch, task.budget)
        sizes = (
            (batch,) * -(-task.budget // batch)
            if batch
            else SearchConfig(trainings=task.budget).sizes
        )
        for index in task.rng.permutation(pool)[: sizes[0]]:
            task.train(int(index))
        for size in sizes[1:]:
            predictor.fit(task.rows[task.trained], np.array(task.labels))
            found = predictor.predict(task.rows[pool])
            chosen = select_batch(
                found.mean,
                task.table.known[name][pool],
                num=size,
                bins=self.bins,
                taken=task.taken()[pool],
                optimism=Optimism(found.std, int(task.spent)) if self.optimistic else None,
            )
            for index in pool[chosen.indices]:
                task.train(int(index))


RULES: Mapping[str, Method] = {
    "random": METHODS["random"],
    "evolution": METHODS["evolution"],
    "gp_ei_8": METHODS["gp_ei_8"],
    "rounds_48": Rounds(48, bins="equal", optimistic=False),
    "rounds_12": Rounds(12, bins="equal", optimistic=False),
    "adaptive": Rounds(),
    "adaptive_mean": Rounds(optimistic=False),
    "adaptive_bins": Rounds(bins="equal"),
    "adaptive_auto": Rounds(kind="auto"),
}


def search_once(name: str, problem: str, method: str, budget: int, seed: int) -> dict[str, Any]:
    """Returns the record of one run."""
    table, began = load(name), time.process_time()
    task = Task(table, limits_of(table, problem), budget, seed)
    run(RULES[method], task)
    return {
        **dict(zip(KEYS, (name, problem, method, budget, seed), strict=True)),
        "regret": regret(task, task.trained, task.labels),
        "top5": regret(task, task.trained, task.labels, top=5),
        "cpu_s": round(time.process_time() - began, 2),
    }


def summary() -> str:
    """Returns a table of the mean regret, its standard error and the number of runs."""
    cells: dict[tuple[Any, ...], list[float]] = {}
    for line in read_lines(PATH):
        cells.setdefault(tuple(line[key] for key in KEYS[:-1]), []).append(line["regret"])
    return "\n".join(
        f"| {' | '.join(map(str, key))} | {np.mean(values):.3f} | "
        f"{np.std(values) / len(values) ** 0.5:.3f} | {len(values)} |"
        for key, values in sorted(cells.items(), key=lambda cell: str(cell[0]))
    )


def main() -> None:
    """Parses, measures, saves."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tables", nargs="*", choices=list(TRUTHS), default=list(TRUTHS))
    parser.add_argument("--problems", nargs="+", choices=("U", "C"), default=["U"])
    parser.add_argument("--methods", nargs="+", choices=list(RULES), default=list(RULES))
    parser.add_argument("--budgets", nargs="+", type=int, default=[24, 48, 96, 240])
    parser.add_argument("--seeds", type=int, default=6)
    given = parser.parse_args()
    torch.set_num_threads(1)
    wanted = [
        (table, problem, method, budget, seed)
        for table in given.tables
        for problem in given.problems
        for budget in given.budgets
        for method in given.methods
        for seed in range(given.seeds)
    ]
    for job in missing(PATH, wanted, KEYS):
        append(PATH, [search_once(*job)])
    print(summary())


if __name__ == "__main__":
    main()
