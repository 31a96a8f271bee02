"""What is outside the graph of runtimes whose graphs have fixed shapes: resizing and suppression.

Such a graph takes a square of float32 (1, 3, size, size) in 0..1 and gives boxes (A, 4) in its
pixels and probabilities (A, classes) of all anchors. What torchvision's SSD does beside that is
here, in NumPy.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fbnetv3._internal.json_record import keywords_of

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Outside:
    """The settings of what is outside a graph.

    Attributes:
        size: side of the square that the graph takes, in pixels.
        score_threshold: lowest score of a box.
        nms_threshold: a box that overlaps one of its class and a higher score by more is dropped.
        num_candidates: at most so many boxes of a class go into the suppression.
        num_boxes: at most so many boxes are left.
    """

    size: int
    score_threshold: float
    nms_threshold: float
    num_candidates: int
    num_boxes: int

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as plain JSON types."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(fields: Any, *, where: str) -> Outside:
        """Returns the settings that `to_dict` wrote.

        Raises:
            ValueError: a field is missing, unknown or wrong.
        """
        return Outside(**keywords_of(Outside, fields, where))

    def square(self, pixels: NDArray[np.uint8]) -> Floats:
        """Returns an image (H, W, 3) as the graph takes it: (1, 3, size, size) in 0..1.

        Bilinear without smoothing, as `torch.nn.functional.interpolate` has it.
        """
        height, width = pixels.shape[:2]
        top, bottom, down = _neighbours(height, self.size)
        left, right, across = _neighbours(width, self.size)
        rows = [pixels[index].astype(np.float32) / np.float32(255) for index in (top, bottom)]
        upper, lower = (
            row[:, left] + (row[:, right] - row[:, left]) * across[None, :, None] for row in rows
        )
        image = upper + (lower - upper) * down[:, None, None]
        return np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32)

    def found(
        self, boxes: Floats, probabilities: Floats, height: int, width: int
    ) -> tuple[Floats, NDArray[np.int64], Floats]:
        """Returns boxes (N, 4) in pixels of the image, labels (N) and scores (N), likeliest first.

        Args:
            boxes: (A, 4) x1, y1, x2, y2 in pixels of the square.
            probabilities: (A, classes); class 0 is the background.
            height: of the image.
            width: of the image.
        """
        kept: list[NDArray[Any]] = []
        labels: list[NDArray[np.int64]] = []
        for label in range(1, probabilities.shape[1]):
            scores = probabilities[:, label]
            (above,) = np.nonzero(scores > self.score_threshold)
            order = np.argsort(-scores[above], kind="stable")[: self.num_candidates]
            chosen = above[order]
            chosen = chosen[unsuppressed(boxes[chosen], self.nms_threshold)]
            kept.append(chosen)
            labels.append(np.full(len(chosen), label, np.int64))
        index, label_of = np.concatenate(kept), np.concatenate(labels)
        scores = probabilities[index, label_of]
        best = np.argsort(-scores, kind="stable")[: self.num_boxes]
        scale = np.array([width, height, width, height], np.float32) / np.float32(self.size)
        scaled = boxes[index[best]] * scale
        return scaled.astype(np.float32), label_of[best], scores[best]


def unsuppressed(boxes: Floats, threshold: float) -> NDArray[np.int64]:
    """Returns the indices that greedy non-maximum suppression keeps.

    Args:
        boxes: (N, 4) x1, y1, x2, y2 of one class, the likeliest first.
        threshold: a box that overlaps a kept one by more (intersection over union) is dropped.
    """
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    left = np.arange(len(boxes))
    kept = []
    while len(left):
        first, left = left[0], left[1:]
        kept.append(first)
        corner = np.minimum(boxes[first, 2:], boxes[left, 2:])
        sides = (corner - np.maximum(boxes[first, :2], boxes[left, :2])).clip(0)
        common = sides[:, 0] * sides[:, 1]
        left = left[~(common > threshold * (areas[first] + areas[left] - common))]
    return np.array(kept, np.int64)


def _neighbours(length: int, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Returns the two pixels of `length` beside each of `size`, and the weight of the second."""
    center = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(length / size)
    center = np.maximum(center - np.float32(0.5), 0)
    first = np.minimum(center.astype(np.int64), length - 1)
    return first, np.minimum(first + 1, length - 1), (center - first).astype(np.float32)
