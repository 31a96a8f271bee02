"""How a number of trainings is divided among rounds and the retraining of the best."""

from __future__ import annotations

from typing import NamedTuple

# About so many rounds, the random one included, of at least and at most so many trials.
_ROUNDS = 6
_FEWEST, _MOST = 4, 48
# At most this share of all trainings retrains the best, at most five with three seeds each.
_LAST = 4
_TOP, _SEEDS = 5, 3


class Budget(NamedTuple):
    """The numbers of a search config that decide how many trainings it makes.

    Attributes:
        batch: number of trials per round.
        rounds: number of rounds after the random first one.
        top: candidates per limit to retrain.
        final_seeds: number of seeds per retrained candidate.
    """

    batch: int
    rounds: int
    top: int
    final_seeds: int


def divide(trainings: int, num_limits: int) -> Budget:
    """Returns how to spend at most `trainings` trainings on a search for some limits.

    Rounds get three quarters or more. A quarter or less retrains the best of each limit.

    Raises:
        ValueError: they are too few for two rounds of two.
    """
    least = 4 + num_limits
    if trainings < least:
        raise ValueError(
            f"trainings is {trainings}; expected {least} or more, to search within "
            f"{num_limits} limit(s)"
        )
    choices = [(top, seeds) for top in range(1, _TOP + 1) for seeds in range(1, _SEEDS + 1)]
    fitting = [c for c in choices if num_limits * c[0] * c[1] <= trainings // _LAST]
    top, seeds = max(fitting, key=lambda c: (c[0] * c[1], c[1]), default=(1, 1))
    rest = trainings - num_limits * top * seeds
    batch = min(max(rest // _ROUNDS, _FEWEST), _MOST, rest // 2)
    return Budget(batch, rest // batch - 1, top, seeds)
