"""Measures the product's defaults and its peers at small budgets, on every table; resumable.

    python -m benchmarks.search.budgets --tables macro jahs --budgets 24 48 96 240 --seeds 10
    python -m benchmarks.search.budgets --report

`ours` is `fbnetv3.search.run(trainings=N)` and nothing else, a search of its own for each budget;
`ours_cost` is `run(budget=N)`, with rungs, where a table has learning curves. A peer that does not
plan for its budget is run once, for the largest. Each run appends its lines to
benchmarks/results/search/budgets.jsonl; what is there already is not run again. `--report` writes
budgets.md and budgets.svg beside it. Protocol as in `compare`: problem U has no limit, C the 40th
percentile of cost.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.records import append, read_lines

from .budget_report import write_report
from .compare import OUT, figures, limits_of
from .peers import CURVES, METHODS, PLANNED
from .product import search
from .table_task import Task, run
from .truths import SHARES, TRUTHS, load

PATH = OUT / "budgets.jsonl"
KEYS = ("table", "problem", "method", "budget", "seed")
OURS = ("ours", "ours_cost")
PEERS = (
    "random",
    "evolution",
    "optuna_tpe_multivariate",
    "optuna_gp",
    "gp_ei_1",
    "gp_ei_8",
    "smac",
    "asha",
    "hyperband",
    "pbt",
    "curve_gp",
)


class Job(NamedTuple):
    """A run of a method, for one budget or, if it does not plan, for several."""

    table: str
    problem: str
    method: str
    budgets: tuple[int, ...]
    seed: int


def run_job(job: Job) -> Iterator[dict[str, Any]]:
    """Yields a record for each budget of a job."""
    table, shares = load(job.table), SHARES.get(job.table, (1.0,))
    limits, began = limits_of(table, job.problem), time.process_time()
    found: dict[int, dict[str, float]] = {}
    if job.method in OURS:
        (budget,) = job.budgets
        by_cost = job.method == "ours_cost"
        outcome = search(table, limits, budget, job.seed, shares=shares, by_cost=by_cost)
        truth, gaps = table.truth(), []
        for limit, index in zip(limits, outcome.answers, strict=True):
            inside = truth[limit.violation(table.known) == 0]
            gaps.append(inside.max() - (truth[index] if index >= 0 else inside.min()))
        found[budget] = {"regret": float(np.mean(gaps)), "spent": round(outcome.spent, 2)}
    else:
        task = Task(table, limits, max(job.budgets), job.seed, shares)
        run(METHODS[job.method], task)
        for budget in job.budgets:
            held = figures(task, budget)
            spent = round(min(budget, task.spent), 2)
            found[budget] = {"regret": held[f"regret_{budget}"], "spent": spent}
            found[budget]["top5"] = held[f"top5_{budget}"]
    seconds = round(time.process_time() - began, 2)
    for budget, record in found.items():
        key = dict(zip(KEYS, (*job[:3], budget, job.seed), strict=True))
        yield {**key, **record, "cpu_s": seconds}


def jobs(
    tables: Sequence[str],
    problems: Sequence[str],
    methods: Sequence[str],
    budgets: Sequence[int],
    seeds: int,
) -> Iterator[Job]:
    """Yields the jobs that have no lines yet, the small budgets of all tables first."""
    done = {tuple(line[key] for key in KEYS) for line in read_lines(PATH)}
    curves = {"ours_cost", *CURVES}
    for rank in range(len(budgets)):
        for seed, table, problem in itertools.product(range(seeds), tables, problems):
            for method in methods:
                if method in curves and table not in SHARES:
                    continue
                plans = method in (*OURS, *PLANNED)
                wanted = budgets[rank : rank + 1] if plans else budgets[: rank + 1]
                rest = tuple(n for n in wanted if (table, problem, method, n, seed) not in done)
                if rest:
                    done |= {(table, problem, method, n, seed) for n in rest}
                    yield Job(table, problem, method, rest, seed)


def main() -> None:
    """Parses, measures, saves."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tables", nargs="*", choices=list(TRUTHS), default=list(TRUTHS))
    parser.add_argument("--problems", nargs="+", choices=("U", "C"), default=["U"])
    parser.add_argument(
        "--methods", nargs="+", choices=[*OURS, *METHODS], default=[*OURS, *PEERS], metavar="METHOD"
    )
    parser.add_argument("--budgets", nargs="+", type=int, default=[24, 48, 96, 240])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--report", action="store_true", help="write the page only")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if not given.report:
        budgets = sorted(given.budgets)
        for job in jobs(given.tables, given.problems, given.methods, budgets, given.seeds):
            append(PATH, run_job(job))
            print(*job, file=sys.stderr, flush=True)
    write_report(OUT, read_lines(PATH))


if __name__ == "__main__":
    main()
