"""How many epochs a trial needs: the first epoch whose ranking agrees with the last one's.

Only for the random first batch, trained in full. Agreement is Spearman's correlation. Even two full
trainings of the same networks correlate by only about 0.975, and by 0.87 among the better half
(measured on NAS-Bench-Macro), so that later, selected batches cannot reach the paper's threshold of
0.92.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fbnetv3.search.predictors.quality import spearman

THRESHOLD, LOWER_THRESHOLD = 0.92, 0.85
NUM_BOOTSTRAPS = 1000
# Fewer networks than these agree by chance too often to be asked.
FEWEST_NETWORKS = 8
# The least share of networks whose label differs from every other's, and the least median change of
# a label over the training, in standard deviations between networks.
DISTINCT, MOVED = 0.5, 0.01

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class EarlyStop:
    """The number of epochs after which training may stop, and the evidence for it.

    Attributes:
        epoch: the first epoch from which on both conditions hold; the last if there is no earlier.
        found: whether an earlier epoch was found.
        correlation: (E,) Spearman's correlation of each epoch's labels with the last one's.
        lower: (E,) its 5 % bootstrap bound over networks.
        reason: why the labels say nothing about ranks, as where no network has learnt anything
            yet; empty if they do.
    """

    epoch: int
    found: bool
    correlation: tuple[float, ...]
    lower: tuple[float, ...]
    reason: str = ""


def find_early_stop(
    curves: Floats,
    rng: np.random.Generator,
    *,
    threshold: float = THRESHOLD,
    lower_threshold: float = LOWER_THRESHOLD,
) -> EarlyStop:
    """Returns the epoch from which on the ranking agrees with that of the last epoch.

    Args:
        curves: (N, E) a label for each network and epoch; NaN, which ranks last, where training
            diverged.
        rng: draws the bootstrap samples.
        threshold: lower bound of the correlation.
        lower_threshold: lower bound of the correlation's bootstrap bound.

    Raises:
        ValueError: `curves` is not a matrix with at least 3 networks.
    """
    curves = np.asarray(curves, np.float64)
    if curves.ndim != 2 or len(curves) < 3 or not curves.shape[1]:
        raise ValueError(f"curves have shape {curves.shape}; expected (networks >= 3, epochs)")
    worst_first = np.where(np.isnan(curves), -np.inf, curves)
    everyone = np.arange(len(curves))[None]
    drawn = rng.integers(len(curves), size=(NUM_BOOTSTRAPS, len(curves)))
    correlation = _agreement(worst_first, everyone)[:, 0]
    lower = np.quantile(_agreement(worst_first, drawn), 0.05, axis=1)
    holds = (correlation > threshold) & (lower > lower_threshold)
    holds[-1] = True
    epoch = int(np.flatnonzero(~holds)[-1]) + 2 if not holds.all() else 1
    reason = _uninformative(curves)
    return EarlyStop(
        curves.shape[1] if reason else epoch,
        epoch < curves.shape[1] and not reason,
        tuple(correlation.round(6).tolist()),
        tuple(lower.round(6).tolist()),
        reason,
    )


def _uninformative(curves: Floats) -> str:
    """Returns why agreement of ranks would mean nothing, or an empty text.

    Networks that guess one class have the same label after every epoch: their ranks agree, but not
    because they have been found early.
    """
    whole = curves[np.isfinite(curves).all(axis=1)]
    if len(whole) < FEWEST_NETWORKS:
        return f"only {len(whole)} networks did not diverge; expected at least {FEWEST_NETWORKS}"
    last = whole[:, -1]
    distinct = len(np.unique(last))
    if distinct < DISTINCT * len(last):
        return (
            f"the {len(last)} networks have only {distinct} different labels after the last epoch"
        )
    moved = float(np.median(np.abs(last - whole[:, 0])))
    if curves.shape[1] > 1 and moved <= MOVED * float(last.std()):
        return "labels hardly change from the first epoch to the last"
    return ""


def _agreement(curves: Floats, samples: NDArray[np.int64]) -> Floats:
    """Returns (E, S): each epoch's correlation with the last, in each sample of networks."""
    last = curves[samples, -1]
    return np.stack([spearman(curves[samples, e], last) for e in range(curves.shape[1])])
