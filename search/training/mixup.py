"""Mixup of a batch with itself in reversed order (arXiv 1710.09412), in plain tensor operations."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from .batches import Batch


def mixup_share(alpha: float) -> float:
    """Returns the first image's share, drawn from Beta(alpha, alpha) by numpy's generator.

    Without mixup (alpha 0) it is 1.
    """
    return float(np.random.beta(alpha, alpha)) if alpha else 1.0


def mixed(
    batch: Batch, share: float | Tensor, label_smoothing: float, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Returns images (n, 3, side, side) and targets (n, num_classes), each mixed with another's.

    Args:
        batch: whose last image goes into the first one, and so on.
        share: of an image's own pixels and label.
        label_smoothing: in the targets of a single label.
        num_classes: of the labels.
    """
    from timm.data.mixup import mixup_target

    others = batch.images.flip(0).mul_(1 - share)
    images = batch.images.mul(share).add_(others)
    if batch.labels.ndim == 2:  # multi-label; smoothed by the loss
        labels = batch.labels.float()
        return images, labels * share + labels.flip(0) * (1 - share)
    targets: Tensor = mixup_target(  # type: ignore[no-untyped-call]  # timm has no type for it
        batch.labels, num_classes, share, label_smoothing
    )
    return images, targets
