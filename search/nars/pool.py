"""The pool of a search: the candidates that rounds choose from, as many for each limit.

Random draws hit a tight limit rarely or never. What they leave open is filled by evolution, whose
fitness is how far outside the limit a candidate is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from fbnetv3._internal.messages import counted
from fbnetv3.search.space.space import Floats, Matrix, Space

from .config import FEWEST, SearchConfig
from .limit import intersection, limit_text
from .prior_pool import with_priors
from .problem import Problem

Bounds = Mapping[str, tuple[float, float]]
# (P, num_genes) -> (P,): how far outside its bounds each candidate is, 0 inside.
Violation = Callable[[Matrix], Floats]

# Draws for each candidate of the pool, and more where they would be enough.
DRAWS, MORE = 2, 4
PARENTS, CHILDREN = 256, 4096
# Generations, in all and without progress, after which no more candidates are expected.
GENERATIONS, PATIENCE = 400, 15


class TooFewError(ValueError):
    """A space has fewer candidates within the limits than a search was to train.

    Attributes:
        found: their number.
    """

    def __init__(self, message: str, found: int) -> None:
        super().__init__(message)
        self.found = found


def pool_of(problem: Problem, config: SearchConfig) -> Matrix:
    """Returns the pool of a search: distinct candidates, each within its bounds and one limit.

    Raises:
        ValueError: too few candidates are within a limit to fill its share of a round, or within
            all limits for all rounds; the message has the limit, and if no candidate is within it,
            the costs of the nearest one. Or no candidate has a prior.
        TooFewError: a larger pool would have no more candidates, and they are too few for all
            rounds.
    """
    quota = math.ceil(config.pool / len(config.limits))
    # With a time, rounds are as large as there are candidates.
    usual = FEWEST if config.time_s else config.batch
    largest = max(config.sizes, default=usual)
    share = math.ceil(largest / len(config.limits))
    parts, full = [], False
    for number, limit in enumerate(config.limits):
        bounds = intersection(config.within, limit)
        parts.append(draw(problem, quota, seed=config.seed + number, bounds=bounds))
        full |= len(parts[-1]) == quota
    pool = problem.space.unique(np.concatenate(parts))
    # A candidate may be trained once on each rung and once in full.
    rungs = len(config.rungs)
    needed = max(sum(config.sizes[rungs:]), *config.sizes[:rungs], 0)
    all_of = problem.rows is None and len(pool) == problem.space.cardinality()
    message = (
        f"the pool has {counted(len(pool), 'candidate')}, fewer than the {needed} trainings of "
        f"all rounds; {_WAY_OUT[all_of]}"
    )
    if len(pool) < FEWEST and config.trainings and all_of:
        raise TooFewError(
            f"the space has only {counted(len(pool), 'candidate')}; expected {FEWEST} or more to "
            "choose from: train each of them",
            len(pool),
        )
    if len(pool) < needed and config.trainings and (all_of or not full):
        raise TooFewError(message, len(pool))
    for part, limit in zip(parts, config.limits, strict=True):
        _check(len(part), share, largest, intersection(config.within, limit))
    _check(len(pool), largest, largest, config.within)
    if len(pool) < needed:
        raise ValueError(message)
    return with_priors(problem, config, pool) if config.priors else pool


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
                costs = ", ".join(known) or "none; give a function that returns a candidate's costs"
                if name.startswith("latency"):
                    costs += "; for latency_ms measure a table (`fbnetv3-search latency-table`)"
                elif name.startswith("mac") and "macs_paper" in known:
                    costs += "; 'macs' is short for macs_paper"
                raise ValueError(f"limit on {name!r}; the known costs are {costs}")
            if np.isfinite(high) and (least := problem.extreme(name)) > high:
                raise ValueError(
                    f"no candidate has {name} of {high:g} or less; the smallest is {least:g}"
                )
            if np.isfinite(low) and (most := problem.extreme(name, largest=True)) < low:
                raise ValueError(
                    f"no candidate has {name} of {low:g} or more; the largest is {most:g}"
                )
    pool_of(problem, config)


def _check(found: int, needed: int, size: int, bounds: Bounds) -> None:
    if found < needed:
        share = f"the {needed} per limit in " if needed < size else ""
        limit = f"limits ({limit_text(bounds)})" if bounds else "limits"
        few = counted(found, "candidate is", "candidates are")
        raise ValueError(
            f"only {few} feasible, fewer than {share}a round of {size}; widen the {limit} or use "
            "smaller rounds"
        )


# What to do where candidates are too few for all trainings; whether they are all of the space.
_WAY_OUT = {
    True: "the space has no more: train each of them, or plan fewer trainings",
    False: "enlarge the pool, widen the limits or use fewer rounds",
}


def draw(problem: Problem, num: int, *, seed: int, bounds: Bounds) -> Matrix:
    """Returns up to `num` distinct candidates within bounds.

    They are drawn from the problem's list if it has one. Else they are quasi-random, and where too
    few of these are within the bounds, evolved from those that are nearest.

    Raises:
        ValueError: no candidate was found; the message has the costs of the nearest one.
    """
    outside = problem.violation(bounds)
    if problem.rows is not None:
        tried = problem.rows[np.random.default_rng([seed, 1]).permutation(len(problem.rows))]
        found = tried[outside(tried) == 0]
    else:
        tried = problem.space.unique(problem.space.sobol(DRAWS * num, seed))
        inside = int((outside(tried) == 0).sum())
        if inside < num <= MORE * inside:
            tried = problem.space.unique(problem.space.sobol(MORE * DRAWS * num, seed))
        found = tried[outside(tried) == 0]
        if len(found) < num:
            rng = np.random.default_rng([seed, 2])
            tried = evolve_inside(problem.space, outside, num, start=tried, rng=rng)
            found = tried[outside(tried) == 0]
    if not len(found):
        nearest = problem.costs(tried[[np.argmin(outside(tried))]])
        costs = ", ".join(f"{name} {float(cost[0]):g}" for name, cost in nearest.items())
        raise ValueError(
            f"no candidate with {limit_text(bounds)} is feasible; widen the limits: the nearest "
            f"that was found has {costs or 'no known costs'}"
        )
    kept: Matrix = found[:num]
    return kept


def evolve_inside(
    space: Space, outside: Violation, num: int, *, start: Matrix, rng: np.random.Generator
) -> Matrix:
    """Returns up to `num` distinct candidates inside, or if none is found the nearest ones.

    Each generation crosses and mutates a random choice of those found inside so far and, while
    there are few, of the nearest outside. It ends early when nothing new is found.
    """
    far = outside(start)
    inside = start[far == 0]
    near, far = _nearest(start, far)
    best, idle = float(far.min(initial=np.inf)), 0
    for _ in range(GENERATIONS):
        if len(inside) >= num or idle >= PATIENCE:
            break
        chosen = inside[rng.permutation(len(inside))[:PARENTS]]
        parents = np.concatenate([chosen, near[: PARENTS - len(chosen)]])
        made = children(space, parents, rng, CHILDREN)
        gap = outside(made)
        before = (len(inside), best)
        inside = space.unique(np.concatenate([inside, made[gap == 0]]))
        both = space.unique(np.concatenate([near, made[gap > 0]]))
        near, far = _nearest(both, outside(both))
        best = min(best, float(gap.min()), float(far.min(initial=np.inf)))
        idle = idle + 1 if before == (len(inside), best) else 0
    return inside if len(inside) else near


def _nearest(rows: Matrix, outside: Floats) -> tuple[Matrix, Floats]:
    order = np.argsort(outside, kind="stable")
    order = order[outside[order] > 0][:PARENTS]
    return rows[order], outside[order]


def children(space: Space, parents: Matrix, rng: np.random.Generator, num: int) -> Matrix:
    """Returns `num` children of random pairs, with one gene to a quarter of the genes redrawn."""
    first, second = rng.integers(len(parents), size=(2, num))
    crossed = rng.random(num) < 0.5
    mixed = np.where(
        crossed[:, None], space.crossover(parents[first], parents[second], rng), parents[first]
    )
    least = 1.0 / len(space.genes)
    return space.mutate(mixed, rng, np.maximum(least, 0.25 * rng.random(num) ** 2))
