"""Weights and orders that make up for classes with unequal numbers of images."""

from __future__ import annotations

import torch
from torch import Tensor

from fbnetv3.search.data.image_set import ImageSet

_MAX_WEIGHT = 100.0


def balancing_weights(images: ImageSet) -> Tensor:
    """Returns (classes,) float32 weights inverse to the classes' numbers of images.

    Their mean over the images is 1. The weight of a class without images is 0.
    """
    counts = torch.tensor(images.counts, dtype=torch.float32)
    present = counts > 0
    weights = len(images) / (counts * present.sum())
    return torch.where(present, weights, torch.zeros(()))


def positive_weights(images: ImageSet) -> Tensor:
    """Returns (classes,) float32: images without a class for each image of it.

    Of a multi-label set. They make both sides of each class count alike in the loss. At most 100,
    so that a class of a few images does not rule it; 1 of a class without images.
    """
    counts = torch.tensor(images.counts, dtype=torch.float32)
    weights = (len(images) - counts) / counts.clamp(min=1)
    return torch.where(counts > 0, weights.clamp(0.01, _MAX_WEIGHT), torch.ones(()))


def balanced_order(images: ImageSet, generator: torch.Generator) -> Tensor:
    """Returns as many positions as the set has images, every class equally often on average.

    An image with several labels is drawn as often as its rarest class asks for, one without labels
    as often as one of a class that all images have.

    Args:
        images: the set.
        generator: of the draws, with replacement.
    """
    if images.multi_label:
        shares = len(images) / torch.tensor(images.counts).clamp(min=1)
        chosen = (images.labels * shares).amax(1).clamp(min=1.0)
    else:
        chosen = balancing_weights(images)[images.labels]
    weights = chosen.double().cumsum(0)
    draws = torch.rand(len(images), generator=generator, dtype=torch.float64) * weights[-1]
    return torch.searchsorted(weights, draws, right=True).clamp_(max=len(images) - 1)
