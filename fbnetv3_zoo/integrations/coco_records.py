"""The one record of annotated images, which is COCO's, and the checks of its fields."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fbnetv3._internal.json_record import read_json
from fbnetv3._internal.messages import shown


@dataclass(frozen=True)
class Annotated:
    """Annotated images.

    Attributes:
        path: the annotations, a file or folder; for messages.
        content: lists `images`, `annotations`, `categories`, as in COCO's files.
        folder: what the images' `file_name` are relative to.
    """

    path: Path
    content: dict[str, Any]
    folder: Path

    def with_images(self, ids: Container[int]) -> Annotated:
        """Returns the images of these ids only, with their annotations."""
        content = dict(self.content)
        for kind, key in (("images", "id"), ("annotations", "image_id")):
            content[kind] = [item for item in content[kind] if item[key] in ids]
        return Annotated(self.path, content, self.folder)


def read_coco(path: Path) -> dict[str, Any]:
    """Returns the content of a COCO file whose lists and ids are there.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no JSON, or lacks a list, an id or a name.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no {path}; expected a file in COCO's format")
    content: Any = read_json(path.read_bytes(), str(path))
    for name in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise ValueError(f"{path}: `{name}` is missing; expected a list, as in COCO's files")
    for kind, text in (("images", "file_name"), ("categories", "name")):
        word = "image" if kind == "images" else "category"
        for item in content[kind]:
            what = f"{word} {item.get('id')!r}"
            if not isinstance(item.get("id"), int):
                raise wrong(path, what, item, "id", "an integer")
            if not isinstance(item.get(text), str):
                raise wrong(path, what, item, text, "a string")
        twice = [
            n for n, count in Counter(item["id"] for item in content[kind]).items() if count > 1
        ]
        if twice:
            raise ValueError(f"{path}: two {kind} have `id` {twice[0]}; expected different ids")
    return dict(content)


def checked(annotated: Annotated, *, masks: bool) -> tuple[Annotated, tuple[str, ...]]:
    """Returns the record with `iscrowd`, `area` and `id` in every annotation, and remarks.

    Annotations get ids from 1: COCO's scores take a box of id 0 as missed, and of two with one id
    only the last.

    Args:
        annotated: the record; it is not changed.
        masks: every annotation needs an outline.

    Raises:
        ValueError: a field is missing or wrong; names it, the annotation and the image.
    """
    path, content = annotated.path, annotated.content
    names = {image["id"]: image["file_name"] for image in content["images"]}
    known = {category["id"] for category in content["categories"]}
    items, flat, without_area = [], [], 0
    for number, item in enumerate(content["annotations"], start=1):
        what = _check_annotation(path, item, names, known)
        width, height = item["bbox"][2:]
        if min(width, height) <= 0:
            flat.append(what)
            continue
        if masks and not item.get("segmentation"):
            raise wrong(path, what, item, "segmentation", "an outline, since masks are asked for")
        without_area += "area" not in item
        items.append({"iscrowd": 0, "area": width * height, **item, "id": number})
    remarks = []
    if flat:
        remarks.append(
            f"{path}: {len(flat)} boxes without width or height are left out, such as {flat[0]}"
        )
    if without_area:
        remarks.append(f"{path}: {without_area} annotations have no `area`; their boxes' are taken")
    return Annotated(path, {**content, "annotations": items}, annotated.folder), tuple(remarks)


def _check_annotation(
    path: Path, item: Mapping[str, Any], names: Mapping[int, str], known: set[int]
) -> str:
    """Checks the fields of an annotation; returns what it is, in words."""
    what = f"annotation {item.get('id')!r}"
    if not _is_id(item.get("image_id"), names):
        raise wrong(path, what, item, "image_id", "the `id` of an image")
    what += f" of image {names[item['image_id']]!r}"
    if not _is_id(item.get("category_id"), known):
        listed = ", ".join(map(str, sorted(known)))
        raise wrong(path, what, item, "category_id", f"one of {listed}")
    if item.get("iscrowd", 0) not in (0, 1):
        raise wrong(path, what, item, "iscrowd", "0, or 1 for a crowd")
    box = item.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_finite, box)):
        raise wrong(path, what, item, "bbox", "[x, y, width, height]")
    return what


def check_inside(path: Path, image: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> None:
    """Refuses boxes that lie outside their image, as those of another orientation do.

    Raises:
        ValueError: one does.
    """
    for item in items:
        x, y, width, height = item["bbox"]
        if x >= image["width"] or y >= image["height"] or x + width <= 0 or y + height <= 0:
            what = f"annotation {item['id']} of image {image['file_name']!r}"
            expected = f"a box in the image of {image['width']} x {image['height']} pixels"
            raise wrong(path, what, item, "bbox", expected)


def wrong(path: Path, what: str, item: Mapping[str, Any], field: str, expected: str) -> ValueError:
    """Returns the error for a field of a record."""
    given = shown(item[field]) if field in item else "missing"
    return ValueError(f"{path}: {what}: `{field}` is {given}; expected {expected}")


def _is_id(value: object, known: Container[int]) -> bool:
    return isinstance(value, int) and value in known


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
