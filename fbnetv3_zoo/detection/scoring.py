"""Runs a detector over annotated images and scores what it finds."""

from __future__ import annotations

from collections.abc import Callable

import torch

from fbnetv3.integrations.coco_folder import CocoFolder
from fbnetv3.integrations.coco_scores import Scores

from .detections import Detections, Detector


def evaluate(
    detector: Detector,
    data: CocoFolder,
    *,
    on_image: Callable[[int, Detections], None] = lambda _index, _found: None,
) -> Scores:
    """Returns COCO's scores of a detector.

    Args:
        detector: its classes must be those of the images; their order may differ.
        data: the images.
        on_image: called with each image's index and what was found in it.

    Raises:
        ValueError: the detector has other classes.
    """
    label_of = _labels(detector.class_names, data.class_names)
    outputs = {}
    for index, image_id in enumerate(data.image_ids):
        found = detector(data.image_path(index))
        on_image(index, found)
        outputs[image_id] = {
            "boxes": torch.from_numpy(found.boxes),
            "labels": torch.tensor([label_of[label] for label in found.labels.tolist()]),
            "scores": torch.from_numpy(found.scores),
        }
    return data.evaluate(outputs)


def _labels(theirs: tuple[str, ...], ours: list[str]) -> dict[int, int]:
    if sorted(theirs) != sorted(ours):
        raise ValueError(
            f"the detector knows {', '.join(theirs)}; the images have {', '.join(ours)}: expected "
            "the same classes"
        )
    if list(theirs) == ours:
        return {label: label for label in range(1, len(ours) + 1)}
    return {label: ours.index(name) + 1 for label, name in enumerate(theirs, start=1)}
