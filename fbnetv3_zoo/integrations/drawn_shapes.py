"""Draws a small folder in COCO's format, for smoke tests of detectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from .detection_layouts import ANNOTATIONS, IMAGES

# Label, colour.
_SHAPES = (("box", (220, 60, 40)), ("disc", (40, 90, 220)))


def draw_shapes(
    folder: str | Path, *, num_images: int = 8, side: int = 128, rng: np.random.Generator
) -> Path:
    """Writes a folder of noisy images, each with two or three boxes and discs; returns it.

    For smoke tests of a training run: a detector that works learns it by heart in minutes.

    Args:
        folder: where; made if absent.
        num_images: how many.
        side: width and height in pixels.
        rng: draws them; equal generators draw equal folders.
    """
    folder = Path(folder)
    (folder / IMAGES).mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(1, num_images + 1):
        noise = rng.integers(90, 160, (side, side, 3), dtype=np.uint8)
        canvas = Image.fromarray(noise)
        name = f"{number:04}.png"
        for box in _places(side, int(rng.integers(2, 4)), rng):
            kind = int(rng.integers(len(_SHAPES)))
            outline = _draw(canvas, box, kind)
            x1, y1, x2, y2 = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": kind + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "segmentation": [outline],
                    "iscrowd": 0,
                }
            )
        canvas.save(folder / IMAGES / name)
        images.append({"id": number, "file_name": name, "height": side, "width": side})
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": n, "name": name} for n, (name, _) in enumerate(_SHAPES, start=1)],
    }
    (folder / ANNOTATIONS).write_text(json.dumps(content) + "\n")
    return folder


def _places(side: int, num_boxes: int, rng: np.random.Generator) -> list[tuple[int, int, int, int]]:
    """Returns boxes that do not overlap, one in each of as many quarters."""
    half = side // 2
    boxes = []
    for quarter in rng.permutation(4)[:num_boxes]:
        width, height = (int(n) for n in rng.integers(half // 2, half - 4, 2))
        x = int(quarter % 2) * half + int(rng.integers(0, half - width))
        y = int(quarter // 2) * half + int(rng.integers(0, half - height))
        boxes.append((x, y, x + width, y + height))
    return boxes


def _draw(canvas: Image.Image, box: tuple[int, int, int, int], kind: int) -> list[float]:
    """Draws one shape; returns its outline as x, y, x, y, ..."""
    x1, y1, x2, y2 = box
    draw = ImageDraw.Draw(canvas)
    colour = _SHAPES[kind][1]
    if kind == 0:
        draw.rectangle((x1, y1, x2 - 1, y2 - 1), fill=colour)
        return [x1, y1, x2, y1, x2, y2, x1, y2]
    draw.ellipse((x1, y1, x2 - 1, y2 - 1), fill=colour)
    turns = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    xs = (x1 + x2) / 2 + (x2 - x1) / 2 * np.cos(turns)
    ys = (y1 + y2) / 2 + (y2 - y1) / 2 * np.sin(turns)
    return [float(value) for value in np.stack([xs, ys], 1).ravel()]
