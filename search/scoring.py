"""How right a model is on a set: hits and loss, each image counted once over all processes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fbnetv3.preprocess import Preprocess

from .batches import eval_batches
from .images import ImageSet
from .parallel import current_world, summed

BATCH_SIZE = 250


@dataclass(frozen=True, slots=True)
class Score:
    """Over a whole set.

    Attributes:
        confusion: (classes, classes) int64 counts, row: label, column: first guess.
        hits5: images whose label is among the first five guesses.
        loss: mean cross-entropy.
    """

    confusion: Tensor
    hits5: int
    loss: float

    @property
    def num_images(self) -> int:
        """How many images were counted."""
        return int(self.confusion.sum())

    @property
    def hits1(self) -> int:
        """Images whose first guess is the label."""
        return int(self.confusion.diagonal().sum())

    @property
    def top1_pct(self) -> float:
        """Top-1 in percent."""
        return 100 * self.hits1 / self.num_images

    @property
    def top5_pct(self) -> float:
        """Top-5 in percent; with fewer than six classes it is 100."""
        return 100 * self.hits5 / self.num_images


@torch.no_grad()
def score(
    model: nn.Module,
    images: ImageSet,
    preprocess: Preprocess,
    *,
    device: torch.device,
    bf16: bool = False,
    batch_size: int = BATCH_SIZE,
    workers: int = 0,
) -> Score:
    """Returns the model's score; the processes of a world each take a share.

    Raises:
        ValueError: the model's classes are fewer than the set's, or an image is damaged.
    """
    was_training = model.training
    model.eval()
    num_classes = len(images.classes)
    counts = torch.zeros(num_classes * num_classes + 2, dtype=torch.float64, device=device)
    for batch in eval_batches(
        images,
        preprocess,
        batch_size=batch_size,
        world=current_world(),
        device=device,
        workers=workers,
    ):
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = model(batch.images).float()
        if logits.shape[1] != num_classes:
            raise ValueError(
                f"the model has {logits.shape[1]} classes and {images.name} has {num_classes}; "
                "expected the same classes"
            )
        cells = batch.labels * num_classes + logits.argmax(1)
        counts[:-2] += torch.bincount(cells, minlength=num_classes * num_classes)
        best = logits.topk(min(5, num_classes), 1).indices
        counts[-2] += (best == batch.labels.unsqueeze(1)).any(1).sum()
        counts[-1] += F.cross_entropy(logits, batch.labels, reduction="sum")
    model.train(was_training)
    totals = summed(counts).cpu()
    confusion = totals[:-2].long().view(num_classes, num_classes)
    return Score(confusion, int(totals[-2]), float(totals[-1]) / len(images))
