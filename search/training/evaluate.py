"""Accuracy of any network on any image set, with its uncertainty, class by class."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fbnetv3.images.classes import match_classes
from fbnetv3.images.preprocess import Preprocess
from fbnetv3.models.inference import optimize
from fbnetv3.models.model import FBNetV3
from fbnetv3.search.data.image_set import ImageSet

from .batches import default_preprocess
from .config import Hardware
from .networks import Network
from .scoring import OnLogits, default_batch_size, score

# Another order of the classes is reported where it is right this much more often, in points.
_SUSPICIOUS_POINTS = 15.0
_NUM_LISTED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassResult:
    """One class: its name, its images, and how many of them were classified correctly, in percent.

    `top1` is None where the set has no image of the class.
    """

    name: str
    num_images: int
    top1: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Accuracy of a network on a set.

    Attributes:
        data: the set's name.
        num_images: those that were counted.
        num_damaged: those that could not be read, which are named in warnings and not counted.
        top1: in percent.
        top1_interval: 95 % Wilson interval, in percent.
        top5: in percent; all is right with five classes or fewer.
        top5_interval: 95 % Wilson interval, in percent.
        macro_recall: mean recall of the classes, in percent; classes without
            images are left out.
        loss: mean cross-entropy.
        matched_by: "name" where folders were matched to outputs by names or numbers, else "order".
        warning: what looks wrong with the order of classes, "" where nothing does.
        preprocess: what the images went through.
        classes: the table.
    """

    data: str
    num_images: int
    num_damaged: int
    top1: float
    top1_interval: tuple[float, float]
    top5: float
    top5_interval: tuple[float, float]
    macro_recall: float
    loss: float
    matched_by: str
    warning: str
    preprocess: Preprocess
    classes: tuple[ClassResult, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns the evaluation as plain JSON types."""
        fields = dataclasses.asdict(self)
        return {**fields, "preprocess": self.preprocess.to_dict()}


def evaluate(
    network: Network,
    images: ImageSet,
    *,
    hardware: Hardware | None = None,
    batch_size: int | None = None,
    workers: int = 0,
    on_logits: OnLogits = lambda _batch, _logits: None,
) -> Evaluation:
    """Returns the accuracy of a network on a set.

    Where the network's class names are known and the set's are all among them, or the set's are
    numbers, outputs are matched by name or number, and only the set's classes can be guessed. Else
    both have to be in one order, and the warning says so when they are not.

    Args:
        network: the model, with its preprocessing (the set's default where that is not known).
        images: the set.
        hardware: how to compute; bfloat16 is not used, so that numbers do not depend on it.
        batch_size: images per pass; None: on a CPU 16 of 224 pixels, else 250.
        workers: processes that decode images which are not in memory.
        on_logits: called with each batch and the logits of all outputs.

    Raises:
        ValueError: the classes cannot be matched, no image can be read, or a number is too small.
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected a whole number from 1")
    device = (hardware or Hardware.of()).device
    model = network.model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's overloads lack it
    side = getattr(getattr(model, "arch", None), "resolution", 224)
    # Without batch-norms half the maps are left, and half the time.
    fast = optimize(model) if isinstance(model, FBNetV3) else model
    preprocess = network.preprocess or default_preprocess(images, side)
    outputs = outputs_of(network, images)
    found = score(
        fast,
        images,
        preprocess,
        device=device,
        batch_size=batch_size or default_batch_size(device, preprocess.crop),
        workers=workers,
        outputs=outputs,
        on_logits=on_logits,
    )
    counts = found.confusion.sum(1).tolist()
    hits = found.confusion.diagonal().tolist()
    return Evaluation(
        data=images.name,
        num_images=found.num_images,
        num_damaged=len(images) - found.num_images,
        top1=found.top1_pct,
        top1_interval=wilson_pct(found.hits1, found.num_images),
        top5=found.top5_pct,
        top5_interval=wilson_pct(found.hits5, found.num_images),
        macro_recall=found.macro_recall_pct,
        loss=found.loss,
        matched_by="order" if outputs is None else "name",
        warning=class_order_warning(found.halves, images.classes),
        preprocess=preprocess,
        classes=tuple(
            ClassResult(name=name, num_images=n, top1=100 * hit / n if n else None)
            for name, n, hit in zip(images.classes, counts, hits, strict=True)
        ),
    )


def outputs_of(network: Network, images: ImageSet) -> Tensor | None:
    """Returns the network's output for each class of a set, (classes,); None is the same order.

    Raises:
        ValueError: the classes cannot be matched.
    """
    num_classes = getattr(network.model, "num_classes", None)
    matched = match_classes(images.classes, network.labels, num_classes)
    if matched is not None:
        return torch.tensor(matched)
    if num_classes not in (None, len(images.classes)):
        raise ValueError(
            f"the model has {num_classes} classes and {images.name} has {len(images.classes)}; "
            "expected the same classes, or folders with the names of the model's classes"
        )
    return None


def wilson_pct(hits: int, num: int) -> tuple[float, float]:
    """Returns (low, high), the 95 % Wilson score interval of a share, in percent.

    Args:
        hits: how many were right.
        num: of how many.

    Raises:
        ValueError: there is nothing to count.
    """
    if not 0 <= hits <= num or num == 0:
        raise ValueError(f"hits is {hits} of {num}; expected 0 to num, and num above 0")
    from scipy.stats import binomtest

    found = binomtest(hits, num).proportion_ci(method="wilson")
    return 100 * found.low, 100 * found.high


def class_order_warning(halves: Tensor, classes: Sequence[str]) -> str:
    """Returns what to tell about classes in another order than the network's, or "".

    An order is guessed from one half of the images and judged on the other, so that a
    network at chance does not raise an alarm. Nor does one that takes everything for a few classes,
    as after an epoch: most classes have to be taken for their own in that order above all.

    Args:
        halves: (2, classes, classes) counts, row: label, column: guess.
        classes: names of the rows.
    """
    guessed = _best_order(halves[0])
    judged = halves[1]
    total = max(1, int(judged.sum()))
    given = 100 * int(judged.diagonal().sum()) / total
    other = 100 * int(judged[torch.arange(len(classes)), guessed].sum()) / total
    above_all = (judged.argmax(1) == guessed)[judged.sum(1) > 0]
    if other < given + _SUSPICIOUS_POINTS or above_all.float().mean() <= 0.5:
        return ""
    moved = [
        f"{classes[row]!r} is predicted as number {column}, {classes[column]!r}"
        for row, column in enumerate(guessed.tolist())
        if row != column
    ]
    return (
        f"the classes are probably in another order than the network's: {given:.1f} % are right as "
        f"given, {other:.1f} % in another order ({'; '.join(moved[:_NUM_LISTED])}). Name the "
        "folders such that their alphabetical order is the order of the network's outputs"
    )


def _best_order(counts: Tensor) -> Tensor:
    """Returns for each row a column of its own, the largest counts first."""
    size = len(counts)
    order = torch.full((size,), -1)
    free = torch.ones(size, dtype=torch.bool)
    for cell in counts.flatten().argsort(descending=True, stable=True).tolist():
        row, column = divmod(cell, size)
        if counts[row, column] == 0:
            break
        if order[row] < 0 and free[column]:
            order[row], free[column] = column, False
    for row in (order < 0).nonzero().flatten().tolist():
        column = row if free[row] else int(free.nonzero()[0])
        order[row], free[column] = column, False
    return order
