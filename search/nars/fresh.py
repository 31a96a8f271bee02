"""Candidates that are made for a round: children of the best that were trained.

A pool is a sample. What is near the best of a space that it cannot cover is hardly ever in it, and
a search of the pool alone stays as far from the best as the best of a random draw is, however much
its predictor learns.
"""

from __future__ import annotations

import numpy as np

from fbnetv3.search.space.space import Floats, Matrix

from .config import SearchConfig
from .limit import intersection
from .pool import children
from .problem import Problem

# Per limit: the best trained that are parents, and their children, of which some are outside it.
_PARENTS, _CHILDREN = 8, 2048
# With fewer labels the best are hardly better than others, and their children show less of the
# space than the pool does.
FEWEST_TRAINED = 3 * _PARENTS
# A pool with this share of all candidates has some near every best one.
_DENSE = 1e-3


def dense(problem: Problem, pool: Matrix) -> bool:
    """Returns whether a pool has enough of all candidates to need no children of them."""
    total = problem.space.cardinality() if problem.rows is None else len(problem.rows)
    return len(pool) >= _DENSE * total


def fresh(
    problem: Problem, config: SearchConfig, trained: Matrix, values: Floats, *, index: int
) -> Matrix:
    """Returns distinct candidates within the limits that are children of the best within each.

    There are none for a limit within which fewer than `FEWEST_TRAINED` were trained.

    Args:
        problem: the problem.
        config: the search's config.
        trained: (n, num_genes) what was trained.
        values: (n,) their labels.
        index: number of the round, which draws the children.
    """
    best = trained[np.argsort(-values, kind="stable")]
    parts = [trained[:0]]
    for number, limit in enumerate(config.limits):
        inside = problem.feasible(intersection(config.within, limit))
        own = best[inside(best)]
        if len(own) >= FEWEST_TRAINED:
            rng = np.random.default_rng([config.seed, 8, index, number])
            made = problem.space.unique(children(problem.space, own[:_PARENTS], rng, _CHILDREN))
            parts.append(made[inside(made)])
    return problem.space.unique(np.concatenate(parts))
