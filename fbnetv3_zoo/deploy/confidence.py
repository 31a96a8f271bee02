"""Fits a `Confidence` to logits, and measures how honest probabilities are. Needs no torch."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from fbnetv3.hub.confidence import Confidence

# Fewer images say little about a share of a few percent.
MIN_IMAGES = 50
TRUE_ACCEPT_PCT = 95.0
_TEMPERATURES = (0.05, 20.0)
_NUM_BINS = 15


def energy(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Returns log sum exp over the last axis: the higher, the likelier one of the classes."""
    wide = logits.astype(np.float64)
    highest = wide.max(axis=-1, keepdims=True)
    total: NDArray[np.float64] = np.log(np.exp(wide - highest).sum(axis=-1)) + highest[..., 0]
    return total


def fit_confidence(
    logits: NDArray[np.floating],
    labels: NDArray[np.integer],
    *,
    others: NDArray[np.floating] | None = None,
    true_accept_pct: float = TRUE_ACCEPT_PCT,
    false_accept_pct: float | None = None,
) -> Confidence:
    """Returns the temperature of the least cross-entropy, and a threshold.

    Args:
        logits: (N, K) of images that were not trained on.
        labels: (N,) their classes.
        others: (M, K) logits of images of none of the classes.
        true_accept_pct: share of the images of the classes that the threshold is to let through.
        false_accept_pct: share of `others` that it is to let through, in place of the above.

    Raises:
        ValueError: there are too few images, or a share is out of range or needs `others`.
    """
    if len(logits) < MIN_IMAGES:
        raise ValueError(
            f"there are {len(logits)} images to fit on; expected at least {MIN_IMAGES}"
        )
    for name, share in (
        ("true_accept_pct", true_accept_pct),
        ("false_accept_pct", false_accept_pct),
    ):
        if share is not None and not 0 < share < 100:
            raise ValueError(f"{name} is {share}; expected a number between 0 and 100")
    if false_accept_pct is not None and (others is None or len(others) < MIN_IMAGES):
        raise ValueError(
            f"false_accept_pct needs at least {MIN_IMAGES} images of none of the classes; found "
            f"{0 if others is None else len(others)}"
        )
    wide = logits.astype(np.float64)
    temperature = _temperature(wide, wide[np.arange(len(wide)), labels])
    scores = energy(wide)
    foreign = None if others is None or not len(others) else energy(others)
    if false_accept_pct is None:
        threshold = float(np.quantile(scores, 1 - true_accept_pct / 100))
    else:
        assert foreign is not None
        threshold = float(np.quantile(foreign, 1 - false_accept_pct / 100))
    return Confidence(
        temperature=temperature,
        threshold=round(threshold, 4),
        true_accept_pct=round(100 * float((scores >= threshold).mean()), 2),
        false_accept_pct=None
        if foreign is None
        else round(100 * float((foreign >= threshold).mean()), 2),
        num_images=len(logits),
    )


def carried_over(
    known: Confidence, before: NDArray[np.floating], after: NDArray[np.floating]
) -> Confidence:
    """Returns the record of a network that stands in for another, such as int8 for float.

    The temperature is the one at which its probabilities are closest to the other's in
    cross-entropy. The threshold moves by what the energy of the images near it has changed, so that
    the same images pass. With fewer than 50 images the record stays as it is.

    Args:
        known: the record of the other network.
        before: (N, K) its logits.
        after: (N, K) logits of the same images.
    """
    if len(before) < MIN_IMAGES:
        return known
    scores, moved = energy(before), energy(after)
    calm = before.astype(np.float64) / known.temperature
    shares = np.exp(calm - energy(calm)[:, None])
    wide = after.astype(np.float64)
    temperature = _temperature(wide, (shares * wide).sum(1))
    if known.threshold is None:
        return dataclasses.replace(known, temperature=temperature)
    near = np.argsort(np.abs(scores - known.threshold))[: max(MIN_IMAGES // 4, len(scores) // 4)]
    threshold = round(known.threshold + float(np.median((moved - scores)[near])), 4)
    return Confidence(
        temperature=temperature,
        threshold=threshold,
        true_accept_pct=round(100 * float((moved >= threshold).mean()), 2),
        num_images=len(before),
    )


def _temperature(logits: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    """Returns the temperature of the least cross-entropy.

    Args:
        logits: (N, K).
        expected: (N,) mean logit under what the probabilities should be: that of the right class.
    """
    from scipy.optimize import minimize_scalar

    def cross_entropy(exponent: float) -> float:
        scale = math.exp(-exponent)
        return float((energy(logits * scale) - expected * scale).mean())

    low, high = map(math.log, _TEMPERATURES)
    found = minimize_scalar(cross_entropy, bounds=(low, high), method="bounded")
    return round(math.exp(found.x), 4)


def reliability(
    probabilities: NDArray[np.floating], right: NDArray[np.bool_], num_bins: int = _NUM_BINS
) -> list[tuple[int, float, float]]:
    """Returns (answers, mean probability, share that is right) of bins of equal width.

    Args:
        probabilities: (N,) of the first guesses.
        right: (N,) whether each is right.
        num_bins: how many; shares of a bin without answers are NaN.
    """
    bins = np.minimum((probabilities * num_bins).astype(int), num_bins - 1)
    found = []
    for number in range(num_bins):
        inside = bins == number
        count = int(inside.sum())
        means = (probabilities[inside].mean(), right[inside].mean()) if count else (math.nan,) * 2
        found.append((count, float(means[0]), float(means[1])))
    return found


def calibration_error_pct(
    probabilities: NDArray[np.floating], right: NDArray[np.bool_], num_bins: int = _NUM_BINS
) -> float:
    """Returns the expected calibration error (ECE) in percent; arguments as in `reliability`."""
    bins = reliability(probabilities, right, num_bins)
    gaps = [count * abs(mean - share) for count, mean, share in bins if count]
    return 100 * sum(gaps) / max(1, len(right))
