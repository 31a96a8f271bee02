"""How right a multi-label model is on a set, and the thresholds that suit it there."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fbnetv3.deploy.multi_label import (
    Bools,
    Floats,
    average_precisions,
    best_thresholds,
    f1_scores,
    mean_of_known,
    micro_f1,
    sigmoid,
)
from fbnetv3.images.preprocess import Preprocess
from fbnetv3.search.data.image_set import ImageSet

from .parallel import summed
from .scoring import logits_of_each


@dataclass(frozen=True)
class MultiLabelScore:
    """Over a whole set.

    Attributes:
        scores: (images, classes) from 0 to 1.
        targets: (images, classes), whether an image has a class.
        loss: mean binary cross-entropy over images and classes.
    """

    scores: Floats
    targets: Bools
    loss: float

    @property
    def num_images(self) -> int:
        """How many images were counted."""
        return len(self.targets)

    @functools.cached_property
    def average_precisions_pct(self) -> Floats:
        """Average precision of each class, (classes,); NaN without an image of it."""
        return 100 * average_precisions(self.scores, self.targets)

    @property
    def map_pct(self) -> float:
        """Mean of `average_precisions_pct` over the classes that have images."""
        return mean_of_known(self.average_precisions_pct)

    @functools.cached_property
    def thresholds(self) -> tuple[float, ...]:
        """The threshold of each class that gives the highest F1 on this very set."""
        return best_thresholds(self.scores, self.targets)

    def f1_pct(self, thresholds: tuple[float, ...]) -> Floats:
        """Returns the F1 of each class in percent, (classes,); NaN without an image of it."""
        return 100 * f1_scores(self._predicted(thresholds), self.targets)

    def macro_f1_pct(self, thresholds: tuple[float, ...]) -> float:
        """Returns the mean of the classes' F1 in percent, over those that have images."""
        return mean_of_known(self.f1_pct(thresholds))

    def micro_f1_pct(self, thresholds: tuple[float, ...]) -> float:
        """Returns the F1 of all decisions together, in percent."""
        return 100 * micro_f1(self._predicted(thresholds), self.targets)

    def _predicted(self, thresholds: tuple[float, ...]) -> Bools:
        predicted: NDArray[np.bool_] = self.scores >= np.array(thresholds)
        return predicted


def score_multi_label(
    model: nn.Module, images: ImageSet, preprocess: Preprocess, **options: Any
) -> MultiLabelScore:
    """Returns the model's score; arguments and errors are those of `score_multi_label_each`."""
    return score_multi_label_each((model,), images, preprocess, **options)[0]


def score_multi_label_each(
    models: Sequence[nn.Module],
    images: ImageSet,
    preprocess: Preprocess,
    *,
    device: torch.device,
    **options: Any,  # those of `logits_of_each`
) -> list[MultiLabelScore]:
    """Returns each model's score on a multi-label set; processes of a world each take a share.

    Args:
        models: logits of normalised images.
        images: what to score them on; each is decoded once.
        preprocess: of the images.
        device: where the models live.
        **options: see `scoring.logits_of_each`.

    Raises:
        ValueError: see `scoring.score_each`.
    """
    num_classes = len(images.classes)
    # The last column counts how often an image was read: once, or not at all if it is damaged.
    found = torch.zeros(len(models), len(images), num_classes + 1)
    for batch, each in logits_of_each(models, images, preprocess, device=device, **options):
        for mine, logits in zip(found, each, strict=True):
            ones = torch.ones(len(logits), 1)
            mine[batch.indices.cpu()] = torch.cat((logits.cpu(), ones), 1)
    found = summed(found.to(device)).cpu()
    return [_score_of(one, images) for one in found]


def _score_of(found: Tensor, images: ImageSet) -> MultiLabelScore:
    read = found[:, -1] > 0
    if not read.any():
        raise ValueError(f"no image of {images.name} can be read")
    logits, targets = found[read, :-1], images.labels[read]
    return MultiLabelScore(
        scores=sigmoid(logits.numpy()),
        targets=targets.numpy(),
        loss=float(F.binary_cross_entropy_with_logits(logits, targets.float())),
    )


def multi_label_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    label_smoothing: float,
    positive_weights: Tensor | None,
) -> Tensor:
    """Returns the mean binary cross-entropy over images and classes.

    Args:
        logits: (n, classes).
        targets: (n, classes), bool, or from 0 to 1 where images are mixed.
        label_smoothing: share of each target that becomes one half.
        positive_weights: (classes,) of the images that have a class; None is 1.
    """
    smoothed = targets.float() * (1 - label_smoothing) + label_smoothing / 2
    return F.binary_cross_entropy_with_logits(logits.float(), smoothed, pos_weight=positive_weights)
