"""Which candidates of the pool a round trains, and which one replaces a failed one.

Depends on scores, costs and what was trained before alone; reads and writes no store.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fbnetv3.search.space.space import Floats, Mask

from .acquisition import Acquisition
from .config import IN_TURN
from .prior_pool import PriorPicks
from .selection import (
    Selection,
    Wish,
    best_within,
    next_best,
    select_batch,
    select_in_turn,
    shuffled_best,
)


class Choosing:
    """Chooses the candidates of rounds.

    Args:
        bins: see `SearchConfig`.
        costs: (P,) the cost that bins divide.
        ends: lowest and highest cost of the bins; None: the range of the pool.
        inside: (limits, P) whether each candidate of the pool is within each limit.
        prior: picks for the priors of the search.
    """

    def __init__(
        self,
        *,
        bins: str,
        costs: Floats,
        ends: tuple[float, float] | None,
        inside: Mask,
        prior: PriorPicks,
    ) -> None:
        self._in_turn = bins == IN_TURN
        self._bins = bins if np.ptp(costs) > 0 else "none"
        self._ends = ends if ends is not None and np.isfinite(ends).all() else None
        self._costs, self._inside, self._prior = costs, inside, prior

    def random(self, num: int, *, taken: Mask, rng: np.random.Generator) -> Selection:
        """Returns the first round: random candidates, as many for each limit."""
        order = rng.permutation(np.flatnonzero(~taken))
        first = np.zeros(self._inside.shape[1])
        first[order] = -np.arange(len(order))
        wishes = self._wishes([], num, taken)
        return select_in_turn(first, self._inside, num=num, taken=taken, wishes=wishes)

    def promoted(
        self,
        sizes: Sequence[int],
        num: int,
        *,
        scores: Floats,
        taken: Mask,
        rng: np.random.Generator,
    ) -> Selection:
        """Returns the first round of a rung: random among the best predicted of each limit.

        Random, because a predictor of the rung below would choose near-copies of its best, which
        show little of how the rungs differ.

        Args:
            sizes: number of trials of each earlier round.
            num: number of candidates.
            scores: (P,) predicted values.
            taken: (P,) candidates that cannot be chosen.
            rng: draws them.
        """
        shuffled = shuffled_best(scores, self._inside, rng)
        wishes = self._wishes(sizes, num, taken)
        return select_in_turn(shuffled, self._inside, num=num, taken=taken, wishes=wishes)

    def best(
        self,
        sizes: Sequence[int],
        num: int,
        *,
        scores: Floats,
        acquisition: Acquisition,
        taken: Mask,
    ) -> Selection:
        """Returns a round of what is most worth a training.

        Args:
            sizes: number of trials of each earlier round.
            num: number of candidates.
            scores: (P,) predicted values.
            acquisition: scores each pick.
            taken: (P,) candidates that cannot be chosen.
        """
        wishes = self._wishes(sizes, num, taken)
        if self._in_turn:
            return select_in_turn(
                scores,
                self._inside,
                num=num,
                taken=taken,
                acquisition=acquisition,
                first=sum(sizes) % len(self._inside),
                wishes=wishes,
            )
        return select_batch(
            scores,
            self._costs,
            num=num,
            bins=self._bins,
            limits=self._ends,
            taken=taken,
            acquisition=acquisition,
            wishes=wishes,
        )

    def same_prior(self, row: int | None, slot: int, *, scores: Floats, taken: Mask) -> int | None:
        """Returns the best candidate with the prior's recipe that a failed one had, within a limit.

        Args:
            row: the failed candidate in the pool, None if it is not there.
            slot: the limit that it was chosen for.
            scores: (P,) predicted values.
            taken: (P,) candidates that cannot be chosen.

        Returns:
            None if it had no prior's recipe, or no other candidate has it.
        """
        own = None if row is None else self._prior.own(row)
        limit = self._within(slot)
        if own is None or not (own & limit & ~taken).any():
            return None
        return best_within(scores, own & limit, taken)

    def next_of_its_limit(self, slot: int, *, scores: Floats, taken: Mask) -> int:
        """Returns the best candidate left within the limit that a failed one was chosen for."""
        return best_within(scores, self._within(slot), taken)

    def next_of_its_bin(self, chosen: Selection, slot: int, *, scores: Floats, taken: Mask) -> int:
        """Returns the best candidate left of the bin that a failed one of `best` was chosen for."""
        return next_best(chosen, slot, scores, self._costs, taken)

    def _within(self, slot: int) -> Mask:
        # In the first round of searches before 0.3 a slot was a number in the round.
        limit: Mask = self._inside[slot % len(self._inside)]
        return limit

    def _wishes(self, sizes: Sequence[int], num: int, taken: Mask) -> list[Wish | None]:
        first = sizes[0] if sizes else num
        return self._prior.wishes(len(sizes), num, labels=sum(sizes), first=first, taken=taken)
