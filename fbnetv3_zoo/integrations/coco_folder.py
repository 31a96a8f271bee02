"""A folder of images with boxes in COCO's format: what training reads and scores are held to.

A folder holds `annotations.json` and the images in `images/`. The reader feeds torchvision's
detectors; Detectron2 registers the same two paths itself. Scores are pycocotools'
(`pip install fbnetv3-zoo[detection]`).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fbnetv3._internal.optional import missing
from fbnetv3.images.reader import open_image

ANNOTATIONS, IMAGES = "annotations.json", "images"
_SIDES = ("width", "height")


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


def _read(path: Path) -> Any:
    try:
        from pycocotools.coco import COCO
    except ImportError as error:
        raise missing("pycocotools", error) from error
    if not path.is_file():
        raise FileNotFoundError(f"no {path}; expected a folder with {ANNOTATIONS} and {IMAGES}/")
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))
