"""Stage 3 with some genes held at the values of a prior."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from fbnetv3.search.predictors.protocol import Predictor
from fbnetv3.search.space.layout import Value
from fbnetv3.search.space.space import Matrix

from .config import SearchConfig
from .evolution import Evolved, evolve
from .limit import Limit, intersection
from .prior import Prior, has, pin
from .problem import Problem

Bounds = Mapping[str, tuple[float, float]]


def held_genes(priors: Sequence[Prior], unresolved: Collection[str]) -> dict[str, Value]:
    """Returns the values of unresolved genes, each from the first prior that has the gene."""
    held: dict[str, Value] = {}
    for prior in priors:
        for name, value in prior.values.items():
            if name in unresolved:
                held.setdefault(name, value)
    return held


def evolve_held(
    problem: Problem,
    predictor: Predictor,
    limits: Sequence[Bounds],
    held: Mapping[str, Value],
    *,
    config: SearchConfig,
    start: Matrix,
) -> list[Evolved]:
    """Returns the best predicted candidates within each limit that have the held values.

    Every candidate is evaluated as if it had the held values; those that then are equal are one.

    Args:
        problem: the search problem.
        predictor: a fitted predictor.
        limits: the limits.
        held: gene -> value; may be empty.
        config: the search's config: seed and evolution's settings.
        start: (P, num_genes) initial candidates.
    """
    space, listed = problem.space, problem.allowed

    def fixed(rows: Matrix) -> Matrix:
        return pin(space, rows, held) if held else rows

    found = evolve(
        space,
        lambda rows: predictor.predict(fixed(rows)).mean,
        lambda rows: problem.costs(fixed(rows)),
        [Limit(limit) for limit in limits],
        start=space.unique(fixed(start)),
        rng=np.random.default_rng([config.seed, 3]),
        settings=config.evolution,
        allowed=None if listed is None else lambda rows: listed(fixed(rows)),
    )
    if not held:
        return found
    held_found = []
    for one in found:
        rows = space.unique(fixed(one.rows))
        scores = predictor.predict(rows).mean if len(rows) else one.scores
        costs = problem.costs(rows) if len(rows) else {}
        held_found.append(dataclasses.replace(one, rows=rows, scores=scores, costs=costs))
    return held_found


def best_with_prior(
    problem: Problem,
    predictor: Predictor,
    prior: Prior,
    *,
    config: SearchConfig,
    start: Matrix,
) -> list[Matrix]:
    """Returns the best predicted candidate with a prior's values within each limit of a search.

    Each is (1, num_genes), or (0, num_genes) where no candidate within the limit has the values.
    """
    bounds = [intersection(config.within, limit) for limit in config.limits]
    if problem.rows is None:
        found = evolve_held(problem, predictor, bounds, prior.values, config=config, start=start)
        return [one.rows[:1] for one in found]
    own = problem.rows[has(problem.space, problem.rows, prior)]
    best = []
    for limit in bounds:
        inside = own[problem.feasible(limit)(own)]
        scores = predictor.predict(inside).mean
        best.append(inside[np.argsort(-scores, kind="stable")[:1]])
    return best
