"""Measures predictors and search methods on tables of real trainings; resumable, two processes.

    python -m benchmarks.search.compare predictors --table macro
    python -m benchmarks.search.compare regret --table macro --problem U C M --methods nars gp_ei_48
    python -m benchmarks.search.compare report

Each run appends one line to benchmarks/results/search/<what>_<table>.jsonl; what is there already
is not run again. `report` makes summary.json and summary.md of all lines. Protocol: the label of a
candidate is one of its trainings, drawn once a run; the truth is the mean of all; problem U has no
limit, C the 40th percentile of cost, M serves the 20th, 40th, 60th and 80th with one budget.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.conditions import conditions
from benchmarks.records import RESULTS, append, read_lines
from fbnetv3.search.execution.objective import TableObjective
from fbnetv3.search.nars.limit import Limit
from fbnetv3.search.predictors.mlp import MlpPredictor
from fbnetv3.search.predictors.protocol import Predictor
from fbnetv3.search.predictors.quality import quality
from fbnetv3.search.predictors.registry import make_predictor

from .peers import CURVES, JOINT, MANY, METHODS, PLANNED, SEEDS
from .report import write_report
from .table_task import Task, run
from .truths import SHARES, TRUTHS, load

OUT = RESULTS / "search"
BUDGET, MARKS = 240, (48, 96, 144, 192, 240)
HELD_OUT = 1000
PERCENTILES = {"U": (), "C": (40,), "M": (20, 40, 60, 80)}
ARMS = (
    "paper",
    "paper_scratch",
    "nars",
    "nars_ten",
    "nars_scratch",
    "gp",
    "gp_costs",
    "auto",
    "cost",
)


def limits_of(table: TableObjective, problem: str) -> list[Limit]:
    """Returns a problem's limits on a table: its MACs, or the first cost that it has."""
    name = "macs" if "macs" in table.known else next(iter(table.known))
    found = [
        Limit({name: (-np.inf, float(np.percentile(table.known[name], p)))})
        for p in PERCENTILES[problem]
    ]
    return found or [Limit({})]


def regret(task: Task, trained: Sequence[int], labels: Any, top: int = 1) -> float:
    """Returns the mean over limits of what the answer lacks to the best candidate, in labels.

    The answer is the best label seen or, with `top` above 1, the best truth among the `top` best
    labels, as if these had been trained again with all seeds. `labels` may be a predictor's view
    of the same candidates.
    """
    truth, gaps = task.table.truth(), []
    place, seen = np.array(trained, int), np.array(labels)
    for inside in task.inside:
        held = inside[place]
        best = place[held][np.argsort(-seen[held], kind="stable")][:top]
        answer = truth[best].max() if len(best) else truth[inside].min()
        gaps.append(float(truth[inside].max() - answer))
    return float(np.mean(gaps))


def methods_of(table: TableObjective, name: str, problem: str) -> list[str]:
    """Returns the methods that a problem on a table can be given to."""
    left_out: set[str] = set()
    if name not in SHARES:
        left_out |= set(CURVES)
    if len({gene.group for gene in table.space.genes}) < 2:
        left_out |= set(JOINT)
    if np.isnan(table.labels[:, :3]).any() or table.labels.shape[1] < 3:
        left_out |= {*SEEDS, "gp_ei_12_confirmed", "nars_limits_confirmed"}
    return [method for method in (MANY if problem == "M" else METHODS) if method not in left_out]


def search_once(name: str, problem: str, method: str, seed: int) -> dict[str, Any]:
    """Returns the record of one run of a method, or of one run for each budget if it plans."""
    table, shares = load(name), SHARES.get(name, (1.0,))
    marks = (BUDGET,) if problem == "M" else MARKS
    record: dict[str, Any] = {"problem": problem, "method": method, "seed": seed}
    began = time.process_time()
    if method in PLANNED and problem != "M":
        for mark in (96, BUDGET):
            task = Task(table, limits_of(table, problem), mark, seed, shares)
            run(METHODS[method], task)
            record |= figures(task, mark)
    else:
        task = Task(table, limits_of(table, problem), BUDGET, seed, shares)
        run((MANY if problem == "M" else METHODS)[method], task)
        for mark in marks:
            record |= figures(task, mark)
    seconds = time.process_time() - began
    return {**record, "spent": task.spent, "distinct": len(task.trained), "cpu_s": seconds}


def figures(task: Task, mark: int) -> dict[str, float]:
    """Returns the regrets of a run after `mark` trainings."""
    count = int((np.array(task.paid) <= mark + 1e-9).sum())
    trained, labels = task.finals.get(mark, (task.trained[:count], task.labels[:count]))
    place, seen = task.answers() if task.again and mark == task.budget else (trained, labels)
    return {
        f"regret_{mark}": regret(task, place, seen),
        f"top5_{mark}": regret(task, trained, labels, top=5),
        f"trained_{mark}": regret(task, trained, labels, top=len(trained)),
    }


def predictor_of(arm: str, table: TableObjective, seed: int) -> Predictor:
    """Returns the predictor of an arm, pretrained where the arm is."""
    kind = arm.split("_", maxsplit=1)[0]
    costs = table.costs if arm in ("gp_costs", "auto") else None
    made = make_predictor(kind, table.space, target=table.target, seed=seed, costs=costs)
    if arm == "nars_ten":
        made = MlpPredictor(table.space, target=table.target, seed=seed, members=10)
    if not arm.endswith("_scratch"):
        pool = np.random.default_rng(seed).permutation(len(table.rows))[:20_000]
        known = {k: v for k, v in table.known.items() if np.ptp(v) > 0}
        made.pretrain(table.rows[pool], {k: v[pool] for k, v in known.items()})
    if isinstance(made, MlpPredictor) and arm.endswith("_scratch"):
        made.model.freeze = False
    return made


def predict_once(name: str, arm: str, num: int, seed: int) -> dict[str, Any]:
    """Returns the figures of one predictor with `num` labels on held-out candidates."""
    table = load(name)
    task = Task(table, [Limit({})], num, seed)
    order = np.random.default_rng([seed, 5]).permutation(len(table.rows))
    test, train = order[:HELD_OUT], order[HELD_OUT : HELD_OUT + num]
    truth = table.truth()[test]
    began = time.process_time()
    if arm == "cost":
        predicted = next(iter(table.known.values()))[test]
    else:
        predictor = predictor_of(arm, table, seed)
        predictor.fit(table.rows[train], task.drawn[train])
        predicted = predictor.predict(table.rows[test]).mean
    found = quality(predicted, truth)
    return {
        "arm": arm,
        "num": num,
        "seed": seed,
        "tau": found.tau,
        "spearman": found.spearman,
        "mse": None if arm == "cost" else found.mse,
        "tau_better_half": found.tau_better_half,
        "cpu_s": time.process_time() - began,
    }


def missing(path: Path, jobs: Iterable[tuple[Any, ...]], keys: Sequence[str]) -> list[Any]:
    """Returns the jobs that have no line in a file yet."""
    done = {tuple(row[key] for key in keys) for row in read_lines(path)}
    return [job for job in jobs if job not in done]


def work(path: Path, call: Any, name: str, jobs: Sequence[Any], processes: int) -> None:
    """Runs jobs and appends their records as they come."""
    with ProcessPoolExecutor(processes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        waiting = [pool.submit(call, name, *job) for job in jobs]
        for count, done in enumerate(as_completed(waiting), 1):
            append(path, [done.result()])
            print(f"\r{path.stem}: {count}/{len(jobs)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)


def main() -> None:
    """Parses, measures, saves."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("predictors", "regret", "report"))
    parser.add_argument("--table", choices=list(TRUTHS), default="macro")
    parser.add_argument("--problem", nargs="+", choices=list(PERCENTILES), default=["U", "C", "M"])
    parser.add_argument("--methods", nargs="+", default=None, help="all of a problem's by default")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--labels", nargs="+", type=int, default=[10, 20, 48, 96, 192])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    path = OUT / f"{given.what}_{given.table}.jsonl"
    if given.what == "predictors":
        keys: Sequence[str] = ("arm", "num", "seed")
        wanted: list[tuple[Any, ...]] = [
            (arm, num, seed)
            for num in given.labels
            for arm in given.arms
            for seed in range(given.seeds)
            if arm != "auto" or num >= 20
        ]
        work(path, predict_once, given.table, missing(path, wanted, keys), given.processes)
    elif given.what == "regret":
        keys = ("problem", "method", "seed")
        wanted = [
            (problem, method, seed)
            for problem in given.problem
            for method in methods_of(load(given.table), given.table, problem)
            if given.methods is None or method in given.methods
            for seed in range(given.seeds)
        ]
        work(path, search_once, given.table, missing(path, wanted, keys), given.processes)
    write_report(OUT, conditions() if given.what != "report" else None)


if __name__ == "__main__":
    main()
