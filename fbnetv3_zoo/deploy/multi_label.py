"""Several labels per image: scores, thresholds for each class, average precision and F1.

A multi-label model gives each class a score of its own, the sigmoid of its logit, and an image has
the classes whose scores reach their thresholds. Needs neither torch nor a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
# Of a class about whose threshold nothing is known.
DEFAULT_THRESHOLD = 0.5


def sigmoid(logits: NDArray[Any]) -> Floats:
    """Returns scores from 0 to 1 of logits of any size."""
    scores: Floats = 0.5 * (1.0 + np.tanh(0.5 * logits.astype(np.float64)))
    return scores


def checked_thresholds(values: object, num_classes: int, source: str) -> tuple[float, ...]:
    """Returns the thresholds of a model's classes.

    Args:
        values: a number for all classes, or one for each.
        num_classes: of the model.
        source: where they are from, for messages.

    Raises:
        ValueError: they are not numbers from 0 to 1, one for each class.
    """
    if isinstance(values, int | float) and not isinstance(values, bool):
        values = [values] * num_classes
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != num_classes:
        raise ValueError(
            f"{source}: thresholds are {values!r:.80}; expected a number, or one for each of "
            f"{num_classes} classes"
        )
    for value in values:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= value <= 1:
            raise ValueError(f"{source}: threshold {value!r:.80}; expected a number from 0 to 1")
    return tuple(map(float, values))


def average_precisions(scores: NDArray[Any], targets: Bools) -> Floats:
    """Returns the average precision of each class, (classes,); NaN without an image of it.

    The sum over thresholds of precision times the gain in recall, images of equal scores counted at
    once: the area under the precision-recall curve, not interpolated.

    Args:
        scores: (images, classes), the higher the likelier.
        targets: (images, classes), whether an image has a class.
    """
    return np.array([_average_precision(*column) for column in _columns(scores, targets)])


def best_thresholds(scores: NDArray[Any], targets: Bools) -> tuple[float, ...]:
    """Returns for each class the threshold of the highest F1, halfway between two scores.

    Of several it is the one nearest to 0.5, which is also that of a class without images.

    Args:
        scores: (images, classes), from 0 to 1.
        targets: (images, classes), whether an image has a class.
    """
    return tuple(_best_threshold(*column) for column in _columns(scores, targets))


def same_answers(expected: NDArray[Any], got: NDArray[Any], thresholds: Sequence[float]) -> Bools:
    """Returns for each image whether two networks give the same answer, (images,).

    Args:
        expected: (images, classes) logits of one network.
        got: (images, classes) logits of the other.
        thresholds: of a multi-label model, all of whose decisions count; () of others, whose first
            guess does.
    """
    if not len(thresholds):
        return np.asarray(got.argmax(1) == expected.argmax(1))
    decided = [sigmoid(each) >= np.array(thresholds) for each in (expected, got)]
    return np.asarray((decided[0] == decided[1]).all(1))


def f1_scores(predicted: Bools, targets: Bools) -> Floats:
    """Returns the F1 of each class, (classes,); NaN without an image of it.

    Args:
        predicted: (images, classes), whether a class was predicted.
        targets: (images, classes), whether an image has a class.
    """
    hits = (predicted & targets).sum(0)
    positives = targets.sum(0)
    total = predicted.sum(0) + positives
    return np.where(positives > 0, 2 * hits / np.maximum(total, 1), np.nan)


def micro_f1(predicted: Bools, targets: Bools) -> float:
    """Returns the F1 of all decisions together; NaN without any label."""
    return float(f1_scores(predicted.reshape(-1, 1), targets.reshape(-1, 1))[0])


def mean_of_known(values: Floats) -> float:
    """Returns the mean over the classes that have images; NaN if none has."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _columns(scores: NDArray[Any], targets: Bools) -> list[tuple[Floats, Bools]]:
    """Returns the sorted scores of each class, the highest first, with the targets."""
    found = []
    for column, truth in zip(scores.T.astype(np.float64), targets.T, strict=True):
        order = np.argsort(-column, kind="stable")
        found.append((column[order], truth[order]))
    return found


def _ends(scores: Floats) -> NDArray[np.intp]:
    """Returns the last position of each run of equal scores."""
    return np.flatnonzero(np.append(scores[1:] != scores[:-1], True))


def _average_precision(scores: Floats, truth: Bools) -> float:
    if not truth.any():
        return float("nan")
    ends = _ends(scores)
    hits = truth.cumsum()[ends]
    precision = hits / (ends + 1)
    gained = np.diff(hits, prepend=0) / hits[-1]
    return float((precision * gained).sum())


def _best_threshold(scores: Floats, truth: Bools) -> float:
    if not truth.any():
        return DEFAULT_THRESHOLD
    ends = _ends(scores)
    f1 = 2 * truth.cumsum()[ends] / (ends + 1 + truth.sum())
    below = np.append(scores[ends[:-1] + 1], 0.0)
    middle = (scores[ends] + below) / 2
    best = middle[f1 == f1.max()]
    return float(best[np.abs(best - DEFAULT_THRESHOLD).argmin()])
