"""Measures the product and its peers on wide spaces that no table can list; resumable.

    python -m benchmarks.search.wide --families even32 few64 --budgets 24 48 --seeds 8
    python -m benchmarks.search.wide --report

`ours` is `fbnetv3.search.run(space, train, trainings=N)` with `cost` and `limits` where a family
has them, and nothing else: a search of its own for each budget. Peers are those of `budgets`, under
the rule of `table_task`: they may look at 20,000 random candidates and at any that they make of
them, and one is run for the largest budget. Seeds draw functions, see `wide_truths`, so that the
spread is also that of functions. Lines go to benchmarks/results/search/wide.jsonl, the page to
wide.md.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.records import SEARCH_PAGE, append, read_lines, write_block
from fbnetv3 import search
from fbnetv3.search.nars.limit import Limit
from fbnetv3.search.space.space import Floats, Matrix, Space

from .budget_report import METHODS as NAMES
from .budget_report import beside, block, relative, text_of
from .compare import OUT
from .peers import METHODS
from .table_task import POOL, Ints, Task, run
from .wide_truths import FAMILIES, Wide, wide

PATH = OUT / "wide.jsonl"
KEYS = ("table", "method", "budget", "seed")
PEERS = ("random", "evolution", "optuna_tpe_multivariate", "optuna_gp", "gp_ei_1", "gp_ei_8")
BUDGETS = (24, 48, 96, 240)
# What peers may make of the candidates that they look at first.
ROOM = 400_000


class OpenTable:
    """The candidates of a function that were looked at, as the part of a table that peers use.

    Arrays have room for more candidates, and `find` adds those that are asked for.

    Attributes:
        space: the search space.
        target: as of `TableObjective`.
        rows: (ROOM, num_genes).
        known: cost -> (ROOM,), NaN where no candidate is.
    """

    target = "log_error"

    def __init__(self, made: Wide, seed: int) -> None:
        self.made, self.space, self._seed = made, made.space, seed
        self.rows: Matrix = np.zeros((ROOM, len(self.space.genes)), np.int16)
        names = made.costs(self.space.sample(1, np.random.default_rng(0)))
        self.known: dict[str, Floats] = {name: np.full(ROOM, np.nan) for name in names}
        self.inside = np.zeros(ROOM, np.bool_)
        self._index: dict[int, int] = {}
        self.find(self.space.sample(POOL, np.random.default_rng([seed, 8])))

    def find(self, rows: Matrix) -> Ints:
        """Returns the index of each candidate (P, num_genes), adding those that are new."""
        rows = self.space.canonical(rows)
        hashes = [int(one) for one in self.space.hashes(rows)]
        fresh = {one: n for n, one in enumerate(hashes) if one not in self._index}
        if fresh:
            first, new = len(self._index), rows[list(fresh.values())]
            places = np.arange(first, first + len(new))
            self.rows[places] = new
            costs = self.made.costs(new)
            for name, values in costs.items():
                self.known[name][places] = values
            self.inside[places] = Limit(self.made.limit).violation(costs) == 0 if costs else True
            self._index |= dict(zip(fresh, places.tolist(), strict=True))
        return np.array([self._index[one] for one in hashes])

    def costs(self, rows: Matrix) -> dict[str, Floats]:
        """Returns name -> (P,)."""
        return self.made.costs(rows)


class OpenTask(Task):
    """A task whose candidates are not listed."""

    table: Any

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.inside = [self.table.inside]
        self.feasible = self.table.inside
        self.known: dict[int, float] = {}
        self.reached: dict[int, int] = {}

    def _learn(self, index: int) -> float:
        if index not in self.known:
            row = self.rows[[index]]
            self.known[index] = float(self.table.made.label(row, self.seed)[0])
            self.trained.append(index)
            self.labels.append(self.known[index])
            self.paid.append(self.spent)
        return self.known[index]


class Job(NamedTuple):
    """A run of a method, for one budget or, if it does not plan, for several."""

    family: str
    method: str
    budgets: tuple[int, ...]
    seed: int


@lru_cache(maxsize=1)
def _made(family: str, seed: int) -> Wide:
    return wide(family, seed)


def run_job(job: Job) -> Iterator[dict[str, Any]]:
    """Yields a record for each budget of a job."""
    made, began = _made(job.family, job.seed), time.process_time()
    if job.method == "ours":
        (budget,) = job.budgets
        answers = {budget: _ours(made, budget, job.seed)}
    else:
        # The part of a table that peers use.
        table: Any = OpenTable(made, job.seed)
        task = OpenTask(table, [Limit(made.limit)], max(job.budgets), job.seed)
        run(METHODS[job.method], task)
        answers = {}
        for budget in job.budgets:
            count = int((np.array(task.paid) <= budget).sum())
            inside = task.feasible[task.trained[:count]]
            labels = np.where(inside, task.labels[:count], -np.inf)
            answers[budget] = task.rows[task.trained[int(np.argmax(labels))]]
    seconds = round(time.process_time() - began, 2)
    for budget, row in answers.items():
        regret = made.best - float(made.truth(row[None])[0])
        key = dict(zip(KEYS, (job.family, job.method, budget, job.seed), strict=True))
        yield {**key, "problem": "U", "regret": round(regret, 4), "cpu_s": seconds}


def _ours(made: Wide, budget: int, seed: int) -> Any:
    """Returns the answer (num_genes,) of a search with the product's defaults."""
    space: Space = made.space

    def train(params: Mapping[str, Any], *, seed: int, fidelity: float) -> float:
        return float(made.label(space.from_values(params)[None], seed)[0])

    bounds = [f"{name}<={high!r}" for name, (_, high) in made.limit.items()]
    with tempfile.TemporaryDirectory() as folder:
        found = search.run(
            space,
            train,
            trainings=budget,
            folder=f"{folder}/search",
            cost=made.cost,
            limits=bounds or None,
            seed=seed,
            quiet=True,
        )
        [best] = found.best.values()
    return space.from_values(best.params)


def jobs(
    families: Sequence[str], methods: Sequence[str], budgets: Sequence[int], seeds: Sequence[int]
) -> Iterator[Job]:
    """Yields the jobs that have no lines yet, the small budgets of all families first."""
    done = {tuple(line[key] for key in KEYS) for line in read_lines(PATH)}
    for rank in range(len(budgets)):
        for seed, family, method in itertools.product(seeds, families, methods):
            wanted = budgets[rank : rank + 1] if method == "ours" else budgets[: rank + 1]
            rest = tuple(n for n in wanted if (family, method, n, seed) not in done)
            if rest:
                done |= {(family, method, n, seed) for n in rest}
                yield Job(family, method, rest, seed)


def write_page() -> None:
    """Writes wide.md of all lines, and the table of SEARCH.md."""
    lines = read_lines(PATH)
    write_block(SEARCH_PAGE, "wide", block(lines, "spaces"))
    text = [
        "# Regret in wide spaces",
        "",
        "Written by `python -m benchmarks.search.wide --report`: what the answer lacks to the best",
        "candidate, without noise, in points of accuracy. Mean +- half of the 95 % interval over",
        "searches, each on a function of its own, their number in parentheses. `limited32` has a",
        "limit on cost; the number in a name is that of genes; see `wide_truths.py`.",
        "",
        "| space | trainings | ours | best peer | its regret | lead of ours | |",
        "|---|---|---|---|---|---|---|",
        *beside(lines, "U"),
        "",
        "## Relative to random search",
        "",
        *relative(lines, "U"),
    ]
    for family in FAMILIES:
        own = [line for line in lines if line["table"] == family]
        if own:
            text += ["", f"## {family}", "", *text_of(own, family, "U")]
    (OUT / "wide.md").write_text("\n".join(text) + "\n")


def main() -> None:
    """Parses, measures, saves."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--families", nargs="*", choices=FAMILIES, default=list(FAMILIES))
    known = [name for name in NAMES if name == "ours" or name in METHODS]
    parser.add_argument("--methods", nargs="+", choices=known, default=["ours", *PEERS])
    parser.add_argument("--budgets", nargs="+", type=int, default=list(BUDGETS))
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--report", action="store_true", help="write the page only")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if not given.report:
        seeds = range(given.first_seed, given.first_seed + given.seeds)
        for job in jobs(given.families, given.methods, sorted(given.budgets), seeds):
            append(PATH, run_job(job))
            print(*job, file=sys.stderr, flush=True)
    write_page()


if __name__ == "__main__":
    main()
