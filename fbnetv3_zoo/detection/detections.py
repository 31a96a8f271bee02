"""What a detector finds in an image, and whether two detectors find the same. Without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fbnetv3.images.reader import ImageSource

# Two boxes are the same if they overlap by so much and their scores differ by no more than this.
SAME_OVERLAP, SAME_SCORE = 0.95, 2e-3


@dataclass(frozen=True)
class Detections:
    """The objects in an image, the likeliest first.

    Attributes:
        boxes: (N, 4) x1, y1, x2, y2 in pixels of the upright image.
        labels: (N) numbers of the classes from 1; 0 is the background.
        scores: (N) in 0..1.
        class_names: name of each label from 1.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, threshold: float) -> Detections:
        """Returns those with at least this score."""
        kept = self.scores >= threshold
        return Detections(self.boxes[kept], self.labels[kept], self.scores[kept], self.class_names)

    def names(self) -> list[str]:
        """Returns the class of each object."""
        return [self.class_names[label - 1] for label in self.labels.tolist()]

    def to_list(self) -> list[dict[str, Any]]:
        """Returns a record for each object, of plain JSON types."""
        rows = zip(self.names(), self.boxes.tolist(), self.scores.tolist(), strict=True)
        return [
            {"class": name, "score": round(score, 4), "box": [round(side, 1) for side in box]}
            for name, box, score in rows
        ]


class Detector(Protocol):
    """Finds objects; a PyTorch model or an exported file."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each label from 1."""

    def __call__(self, source: ImageSource) -> Detections:
        """Returns the objects in an image."""


@dataclass(frozen=True)
class Agreement:
    """How far two detectors find the same.

    Attributes:
        num_boxes: boxes of the first.
        share: share of all boxes of both that have a partner of the same class in the other, with
            an overlap of `SAME_OVERLAP` and a score that differs by `SAME_SCORE` at most.
        max_score_error: the largest difference of two partners' scores.
        max_box_error: the largest difference of two partners' corners, in pixels.
    """

    num_boxes: int
    share: float
    max_score_error: float
    max_box_error: float


def agreement(pairs: list[tuple[Detections, Detections]]) -> Agreement:
    """Returns the agreement over images."""
    total, partners, num_boxes = 0, 0, 0
    score_error = box_error = 0.0
    for expected, got in pairs:
        total += len(expected) + len(got)
        num_boxes += len(expected)
        free = np.ones(len(got), bool)
        overlap = overlaps(expected.boxes, got.boxes)
        for row, (label, score) in enumerate(zip(expected.labels, expected.scores, strict=True)):
            near = free & (got.labels == label) & (np.abs(got.scores - score) <= SAME_SCORE)
            found = np.where(near, overlap[row], 0)
            if not found.size or found.max() < SAME_OVERLAP:
                continue
            best = int(found.argmax())
            free[best] = False
            partners += 2
            score_error = max(score_error, float(abs(got.scores[best] - score)))
            box_error = max(box_error, float(np.abs(got.boxes[best] - expected.boxes[row]).max()))
    share = partners / total if total else 1.0
    return Agreement(num_boxes, round(share, 4), score_error, box_error)


def overlaps(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Returns (N, M) intersection over union of boxes (N, 4) and (M, 4)."""
    first, second = a[:, None].astype(np.float64), b[None].astype(np.float64)
    corner = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(
        first[..., :2], second[..., :2]
    )
    common = corner.clip(0).prod(-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(-1) for boxes in (first, second)]
    ratio: NDArray[np.float64] = common / np.maximum(areas[0] + areas[1] - common, 1e-9)
    return ratio
