"""How well a multi-label network finds each class on a set: mAP, and F1 at its thresholds."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch

from fbnetv3.deploy.multi_label import DEFAULT_THRESHOLD
from fbnetv3.images.classes import match_classes
from fbnetv3.images.preprocess import Preprocess
from fbnetv3.search.data.image_set import ImageSet

from .batches import default_preprocess
from .config import Hardware
from .multi_label import score_multi_label
from .networks import Network
from .scoring import BATCH_SIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelResult:
    """One class of a multi-label set.

    Attributes:
        name: of the class.
        num_images: images that have it.
        average_precision: in percent; None without an image.
        f1: at the threshold, in percent; None without an image.
        threshold: score from which the network says that an image has the class.
    """

    name: str
    num_images: int
    average_precision: float | None
    f1: float | None
    threshold: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiLabelEvaluation:
    """Scores of a multi-label network on a set.

    Attributes:
        data: the set's name.
        num_images: those that were counted.
        num_damaged: those that could not be read, which are named in warnings and not counted.
        mean_average_precision: mean of the classes' average precisions, in percent; classes without
            images are left out.
        macro_f1: mean of the classes' F1 at the network's thresholds, in percent, as above.
        micro_f1: F1 of all decisions together, in percent.
        loss: mean binary cross-entropy.
        matched_by: "name" where classes were matched to outputs by names, else "order".
        preprocess: what the images went through.
        classes: the table.
    """

    data: str
    num_images: int
    num_damaged: int
    mean_average_precision: float
    macro_f1: float
    micro_f1: float
    loss: float
    matched_by: str
    preprocess: Preprocess
    classes: tuple[LabelResult, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns the evaluation as plain JSON types."""
        fields = dataclasses.asdict(self)
        return {**fields, "preprocess": self.preprocess.to_dict()}


def evaluate_multi_label(
    network: Network,
    images: ImageSet,
    *,
    hardware: Hardware | None = None,
    batch_size: int = BATCH_SIZE,
    workers: int = 0,
) -> MultiLabelEvaluation:
    """Returns how well a network finds the classes of a multi-label set.

    Args:
        network: the model, with its thresholds; 0.5 where it has none. Outputs are matched by name
            where the set's classes are all among the network's, else both must be in one order.
        images: the set.
        hardware: how to compute; in float32.
        batch_size: images a pass.
        workers: processes that decode images which are not in memory.

    Raises:
        ValueError: the set has one label per image, the classes cannot be matched, no image can be
            read, none has a label, or a number is too small.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected a whole number from 1")
    if not images.multi_label:
        raise ValueError(
            f"{images.name} has one label per image and the network is multi-label; expected a CSV "
            "list of file,labels (with --task multi-label if no image has several)"
        )
    if not any(images.counts):
        raise ValueError(f"no image of {images.name} has a label; expected some to measure with")
    device = (hardware or Hardware.of()).device
    model = network.model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's overloads lack it
    side = getattr(getattr(model, "arch", None), "resolution", 224)
    preprocess = network.preprocess or default_preprocess(images, side)
    num_outputs = getattr(model, "num_classes", None)
    matched = match_classes(images.classes, network.labels, num_outputs)
    found = score_multi_label(
        model,
        images,
        preprocess,
        device=device,
        batch_size=batch_size,
        workers=workers,
        outputs=None if matched is None else torch.tensor(matched),
    )
    own = network.thresholds or (DEFAULT_THRESHOLD,) * (num_outputs or len(images.classes))
    thresholds = tuple(own[output] for output in matched or range(len(images.classes)))
    precisions, f1 = found.average_precisions_pct.tolist(), found.f1_pct(thresholds).tolist()
    counts = found.targets.sum(0).tolist()
    rows = zip(images.classes, counts, precisions, f1, thresholds, strict=True)
    return MultiLabelEvaluation(
        data=images.name,
        num_images=found.num_images,
        num_damaged=len(images) - found.num_images,
        mean_average_precision=found.map_pct,
        macro_f1=found.macro_f1_pct(thresholds),
        micro_f1=found.micro_f1_pct(thresholds),
        loss=found.loss,
        matched_by="order" if matched is None else "name",
        preprocess=preprocess,
        classes=tuple(
            LabelResult(
                name=name,
                num_images=num,
                average_precision=_known(precision),
                f1=_known(score),
                threshold=threshold,
            )
            for name, num, precision, score, threshold in rows
        ),
    )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
