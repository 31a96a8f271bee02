"""Images with boxes as a data set for torchvision's detectors, checked before training starts.

The folder may be in COCO's, YOLO's, Pascal VOC's or LabelMe's layout, see `detection_layouts`.
Detectron2 registers COCO's files itself. Scores are pycocotools' (`pip install
fbnetv3-zoo[detection]`).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fbnetv3._internal.optional import missing
from fbnetv3.images.listed_files import plain_name
from fbnetv3.images.reader import open_image, upright_size

from .coco_records import (
    Annotated,
    check_inside,
    check_outlines,
    checked,
    remarks_on_sides,
    wrong,
)
from .coco_scores import Kind, Scores, score
from .detection_layouts import read_annotations

Target: TypeAlias = dict[str, Tensor]
Transforms: TypeAlias = Callable[[Any, Any], tuple[Any, Any]]
# Of a mask's pixel, as torchvision's detectors give it.
_MASK_THRESHOLD = 0.5


class CocoFolder(Dataset[tuple[Tensor, Target]]):
    """The images and their boxes, as torchvision's detectors take them.

    An item is an RGB image (3, H, W) in 0..1 and a dict of `boxes` (N, 4) as x1, y1, x2, y2 in
    pixels, `labels` (N) from 1, `image_id` and, where asked for, `masks` (N, H, W) of 0 and 1.
    Labels count the categories in the order of their ids; 0 is the background. Images are upright:
    their EXIF orientation is applied, and boxes are those of the upright image. Crowds and boxes
    without width or height are no targets.

    Attributes:
        path: the annotations, a file or folder.
        coco: the `pycocotools.coco.COCO` of the annotations.
        image_ids: id of each item's image.
        category_ids: id of each label from 1.
        class_names: name of each label from 1.
        notes: what is odd about the annotations and was put right.

    Args:
        folder: a folder, a COCO file, YOLO's `data.yaml`, or a record of annotations.
        split: "train", "val" or "test", where there are several.
        masks: decode masks too.
        empty: keep images without boxes; training has no use for them, but a detector's false
            alarms there count in COCO's scores.
        transforms: called with image and target, returns both; they are `tv_tensors` then, so that
            `torchvision.transforms.v2` moves the boxes with the image.

    Raises:
        FileNotFoundError: there are no annotations, or an image is missing.
        ValueError: there is no image with a box, an image is damaged or has another size than the
            annotations say, or an annotation lacks a field or is outside the image. All annotations
            and images are checked here; images as far as possible without decoding them.
    """

    def __init__(
        self,
        folder: str | Path | Annotated,
        *,
        split: str | None = None,
        masks: bool = False,
        empty: bool = False,
        transforms: Transforms | None = None,
    ) -> None:
        try:
            from pycocotools.coco import COCO
        except ImportError as error:
            raise missing("pycocotools", error) from error
        given = folder if isinstance(folder, Annotated) else read_annotations(folder, split)
        annotated = checked(given, masks=masks)
        self.path, self.folder, self.notes = annotated.path, annotated.folder, annotated.notes
        self.masks, self.transforms = masks, transforms
        self.coco = COCO()
        self.coco.dataset = annotated.content
        with contextlib.redirect_stdout(io.StringIO()):
            self.coco.createIndex()
        self.category_ids: list[int] = sorted(self.coco.getCatIds())
        self.class_names: list[str] = [c["name"] for c in self.coco.loadCats(self.category_ids)]
        self._label = {category: n for n, category in enumerate(self.category_ids, start=1)}
        every = sorted(self.coco.getImgIds())
        boxed = [image for image in every if self._annotations_of(image)]
        self.image_ids: list[int] = every if empty else boxed
        if not boxed:
            why = f": {'; '.join(self.notes)}" if self.notes else "; check the file"
            raise ValueError(f"{annotated.where()} has no image with a box{why}")
        for image in self.coco.loadImgs(self.image_ids):
            self._check_size(image)
            check_inside(self.path, image, self._annotations_of(image["id"]))
            if masks:
                check_outlines(self.path, image, self._annotations_of(image["id"]))
        items = {image: self._annotations_of(image) for image in self.image_ids}
        images = self.coco.loadImgs(self.image_ids)
        self.notes += remarks_on_sides(self.path, images, items)

    @property
    def num_classes(self) -> int:
        """Classes with the background, as torchvision counts them."""
        return len(self.category_ids) + 1

    def digest(self) -> str:
        """Returns a hash of what the targets are made of, wherever the folder lies."""
        fields = ("category_id", "bbox", *(("segmentation",) if self.masks else ()))
        found = hashlib.sha256(repr(self.class_names).encode())
        for image in self.coco.loadImgs(self.image_ids):
            boxes = [[one[k] for k in fields] for one in self._annotations_of(image["id"])]
            found.update(repr((Path(image["file_name"]).name, boxes)).encode())
        return found.hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        image_id = self.image_ids[index]
        pixels = np.array(open_image(self.image_path(index)))
        annotations = self._annotations_of(image_id)
        corners = [item["bbox"] for item in annotations]
        boxes = torch.tensor(corners, dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes[:, 0::2].clamp_(0, pixels.shape[1])
        boxes[:, 1::2].clamp_(0, pixels.shape[0])
        target = {
            "boxes": boxes,
            "labels": torch.tensor(
                [self._label[item["category_id"]] for item in annotations], dtype=torch.int64
            ),
            "image_id": torch.tensor(image_id),
        }
        if self.masks:
            decoded = [self.coco.annToMask(item) for item in annotations]
            none = np.zeros((0, *pixels.shape[:2]), np.uint8)
            target["masks"] = torch.from_numpy(np.stack(decoded) if decoded else none)
        image = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
        if self.transforms is None:
            return image, target
        return self.transformed(image, target, self.transforms)

    def image_path(self, index: int) -> Path:
        """Returns the file of an item's image."""
        (image,) = self.coco.loadImgs(self.image_ids[index])
        return self.folder / str(image["file_name"])

    def transformed(
        self, image: Tensor, target: Target, transforms: Transforms
    ) -> tuple[Tensor, Target]:
        """Returns what transforms make of an item, which they get as `tv_tensors`."""
        from torchvision import tv_tensors

        size = tuple(image.shape[1:])
        wrapped: Target = {
            **target,
            "boxes": tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=size),
        }
        if "masks" in target:
            wrapped["masks"] = tv_tensors.Mask(target["masks"])
        return transforms(tv_tensors.Image(image), wrapped)

    def _check_size(self, image: dict[str, Any]) -> None:
        path = self.folder / image["file_name"]
        if not path.is_file():
            near = _nearly_named(path)
            raise FileNotFoundError(
                f"{self.path}: image {image['file_name']!r}: there is no file {path}; "
                + (
                    f"there is {near!a}: correct `file_name`, or rename it"
                    if near
                    else "add it, or take the image out of `images`"
                )
            )
        width, height = upright_size(path)
        for side, pixels in (("width", width), ("height", height)):
            if image.get(side) is None:
                image[side] = pixels
            if isinstance(image[side], bool) or not isinstance(image[side], int | float):
                what = f"image {image['file_name']!r}"
                raise wrong(self.path, what, image, side, "a number of pixels")
        said = image["width"], image["height"]
        if said != (width, height):
            raise ValueError(
                f"{self.path}: image {image['file_name']!r}: `width` and `height` are "
                f"{said[0]} x {said[1]}; the file has {width} x {height} pixels with its EXIF "
                "orientation applied; correct the sizes, and the boxes if they are of the "
                "unrotated image"
            )

    def _annotations_of(self, image_id: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.coco.loadAnns(
            self.coco.getAnnIds(image_id, iscrowd=False)
        )
        return found

    def score(self, outputs: Mapping[int, Mapping[str, Tensor]]) -> dict[str, float]:
        """Returns COCO's scores of boxes, see `coco_scores.NAMES`: "AP", "AP50", ..., "AR_100".

        Args:
            outputs: image id -> what a torchvision detector returns for it: `boxes`, `labels`,
                `scores`.
        """
        return self.evaluate(outputs).values

    def evaluate(self, outputs: Mapping[int, Mapping[str, Tensor]], kind: Kind = "bbox") -> Scores:
        """Returns COCO's scores with intervals, for each class too.

        Args:
            outputs: as for `score`; for masks with `masks` (N, 1, H, W) in 0..1.
            kind: "bbox" scores boxes, "segm" masks.
        """
        found = []
        for image_id, output in outputs.items():
            boxes = output["boxes"].tolist()
            shapes = [{"bbox": [x1, y1, x2 - x1, y2 - y1]} for x1, y1, x2, y2 in boxes]
            if kind == "segm":
                shapes = [{"segmentation": one} for one in _encoded(output["masks"])]
            for shape, label, value in zip(shapes, output["labels"], output["scores"], strict=True):
                category = self.category_ids[int(label) - 1]
                about = {"image_id": image_id, "category_id": category, "score": float(value)}
                found.append({**about, **shape})
        return score(self.coco, found, kind)


def _nearly_named(path: Path) -> str:
    """Returns a file's name that differs only by case or by how accents are composed, or ""."""
    if not path.parent.is_dir():
        return ""
    names = (other.name for other in path.parent.iterdir())
    return next((name for name in names if plain_name(name) == plain_name(path.name)), "")


def _encoded(masks: Tensor) -> list[Any]:
    from pycocotools import mask

    plain = (masks[:, 0] > _MASK_THRESHOLD).to(torch.uint8).cpu().permute(1, 2, 0).numpy()
    return list(mask.encode(np.asfortranarray(plain)))
