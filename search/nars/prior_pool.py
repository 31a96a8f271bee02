"""Candidates around priors: those added to the pool, and which picks of a round are for them.

The share of a round that is chosen around priors falls as labels come: at first a prior is all that
is known, and a misleading one costs less and less. In piBO (Hvarfner et al. 2022, arXiv 2204.11051)
a prior's exponent falls likewise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fbnetv3.search.space.space import Mask, Matrix, Space

from .config import SearchConfig
from .limit import intersection
from .prior import Prior, has, log_density, pin, prior_title, weights_of
from .problem import Problem
from .selection import Wish

# Share of a round around priors while there are no labels.
FIRST_SHARE = 0.5
# Added to the pool, as shares of its size: candidates around priors, and networks with a prior.
NEAR, EXACT = 0.25, 0.125


def share_of(labels: int, first: int) -> float:
    """Returns the share of a round around priors: halved with the random start, a tenth at last.

    Args:
        labels: number of labels so far.
        first: number of trials of the first round.
    """
    return FIRST_SHARE * first / (first + labels)


def draw_around(
    problem: Problem, config: SearchConfig, networks: Matrix, num: int, *, seed: Sequence[int]
) -> Matrix:
    """Returns up to `num` distinct candidates around the priors of a search, within its limits.

    Args:
        problem: the problem; candidates that it lists are drawn from the list.
        config: the search's config, which has the priors.
        networks: (P, num_genes) candidates whose other genes are used.
        num: number of candidates, shared by the priors.
        seed: random seed.
    """
    rng = np.random.default_rng(list(seed))
    each = -(-num // len(config.priors))
    parts = []
    for prior in config.priors:
        if problem.rows is not None:
            rows = _listed(problem.space, problem.rows, prior, each, rng)
        else:
            rows = networks[rng.integers(len(networks), size=2 * each)]
            rows = _perturbed(problem.space, rows, prior, rng)
        parts.append(_within(problem, config, rows)[:each])
    return problem.space.unique(np.concatenate(parts))[:num]


def draw_exact(problem: Problem, config: SearchConfig, networks: Matrix, num: int) -> Matrix:
    """Returns up to `num` distinct candidates with a prior's own values, within the limits.

    Raises:
        ValueError: none with a prior's values was found; the message names the prior.
    """
    each = -(-num // len(config.priors))
    # A pool begins with the candidates of its first limit.
    networks = np.random.default_rng([config.seed, 5]).permutation(networks)
    parts = []
    for prior in config.priors:
        if problem.rows is not None:
            rows = problem.rows[has(problem.space, problem.rows, prior)]
        else:
            rows = pin(problem.space, networks, prior.values)
        inside = _within(problem, config, rows)[:each]
        if not len(inside):
            values = ", ".join(f"{name}={value}" for name, value in prior.values.items())
            raise ValueError(
                f"no candidate within the limits has {prior_title(prior.name)} ({values}); "
                "expected values that leave some: give fewer genes, or widen the limits"
            )
        parts.append(inside)
    return problem.space.unique(np.concatenate(parts))


def with_priors(problem: Problem, config: SearchConfig, pool: Matrix) -> Matrix:
    """Returns a pool with the candidates around the priors of a search added to it."""
    near = draw_around(problem, config, pool, int(NEAR * config.pool) + 1, seed=(config.seed, 4))
    exact = draw_exact(problem, config, pool, int(EXACT * config.pool) + 1)
    return problem.space.unique(np.concatenate([pool, near, exact]))


def _listed(space: Space, rows: Matrix, prior: Prior, num: int, rng: np.random.Generator) -> Matrix:
    """Returns listed candidates, drawn in proportion to the prior's density."""
    # The largest sums of logarithmic density and Gumbel noise are such a draw without repetition.
    keys = log_density(space, rows, prior) + rng.gumbel(size=len(rows))
    drawn: Matrix = rows[np.argsort(-keys, kind="stable")[: 2 * num]]
    return drawn


def _perturbed(space: Space, rows: Matrix, prior: Prior, rng: np.random.Generator) -> Matrix:
    """Returns candidates whose genes of the prior are drawn around its values."""
    out = rows.copy()
    for name, value in prior.values.items():
        column = space.column(name)
        weights = weights_of(space.genes[column], value)
        out[:, column] = rng.choice(len(weights), size=len(out), p=weights)
    return space.canonical(out)


def _within(problem: Problem, config: SearchConfig, rows: Matrix) -> Matrix:
    """Returns the distinct candidates that are within at least one limit of a search."""
    rows = problem.space.unique(rows)
    inside = np.zeros(len(rows), np.bool_)
    for limit in config.limits:
        inside |= problem.feasible(intersection(config.within, limit))(rows)
    kept: Matrix = rows[inside]
    return kept


class PriorPicks:
    """Which picks of a round are for the priors of a search, and among which candidates.

    Args:
        space: the search space.
        pool: (P, num_genes) the pool.
        priors: the priors; may be none.
    """

    def __init__(self, space: Space, pool: Matrix, priors: Sequence[Prior]) -> None:
        self._near: Mask = np.zeros(len(pool), np.bool_)
        self._exact: list[Mask] = []
        for prior in priors:
            self._near |= log_density(space, pool, prior) > 0
            self._exact.append(has(space, pool, prior))

    def wishes(
        self, index: int, num: int, *, labels: int, first: int, taken: Mask
    ) -> list[Wish | None]:
        """Returns what each of `num` picks of a round is restricted to.

        The first are the priors' own candidates, one for each prior, at most half of the round;
        others around priors are spread over the rest of it. Rounds of one or two picks have an own
        candidate as often as every fourth pick.

        Args:
            index: number of the round.
            num: number of picks.
            labels: number of labels before it.
            first: number of trials of the first round.
            taken: (P,) candidates that cannot be chosen.
        """
        if not self._exact:
            return []
        turn, between = divmod(index, max(1, 4 // num))
        count = 0 if between else min(len(self._exact), max(1, num // 2))
        masks = [self._exact[(turn * count + n) % len(self._exact)] for n in range(count)]
        # A space of recipes only has one candidate with a complete recipe, and then none is left.
        own: list[Wish | None] = [Wish(mask, True) for mask in masks if (mask & ~taken).any()]
        rest = num - len(own)
        around = max(0, round(share_of(labels, first) * num) - len(own))
        picks = np.diff(np.arange(rest + 1) * around // max(rest, 1)) > 0
        return own + [Wish(self._near) if near else None for near in picks]

    def own(self, row: int) -> Mask | None:
        """Returns the candidates with the same prior's values as one of the pool, None for none."""
        return next((mask for mask in self._exact if mask[row]), None)
