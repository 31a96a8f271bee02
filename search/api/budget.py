"""How a number of trainings is divided between the rounds and the retraining of the best."""

from __future__ import annotations

from typing import NamedTuple

from fbnetv3.search.nars.config import FEWEST

# A quarter of all trainings or less retrains the best, at most five with three seeds each.
_LAST = 4
_TOP, _SEEDS = 5, 3


class Budget(NamedTuple):
    """The fields of a search config that decide how many trainings a search makes.

    Attributes:
        trainings: number of trainings of all rounds.
        top: candidates per limit to retrain.
        final_seeds: number of seeds per retrained candidate.
    """

    trainings: int
    top: int
    final_seeds: int


def divide(trainings: int, num_limits: int, num_priors: int = 0) -> Budget:
    """Returns how to spend at most `trainings` trainings on a search for some limits.

    Each prior adds a candidate per limit to those that are retrained.

    Raises:
        ValueError: they are too few to choose anything after a random start.
    """
    least = num_limits * (1 + num_priors)
    if trainings < FEWEST + least:
        more = f" with {num_priors} prior(s)" if num_priors else ""
        raise ValueError(
            f"trainings is {trainings}; expected {FEWEST + least} or more, to search within "
            f"{num_limits} limit(s){more}"
        )
    choices = [(top, seeds) for top in range(1, _TOP + 1) for seeds in range(1, _SEEDS + 1)]

    def last(top: int, seeds: int) -> int:
        return num_limits * (top + num_priors) * seeds

    fitting = [c for c in choices if last(*c) <= trainings // _LAST]
    top, seeds = max(fitting, key=lambda c: (last(*c), c[1]), default=(1, 1))
    rest = trainings - last(top, seeds)
    if rest < FEWEST:
        rest, top, seeds = trainings - least, 1, 1
    return Budget(rest, top, seeds)
