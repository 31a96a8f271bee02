"""Stage 3: an adaptive genetic algorithm over a score, for many limits at once.

The populations of all limits are in one matrix, so that every generation computes scores and costs
of all children in one call. Scores and costs are functions of the caller.

Source: the paper, section 3.2 (first generation 50 best and 50 random, 24 children each, keep 40,
stop when the best score saturates); rates that adapt to fitness after Srinivas and Patnaik, 1994.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fbnetv3.search.space.space import CostsOf, Feasible, Matrix, Space

from .limit import Limit

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Score = Callable[[Matrix], Floats]


@dataclass(frozen=True)
class EvolutionSettings:
    """The paper's numbers; `patience` and `tolerance` define "saturated" here.

    Attributes:
        first_best: number of the pool's best predicted candidates in the first generation.
        first_random: number of its other candidates, drawn at random, in the first generation.
        children: number of children per parent in a generation.
        keep: number of candidates that a generation keeps per limit.
        generations: maximum number of generations.
        patience: number of generations without a better score after which a limit is saturated.
        tolerance: minimum improvement that counts as better, in the score's unit.
    """

    first_best: int = 50
    first_random: int = 50
    children: int = 24
    keep: int = 40
    generations: int = 100
    patience: int = 5
    tolerance: float = 1e-6


@dataclass(frozen=True)
class Evolved:
    """What stage 3 found for one limit.

    Attributes:
        limit: the limit.
        rows: (K, num_genes) the best feasible candidates, best first; empty if none was found.
        scores: (K,) their scores.
        costs: name -> (K,) their costs.
        generations: number of generations that were run.
        history: best score after each generation.
        nearest: the costs of the candidate that is nearest to an unreachable limit, else empty.
    """

    limit: Limit
    rows: Matrix
    scores: Floats
    costs: Mapping[str, npt.NDArray[Any]]
    generations: int
    history: tuple[float, ...] = ()
    nearest: Mapping[str, float] = field(default_factory=dict)

    @property
    def reachable(self) -> bool:
        """Whether a candidate within the limit was found."""
        return len(self.rows) > 0


def evolve(
    space: Space,
    score: Score,
    costs: CostsOf,
    limits: Sequence[Limit],
    *,
    start: Matrix,
    rng: np.random.Generator,
    settings: EvolutionSettings = EvolutionSettings(),
    allowed: Feasible | None = None,
) -> list[Evolved]:
    """Returns the best candidates within each limit, by one run of the genetic algorithm.

    Args:
        space: the search space.
        score: (P, num_genes) -> (P,), higher is better; called on feasible candidates only.
        costs: (P, num_genes) -> name -> (P,), the costs that limits bound.
        limits: the limits, each with its own population.
        start: initial candidates, such as the pool of stage 2.
        rng: random generator.
        settings: population sizes and stopping rule.
        allowed: (P, num_genes) -> (P,), false for candidates to leave out, such as those that a
            table of labels lacks.

    Raises:
        ValueError: no limit, an empty start, or a limit on an unknown cost.
    """
    if not limits:
        raise ValueError("no limits; give at least Limit({}) for a search without bounds")
    pool = space.unique(start)
    if not len(pool):
        raise ValueError("start is empty; give some candidates, such as space.pool(1000, seed=0)")
    run = _Run(space, score, costs, list(limits), pool, rng, settings, allowed)
    run.begin(pool)
    for _ in range(settings.generations):
        if not run.active.any():
            break
        run.step()
    return [run.result(number) for number in range(len(limits))]


def extreme(
    space: Space, costs: CostsOf, name: str, *, largest: bool = False
) -> tuple[Matrix, float]:
    """Returns a candidate with the smallest (or largest) reachable cost, and that cost.

    Improves one gene at a time from a few starts until no change helps: exact for a cost that is
    monotonic in each gene, such as MACs and parameters.
    """
    sign = -1.0 if largest else 1.0
    best = space.sample(8, np.random.default_rng(0))
    value = _known(sign * np.asarray(costs(best)[name], np.float64))
    while True:
        before = value.copy()
        for column, size in enumerate(space.sizes):
            trial = np.repeat(best, size, axis=0)
            trial[:, column] = np.tile(np.arange(size, dtype=np.int16), len(best))
            trial = space.canonical(trial)
            found = _known(sign * np.asarray(costs(trial)[name], np.float64))
            pick = found.reshape(len(best), size).argmin(axis=1)
            chosen = np.arange(len(best)) * size + pick
            better = found[chosen] < value
            best = np.where(better[:, None], trial[chosen], best)
            value = np.where(better, found[chosen], value)
        if (value == before).all():
            break
    row = int(value.argmin())
    return best[row], float(sign * value[row])


def _known(values: Floats) -> Floats:
    """Returns the costs with unknown ones (NaN) replaced by infinity."""
    return np.where(np.isnan(values), np.inf, values)


class _Run:
    """The populations of all limits: rows sorted by limit, then feasible first, best first."""

    def __init__(
        self,
        space: Space,
        score: Score,
        costs: CostsOf,
        limits: list[Limit],
        pool: Matrix,
        rng: np.random.Generator,
        settings: EvolutionSettings,
        allowed: Feasible | None,
    ) -> None:
        self.space, self.score, self.costs, self.limits = space, score, costs, limits
        self.rng, self.settings, self.allowed = rng, settings, allowed
        self.ends: dict[tuple[str, bool], tuple[Matrix, float]] = {}
        known = costs(pool)
        self.nearest = [self._unreachable(limit, known) for limit in limits]
        self.active = np.array([not near for near in self.nearest], np.bool_)
        self.history: list[list[float]] = [[] for _ in limits]
        self.rows: Matrix = np.zeros((0, len(space.genes)), np.int16)
        self.owner = np.zeros(0, np.int64)
        self.fitness = np.zeros(0)

    def _unreachable(self, limit: Limit, known: Mapping[str, npt.NDArray[Any]]) -> dict[str, float]:
        """Returns the nearest costs if a single bound of the limit is out of reach, else {}."""
        limit.violation(known)
        for name, (low, high) in limit.bounds.items():
            for bound, largest in ((high, False), (low, True)):
                inside = known[name] >= bound if largest else known[name] <= bound
                if not np.isfinite(bound) or bool(np.any(inside)):
                    continue
                if (name, largest) not in self.ends:
                    found = extreme(self.space, self.costs, name, largest=largest)
                    self.ends[name, largest] = found
                row, value = self.ends[name, largest]
                if (value < bound) if largest else (value > bound):
                    nearest = self.costs(row[None])
                    return {key: float(x[0]) for key, x in nearest.items()}
        return {}

    def begin(self, pool: Matrix) -> None:
        """Starts each limit's population with the best and some random candidates of the pool."""
        numbers = np.flatnonzero(self.active)
        if not len(numbers):
            return
        rows = np.tile(pool, (len(numbers), 1))
        owner = np.repeat(numbers, len(pool))
        fitness = self._evaluate(rows, owner, shared=pool)
        keep: list[Ints] = []
        for number in numbers:
            own = np.flatnonzero(owner == number)
            ranked = own[np.argsort(-fitness[own], kind="stable")]
            best, rest = ranked[: self.settings.first_best], ranked[self.settings.first_best :]
            inside = rest[fitness[rest] > _OUTSIDE]
            rest = inside if len(inside) >= self.settings.first_random else rest
            more = self.rng.permutation(rest)[: self.settings.first_random]
            keep.append(np.concatenate([best, more[np.argsort(-fitness[more], kind="stable")]]))
        chosen = np.concatenate(keep)
        self.rows, self.owner, self.fitness = rows[chosen], owner[chosen], fitness[chosen]
        self._record()

    def step(self) -> None:
        """Breeds, evaluates and selects in each population that is still improving."""
        live = self.active[self.owner]
        parents, owner, fitness = self.rows[live], self.owner[live], self.fitness[live]
        children, of = self._breed(parents, owner, fitness)
        rows, owners = np.concatenate([parents, children]), np.concatenate([owner, of])
        # A candidate may be in several populations; within one the first occurrence is the parent.
        keys = self.space.hashes(rows) * np.uint64(2 * len(self.limits) + 1)
        _, first = np.unique(keys + owners.astype(np.uint64), return_index=True)
        fresh = first[first >= len(parents)]
        rows = np.concatenate([parents, rows[fresh]])
        owners = np.concatenate([owner, owners[fresh]])
        fitness = np.concatenate(
            [fitness, self._evaluate(rows[len(parents) :], owners[len(parents) :])]
        )
        order = np.lexsort((np.arange(len(rows)), -fitness, owners))
        rank = np.arange(len(order)) - _starts(owners[order])[0]
        kept = order[rank < self.settings.keep]
        saturated = ~live
        self.rows = np.concatenate([self.rows[saturated], rows[kept]])
        self.fitness = np.concatenate([self.fitness[saturated], fitness[kept]])
        self.owner = np.concatenate([self.owner[saturated], owners[kept]])
        self._record()

    def _breed(self, parents: Matrix, owner: Ints, fitness: Floats) -> tuple[Matrix, Ints]:
        """Returns children and the limit that each belongs to.

        A candidate above its population's mean changes less the better it is; below the mean a
        quarter of its genes is redrawn on average, and at most half. The better of two parents sets
        the rate of crossover.
        """
        starts, counts = _starts(owner)
        inside = fitness > _OUTSIDE
        level = np.where(inside, fitness, np.nan)
        top, mean = np.full(len(self.limits), np.nan), np.full(len(self.limits), np.nan)
        for number in np.unique(owner):
            own = level[(owner == number) & inside]
            if len(own):
                top[number], mean[number] = own.max(), own.mean()
        gap = np.maximum(top - mean, 1e-12)[owner]
        share = np.clip((top[owner] - level) / gap, 0, 1)
        share = np.where(np.isnan(share), 1.0, share)
        repeat = np.repeat(np.arange(len(parents)), self.settings.children)
        draws = self.rng.random(len(repeat))
        mates = starts[repeat] + (draws * counts[repeat]).astype(np.int64)
        crossed = self.rng.random(len(repeat)) < np.minimum(share[repeat], share[mates])
        mothers = parents[repeat]
        mixed = np.where(
            crossed[:, None], self.space.crossover(mothers, parents[mates], self.rng), mothers
        )
        least = 1.0 / len(self.space.genes)
        rate = np.maximum(least, 0.5 * share[repeat] * self.rng.random(len(repeat)))
        return self.space.mutate(mixed, self.rng, rate), owner[repeat]

    def _evaluate(self, rows: Matrix, owner: Ints, shared: Matrix | None = None) -> Floats:
        """Returns each row's fitness: its score, or outside its limit a penalty below every score.

        `shared` is the batch that `rows` repeats for each limit, if they do.
        """
        base = rows if shared is None else shared
        times = len(rows) // max(len(base), 1)
        found = self.costs(base) if len(base) else {}
        ok = np.ones(len(base), np.bool_) if self.allowed is None else self.allowed(base)
        outside = np.zeros(len(rows))
        wide = {name: np.tile(np.asarray(x), times) for name, x in found.items()}
        ok = np.tile(ok, times)
        for number in np.unique(owner):
            own = owner == number
            if self.limits[number].bounds:
                part = {name: x[own] for name, x in wide.items()}
                outside[own] = self.limits[number].violation(part)
        inside = (outside == 0) & ok
        fitness = np.where(ok, _OUTSIDE * (1 + outside), -np.inf)
        if shared is None:
            fitness[inside] = self._checked(rows[inside])
        elif len(base):
            fitness[inside] = np.tile(self._checked(base), times)[inside]
        return fitness

    def _checked(self, rows: Matrix) -> Floats:
        scores = np.asarray(self.score(rows), np.float64) if len(rows) else np.zeros(0)
        if np.isnan(scores).any() or (scores <= _OUTSIDE).any():
            raise ValueError("a score is NaN or below -1e30; refit the predictor")
        return scores

    def _record(self) -> None:
        """Records the best score of each population, and ends those that no longer improve."""
        patience, tolerance = self.settings.patience, self.settings.tolerance
        for number in np.flatnonzero(self.active):
            own = self.fitness[self.owner == number]
            past = self.history[number]
            past.append(float(own.max()) if len(own) else -np.inf)
            if len(past) > patience and not past[-1] > past[-1 - patience] + tolerance:
                self.active[number] = False

    def result(self, number: int) -> Evolved:
        """Returns the result for one limit."""
        own = (self.owner == number) & (self.fitness > _OUTSIDE)
        order = np.argsort(-self.fitness[own], kind="stable")
        rows: Matrix = self.rows[own][order]
        nearest = self.nearest[number]
        if not len(rows) and not nearest and (self.owner == number).any():
            members = np.flatnonzero(self.owner == number)
            row = self.rows[members[np.argmax(self.fitness[members])]]
            nearest = {key: float(x[0]) for key, x in self.costs(row[None]).items()}
        return Evolved(
            limit=self.limits[number],
            rows=rows,
            scores=self.fitness[own][order],
            costs=self.costs(rows) if len(rows) else {},
            generations=max(0, len(self.history[number]) - 1),
            history=tuple(x if x > _OUTSIDE else float("nan") for x in self.history[number]),
            nearest=nearest,
        )


_OUTSIDE = -1e30


def _starts(owner: Ints) -> tuple[Ints, Ints]:
    """Returns the start and the size of the group of each element of a sorted array."""
    _, first, inverse, counts = np.unique(
        owner, return_index=True, return_inverse=True, return_counts=True
    )
    return first[inverse], counts[inverse]
