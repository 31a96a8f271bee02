"""How the search's machinery holds out: kills, 100,000 trials, 1,000 workers.

    python -m benchmarks.search.scale kills --out benchmarks/results/search/kill9.json
    python -m benchmarks.search.scale kills --plan rungs --out .../search/kill9_rungs.json
    python -m benchmarks.search.scale nodes --out benchmarks/results/search/ray_nodes.json
    python -m benchmarks.search.scale store --out benchmarks/results/search/store.json
    python -m benchmarks.search.scale workers --out benchmarks/results/search/workers.json

`kills` needs Linux, and kills 50 times; `nodes` needs Ray, give it `--kills 10`. Each writes one
JSON with its conditions.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.conditions import conditions
from benchmarks.records import ROOT, write
from fbnetv3.search.execution.coordinator import Coordinator, Policy
from fbnetv3.search.execution.worker import Outcome, Task
from fbnetv3.search.nars.config import SearchConfig
from fbnetv3.search.nars.problem import Problem
from fbnetv3.search.nars.rounds import Optimizer
from fbnetv3.search.nars.status import status_of
from fbnetv3.search.space.gene import Gene
from fbnetv3.search.space.space import Matrix, Space
from fbnetv3.search.storage.results import write_epoch
from fbnetv3.search.storage.store import Store
from fbnetv3.search.storage.trials import Batch, Proposal

TOYS = ROOT / "tests" / "search"
SPACE = Space("wide", tuple(Gene(f"g{n}", tuple(range(6)), kind="ordered") for n in range(20)))


def kills(args: argparse.Namespace) -> dict[str, Any]:
    """Kills one search again and again; returns whether it ends as an undisturbed one does."""
    sys.path.insert(0, str(TOYS))
    from killing import undergo  # type: ignore[import-not-found]  # not on mypy's path

    how = {"sleep_s": args.sleep, "plan": args.plan}
    with tempfile.TemporaryDirectory() as folder:
        plain = undergo(Path(folder) / "plain", kills=0, seed=0, **how)
        killed = undergo(Path(folder) / "killed", kills=args.kills, seed=1, **how)
    trials = len(plain.summary["trials"])
    return {
        "plan": args.plan,
        "coordinator_kills": killed.coordinator_kills,
        "worker_kills": killed.worker_kills,
        "starts": killed.starts,
        "identical_trials_order_and_answer": killed.summary == plain.summary,
        "trials": trials,
        "labels_lost": sum(t[7] != "done" for t in killed.summary["trials"]),
        "attempts_beyond_the_first": killed.attempts - trials,
        "attempts_at_finished_trials": killed.needless,
        "seconds": round(killed.seconds, 1),
        "seconds_undisturbed": round(plain.seconds, 1),
    }


def costs(rows: Matrix) -> dict[str, Any]:
    """Returns a cost that grows with every gene."""
    return {"macs": 1e6 * (10.0 + rows @ np.arange(1, rows.shape[1] + 1))}


def label(rows: Matrix) -> Any:
    """Returns labels that a predictor can learn."""
    return 60 + rows @ np.linspace(0.05, 0.4, rows.shape[1])


def store(args: argparse.Namespace) -> dict[str, Any]:
    """Fills a store, then times what a user and a search wait for."""
    plan = SearchConfig(rounds=2000, predictor=args.predictor, epochs=1, target="raw")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "s"
        with Store.create(folder, {"plan": plan.to_dict(), "space": SPACE.to_dict()}) as held:
            fill(held, args.trials)
        begun = now()
        with Store.read(folder) as reader:
            found = status_of(reader)
        status_s = elapsed(begun)
        begun = now()
        held = Store.open(folder)
        open_s = elapsed(begun)
        coordinator = Coordinator(held, IdleEngine(), Policy())
        begun = now()
        optimizer = Optimizer(Problem(SPACE, costs), plan, held, coordinator)
        pool_s = elapsed(begun)
        index = len(held.batches())
        begun = now()
        optimizer.fit(index)
        fit_s = elapsed(begun)
        begun = now()
        optimizer.propose(index, plan.batch)
        propose_s = elapsed(begun)
        held.close()
    return {
        "trials": found["trials"]["done"],
        "status": status_s,
        "open": open_s,
        "pool": pool_s,
        "fit": fit_s,
        "propose": propose_s,
        "predictor": args.predictor,
    }


def now() -> tuple[float, float]:
    """Returns wall and processor time."""
    return time.perf_counter(), time.process_time()


def elapsed(begun: tuple[float, float]) -> dict[str, float]:
    """Returns both times since `begun`; on a busy machine the first says more of the others."""
    wall, processor = now()
    return {"wall_s": round(wall - begun[0], 3), "cpu_s": round(processor - begun[1], 3)}


def fill(held: Store, num: int) -> None:
    """Puts finished trials into a store, rounds of 1,000 at a time."""
    rows = SPACE.unique(SPACE.sample(int(num * 1.01) + 10, np.random.default_rng(0)))[:num]
    values, macs = label(rows), costs(rows)["macs"]
    state = np.random.default_rng(0).bit_generator.state
    for number, start in enumerate(range(0, num, 1000)):
        proposals = [
            Proposal(tuple(rows[n].tolist()), {"macs": float(macs[n])}, 1, 0,
                     value=float(values[n]))
            for n in range(start, min(start + 1000, num))
        ]  # fmt: skip
        held.add_batch(Batch(number, "bins" if number else "random", state, ""), proposals)


class IdleEngine:
    """Runs nothing."""

    name, heartbeats = "idle", False

    def capacity(self) -> int:
        """Returns that there is none."""
        return 0

    def submit(self, task: Task) -> None:
        """Is never called."""

    def poll(self, timeout_s: float) -> list[Outcome]:
        """Returns nothing."""
        return []

    def cancel(self, trial: str) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


class SimulatedEngine(IdleEngine):
    """Workers that exist only as times at which their trials end, some badly, some late."""

    name = "simulated"

    def __init__(self, workers: int, failing: float, straggling: float, seed: int) -> None:
        self._workers, self._rng = workers, random.Random(seed)
        self._failing, self._straggling = failing, straggling
        self._running: dict[str, tuple[float, Task]] = {}
        self.now, self.inside_s = 0.0, 0.0

    def capacity(self) -> int:
        """Returns the idle workers."""
        return self._workers - len(self._running)

    def submit(self, task: Task) -> None:
        """Draws when the trial will end."""
        seconds = self._rng.lognormvariate(0, 0.2)
        if self._rng.random() < self._straggling:
            seconds *= 10
        self._running[task.trial] = (self.now + seconds, task)

    def poll(self, timeout_s: float) -> list[Outcome]:
        """Moves time on to the next second's ends, and writes their labels."""
        begun = time.perf_counter()
        self.now = max(self.now + 0.05, min(end for end, _ in self._running.values()))
        ended = [task for end, task in self._running.values() if end <= self.now]
        outcomes = []
        for task in ended:
            del self._running[task.trial]
            if self._rng.random() < self._failing:
                outcomes.append(Outcome(task.trial, task.attempt, "worker died"))
                continue
            value = float(label(np.array([task.genes], np.int16))[0])
            write_epoch(Path(task.folder), task.trial, task.attempt, 1, value)
            outcomes.append(Outcome(task.trial, task.attempt))
        self.inside_s += time.perf_counter() - begun
        return outcomes


def workers(args: argparse.Namespace) -> dict[str, Any]:
    """Times the coordinator alone with more and more workers."""
    rows = []
    counts = [n for n in (10, 100, 1000, 10_000) if n < args.workers] + [args.workers]
    for count in counts:
        with tempfile.TemporaryDirectory() as name, Store.create(Path(name) / "s", {}) as held:
            num = max(2 * count, 200)
            candidates = SPACE.unique(SPACE.sample(3 * num, np.random.default_rng(1)))
            proposals = [
                Proposal(tuple(row.tolist()), {"macs": 1.0}, 1, 0) for row in candidates[:num]
            ]
            held.add_batch(Batch(0, "random", {}, ""), proposals)
            spare = iter(candidates[num:])
            engine = SimulatedEngine(count, args.failing, args.straggling, seed=0)
            begun = time.perf_counter()
            Coordinator(held, engine, Policy()).complete(
                lambda _trial, rest=spare: Proposal(  # type: ignore[misc]  # a default is no type
                    tuple(next(rest).tolist()), {"macs": 1.0}, 1, 0
                )
            )
            spent = time.perf_counter() - begun - engine.inside_s
            trials = held.trials()
            rows.append(
                {
                    "workers": count,
                    "trials": num,
                    "attempts": sum(t.attempt for t in trials),
                    "failed_for_good": held.counts()["failed"],
                    "labels": held.counts()["done"],
                    "coordinator_ms_per_attempt": round(
                        1000 * spent / sum(t.attempt for t in trials), 3
                    ),
                }
            )
    return {"failing": args.failing, "straggling": args.straggling, "rows": rows}


def nodes(args: argparse.Namespace) -> dict[str, Any]:
    """Kills nodes of a local Ray cluster under one search."""
    sys.path.insert(0, str(TOYS))
    from node_killing import undergo_nodes  # type: ignore[import-not-found]

    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, Any] = undergo_nodes(Path(folder), kills=args.kills, sleep_s=args.sleep)
    return found


def main() -> None:
    """Parses, measures, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["kills", "nodes", "store", "workers"])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument(
        "--plan", default="paper", choices=["paper", "rungs"], help="rungs: two rungs and a prior"
    )
    parser.add_argument("--sleep", type=float, default=0.15, help="seconds of an epoch")
    parser.add_argument("--trials", type=int, default=100_000)
    parser.add_argument("--predictor", default="mlp_ensemble")
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--failing", type=float, default=0.1)
    parser.add_argument("--straggling", type=float, default=0.05)
    args = parser.parse_args()
    measure = {"kills": kills, "nodes": nodes, "store": store, "workers": workers}[args.what]
    found = {"what": args.what, "conditions": conditions(), **measure(args)}
    print(json.dumps(found, indent=1))
    if args.out is not None:
        write(args.out, found)


if __name__ == "__main__":
    main()
