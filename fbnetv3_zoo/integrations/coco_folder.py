"""A folder of images with boxes in COCO's format: what training reads and scores are held to.

A folder holds `annotations.json` and the images in `images/`. The reader feeds torchvision's
detectors; Detectron2 registers the same two paths itself. Scores are pycocotools'
(`pip install fbnetv3-zoo[detection]`).
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fbnetv3._internal.json_record import read_json
from fbnetv3._internal.messages import shown
from fbnetv3._internal.optional import missing
from fbnetv3.images.reader import open_image, upright_size

ANNOTATIONS, IMAGES = "annotations.json", "images"
# Field that some uses need -> what it has to be.
_EXPECTED = {
    "segmentation": "an outline, since masks are asked for",
    "area": "the area in pixels, which COCO's scores need",
}


class CocoFolder(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """The images and their boxes, as torchvision's detectors take them.

    An item is an RGB image (3, H, W) in 0..1 and a dict of `boxes` (N, 4) as x1, y1, x2, y2 in
    pixels, `labels` (N) from 1, `image_id` and, where asked for, `masks` (N, H, W) of 0 and 1.
    Labels count the file's categories in the order of their ids; 0 is the background. Images are
    upright: their EXIF orientation is applied, and boxes are those of the upright image.

    Args:
        folder: the folder.
        masks: decode masks too.
        empty: keep images without boxes; training has no use for them, but a detector's false
            alarms there count in COCO's scores.

    Raises:
        FileNotFoundError: the folder lacks its annotations
            or an image.
        ValueError: there is no image with a box, an image is damaged or has another size than the
            annotations say, or an annotation lacks a field. All annotations and images are checked
            here, before training starts; images as far as possible without decoding them.
    """

    def __init__(self, folder: str | Path, *, masks: bool = False, empty: bool = False) -> None:
        self.folder = Path(folder)
        self.masks = masks
        self.path = self.folder / ANNOTATIONS
        self.coco = _read(self.path, ("segmentation",) if masks else ())
        self.category_ids = sorted(self.coco.getCatIds())
        self.class_names = [cat["name"] for cat in self.coco.loadCats(self.category_ids)]
        every = sorted(self.coco.getImgIds())
        boxed = [image for image in every if self._annotations_of(image)]
        self.image_ids = every if empty else boxed
        if not boxed:
            raise ValueError(f"{self.path} has no image with a box; check the file")
        for image in self.coco.loadImgs(self.image_ids):
            self._check_size(image)

    @property
    def num_classes(self) -> int:
        """Classes with the background, as torchvision counts them."""
        return len(self.category_ids) + 1

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        image_id = self.image_ids[index]
        name = self.coco.loadImgs(image_id)[0]["file_name"]
        pixels = np.array(open_image(self.folder / IMAGES / name))
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
        image = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
        return image, target

    def _check_size(self, image: Mapping[str, Any]) -> None:
        width, height = upright_size(self.folder / IMAGES / image["file_name"])
        said = image.get("width", width), image.get("height", height)
        if said != (width, height):
            raise ValueError(
                f"{self.path}: image {image['file_name']!r}: `width` and `height` are "
                f"{said[0]} x {said[1]}; the file has {width} x {height} pixels with its EXIF "
                "orientation applied; correct the sizes, and the boxes if they are of the "
                "unrotated image"
            )

    def _annotations_of(self, image_id: int) -> list[dict[str, Any]]:
        found = self.coco.loadAnns(self.coco.getAnnIds(image_id, iscrowd=False))
        return [item for item in found if min(item["bbox"][2:]) > 0]

    def score(self, outputs: Mapping[int, Mapping[str, Tensor]]) -> dict[str, float]:
        """Returns COCO's average precisions of boxes in 0..1: "AP", "AP50", "AP75".

        Args:
            outputs: image id -> what a torchvision detector returns for it: `boxes`, `labels`,
                `scores`.

        Raises:
            ValueError: an annotation has no `area`.
        """
        _check_annotations(self.coco.dataset, self.path, ("area",))
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


def _read(path: Path, fields: Sequence[str]) -> Any:
    """Returns the checked annotations as pycocotools has them."""
    try:
        from pycocotools.coco import COCO
    except ImportError as error:
        raise missing("pycocotools", error) from error
    if not path.is_file():
        raise FileNotFoundError(f"no {path}; expected a folder with {ANNOTATIONS} and {IMAGES}/")
    content = read_json(path.read_bytes(), str(path))
    for name in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise ValueError(f"{path}: `{name}` is missing; expected a list, as in COCO's files")
    for kind, text in (("images", "file_name"), ("categories", "name")):
        for item in content[kind]:
            what = f"{'image' if kind == 'images' else 'category'} {item.get('id')!r}"
            if not isinstance(item.get("id"), int):
                raise _wrong(path, what, item, "id", "an integer")
            if not isinstance(item.get(text), str):
                raise _wrong(path, what, item, text, "a string")
    _check_annotations(content, path, fields)
    for item in content["annotations"]:
        item.setdefault("iscrowd", 0)  # many tools do not write it
    coco = COCO()
    coco.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def _check_annotations(content: Mapping[str, Any], path: Path, fields: Sequence[str]) -> None:
    names = {image["id"]: image["file_name"] for image in content["images"]}
    known = {category["id"] for category in content["categories"]}
    for item in content["annotations"]:
        what = f"annotation {item.get('id')!r}"
        if not _is_id(item.get("image_id"), names):
            raise _wrong(path, what, item, "image_id", "the `id` of an image")
        what += f" of image {names[item['image_id']]!r}"
        if not _is_id(item.get("category_id"), known):
            listed = ", ".join(map(str, sorted(known)))
            raise _wrong(path, what, item, "category_id", f"one of {listed}")
        if item.get("iscrowd", 0) not in (0, 1):
            raise _wrong(path, what, item, "iscrowd", "0, or 1 for a crowd")
        box = item.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(map(_is_finite, box)):
            raise _wrong(path, what, item, "bbox", "[x, y, width, height]")
        for field in fields:
            if field not in item:
                raise _wrong(path, what, item, field, _EXPECTED[field])


def _is_id(value: object, known: Container[int]) -> bool:
    return isinstance(value, int) and value in known


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _wrong(path: Path, what: str, item: Mapping[str, Any], field: str, expected: str) -> ValueError:
    given = shown(item[field]) if field in item else "missing"
    return ValueError(f"{path}: {what}: `{field}` is {given}; expected {expected}")
