"""The search problem: candidates, their known costs, and which of them a search may train."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fbnetv3.search.cost.latency_table import LatencyTable
from fbnetv3.search.execution.objective import Objective, TableObjective
from fbnetv3.search.execution.spec import load_costs, load_objective, space_of
from fbnetv3.search.space.space import CostsOf, Feasible, Floats, Matrix, Space

from .evolution import extreme
from .limit import Limit

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

    def violation(self, bounds: Mapping[str, tuple[float, float]]) -> Callable[[Matrix], Floats]:
        """Returns how far outside bounds candidates are, as a function of (P, num_genes).

        0 is inside, relative to the bounds; infinite for a candidate to leave out. Needs no
        training.
        """
        limit = Limit(bounds)

        def outside(rows: Matrix) -> Floats:
            far = np.zeros(len(rows))
            if bounds and len(rows):
                far = np.nan_to_num(limit.violation(self.costs(rows)), nan=np.inf)
            if self.allowed is not None:
                far = np.where(self.allowed(rows), far, np.inf)
            return far

        return outside

    def feasible(self, bounds: Mapping[str, tuple[float, float]]) -> Feasible:
        """Returns a test of candidates for some bounds, which needs no training."""
        outside = self.violation(bounds)
        return lambda rows: np.asarray(outside(rows) == 0)


def problem_of(settings: Mapping[str, Any], objective: Objective | None = None) -> Problem:
    """Returns the problem that a search's settings describe.

    Args:
        settings: the settings.
        objective: the objective that they describe, if it is at hand.
    """
    problem = _problem(space_of(settings), settings, objective)
    table = latency_table_of(settings)
    if table is None:
        return problem
    return with_latency(problem, table, num_classes=settings["num_classes"])


def problem_to_ask(settings: Mapping[str, Any]) -> Problem:
    """Returns the problem of a search that is asked but not resumed: nothing can be trained.

    Raises:
        ValueError: the search was started from Python, and its cost function cannot be imported.
    """
    spec = settings["objective"]
    return problem_of(settings, load_costs(spec) if spec["kind"] == "function" else None)


def latency_table_of(settings: Mapping[str, Any]) -> LatencyTable | None:
    """Returns the latency table that a search was started with, None if it had none."""
    if "latency" not in settings:
        return None
    return LatencyTable.from_json(json.dumps(settings["latency"]))


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
