"""Accuracy and loss of a model on a set; each image counts once over all processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fbnetv3._internal.devices import sum_dtype
from fbnetv3.images.preprocess import Preprocess
from fbnetv3.search.data.image_set import ImageSet

from .batches import Batch, eval_batches
from .parallel import current_world, summed

BATCH_SIZE = 250
# On a CPU this many images of 224 pixels, or as many pixels, are as fast as more, and the maps of
# a network fit in less memory.
_CPU_BATCH, _CPU_SIDE = 16, 224

# Takes a batch and the model's logits for it, (n, outputs).
OnLogits = Callable[[Batch, Tensor], None]


@dataclass(frozen=True, slots=True)
class Score:
    """Over a whole set.

    Attributes:
        halves: (2, classes, classes) int64 counts of images at even and at odd positions, row:
            label, column: first guess.
        hits5: images whose label is among the first five guesses.
        loss: mean cross-entropy.
    """

    halves: Tensor
    hits5: int
    loss: float

    @property
    def confusion(self) -> Tensor:
        """Counts of all images, (classes, classes)."""
        return self.halves.sum(0)

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
    def recalls_pct(self) -> Tensor:
        """Recall of each class in percent, (classes,); NaN for a class without images."""
        counts = self.confusion.double()
        return 100 * counts.diagonal() / counts.sum(1)

    @property
    def macro_recall_pct(self) -> float:
        """Mean of `recalls_pct` over the classes that have images."""
        return float(self.recalls_pct.nanmean())

    @property
    def top5_pct(self) -> float:
        """Top-5 in percent; with five classes or fewer it is 100."""
        return 100 * self.hits5 / self.num_images


def default_batch_size(device: torch.device, side: int) -> int:
    """Returns the number of images per pass where none is given.

    Args:
        device: of the model.
        side: of the images, in pixels.
    """
    if device.type != "cpu":
        return BATCH_SIZE
    return max(1, min(BATCH_SIZE, _CPU_BATCH * _CPU_SIDE**2 // side**2))


def score(model: nn.Module, images: ImageSet, preprocess: Preprocess, **options: Any) -> Score:
    """Returns the model's score; arguments and errors are those of `score_each`."""
    return score_each((model,), images, preprocess, **options)[0]


@torch.no_grad()
def score_each(
    models: Sequence[nn.Module],
    images: ImageSet,
    preprocess: Preprocess,
    *,
    device: torch.device,
    **options: Any,  # those of `logits_of_each`
) -> list[Score]:
    """Returns the score of each model; the processes of a world each take a share.

    Args:
        models: logits of normalised images.
        images: what to score them on; each is decoded once.
        preprocess: of the images.
        device: where the models live.
        **options: see `logits_of_each`.

    Raises:
        ValueError: a model's classes are fewer than the set's, or no image can be read.
    """
    num = len(images.classes)
    counts = torch.zeros(len(models), 2 * num**2 + 2, dtype=sum_dtype(device), device=device)
    for batch, each in logits_of_each(models, images, preprocess, device=device, **options):
        for mine, logits in zip(counts, each, strict=True):
            rows = (batch.indices % 2) * num + batch.labels
            cells = rows * num + logits.argmax(1)
            mine.index_add_(0, cells, torch.ones_like(cells, dtype=counts.dtype))
            best = logits.topk(min(5, num), 1).indices
            mine[-2] += (best == batch.labels.unsqueeze(1)).any(1).sum()
            mine[-1] += F.cross_entropy(logits, batch.labels, reduction="sum")
    found = []
    for totals in summed(counts).cpu():
        halves = totals[:-2].long().view(2, num, num)
        num_read = int(halves.sum())
        if not num_read:
            raise ValueError(f"no image of {images.name} can be read")
        found.append(Score(halves, int(totals[-2]), float(totals[-1]) / num_read))
    return found


def logits_of(
    model: nn.Module, images: ImageSet, preprocess: Preprocess, **options: Any
) -> Iterator[tuple[Batch, Tensor]]:
    """Yields what `logits_of_each` does of one model."""
    for batch, (logits,) in logits_of_each((model,), images, preprocess, **options):
        yield batch, logits


@torch.no_grad()
def logits_of_each(
    models: Sequence[nn.Module],
    images: ImageSet,
    preprocess: Preprocess,
    *,
    device: torch.device,
    half: torch.dtype | None = None,
    batch_size: int = BATCH_SIZE,
    workers: int = 0,
    outputs: Tensor | None = None,
    on_logits: OnLogits = lambda _batch, _logits: None,
) -> Iterator[tuple[Batch, list[Tensor]]]:
    """Yields this process's share of a set with each model's logits (n, classes) float32.

    The models are in evaluation mode meanwhile.

    Args:
        models: logits of normalised images.
        images: what they are to answer; each is decoded once.
        preprocess: of the images.
        device: where the models live.
        half: data type of autocast; None computes in float32.
        batch_size: images per pass.
        workers: processes that decode images which are not in memory.
        outputs: (classes,) which of a model's outputs stands for each class of the set; None is
            the same order.
        on_logits: called with each batch and the logits of all outputs.

    Raises:
        ValueError: a model's classes are fewer than the set's.
    """
    were_training = [model.training for model in models]
    for model in models:
        model.eval()
    for batch in eval_batches(
        images,
        preprocess,
        batch_size=batch_size,
        world=current_world(),
        device=device,
        workers=workers,
    ):
        each = []
        for model in models:
            with torch.autocast(device.type, half, enabled=half is not None):
                logits = model(batch.images).float()
            on_logits(batch, logits)
            each.append(_of_classes(logits, images, outputs))
        yield batch, each
    for model, was_training in zip(models, were_training, strict=True):
        model.train(was_training)


def _of_classes(logits: Tensor, images: ImageSet, outputs: Tensor | None) -> Tensor:
    """Returns the logits of the set's classes."""
    if outputs is not None:
        if int(outputs.max()) >= logits.shape[1]:
            raise ValueError(
                f"class folders are numbered up to {int(outputs.max())}; the model's classes "
                f"are 0 to {logits.shape[1] - 1}: number them from 0"
            )
        logits = logits[:, outputs.to(logits.device)]
    if logits.shape[1] != len(images.classes):
        raise ValueError(
            f"the model has {logits.shape[1]} classes and {images.name} has "
            f"{len(images.classes)}; expected the same classes"
        )
    return logits
