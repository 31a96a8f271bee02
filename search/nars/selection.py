"""Which candidates to train next: the best predicted of each bin of cost.

Pure functions over arrays, independent of spaces and predictors.
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
        indices: (m,) indices into the pool, distinct, in the order of the bins.
        bins: (m,) the bin that each was chosen for.
        edges: (num + 1,) edges of the bins, in units of cost.
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

    A bin with no free candidate is replaced by the best predicted one elsewhere. Fewer than `num`
    are returned only if fewer are free. Ties go to the lower index, so that the result repeats.

    Args:
        scores: (P,) predicted quality, higher is better.
        costs: (P,) the cost that the bins divide, usually MACs.
        num: number of candidates and of bins.
        bins: "equal" splits the range of cost into bins of equal width (the paper), "quantile"
            into bins of equally many candidates, "none" takes the `num` best of all.
        limits: lowest and highest cost of the bins; None: the range of the pool. Candidates
            outside are never chosen.
        taken: (P,) true for candidates that were trained or have failed: never chosen.

    Raises:
        ValueError: arrays of different lengths, a NaN score, or no free candidate.
    """
    score, cost = np.asarray(scores, np.float64), np.asarray(costs, np.float64)
    free = np.ones(len(score), np.bool_) if taken is None else ~np.asarray(taken, np.bool_)
    if not len(score) == len(cost) == len(free):
        raise ValueError(
            f"{len(score)} scores, {len(cost)} costs, {len(free)} taken; expected equal lengths"
        )
    if num < 1 or bins not in BINS:
        raise ValueError(f"num is {num}, bins {bins!r}; expected num >= 1 and one of {BINS}")
    if np.isnan(score).any() or np.isnan(cost).any():
        raise ValueError(f"{int(np.isnan(score).sum())} scores are NaN; refit the predictor")
    if limits is not None:
        free &= (cost >= limits[0]) & (cost <= limits[1])
    if not free.any():
        raise ValueError(f"none of {len(score)} candidates is free; enlarge the pool or the limits")
    edges = _edges(cost[free], num, bins, limits)
    bin_of = np.clip(np.searchsorted(edges, cost, side="right") - 1, 0, num - 1)
    ranked = np.flatnonzero(free)[np.argsort(-score[free], kind="stable")]
    chosen = np.full(num, -1, np.int64)
    if bins == "none":
        chosen[: len(ranked)] = ranked[:num]
    else:
        filled, first = np.unique(bin_of[ranked], return_index=True)
        chosen[filled] = ranked[first]
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

    A limit with no free candidate is replaced by the best predicted one elsewhere.

    Args:
        scores: (P,) predicted quality, higher is better.
        inside: (limits, P) whether each candidate is within each limit.
        num: number of candidates.
        taken: (P,) true for candidates that were trained or have failed: never chosen.

    Raises:
        ValueError: a score is NaN, or no candidate is free.
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
    """Returns the index of the best free candidate inside, or of the best free one if none is.

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
    """Returns the index that replaces a failed one: the best free one of its bin, else of all.

    Args:
        selection: the batch.
        number: the bin whose candidate failed.
        scores: (P,) predicted quality.
        costs: (P,) the cost that the bins divide.
        taken: (P,) true for candidates that were chosen, were trained or have failed.

    Raises:
        ValueError: no candidate is free.
    """
    score, cost = np.asarray(scores, np.float64), np.asarray(costs, np.float64)
    free = ~np.asarray(taken, np.bool_)
    low, high = selection.edges[0], selection.edges[-1]
    free &= (cost >= low) & (cost <= high)
    last = len(selection.edges) - 2
    bin_of = np.clip(np.searchsorted(selection.edges, cost, side="right") - 1, 0, last)
    return best_within(score, bin_of == number, ~free)


def _edges(cost: Floats, num: int, bins: str, limits: tuple[float, float] | None) -> Floats:
    low, high = limits if limits is not None else (float(cost.min()), float(cost.max()))
    if bins == "quantile":
        inner = np.quantile(cost, np.linspace(0, 1, num + 1))[1:-1]
        return np.asarray([low, *inner, high], np.float64)
    return np.linspace(low, high, num + 1)
