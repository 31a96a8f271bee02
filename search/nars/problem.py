"""The search problem: candidates, their known costs, and which of them a search may train."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fbnetv3.search.cost.latency_table import LatencyTable
from fbnetv3.search.execution.objective import Objective, TableObjective
from fbnetv3.search.execution.spec import load_objective, space_of
from fbnetv3.search.space.space import CostsOf, Feasible, Matrix, Space

from .config import SearchConfig
from .evolution import Limit, extreme

LATENCY = "latency_ms"


@dataclass(frozen=True)
class Problem:
    """A search problem.

    Attributes:
        space: the search space.
        costs: (P, num_genes) -> cost -> (P,), known without training; may give none.
        allowed: (P, num_genes) -> (P,), false for candidates to leave out, such as those that a
            table of labels lacks.
        rows: (N, num_genes) all candidates, if they are few enough to be listed.
    """

    space: Space
    costs: CostsOf
    allowed: Feasible | None = None
    rows: Matrix | None = None

    def extreme(self, name: str, *, largest: bool = False) -> float:
        """Returns the smallest or the largest reachable cost."""
        if self.rows is None:
            return extreme(self.space, self.costs, name, largest=largest)[1]
        values = np.asarray(self.costs(self.rows)[name], np.float64)
        return float(values.max() if largest else values.min())

    def pool(
        self,
        num: int,
        *,
        seed: int,
        within: Mapping[str, tuple[float, float]],
        limits: Sequence[Mapping[str, tuple[float, float]]] = ({},),
    ) -> Matrix:
        """Returns up to `num` feasible candidates: quasi-random, or drawn from `rows`.

        Args:
            num: number of candidates.
            seed: random seed.
            within: bounds on every candidate.
            limits: limits of which every candidate meets at least one.

        Raises:
            ValueError: no candidate is feasible.
        """
        tests = [self.feasible(bounds) for bounds in (within, *limits)]

        def feasible(rows: Matrix) -> npt.NDArray[np.bool_]:
            inside = tests[0](rows)
            inside[inside] = np.any([test(rows[inside]) for test in tests[1:]], axis=0)
            return inside

        if self.rows is None:
            return self.space.pool(num, seed=seed, feasible=feasible)
        order = np.random.default_rng([seed, 1]).permutation(len(self.rows))
        found = self.rows[order][feasible(self.rows[order])]
        if not len(found):
            raise ValueError(f"none of {len(self.rows)} candidates is within {dict(within)}")
        return found[:num]

    def feasible(self, bounds: Mapping[str, tuple[float, float]]) -> Feasible:
        """Returns a test of candidates for some bounds, which needs no training."""

        def test(rows: Matrix) -> npt.NDArray[np.bool_]:
            inside = np.ones(len(rows), np.bool_)
            if bounds:
                inside &= Limit(bounds).violation(self.costs(rows)) == 0
            if self.allowed is not None:
                inside &= self.allowed(rows)
            return inside

        return test


def pool_of(problem: Problem, config: SearchConfig) -> Matrix:
    """Returns the pool of a search: within its bounds, and within one of its limits.

    If too few candidates meet a limit to fill a round, only stage 3 applies the limits.

    Raises:
        ValueError: fewer candidates are feasible than a round has trials.
    """
    pool = problem.pool(config.pool, seed=config.seed, within=config.within)
    inside = np.any([problem.feasible(limit)(pool) for limit in config.limits], axis=0)
    if config.batch <= inside.sum() < len(pool):
        pool = problem.pool(
            config.pool, seed=config.seed, within=config.within, limits=config.limits
        )
    if len(pool) < config.batch:
        raise ValueError(
            f"only {len(pool)} candidates are feasible, fewer than a round of {config.batch}; "
            "widen the limits or use smaller rounds"
        )
    return pool


def problem_of(settings: Mapping[str, Any], objective: Objective | None = None) -> Problem:
    """Returns the problem that a search's settings describe.

    Args:
        settings: the settings.
        objective: the objective that they describe, if it is at hand.
    """
    problem = _problem(space_of(settings), settings, objective)
    if "latency" not in settings:
        return problem
    table = LatencyTable.from_json(json.dumps(settings["latency"]))
    return with_latency(problem, table, num_classes=settings["num_classes"])


def _problem(space: Space, settings: Mapping[str, Any], objective: Objective | None) -> Problem:
    if objective is None and settings["objective"]["kind"] != "train":
        objective = load_objective(settings["objective"])
    if isinstance(objective, TableObjective):
        return Problem(space, objective.costs, objective.allowed, objective.rows)
    own = getattr(objective, "costs", None)
    if own is not None:
        return Problem(space, own)
    if space.layout.arch is None:
        return Problem(space, lambda _rows: {})

    def costs(rows: Matrix) -> Mapping[str, npt.NDArray[Any]]:
        from fbnetv3.search.cost.cost import costs as exact

        return exact(space, rows, num_classes=settings["num_classes"]).as_dict()

    return Problem(space, costs)


def with_latency(problem: Problem, table: LatencyTable, *, num_classes: int = 1000) -> Problem:
    """Returns the problem with one more cost, `latency_ms`.

    Raises:
        ValueError: the space describes no network, or the table lacks one of its operators.
    """
    known, milliseconds = problem.costs, table.cost(problem.space, num_classes=num_classes)

    def costs(rows: Matrix) -> Mapping[str, npt.NDArray[Any]]:
        return {**known(rows), LATENCY: milliseconds(rows)}

    return dataclasses.replace(problem, costs=costs)


def check(problem: Problem, config: SearchConfig) -> None:
    """Checks that limits can be reached and rounds filled, before any training.

    Raises:
        ValueError: a limit or `bin_by` names an unknown cost, a limit is out of reach (the message
            has the smallest or largest reachable cost), or too few candidates are feasible.
    """
    known = problem.costs(problem.space.sample(1, np.random.default_rng(0)))
    if config.bin_by and config.bin_by not in known:
        raise ValueError(
            f"bin_by is {config.bin_by!r}; the known costs are {', '.join(known) or 'none'}"
        )
    for bounds in (config.within, *config.limits):
        for name, (low, high) in bounds.items():
            if name not in known:
                raise ValueError(
                    f"limit on {name!r}; the known costs are {', '.join(known) or 'none'}"
                )
            if np.isfinite(high) and (least := problem.extreme(name)) > high:
                raise ValueError(
                    f"no candidate has {name} of {high:g} or less; the smallest is {least:g}"
                )
            if np.isfinite(low) and (most := problem.extreme(name, largest=True)) < low:
                raise ValueError(
                    f"no candidate has {name} of {low:g} or more; the largest is {most:g}"
                )
    pool_of(problem, config)
