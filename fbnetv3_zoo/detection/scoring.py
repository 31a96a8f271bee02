"""Runs a detector over annotated images and scores what it finds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from fbnetv3.integrations.coco_folder import CocoFolder
from fbnetv3.integrations.coco_scores import Scores
from fbnetv3.search.training.parallel import World

from .detections import Detections, Detector


def evaluate(
    detector: Detector,
    data: CocoFolder,
    *,
    on_image: Callable[[int, Detections], None] = lambda _index, _found: None,
    world: World | None = None,
) -> Scores:
    """Returns COCO's scores of a detector.

    Args:
        detector: knows all classes of the images, in any order. What it finds of others, which
            COCO's scores have no place for, is left out.
        data: the images.
        on_image: called with each image's index and what was found in it.
        world: processes that share the images; None is this one alone.

    Raises:
        ValueError: the detector lacks a class of the images.
    """
    label_of = _labels(detector.class_names, data.class_names)
    outputs = {}
    rank, size = (0, 1) if world is None else (world.rank, world.size)
    for index in range(rank, len(data), size):
        image_id = data.image_ids[index]
        found = detector(data.image_path(index))
        on_image(index, found)
        labels = found.labels.tolist()
        kept = torch.tensor([label in label_of for label in labels], dtype=torch.bool)
        outputs[image_id] = {
            "boxes": torch.from_numpy(found.boxes)[kept],
            "labels": torch.tensor([label_of[label] for label in labels if label in label_of]),
            "scores": torch.from_numpy(found.scores)[kept],
        }
    if size > 1:
        parts: list[Any] = [None] * size
        dist.all_gather_object(parts, outputs)
        outputs = {image_id: found for part in parts for image_id, found in part.items()}
    return data.evaluate(outputs)


def _labels(theirs: tuple[str, ...], ours: list[str]) -> dict[int, int]:
    unknown = sorted(set(ours) - set(theirs))
    if unknown:
        raise ValueError(
            f"the detector knows {', '.join(theirs)}; the images have {', '.join(ours)}: expected "
            f"no class that it does not know, such as {unknown[0]}"
        )
    numbers = {name: number for number, name in enumerate(ours, start=1)}
    return {n: numbers[name] for n, name in enumerate(theirs, start=1) if name in numbers}
