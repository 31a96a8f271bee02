"""Weights and orders that make up for classes with unequal numbers of images."""

from __future__ import annotations

import torch
from torch import Tensor

from fbnetv3.search.data.image_set import ImageSet


def balancing_weights(images: ImageSet) -> Tensor:
    """Returns (classes,) float32 weights inverse to the classes' numbers of images.

    Their mean over the images is 1. The weight of a class without images is 0.
    """
    counts = images.labels.bincount(minlength=len(images.classes)).float()
    present = counts > 0
    weights = len(images) / (counts * present.sum())
    return torch.where(present, weights, torch.zeros(()))


def balanced_order(images: ImageSet, generator: torch.Generator) -> Tensor:
    """Returns as many positions as the set has images, every class equally often on average.

    Args:
        images: the set.
        generator: of the draws, with replacement.
    """
    weights = balancing_weights(images)[images.labels].double().cumsum(0)
    draws = torch.rand(len(images), generator=generator, dtype=torch.float64) * weights[-1]
    return torch.searchsorted(weights, draws, right=True).clamp_(max=len(images) - 1)
