"""The end of a search: the best few of each limit are trained again, and the best mean wins."""

from __future__ import annotations

import numpy as np

from fbnetv3.search.execution.coordinator import Coordinator
from fbnetv3.search.space.space import Matrix
from fbnetv3.search.storage.store import Store
from fbnetv3.search.storage.trials import Batch, Proposal

from .answers import Answer, Contender
from .config import Plan
from .evolution import Evolved
from .problem import Problem
from .rounds import Notify, Optimizer


def ranking(problem: Problem, optimizer: Optimizer, plan: Plan, found: Evolved) -> Matrix:
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


def train_again(
    store: Store,
    plan: Plan,
    optimizer: Optimizer,
    coordinator: Coordinator,
    rankings: list[Matrix],
    notify: Notify,
) -> None:
    """Trains each limit's `top` candidates at full length with every seed, as the last round."""
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


def answers_of(
    store: Store, plan: Plan, optimizer: Optimizer, found: list[Evolved], rankings: list[Matrix]
) -> list[Answer]:
    """Returns an answer for each limit, its contenders ranked by their mean over seeds."""
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
