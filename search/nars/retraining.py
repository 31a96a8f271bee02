"""The end of a search: the best candidates of each limit are retrained, and the best mean wins."""

from __future__ import annotations

import numpy as np

from fbnetv3.search.execution.coordinator import Coordinator
from fbnetv3.search.space.space import Matrix
from fbnetv3.search.storage.store import Store
from fbnetv3.search.storage.trials import Batch, Proposal

from .answers import Answer, Contender
from .config import SearchConfig
from .evolution import Evolved
from .held import best_with_prior
from .labels import FINAL, SEARCH_KINDS
from .prior import has
from .problem import Problem
from .rounds import Notify, Optimizer


def ranking(problem: Problem, optimizer: Optimizer, config: SearchConfig, found: Evolved) -> Matrix:
    """Returns the `top` candidates to retrain: the best predicted, and that of the best label."""
    labels = optimizer.labels()
    inside = problem.feasible(found.limit.bounds)(labels.matrix) & np.isfinite(labels.values)
    trained = labels.matrix[inside]
    rows = problem.space.unique(np.concatenate([found.rows, trained]))
    if not len(rows):
        return rows
    scores = optimizer.predictor.predict(rows).mean
    chosen = rows[np.argsort(-scores, kind="stable")][: config.top]
    if len(trained):
        best = trained[np.argmax(labels.values[inside])][None]
        if not (chosen == best).all(1).any():
            # Where one label in full decides, this one has it already.
            free = config.final_seeds == 1 and optimizer.epoch == config.epochs
            if free or config.top > 1:
                chosen = np.concatenate([chosen[: config.top - 1 + free], best])
    return chosen


def with_prior_candidates(
    problem: Problem, optimizer: Optimizer, config: SearchConfig, rankings: list[Matrix]
) -> list[Matrix]:
    """Returns the candidates to retrain with the best predicted network for each prior added.

    It is added within every limit where there is one, beside the `top` others.
    """
    start = optimizer.pool.rows
    for prior in config.priors:
        best = best_with_prior(problem, optimizer.predictor, prior, config=config, start=start)
        joined = []
        for rows, own in zip(rankings, best, strict=True):
            fresh = [row for row in own if not (rows == row).all(axis=1).any()]
            joined.append(np.concatenate([rows, *(row[None] for row in fresh)]))
        rankings = joined
    return rankings


def retrain(
    store: Store,
    config: SearchConfig,
    optimizer: Optimizer,
    coordinator: Coordinator,
    rankings: list[Matrix],
    notify: Notify,
) -> None:
    """Retrains the chosen candidates in full with every seed, as the last round."""
    if not any(batch.kind == FINAL for batch in store.batches()):
        proposals = []
        for slot, rows in enumerate(rankings):
            costs = optimizer.costs_of(rows)
            for row, genes in enumerate(rows):
                for seed in range(config.seed, config.seed + config.final_seeds):
                    known = {name: float(cost[row]) for name, cost in costs.items()}
                    proposals.append(
                        Proposal(tuple(genes.tolist()), known, config.epochs, seed, slot)
                    )
        batch = Batch(store.batches()[-1].number + 1, FINAL, {}, config.predictor)
        store.add_batch(batch, proposals)
    rounds = sum(batch.kind in SEARCH_KINDS for batch in store.batches())
    notify("round", {"index": rounds, "rounds": rounds - 1, "fidelity": 1.0})
    coordinator.complete(lambda _trial: None, optimizer.report)


def answers_of(
    store: Store,
    config: SearchConfig,
    optimizer: Optimizer,
    found: list[Evolved],
    rankings: list[Matrix],
) -> list[Answer]:
    """Returns the result for each limit, its contenders ranked by their mean over seeds."""
    labels: dict[tuple[int, ...], list[float]] = {}
    for trial in store.trials("done"):
        if (trial.epochs, trial.fidelity, trial.origin) == (config.epochs, 1.0, "search"):
            value = store.curve(trial.seq)[-1]
            labels.setdefault(trial.genes, []).append(np.nan if value is None else value)
    answers = []
    for limit, evolved, rows in zip(config.limits, found, rankings, strict=True):
        costs = optimizer.costs_of(rows)
        predicted = optimizer.predictor.predict(rows).mean if len(rows) else np.zeros(0)
        contenders = [
            Contender(
                tuple(genes.tolist()),
                tuple(labels.get(tuple(genes.tolist()), ())),
                {name: float(cost[row]) for name, cost in costs.items()},
                float(predicted[row]),
                next(
                    (p.name for p in config.priors if has(optimizer.space, genes[None], p)[0]), ""
                ),
            )
            for row, genes in enumerate(rows)
        ]
        # A mean over fewer seeds, or with a diverged training, ranks last.
        contenders.sort(
            key=lambda c: (
                len(c.labels) < config.final_seeds or not np.isfinite(c.mean),
                -c.mean if np.isfinite(c.mean) else 0.0,
                c.genes,
            )
        )
        answers.append(Answer(limit, tuple(contenders), evolved.nearest))
    return answers
