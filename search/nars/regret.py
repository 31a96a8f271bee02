"""The regret of the search on a table of labels: how far its results are from the best candidates.

Regret is the difference between the best candidate within a limit and the candidate that the search
would return (the one with the best label so far after each round, the chosen contender at the end),
both by the table's mean over seeds.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fbnetv3.search.execution.engine import InlineEngine
from fbnetv3.search.execution.objective import TableObjective
from fbnetv3.search.predictors.targets import check_percent
from fbnetv3.search.storage.store import Store

from .answers import Answer
from .budget import planned
from .config import SearchConfig
from .labels import SEARCH_KINDS
from .limit import limit_text
from .problem import Problem
from .run import search_problem, with_rungs


def bench_table(
    table: TableObjective,
    config: SearchConfig,
    *,
    seeds: int,
    progress: Callable[[int], object] | None = None,
) -> dict[str, Any]:
    """Returns the regret for each limit, median and quartiles over searches.

    Args:
        table: the labels.
        config: config of each search; its seed is the first of `seeds` consecutive ones.
        seeds: number of searches.
        progress: called with the number of finished searches.

    Raises:
        ValueError: no candidate of the table is within a limit, or `seeds` is below 1.
    """
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}; expected 1 or more")
    check_percent(table.labels, config.target or table.target)
    problem = Problem(table.space, table.costs, table.allowed, table.rows)
    truth = table.truth()
    best = [_best(problem, truth, limit) for limit in config.limits]
    regrets: list[list[list[float]]] = []
    trials: list[int] = []
    for number in range(seeds):
        one = dataclasses.replace(config, seed=config.seed + number)
        one = with_rungs(planned(one), table)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "search"
            with Store.create(folder, {"plan": one.to_dict()}) as store:
                answers = search_problem(store, problem, InlineEngine(table))
                found, trials = _regrets(store, table, problem, one, truth, best, answers)
        regrets.append(found)
        if progress is not None:
            progress(number + 1)
    values = np.array(regrets)
    stages = [f"round {n}" if n else "random" for n in range(len(trials) - 1)] + ["retrained"]
    return {
        "seeds": seeds,
        "plan": config.to_dict(),
        "limits": [
            {
                "limit": {name: _finite(ends) for name, ends in limit.items()},
                "best": best[n],
                "regret": [
                    {"stage": stage, "trials": count, **_spread(values[:, n, step])}
                    for step, (stage, count) in enumerate(zip(stages, trials, strict=True))
                ],
            }
            for n, limit in enumerate(config.limits)
        ],
        "mean_over_limits": [
            {"stage": stage, "trials": count, **_spread(values[:, :, step].mean(axis=1))}
            for step, (stage, count) in enumerate(zip(stages, trials, strict=True))
        ],
    }


def _best(
    problem: Problem, truth: NDArray[np.float64], limit: Mapping[str, tuple[float, float]]
) -> float:
    assert problem.rows is not None
    inside = problem.feasible(limit)(problem.rows)
    costs = problem.costs(problem.rows)
    if not inside.any():
        raise ValueError(
            f"no candidate of the table is within {limit_text(limit)}; the smallest there are: "
            + ", ".join(f"{name} {np.min(cost):g}" for name, cost in costs.items())
        )
    return float(truth[inside].max())


def _regrets(
    store: Store,
    table: TableObjective,
    problem: Problem,
    config: SearchConfig,
    truth: NDArray[np.float64],
    best: list[float],
    answers: list[Answer],
) -> tuple[list[list[float]], list[int]]:
    """Returns limit -> stage -> regret, and stage -> trials so far."""
    rounds = [batch.number for batch in store.batches() if batch.kind in SEARCH_KINDS]
    counts = [sum(len(store.trials(batch=n)) for n in rounds[: k + 1]) for k in range(len(rounds))]
    regrets = []
    for limit, top, answer in zip(config.limits, best, answers, strict=True):
        steps = []
        for number in rounds:
            labels = store.labels(kinds=SEARCH_KINDS, before=number + 1)
            steps.append(np.nan)
            if not len(labels.values):  # a rung
                continue
            inside = problem.feasible(limit)(labels.matrix) & np.isfinite(labels.values)
            if inside.any():
                pick = labels.matrix[inside][np.argmax(labels.values[inside])]
                steps[-1] = top - float(truth[table.find(pick[None])[0]])
        final = np.nan
        if answer.contenders:
            genes = np.array(answer.contenders[0].genes, np.int16)
            final = top - float(truth[table.find(genes[None])[0]])
        regrets.append([*steps, final])
    return regrets, [*counts, len(store.trials())]


def _spread(values: NDArray[np.float64]) -> dict[str, float]:
    """Returns mean, median and quartiles of the searches that have a result, and their number."""
    known = values[np.isfinite(values)]
    if not len(known):
        return {"mean": np.nan, "median": np.nan, "q25": np.nan, "q75": np.nan, "answers": 0}
    q25, median, q75 = np.quantile(known, [0.25, 0.5, 0.75])
    return {
        "mean": float(known.mean()),
        "median": float(median),
        "q25": float(q25),
        "q75": float(q75),
        "answers": len(known),
    }


def _finite(ends: tuple[float, float]) -> list[float | None]:
    return [float(end) if np.isfinite(end) else None for end in ends]
