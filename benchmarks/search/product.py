"""Our search on a table of trainings, as `fbnetv3.search.run` and `fbnetv3-search run` make it.

Nothing is chosen here: a search is given a number of trainings, or a budget in full trainings, and
plans its pool, rounds, predictor and last stage by its own defaults.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fbnetv3.search.execution.engine import InlineEngine
from fbnetv3.search.execution.objective import TableObjective
from fbnetv3.search.nars.budget import divide, planned
from fbnetv3.search.nars.config import SearchConfig
from fbnetv3.search.nars.limit import Limit
from fbnetv3.search.nars.problem import Problem
from fbnetv3.search.nars.run import search_problem, with_rungs
from fbnetv3.search.storage.store import Store

POOL = 20_000


class Outcome(NamedTuple):
    """What a search of the product came to.

    Attributes:
        answers: the table's index of the answer for each limit.
        spent: cost of all trainings, in full trainings.
        distinct: number of candidates trained.
    """

    answers: list[int]
    spent: float
    distinct: int


def search(
    table: TableObjective,
    limits: Sequence[Limit],
    budget: int,
    seed: int,
    *,
    predictor: str = "auto",
    shares: tuple[float, ...] = (1.0,),
    by_cost: bool = False,
) -> Outcome:
    """Runs a search and returns what it came to.

    Args:
        table: the trainings; the seed also picks which of a candidate's trainings are shown.
        limits: the limits.
        budget: number of trainings, as `trainings` of `fbnetv3.search.run`.
        seed: random seed.
        predictor: name of the predictor.
        shares: cost of each point of the table's curves.
        by_cost: the budget is a cost, as `budget` of `fbnetv3.search.run`; the only rung is the
            first point of the curves.
    """
    bounds: tuple[Mapping[str, tuple[float, float]], ...] = tuple(x.bounds for x in limits)
    config = SearchConfig(
        seed=seed,
        pool=min(POOL, len(table.rows) * len(bounds)),
        predictor=predictor,
        target=table.target,
        epochs=table.epochs,
        limits=bounds,
        **(
            {"cost": float(budget), "rungs": shares[:1]}
            if by_cost
            else divide(budget, len(bounds))._asdict()
        ),
    )
    config = planned(with_rungs(config, table))
    problem = Problem(table.space, table.costs, table.allowed, table.rows)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "search"
        with Store.create(path, {"plan": config.to_dict()}) as store:
            answers = search_problem(store, problem, InlineEngine(table))
            trials = store.trials("done")
    found = [
        int(table.find(np.array([one.contenders[0].genes], np.int16))[0]) if one.contenders else -1
        for one in answers
    ]
    spent = sum(shares[trial.epochs - 1] for trial in trials)
    return Outcome(found, spent, len({trial.genes for trial in trials}))
