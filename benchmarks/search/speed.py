"""How fast and how exact the search's own arithmetic is: costs, stage 3, fits, latency tables.

    python -m benchmarks.search.speed costs --out benchmarks/results/search/costs.json
    python -m benchmarks.search.speed stage3 --out benchmarks/results/search/stage3.json
    python -m benchmarks.search.speed fit --out benchmarks/results/search/fit.json
    python -m benchmarks.search.speed latency --out benchmarks/results/search/latency.json

All but `latency` count processor time of one thread, which other programs disturb little. Set
OMP_NUM_THREADS=1. `costs` builds 1,000 networks and takes some minutes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.conditions import conditions
from benchmarks.records import write
from fbnetv3.arch.tables import ARCHS
from fbnetv3.measure.flop_count import flops
from fbnetv3.models.model import build
from fbnetv3.search.cost.cost import costs as exact
from fbnetv3.search.cost.operator_timing import calibrate, measure_operators
from fbnetv3.search.cost.operators import operators_of
from fbnetv3.search.nars.acquisition import Acquisition, ExpectedImprovement, Optimism
from fbnetv3.search.nars.evolution import EvolutionSettings, evolve
from fbnetv3.search.nars.limit import Limit
from fbnetv3.search.nars.selection import select_in_turn
from fbnetv3.search.predictors.protocol import Predictor
from fbnetv3.search.predictors.registry import make_predictor
from fbnetv3.search.space.space import Matrix, Space
from fbnetv3.search.space.spaces import get_space, recipe_only

from .compare import limits_of
from .nars_on_table import Nars
from .table_task import Task
from .truths import load

RELEASED = tuple(f"fbnetv3_{letter}" for letter in "abcdefg")


def costs(args: argparse.Namespace) -> dict[str, Any]:
    """Compares costs of random candidates and of A to G with fvcore's; times a million."""
    space = get_space("paper_joint")
    rows = space.sample(args.networks, np.random.default_rng(0))
    found = exact(space, rows)
    differing = 0
    for number, row in enumerate(rows):
        arch = space.decode(row)[0]
        ours = (found.macs_fvcore[number], found.macs_paper[number], found.params[number])
        differing += tuple(map(int, ours)) != _counted(arch)
    released = {}
    for name in RELEASED:
        fixed = recipe_only(ARCHS[name])
        ours_fixed = exact(fixed, fixed.sample(1, np.random.default_rng(0)))
        ours = (ours_fixed.macs_fvcore[0], ours_fixed.macs_paper[0], ours_fixed.params[0])
        released[name] = tuple(map(int, ours)) == _counted(ARCHS[name])
    many = space.sample(1_000_000, np.random.default_rng(1))
    return {
        "networks": len(rows),
        "networks_that_differ_from_fvcore": differing,
        "released_equal_fvcore": released,
        "candidates_per_s": round(1e6 / _fastest(lambda: exact(space, many))),
    }


def _counted(arch: Any) -> tuple[int, int, int]:
    """Returns fvcore's total, the paper's convention, and parameters of the built network."""
    model = build(arch)
    counted = flops(model, arch.resolution)
    return counted.macs_fvcore, counted.macs_paper, sum(p.numel() for p in model.parameters())


def _fastest(call: Callable[[], object], repeats: int = 3) -> float:
    """Returns the least processor time of some calls, in seconds."""
    times = []
    for _ in range(repeats):
        begun = time.process_time()
        call()
        times.append(time.process_time() - begun)
    return min(times)


def stage3(args: argparse.Namespace) -> dict[str, Any]:
    """Times ten limits of a hundred generations; asks for what is out of reach; counts hits."""
    space = get_space("paper_joint")
    pool = space.pool(20_000, seed=0)

    def known(rows: Matrix) -> dict[str, Any]:
        return exact(space, rows).as_dict()

    predictor = make_predictor("mlp_ensemble", space)
    predictor.pretrain(pool, known(pool))
    rng = np.random.default_rng(0)
    labels = (
        75 + 2 * np.log(known(pool[:288])["macs_paper"] / 4e8) + rng.normal(scale=0.3, size=288)
    )
    predictor.fit(pool[:288], labels)
    limits = [Limit({"macs_paper": (-np.inf, 1e6 * m)}) for m in range(450, 950, 50)]

    def score(rows: Matrix) -> Any:
        return predictor.predict(rows).mean

    def ask(some: list[Limit], settings: EvolutionSettings) -> Any:
        return evolve(space, score, known, some, start=pool, rng=np.random.default_rng(1),
                      settings=settings)  # fmt: skip

    unsaturated = EvolutionSettings(patience=101)
    found: list[Any] = []
    seconds = _fastest(lambda: found.append(ask(limits, unsaturated)))
    # Every generation breeds from 100 candidates at first, then from the 40 that are kept.
    children = sum(24 * (100 + 40 * (one.generations - 1)) for one in found[0])
    begun = time.process_time()
    nearest = ask([Limit({"macs_paper": (-np.inf, 1e6)})], unsaturated)[0]
    unreachable = time.process_time() - begun
    begun = time.process_time()
    saturated = ask(limits, EvolutionSettings())
    return {
        "predictor": "nars, five members",
        "limits": len(limits),
        "generations": [one.generations for one in found[0]],
        "cpu_s": round(seconds, 2),
        "children": children,
        "children_per_s": round(children / seconds),
        "until_saturated": {
            "generations": [one.generations for one in saturated],
            "cpu_s": round(time.process_time() - begun, 2),
        },
        "unreachable": {
            "cpu_s": round(unreachable, 3),
            "reachable": nearest.reachable,
            "least_macs": float(nearest.nearest["macs_paper"]),
        },
        "argmax_on_macro": _hits(args.seeds),
    }


def fit(args: argparse.Namespace) -> dict[str, Any]:
    """Times a round's decisions at 240 labels: choosing the predictor, fitting, proposing."""
    found = {}
    for name in ("cifar_joint", "paper_joint"):
        space = get_space(name)
        pool = space.pool(20_000, seed=0)

        def known(rows: Matrix, space: Space = space) -> dict[str, Any]:
            return exact(space, rows).as_dict()

        costs = known(pool)
        rng = np.random.default_rng(0)
        gains = rng.normal(size=space.encoding.shape[1]) / 4
        labels = 70 + space.encode(pool[:240]) @ gains + rng.normal(scale=0.3, size=240)
        predictor = make_predictor("auto", space, costs=known)
        begun = time.process_time()
        predictor.pretrain(pool, {"macs_paper": costs["macs_paper"], "params": costs["params"]})
        pretrained = time.process_time() - begun

        decide = partial(_decide, predictor, pool, labels)
        seconds = _fastest(decide)
        found[name] = {
            "genes": len(space.genes),
            "chosen": predictor.chosen.kind,
            "pretrain_once_cpu_s": round(pretrained, 2),
            "choose_fit_propose_cpu_s": round(seconds, 2),
        }
    return {"labels": 240, "pool": 20_000, "spaces": found}


def _decide(predictor: Predictor, pool: Matrix, labels: Any) -> None:
    predictor.fit(pool[: len(labels)], labels)
    predicted = predictor.predict(pool)
    taken = np.arange(len(pool)) < len(labels)
    posterior = predictor.posterior(pool)
    acquisition: Acquisition = Optimism(predicted.mean, predicted.std)
    if posterior is not None:
        acquisition = ExpectedImprovement(posterior, posterior.scaled(labels.max(keepdims=True)))
    select_in_turn(
        predicted.mean, np.ones((1, len(pool))), num=20, taken=taken, acquisition=acquisition
    )


def _hits(seeds: int) -> dict[str, Any]:
    """Counts how often stage 3 finds the predictor's best of all 3969 networks within a limit."""
    table = load("macro")
    runs = hits = 0
    generations = []
    for seed in range(seeds):
        task = Task(table, limits_of(table, "M"), 96, seed)
        predictor, pool = Nars().begin(task)
        rows = task.rng.permutation(pool)[:96]
        predictor.fit(task.rows[rows], task.drawn[rows])
        scores = predictor.predict(task.rows).mean
        found = evolve(
            table.space,
            lambda batch, held=predictor: held.predict(batch).mean,  # type: ignore[misc]  # as a default
            table.costs,
            task.limits,
            # Of the pool as few as would be a sample of a large space.
            start=task.rows[task.rng.permutation(pool)[:200]],
            rng=np.random.default_rng(seed),
        )
        for one, inside in zip(found, task.inside, strict=True):
            runs += 1
            hits += bool(one.scores[0] >= scores[inside].max() - 1e-4)
            generations.append(one.generations)
    return {"searches": runs, "hits": hits, "generations_median": float(np.median(generations))}


def latency(args: argparse.Namespace) -> dict[str, Any]:
    """Times the operators of some networks of a space; half of these judge the table."""
    space: Space = get_space(args.space)
    rows = space.unique(space.sample(args.archs, np.random.default_rng(0)))
    archs = [space.decode(row)[0] for row in rows]
    operators = sorted({one for arch in archs for one in operators_of(arch)})
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.json"
        table = measure_operators(operators, path=path, seconds_each=args.seconds)
        table = calibrate(table, archs, path=path, seconds_each=5 * args.seconds)
    totals = [table.predict_arch(arch) for arch in archs]
    return {
        "space": space.name,
        "device": dict(table.device),
        "operators": len(operators),
        "networks_fitted_and_held_out": list(table.num_networks),
        "predicted_ms": [round(min(totals), 2), round(max(totals), 2)],
        "slope": round(table.slope, 3),
        "offset_ms": round(table.offset_ms, 3),
        "held_out_error_pct": round(table.error_pct or 0.0, 2),
        "wall_s": round(time.perf_counter() - begun, 1),
    }


def main() -> None:
    """Parses, measures, writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["costs", "stage3", "fit", "latency"])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--networks", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=25)
    parser.add_argument("--space", default="cifar_joint")
    parser.add_argument("--archs", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=0.2, help="for each operator")
    args = parser.parse_args()
    measure = {"costs": costs, "stage3": stage3, "fit": fit, "latency": latency}[args.what]
    found = {"what": args.what, "conditions": conditions(), **measure(args)}
    print(json.dumps(found, indent=1))
    if args.out is not None:
        write(args.out, found)


if __name__ == "__main__":
    main()
