"""What makes a candidate worth a training: expected improvement, or an optimistic prediction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fbnetv3.search.predictors.protocol import Posterior

Floats = npt.NDArray[np.float64]
_GOLDEN = (math.sqrt(5) - 1) / 2
# So many standard deviations below the best, the improvement is its asymptote.
_FAR = 25.0


class Acquisition(Protocol):
    """Scores by which the picks of a round are made, one after another."""

    def scores(self, pick: int, limit: int) -> Floats:
        """Returns (P,) scores for a pick number 0, 1, ... that is for a limit; the highest wins."""

    def add(self, index: int) -> None:
        """Takes note of a candidate that was picked."""


@dataclass(frozen=True)
class Optimism:
    """The mean plus a multiple of the standard deviation, for predictors that know no more.

    Each pick has a multiple of its own, so that a batch has candidates that are expected to be good
    and candidates of which little is known, and does not consist of near-copies of one. The
    multiples are exponentially distributed with mean 1, after Hutter, Hoos and Leyton-Brown,
    Parallel algorithm configuration, 2012, and evenly so in every stretch of the sequence, because
    they come from multiples of the golden ratio.

    Attributes:
        mean: (P,) predicted quality.
        std: (P,) standard deviation of each candidate's prediction; 0 where it is not known.
        start: number of picks of earlier batches, at which the sequence of multiples goes on.
    """

    mean: Floats
    std: Floats
    start: int = 0

    def scores(self, pick: int, limit: int = 0) -> Floats:
        """Returns (P,) optimistic predictions, the same for every limit."""
        del limit
        return self.mean - math.log(1 - (self.start + pick + 0.5) * _GOLDEN % 1) * self.std

    def add(self, index: int) -> None:
        """Does nothing: the next pick has another multiple."""


class ExpectedImprovement:
    """The logarithm of what a training is expected to gain on the best label within a limit.

    After Jones, Schonlau and Welch, Efficient global optimization of expensive black-box functions,
    1998. What was picked for the same round counts as trained.

    Args:
        posterior: distributions of the P candidates.
        best: (limits,) the best label within each limit, on the scale of the distributions.
    """

    def __init__(self, posterior: Posterior, best: Floats) -> None:
        self._posterior, self._best = posterior, best

    def scores(self, pick: int, limit: int) -> Floats:
        """Returns (P,) logarithms of expected improvements on the best within a limit."""
        from scipy.special import log_ndtr, ndtr

        del pick
        std = self._posterior.std
        gain = (self._posterior.mean - self._best[limit]) / std
        near, far = np.maximum(gain, -_FAR), np.minimum(gain, -_FAR)
        density = np.exp(-0.5 * near**2) / math.sqrt(2 * math.pi)
        improvement = np.log(density + near * ndtr(near))
        asymptote = log_ndtr(far) - np.log(-far)
        return np.asarray(np.log(std) + np.where(gain < -_FAR, asymptote, improvement))

    def add(self, index: int) -> None:
        """Narrows the distributions as a training of a candidate will."""
        self._posterior.add(index)
