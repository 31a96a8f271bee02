"""Which candidates to train next: the best predicted of each bin of cost.

Pure functions over arrays; they know neither spaces nor predictors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BINS = ("equal", "quantile", "none")
Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Selection:
    """A batch of candidates to train.

    Attributes:
        indices: (m,) rows of the pool, distinct, in the order of the bins.
        bins: (m,) the bin each was chosen for.
        edges: (num + 1,) borders of the bins, in units of cost.
    """

    indices: Indices
    bins: Indices
    edges: Floats


def select_batch(
    scores: npt.ArrayLike,
    costs: npt.ArrayLike,
    *,
    num: int,
    bins: str = "equal",
    limits: tuple[float, float] | None = None,
    taken: npt.ArrayLike | None = None,
) -> Selection:
    """Returns the best predicted candidate of each of `num` bins of cost.

    A bin with no free candidate gives its place to the best predicted elsewhere. Fewer than `num`
    come back only if fewer are free. Ties go to the earlier row, so that the result repeats.

    Args:
        scores: (P,) predicted quality, higher is better.
        costs: (P,) what is binned, usually MACs.
        num: candidates wanted, and bins.
        bins: "equal" splits the range of cost into bins of equal width (the paper), "quantile"
            into bins of equally many candidates, "none" takes the `num` best of all.
        limits: lowest and highest cost of the bins; None is the range of the pool. Candidates
            outside are never chosen.
        taken: (P,) true for candidates that were trained or have failed: never chosen.

    Raises:
        ValueError: arrays of different lengths, a score that is NaN, or nothing free to choose.
    """
    score, cost = np.asarray(scores, np.float64), np.asarray(costs, np.float64)
    free = np.ones(len(score), np.bool_) if taken is None else ~np.asarray(taken, np.bool_)
    if not len(score) == len(cost) == len(free):
        raise ValueError(f"{len(score)} scores, {len(cost)} costs, {len(free)} taken; one length")
    if num < 1 or bins not in BINS:
        raise ValueError(f"num is {num}, bins {bins!r}; expected num >= 1 and one of {BINS}")
    if np.isnan(score).any() or np.isnan(cost).any():
        raise ValueError(f"{int(np.isnan(score).sum())} scores are NaN; refit the predictor")
    if limits is not None:
        free &= (cost >= limits[0]) & (cost <= limits[1])
    if not free.any():
        raise ValueError(f"none of {len(score)} candidates is free; enlarge the pool or the limits")
    edges = _edges(cost[free], num, bins, limits)
    place = np.clip(np.searchsorted(edges, cost, side="right") - 1, 0, num - 1)
    ranked = np.flatnonzero(free)[np.argsort(-score[free], kind="stable")]
    chosen = np.full(num, -1, np.int64)
    if bins == "none":
        chosen[: len(ranked)] = ranked[:num]
    else:
        held, first = np.unique(place[ranked], return_index=True)
        chosen[held] = ranked[first]
        rest = ranked[~np.isin(ranked, chosen)]
        empty = np.flatnonzero(chosen < 0)[: len(rest)]
        chosen[empty] = rest[: len(empty)]
    numbers = np.flatnonzero(chosen >= 0)
    return Selection(chosen[numbers], numbers, edges)


def select_in_turn(
    scores: npt.ArrayLike,
    inside: npt.ArrayLike,
    *,
    num: int,
    taken: npt.ArrayLike | None = None,
) -> Selection:
    """Returns the best predicted within each limit in turn, `num` in all; its bins are limits.

    A limit without free candidates gives its turn to the best predicted elsewhere.

    Args:
        scores: (P,) predicted quality, higher is better.
        inside: (limits, P) whether each candidate keeps each limit.
        num: candidates wanted.
        taken: (P,) true for candidates that were trained or have failed: never chosen.

    Raises:
        ValueError: a score is NaN, or nothing is free to choose.
    """
    score, within = np.asarray(scores, np.float64), np.asarray(inside, np.bool_)
    free = np.ones(len(score), np.bool_) if taken is None else ~np.asarray(taken, np.bool_)
    if np.isnan(score).any():
        raise ValueError(f"{int(np.isnan(score).sum())} scores are NaN; refit the predictor")
    if not free.any():
        raise ValueError(f"none of {len(score)} candidates is free; enlarge the pool or the limits")
    chosen, limits = list[int](), list[int]()
    for turn in range(min(num, int(free.sum()))):
        number = turn % len(within)
        chosen.append(best_within(score, within[number], ~free))
        limits.append(number)
        free[chosen[-1]] = False
    return Selection(np.array(chosen, np.int64), np.array(limits, np.int64), np.zeros(0))


def best_within(scores: npt.ArrayLike, inside: npt.ArrayLike, taken: npt.ArrayLike) -> int:
    """Returns the row of the best free candidate inside, or of all if none is.

    Raises:
        ValueError: no candidate is free.
    """
    free = ~np.asarray(taken, np.bool_)
    within = free & np.asarray(inside, np.bool_)
    allowed = within if within.any() else free
    if not allowed.any():
        raise ValueError("no candidate of the pool is free to replace a failed one")
    return int(np.argmax(np.where(allowed, np.asarray(scores, np.float64), -np.inf)))


def next_best(
    selection: Selection,
    number: int,
    scores: npt.ArrayLike,
    costs: npt.ArrayLike,
    taken: npt.ArrayLike,
) -> int:
    """Returns the row that replaces a failed one: its bin's best that is free, else the best.

    Args:
        selection: the batch.
        number: the bin whose candidate failed.
        scores: (P,) predicted quality.
        costs: (P,) what was binned.
        taken: (P,) true for all that were chosen, trained or failed.

    Raises:
        ValueError: no candidate is free.
    """
    score, cost = np.asarray(scores, np.float64), np.asarray(costs, np.float64)
    free = ~np.asarray(taken, np.bool_)
    low, high = selection.edges[0], selection.edges[-1]
    free &= (cost >= low) & (cost <= high)
    last = len(selection.edges) - 2
    place = np.clip(np.searchsorted(selection.edges, cost, side="right") - 1, 0, last)
    return best_within(score, place == number, ~free)


def _edges(cost: Floats, num: int, bins: str, limits: tuple[float, float] | None) -> Floats:
    low, high = limits if limits is not None else (float(cost.min()), float(cost.max()))
    if bins == "quantile":
        inner = np.quantile(cost, np.linspace(0, 1, num + 1))[1:-1]
        return np.asarray([low, *inner, high], np.float64)
    return np.linspace(low, high, num + 1)
