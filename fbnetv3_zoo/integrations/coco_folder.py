"""A folder of images with boxes in COCO's format: reading, scoring, and a small drawn one.

A folder holds `annotations.json` and the images in `images/`. The reader feeds torchvision's
detectors; Detectron2 registers the same two paths itself. Scores are pycocotools'
(`pip install fbnetv3-zoo[detection]`).
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.utils.data import Dataset

from fbnetv3._internal.optional import missing
from fbnetv3.images.reader import open_image

ANNOTATIONS, IMAGES = "annotations.json", "images"
_SIDES = ("width", "height")
# What `draw_shapes` draws: label, colour.
_SHAPES = (("box", (220, 60, 40)), ("disc", (40, 90, 220)))


class CocoFolder(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """The images and their boxes, as torchvision's detectors take them.

    An item is an RGB image (3, H, W) in 0..1 and a dict of `boxes` (N, 4) as x1, y1, x2, y2 in
    pixels, `labels` (N) from 1, `image_id` and, where asked for, `masks` (N, H, W) of 0 and 1.
    Labels count the file's categories in the order of their ids; 0 is the background. Images are
    read as everywhere, upright by their EXIF, and have to have the width and height that the
    annotations give: boxes of an image that was annotated unturned would lie elsewhere.

    Args:
        folder: the folder.
        masks: decode masks too.
        empty: keep images without boxes; training has no use for them, but a detector's false
            alarms there count in COCO's scores.

    Raises:
        FileNotFoundError: the folder lacks its annotations.
        ValueError: there is no image with a box.
    """

    def __init__(self, folder: str | Path, *, masks: bool = False, empty: bool = False) -> None:
        self.folder = Path(folder)
        self.masks = masks
        self.coco = _read(self.folder / ANNOTATIONS)
        self.category_ids = sorted(self.coco.getCatIds())
        self.class_names = [cat["name"] for cat in self.coco.loadCats(self.category_ids)]
        every = sorted(self.coco.getImgIds())
        boxed = [image for image in every if self._annotations_of(image)]
        self.image_ids = every if empty else boxed
        if not boxed:
            raise ValueError(f"{self.folder / ANNOTATIONS} has no image with a box; check the file")

    @property
    def num_classes(self) -> int:
        """Classes with the background, as torchvision counts them."""
        return len(self.category_ids) + 1

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        image_id = self.image_ids[index]
        record = self.coco.loadImgs(image_id)[0]
        path = self.folder / IMAGES / record["file_name"]
        upright = open_image(path)
        noted = tuple(record.get(side, of) for side, of in zip(_SIDES, upright.size, strict=True))
        if upright.size != noted:
            raise ValueError(
                f"{path} is {upright.width} x {upright.height} pixels, upright; {ANNOTATIONS} says "
                f"{noted[0]} x {noted[1]}: annotate the upright image, or remove its EXIF turn"
            )
        pixels = np.asarray(upright)
        annotations = self._annotations_of(image_id)
        corners = [item["bbox"] for item in annotations]
        boxes = torch.tensor(corners, dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        target = {
            "boxes": boxes,
            "labels": torch.tensor(
                [self.category_ids.index(item["category_id"]) + 1 for item in annotations],
                dtype=torch.int64,
            ),
            "image_id": torch.tensor(image_id),
        }
        if self.masks:
            decoded = [self.coco.annToMask(item) for item in annotations]
            none = np.zeros((0, *pixels.shape[:2]), np.uint8)
            target["masks"] = torch.from_numpy(np.stack(decoded) if decoded else none)
        image = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255
        return image, target

    def _annotations_of(self, image_id: int) -> list[dict[str, Any]]:
        found = self.coco.loadAnns(self.coco.getAnnIds(image_id, iscrowd=False))
        return [item for item in found if min(item["bbox"][2:]) > 0]

    def score(self, outputs: Mapping[int, Mapping[str, Tensor]]) -> dict[str, float]:
        """Returns COCO's average precisions of boxes in 0..1: "AP", "AP50", "AP75".

        Args:
            outputs: image id -> what a torchvision detector returns for it: `boxes`, `labels`,
                `scores`.
        """
        found = [
            {
                "image_id": image_id,
                "category_id": self.category_ids[int(label) - 1],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": float(score),
            }
            for image_id, output in outputs.items()
            for (x1, y1, x2, y2), label, score in zip(
                output["boxes"].tolist(), output["labels"], output["scores"], strict=True
            )
        ]
        return score_boxes(self.coco, found)


def score_boxes(coco: Any, found: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Returns COCO's "AP", "AP50" and "AP75" of detections in COCO's result format.

    Args:
        coco: the `pycocotools.coco.COCO` of the truth.
        found: `image_id`, `category_id`, `bbox` (x, y, width, height), `score` each.
    """
    from pycocotools.cocoeval import COCOeval

    if not found:
        return {"AP": 0.0, "AP50": 0.0, "AP75": 0.0}
    with contextlib.redirect_stdout(io.StringIO()):
        scoring = COCOeval(coco, coco.loadRes(list(found)), "bbox")
        scoring.evaluate()
        scoring.accumulate()
        scoring.summarize()
    return dict(zip(("AP", "AP50", "AP75"), map(float, scoring.stats[:3]), strict=True))


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


def _read(path: Path) -> Any:
    try:
        from pycocotools.coco import COCO
    except ImportError as error:
        raise missing("pycocotools", error) from error
    if not path.is_file():
        raise FileNotFoundError(f"no {path}; expected a folder with {ANNOTATIONS} and {IMAGES}/")
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))
