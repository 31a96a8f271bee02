"""Which candidates to train next: the best of each limit in turn, or of each bin of cost.

Pure functions over arrays, independent of spaces and predictors. What is "best" is up to the scores
that they are given, or to an `Acquisition`, which scores anew for each pick.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .acquisition import Acquisition

BINS = ("equal", "quantile", "none")
Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
# Of the candidates within a limit, those that the first round of the next rung draws from.
BEST = 0.25


@dataclass(frozen=True)
class Selection:
    """A batch of candidates to train.

    Attributes:
        indices: (m,) indices into the pool, distinct.
        bins: (m,) the bin or the limit that each was chosen for.
        edges: (num + 1,) edges of the bins, in units of cost; empty for limits.
    """

    indices: Indices
    bins: Indices
    edges: Floats


class Wish(NamedTuple):
    """What one pick of a batch should be, if such a candidate is free.

    Attributes:
        mask: (P,) the candidates.
        any_bin: whether they may be in any bin of cost; a limit always holds.
    """

    mask: Mask
    any_bin: bool = False


def select_batch(
    scores: npt.ArrayLike,
    costs: npt.ArrayLike,
    *,
    num: int,
    bins: str = "equal",
    limits: tuple[float, float] | None = None,
    taken: npt.ArrayLike | None = None,
    acquisition: Acquisition | None = None,
    wishes: Sequence[Wish | None] = (),
) -> Selection:
    """Returns the best candidate of each of `num` bins of cost.

    A bin with no free candidate is replaced by the best one elsewhere. Fewer than `num` are
    returned only if fewer are free. Ties go to the lower index, so that the result repeats.

    Args:
        scores: (P,) predicted quality, higher is better.
        costs: (P,) the cost that the bins divide, usually MACs.
        num: number of candidates and of bins.
        bins: "equal" splits the range of cost into bins of equal width (the paper), "quantile"
            into bins of equally many candidates, "none" takes the `num` best of all.
        limits: lowest and highest cost of the bins; None: the range of the pool. Candidates
            outside are never chosen.
        taken: (P,) true for candidates that were trained or have failed: never chosen.
        acquisition: scores each pick, in place of `scores`.
        wishes: what picks should be, from the first on; None or missing: anything.

    Raises:
        ValueError: arrays of different lengths, a NaN score, or no free candidate.
    """
    score, cost = np.asarray(scores, np.float64), np.asarray(costs, np.float64)
    if num < 1 or bins not in BINS:
        raise ValueError(f"num is {num}, bins {bins!r}; expected num >= 1 and one of {BINS}")
    free = _free(score, taken, cost)
    if limits is not None:
        free &= (cost >= limits[0]) & (cost <= limits[1])
    _check_any(free)
    edges = _edges(cost[free], num, bins, limits)
    bin_of = np.clip(np.searchsorted(edges, cost, side="right") - 1, 0, num - 1)
    chosen, numbers = list[int](), list[int]()
    if bins == "none":
        filled = list(range(num))
    else:
        # Empty bins come last: what they take instead must not be the best of another bin.
        has = np.isin(np.arange(num), bin_of[free])
        filled = [*np.flatnonzero(has).tolist(), *np.flatnonzero(~has).tolist()]
    for pick, number in enumerate(filled[: int(free.sum())]):
        inside = np.ones_like(free) if bins == "none" else bin_of == number
        wish = wishes[pick] if pick < len(wishes) else None
        if wish is not None:
            inside = _narrowed(np.ones_like(free) if wish.any_bin else inside, wish, free)
        if acquisition is not None:
            score = acquisition.scores(number, 0)
        chosen.append(best_within(score, inside, ~free))
        numbers.append(number)
        free[chosen[-1]] = False
        if acquisition is not None:
            acquisition.add(chosen[-1])
    order = np.argsort(numbers)
    return Selection(np.array(chosen, np.int64)[order], np.array(numbers, np.int64)[order], edges)


def select_in_turn(
    scores: npt.ArrayLike,
    inside: npt.ArrayLike,
    *,
    num: int,
    taken: npt.ArrayLike | None = None,
    acquisition: Acquisition | None = None,
    first: int = 0,
    wishes: Sequence[Wish | None] = (),
) -> Selection:
    """Returns the best within each limit in turn, `num` in all; its bins are limits.

    A limit with no free candidate is replaced by the best one elsewhere.

    Args:
        scores: (P,) predicted quality, higher is better.
        inside: (limits, P) whether each candidate is within each limit.
        num: number of candidates.
        taken: (P,) true for candidates that were trained or have failed: never chosen.
        acquisition: scores each pick, in place of `scores`.
        first: the limit that is served first, so that small batches serve all of them by and by.
        wishes: what picks should be, from the first on; None or missing: anything.

    Raises:
        ValueError: a score is NaN, or no candidate is free.
    """
    score, within = np.asarray(scores, np.float64), np.asarray(inside, np.bool_)
    free = _free(score, taken)
    _check_any(free)
    chosen, limits = list[int](), list[int]()
    for turn in range(min(num, int(free.sum()))):
        number = (first + turn) % len(within)
        inside_it = within[number]
        wish = wishes[turn] if turn < len(wishes) else None
        if wish is not None:
            inside_it = _narrowed(inside_it, wish, free)
        if acquisition is not None:
            score = acquisition.scores(turn, number)
        chosen.append(best_within(score, inside_it, ~free))
        limits.append(number)
        free[chosen[-1]] = False
        if acquisition is not None:
            acquisition.add(chosen[-1])
    return Selection(np.array(chosen, np.int64), np.array(limits, np.int64), np.zeros(0))


def _narrowed(inside: Mask, wish: Wish, free: Mask) -> Mask:
    """Returns the candidates inside that are wished for, or all if none of them is free."""
    both = inside & wish.mask
    return both if (both & free).any() else inside


def shuffled_best(scores: Floats, inside: npt.ArrayLike, rng: np.random.Generator) -> Floats:
    """Returns (P,) scores in random order, the best quarter of each limit before all others.

    Args:
        scores: (P,) predicted quality, higher is better.
        inside: (limits, P) whether each candidate is within each limit.
        rng: draws the order.
    """
    best = np.zeros(len(scores), np.bool_)
    for within in np.asarray(inside, np.bool_):
        if within.any():
            best |= within & (scores >= np.quantile(scores[within], 1 - BEST))
    order = rng.permutation(len(scores))
    drawn = np.empty(len(scores))
    drawn[order] = -np.arange(len(order), dtype=np.float64)
    return np.where(best, drawn, drawn - len(order))


def _free(
    scores: Floats, taken: npt.ArrayLike | None, costs: Floats | None = None
) -> npt.NDArray[np.bool_]:
    """Returns which candidates may be chosen, after checking the arrays."""
    free = np.ones(len(scores), np.bool_) if taken is None else ~np.asarray(taken, np.bool_)
    costs = np.zeros(len(scores)) if costs is None else costs
    if not len(scores) == len(costs) == len(free):
        raise ValueError(
            f"{len(scores)} scores, {len(costs)} costs, {len(free)} taken; expected equal lengths"
        )
    if np.isnan(scores).any() or np.isnan(costs).any():
        raise ValueError(f"{int(np.isnan(scores).sum())} scores are NaN; refit the predictor")
    return free


def _check_any(free: npt.NDArray[np.bool_]) -> None:
    if not free.any():
        raise ValueError(f"none of {len(free)} candidates is free; enlarge the pool or the limits")


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
