"""The whole journey of a search, from settings to architectures and recipes.

    with Store.open(folder) as store:
        result = run(store, engine)

A pool, an encoder pretrained on costs (stage 1); rounds of trials (stage 2); evolution for every
limit (stage 3); the best few of each limit trained again with more seeds, and the best mean chosen.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import fbnetv3
from fbnetv3.search.cost.latency_table import LatencyTable
from fbnetv3.search.execution.coordinator import Coordinator, Policy
from fbnetv3.search.execution.engine import Engine
from fbnetv3.search.execution.objective import TableObjective
from fbnetv3.search.execution.spec import identity, load_objective, space_of
from fbnetv3.search.predictors.predictor import Predictor, load_predictor
from fbnetv3.search.space.space import Matrix, Space
from fbnetv3.search.storage.store import Store
from fbnetv3.search.storage.trials import Batch, Proposal

from .evolution import Evolved, Limit, evolve
from .export import describe, write_answers
from .problem import Plan, Problem, pool_of
from .rounds import PREDICTOR, Notify, Optimizer

PATIENCE = Policy()
LATENCY = "latency_ms"


def _unheard(_name: str, _fields: Mapping[str, Any]) -> None:
    """Notifies nobody."""


def create(
    folder: Path,
    *,
    space: Space,
    objective: Mapping[str, Any],
    plan: Plan,
    latency: LatencyTable | None = None,
) -> Store:
    """Returns the store of a new search, after looking whether it can be carried out at all.

    Where the plan has 0 epochs or no target, the objective's own are taken. With a latency table
    candidates have the cost `latency_ms` too.

    Raises:
        ValueError: space, objective, and plan do not fit together, or no candidate is feasible.
        FileNotFoundError: a file of the objective does not exist.
    """
    made = load_objective(objective)
    settings: dict[str, Any] = {
        "identity": {
            "space": space.sha256,
            "objective": identity(objective),
            "code": fbnetv3.__version__,
        },
        "space": space.to_dict(),
        "objective": dict(objective),
        "num_classes": getattr(made, "num_classes", 1000),
        "plan": dataclasses.replace(
            plan,
            epochs=plan.epochs or getattr(made, "epochs", 1),
            target=plan.target or getattr(made, "target", "log_error"),
        ).to_dict(),
    }
    if latency is not None:
        settings["latency"] = json.loads(latency.to_json())
    listed = getattr(made, "space", None)
    if isinstance(made, TableObjective) and listed != space:
        raise ValueError(
            f"the table is of space {made.space.name!r}; the search's is {space.name!r}"
        )
    if isinstance(made, TableObjective) and plan.epochs > made.epochs:
        raise ValueError(f"epochs is {plan.epochs}; the table has curves of {made.epochs}")
    check(problem_of(settings), plan)
    return Store.create(folder, settings)


def problem_of(settings: Mapping[str, Any]) -> Problem:
    """Returns the problem that a search's settings describe."""
    problem = _problem(space_of(settings), settings)
    if "latency" not in settings:
        return problem
    table = LatencyTable.from_json(json.dumps(settings["latency"]))
    return with_latency(problem, table, num_classes=settings["num_classes"])


def _problem(space: Space, settings: Mapping[str, Any]) -> Problem:
    objective = None
    if settings["objective"]["kind"] != "train":
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


def check(problem: Problem, plan: Plan) -> None:
    """Looks whether limits can be reached and rounds be filled, before anything is trained.

    Raises:
        ValueError: a limit, or `bin_by`, names an unknown cost, or a limit is out of reach; the
            message has the least (or largest) cost that is within reach. Or too few candidates are
            feasible.
    """
    known = problem.costs(problem.space.sample(1, np.random.default_rng(0)))
    if plan.bin_by and plan.bin_by not in known:
        raise ValueError(
            f"bin_by is {plan.bin_by!r}; the known costs are {', '.join(known) or 'none'}"
        )
    for bounds in (plan.within, *plan.limits):
        for name, (low, high) in bounds.items():
            if name not in known:
                raise ValueError(
                    f"limit on {name!r}; the known costs are {', '.join(known) or 'none'}"
                )
            if np.isfinite(high) and (least := problem.extreme(name)) > high:
                raise ValueError(
                    f"no candidate has {name} of {high:g} or less; the least is {least:g}"
                )
            if np.isfinite(low) and (most := problem.extreme(name, largest=True)) < low:
                raise ValueError(
                    f"no candidate has {name} of {low:g} or more; the largest is {most:g}"
                )
    pool_of(problem, plan)


@dataclass(frozen=True)
class Contender:
    """A candidate that was trained again at full length.

    Attributes:
        genes: canonical gene indices.
        labels: after the last epoch, one for each seed.
        costs: known costs.
        predicted: the predictor's expectation.
    """

    genes: tuple[int, ...]
    labels: tuple[float, ...]
    costs: Mapping[str, float]
    predicted: float

    @property
    def mean(self) -> float:
        """Mean over seeds; minus infinity where a training diverged or is missing."""
        return float(np.mean(self.labels)) if self.labels else -np.inf

    @property
    def sd(self) -> float:
        """Standard deviation over seeds; 0 for one seed."""
        return float(np.std(self.labels, ddof=1)) if len(self.labels) > 1 else 0.0


@dataclass(frozen=True)
class Answer:
    """What a search found for one limit.

    Attributes:
        limit: cost -> (lowest, highest).
        contenders: best mean first; empty if nothing within the limit was found.
        nearest: costs nearest to a limit that is out of reach, else empty.
    """

    limit: Mapping[str, tuple[float, float]]
    contenders: tuple[Contender, ...]
    nearest: Mapping[str, float]


def run(
    store: Store, engine: Engine, *, policy: Policy = PATIENCE, notify: Notify = _unheard
) -> list[Answer]:
    """Returns the answers of a search, going on from wherever its store is.

    Args:
        store: the search, opened to write.
        engine: where its trials run; the caller closes it.
        policy: how patient to be with failures and stragglers.
        notify: called with the name of each event and its fields.

    Raises:
        ValueError: the settings do not fit, or all labels are NaN.
        StoreError: the disk is full.
        TrialError: trials fail one after another.
    """
    return search(store, problem_of(store.settings), engine, policy=policy, notify=notify)


def search(
    store: Store,
    problem: Problem,
    engine: Engine,
    *,
    policy: Policy = PATIENCE,
    notify: Notify = _unheard,
) -> list[Answer]:
    """Returns the answers, as `run` does, for a problem that is at hand already."""
    plan = Plan.from_dict(store.settings["plan"])
    coordinator = Coordinator(store, engine, policy)
    try:
        optimizer = Optimizer(problem, plan, store, coordinator, notify)
        optimizer.pretrain()
        optimizer.run()
        found = evolve_for(store, problem, optimizer.predictor, plan.limits)
        _note_evolution(store, found)
        notify("evolved", {"limits": len(found)})
        rankings = [_ranking(problem, optimizer, store, plan, one) for one in found]
        _train_again(store, plan, optimizer, coordinator, rankings, notify)
        answers = _answers(store, plan, optimizer, found, rankings)
    finally:
        coordinator.cancel()
    store.set_stage("answers", {"answers": [describe(problem.space, one) for one in answers]})
    write_answers(store, problem.space, answers)
    notify("finished", {"answers": len(answers)})
    return answers


def evolve_for(
    store: Store,
    problem: Problem,
    predictor: Predictor,
    limits: Sequence[Mapping[str, tuple[float, float]]],
) -> list[Evolved]:
    """Stage 3: returns the best predicted candidates within each limit, best first."""
    plan = Plan.from_dict(store.settings["plan"])
    return evolve(
        problem.space,
        lambda rows: predictor.predict(rows).mean,
        problem.costs,
        [Limit(_both(plan.within, limit)) for limit in limits],
        start=problem.pool(plan.pool, seed=plan.seed, within=plan.within),
        rng=np.random.default_rng([plan.seed, 3]),
        allowed=problem.allowed,
    )


def open_predictor(store: Store, problem: Problem) -> Predictor:
    """Returns the predictor as the last round left it.

    Raises:
        FileNotFoundError: no round has ended yet.
    """
    path = store.folder / PREDICTOR
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: no round has ended; wait for the first")
    return load_predictor(path, costs=problem.costs)


def _both(
    first: Mapping[str, tuple[float, float]], second: Mapping[str, tuple[float, float]]
) -> dict[str, tuple[float, float]]:
    wide = (-np.inf, np.inf)
    return {
        name: (
            max(first.get(name, wide)[0], second.get(name, wide)[0]),
            min(first.get(name, wide)[1], second.get(name, wide)[1]),
        )
        for name in {**first, **second}
    }


def _note_evolution(store: Store, found: list[Evolved]) -> None:
    content = [
        {
            "generations": one.generations,
            "history": [round(x, 6) for x in one.history if np.isfinite(x)],
            "nearest": dict(one.nearest),
            "best": one.rows[:5].tolist(),
        }
        for one in found
    ]
    store.set_stage("evolution", {"limits": content})


def _ranking(
    problem: Problem, optimizer: Optimizer, store: Store, plan: Plan, found: Evolved
) -> Matrix:
    """Returns the `top` candidates to train again: best predicted, and the best label's own."""
    labels = optimizer.labels()
    inside = problem.feasible(found.limit.bounds)(labels.matrix) & np.isfinite(labels.values)
    trained = labels.matrix[inside]
    rows = problem.space.unique(np.concatenate([found.rows, trained]))
    if not len(rows):
        return rows
    scores = optimizer.predictor.predict(rows).mean
    chosen = rows[np.argsort(-scores, kind="stable")][: plan.top]
    if len(trained):
        best = trained[np.argmax(labels.values[inside])][None]
        if not (chosen == best).all(1).any():
            chosen = np.concatenate([chosen[: plan.top - 1], best]) if plan.top > 1 else chosen
    return chosen


def _train_again(
    store: Store,
    plan: Plan,
    optimizer: Optimizer,
    coordinator: Coordinator,
    rankings: list[Matrix],
    notify: Notify,
) -> None:
    if not any(batch.kind == "final" for batch in store.batches()):
        proposals = []
        for slot, rows in enumerate(rankings):
            costs = optimizer.costs_of(rows)
            for row, genes in enumerate(rows):
                for seed in range(plan.seed, plan.seed + plan.final_seeds):
                    known = {name: float(cost[row]) for name, cost in costs.items()}
                    proposals.append(
                        Proposal(tuple(genes.tolist()), known, plan.epochs, seed, slot)
                    )
        batch = Batch(store.batches()[-1].number + 1, "final", {}, plan.predictor)
        store.add_batch(batch, proposals)
    notify("round", {"index": plan.rounds + 1, "rounds": plan.rounds})
    coordinator.complete(lambda _trial: None, optimizer.report)


def _answers(
    store: Store, plan: Plan, optimizer: Optimizer, found: list[Evolved], rankings: list[Matrix]
) -> list[Answer]:
    labels: dict[tuple[int, ...], list[float]] = {}
    for trial in store.trials("done"):
        if trial.epochs == plan.epochs and trial.origin == "search":
            value = store.curve(trial.seq)[-1]
            labels.setdefault(trial.genes, []).append(np.nan if value is None else value)
    answers = []
    for limit, one, rows in zip(plan.limits, found, rankings, strict=True):
        costs = optimizer.costs_of(rows)
        predicted = optimizer.predictor.predict(rows).mean if len(rows) else np.zeros(0)
        contenders = [
            Contender(
                tuple(genes.tolist()),
                tuple(labels.get(tuple(genes.tolist()), ())),
                {name: float(cost[row]) for name, cost in costs.items()},
                float(predicted[row]),
            )
            for row, genes in enumerate(rows)
        ]
        # A mean over fewer seeds, or one with a training that diverged, ranks last.
        contenders.sort(
            key=lambda c: (
                len(c.labels) < plan.final_seeds or not np.isfinite(c.mean),
                -c.mean if np.isfinite(c.mean) else 0.0,
                c.genes,
            )
        )
        answers.append(Answer(limit, tuple(contenders), one.nearest))
    return answers
