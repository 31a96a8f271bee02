"""The one record of annotated images, which is COCO's, and the checks of its fields."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fbnetv3._internal.json_record import read_json
from fbnetv3._internal.messages import counted, shown

# Split -> what exporters call it.
SPLITS: Mapping[str, tuple[str, ...]] = {
    "train": ("train",),
    "val": ("val", "valid", "validation"),
    "test": ("test",),
}
_IDS = {"images": ("id",), "annotations": ("id", "image_id", "category_id"), "categories": ("id",)}
# What annotations call the ids of these.
_NAMED_BY = {"images": "image_id", "categories": "category_id"}
# Boxes may end this many pixels outside their image, as rounded ones do, without a remark.
_TOLERATED_PX = 1.0
# The least side of a box in pixels: in single precision a smaller one may have none.
_LEAST_PX = 0.01


@dataclass(frozen=True)
class Annotated:
    """Annotated images.

    Attributes:
        path: the annotations, a file or folder; for messages.
        content: lists `images`, `annotations`, `categories`, as in COCO's files.
        folder: what the images' `file_name` are relative to.
        notes: what was put right when they were checked.
        split: "train", "val" or "test"; "" if there is only one.
    """

    path: Path
    content: dict[str, Any]
    folder: Path
    notes: tuple[str, ...] = ()
    split: str = ""

    def with_images(self, ids: Container[int]) -> Annotated:
        """Returns the images of these ids only, with their annotations."""
        content = dict(self.content)
        for kind, key in (("images", "id"), ("annotations", "image_id")):
            content[kind] = [item for item in content[kind] if item[key] in ids]
        return replace(self, content=content)

    def where(self) -> str:
        """Returns what to call them in messages."""
        return f"{self.path} ({self.split})" if self.split else str(self.path)


def read_lines(path: Path) -> list[str]:
    """Returns the lines of a text file, without a byte-order mark.

    Raises:
        ValueError: it is no text in UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: {error}; save it as such") from None


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
    if not content["categories"]:
        raise ValueError(f"{path}: `categories` is empty; expected the classes' ids and names")
    content = {**content, **{kind: _with_whole_ids(path, content[kind], kind) for kind in _IDS}}
    for kind, field in _NAMED_BY.items():
        _number_texts(path, content[kind], content["annotations"], field)
    for kind, text in (("images", "file_name"), ("categories", "name")):
        word = "image" if kind == "images" else "category"
        for item in content[kind]:
            what = f"{word} {item.get('id')!r}"
            if not _is_number_of_64_bits(item.get("id")):
                raise wrong(path, what, item, "id", "an integer")
            if not isinstance(item.get(text), str):
                raise wrong(path, what, item, text, "a string")
        for field in ("id", text) if kind == "categories" else ("id",):
            counted = Counter(item[field] for item in content[kind])
            if counted and max(counted.values()) > 1:
                ((value, _),) = counted.most_common(1)
                raise ValueError(
                    f"{path}: two {kind} have `{field}` {value!r}; expected different ones"
                )
    for image in content["images"]:
        image["file_name"] = image["file_name"].replace("\\", "/")
    return dict(content)


def _with_whole_ids(path: Path, items: list[Any], kind: str) -> list[dict[str, Any]]:
    """Returns copies of records, whose ids of 1.0 and the like are whole numbers."""
    found = []
    for number, item in enumerate(items):
        if not isinstance(item, dict):
            raise ValueError(
                f"{path}: `{kind}` has {shown(item)} at {number}; expected an object of fields"
            )
        whole = {field: _whole(item[field]) for field in _IDS[kind] if field in item}
        found.append({**item, **whole})
    return found


def _whole(value: Any) -> Any:
    """Returns the whole number that a value stands for, such as 1.0 or "12"; others as they are."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if (
        isinstance(value, str)
        and len(value) < 19
        and value.isdecimal()
        and str(int(value)) == value
    ):
        return int(value)
    return value


def _number_texts(
    path: Path, items: Sequence[dict[str, Any]], annotations: Sequence[dict[str, Any]], field: str
) -> None:
    """Replaces ids by numbers from 1, in their order, if some of them are texts.

    Raises:
        ValueError: an annotation names none of them.
    """
    ids = [item.get("id") for item in items]
    if not any(isinstance(one, str) for one in ids):
        return
    if not all(isinstance(one, str | int) for one in ids) or len(set(ids)) != len(ids):
        return  # refused later
    numbers = {one: number for number, one in enumerate(sorted(ids, key=str), start=1)}
    for item in items:
        item["id"] = numbers[item["id"]]
    for annotation in annotations:
        given = annotation.get(field)
        if not isinstance(given, str | int) or given not in numbers:
            what = f"annotation {annotation.get('id')!r}"
            expected = f"an id, such as {shown(next(iter(numbers)))}"
            raise wrong(path, what, annotation, field, expected)
        annotation[field] = numbers[given]


def _is_number_of_64_bits(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63


def checked(annotated: Annotated, *, masks: bool) -> Annotated:
    """Returns the record with `iscrowd`, `area` and `id` in every annotation, and notes.

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
    seen, twice = set(), []
    for number, given_item in enumerate(content["annotations"], start=1):
        item = _with_box(given_item)
        what = _check_annotation(path, item, names, known)
        width, height = item["bbox"][2:]
        if min(width, height) < _LEAST_PX:
            flat.append(what)
            continue
        same = (item["image_id"], item["category_id"], *item["bbox"])
        if same in seen:
            twice.append(what)
            continue
        seen.add(same)
        if masks and not item.get("segmentation"):
            raise wrong(path, what, item, "segmentation", "an outline, since masks are asked for")
        given = {
            key: value
            for key, value in item.items()
            if key not in ("area", "iscrowd") or value is not None
        }
        without_area += "area" not in given
        items.append({"iscrowd": 0, "area": width * height, **given, "id": number})
    if items and all(0 <= side <= 1 for item in items for side in item["bbox"]):
        raise ValueError(
            f"{path}: no `bbox` has a number above 1; expected [x, y, width, height] in pixels, "
            "not shares of the image"
        )
    remarks = [
        f"{path}: left out {counted(len(found), 'box', 'boxes')} {why}, such as {found[0]}"
        for found, why in ((flat, "without width or height"), (twice, "given twice"))
        if found
    ]
    if without_area:
        remarks.append(
            f"{path}: {counted(without_area, 'annotation')} without `area`; the boxes' are taken"
        )
    notes = (*annotated.notes, *remarks)
    return replace(annotated, content={**content, "annotations": items}, notes=notes)


def _with_box(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the annotation, with the box of its outline where it has no other."""
    if item.get("bbox") is not None:
        return item
    outline = item.get("segmentation")
    if isinstance(outline, list) and outline and all(map(_is_polygon, outline)):
        points = [value for polygon in outline for value in polygon]
        (left, top), (right, bottom) = (
            (end(points[0::2]), end(points[1::2])) for end in (min, max)
        )
        return {**item, "bbox": [left, top, right - left, bottom - top]}
    if not isinstance(outline, Mapping):
        return item
    size, counts = outline.get("size"), outline.get("counts")
    known = isinstance(counts, str) or (
        isinstance(counts, list) and all(map(_is_number_of_64_bits, counts))
    )
    if (
        known
        and isinstance(size, list)
        and len(size) == 2
        and all(map(_is_number_of_64_bits, size))
    ):
        from pycocotools import mask

        runs = mask.frPyObjects(outline, *size) if isinstance(counts, list) else outline
        return {**item, "bbox": [float(side) for side in mask.toBbox(runs)]}
    return item


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
    if item.get("iscrowd") not in (None, 0, 1):
        raise wrong(path, what, item, "iscrowd", "0, or 1 for a crowd")
    if item.get("area") is not None and not _is_finite(item["area"]):
        raise wrong(path, what, item, "area", "a number of pixels")
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
        right, bottom = min(x + width, image["width"]), min(y + height, image["height"])
        if min(right - max(x, 0), bottom - max(y, 0)) < _LEAST_PX * (1 - 1e-6):
            what = f"annotation {item['id']} of image {image['file_name']!r}"
            expected = f"a box in the image of {image['width']} x {image['height']} pixels"
            raise wrong(path, what, item, "bbox", expected)


def remarks_on_sides(
    path: Path,
    images: Sequence[Mapping[str, Any]],
    items: Mapping[int, Sequence[Mapping[str, Any]]],
) -> tuple[str, ...]:
    """Returns remarks on boxes that reach outside their image, none if there are none.

    Args:
        path: the annotations.
        images: the images, with their sizes.
        items: image id -> its annotations.
    """
    beyond, total, as_corners = [], 0, 0
    for image in images:
        for item in items[image["id"]]:
            x, y, width, height = item["bbox"]
            right, bottom = image["width"] + _TOLERATED_PX, image["height"] + _TOLERATED_PX
            total += 1
            as_corners += x < width <= right and y < height <= bottom
            if min(x, y) < -_TOLERATED_PX or x + width > right or y + height > bottom:
                beyond.append(f"annotation {item['id']} of image {image['file_name']!r}")
    if not beyond:
        return ()
    text = f"{path}: {len(beyond)} of {total} boxes reach outside their image, such as {beyond[0]}"
    if as_corners == total:
        return (
            f"{text}; all fit as [left, top, right, bottom]: correct them if they are that, `bbox` "
            "is [x, y, width, height]",
        )
    return (f"{text}; only what is inside is learnt",)


def check_outlines(
    path: Path, image: Mapping[str, Any], items: Sequence[Mapping[str, Any]]
) -> None:
    """Refuses outlines that are neither polygons nor run lengths of the image's size.

    Raises:
        ValueError: one is not.
    """
    size = [image["height"], image["width"]]
    for item in items:
        outline = item["segmentation"]
        if isinstance(outline, Mapping):
            fits = outline.get("size") == size and isinstance(outline.get("counts"), str | list)
            expected = f"run lengths (`counts`) with `size` {size}"
        else:
            fits = isinstance(outline, list) and all(map(_is_polygon, outline))
            expected = "lists of x, y, x, y, ..., of at least three points each"
        if not fits:
            what = f"annotation {item['id']} of image {image['file_name']!r}"
            raise wrong(path, what, item, "segmentation", expected)


def _is_polygon(points: object) -> bool:
    return (
        isinstance(points, list)
        and len(points) >= 6
        and len(points) % 2 == 0
        and all(map(_is_finite, points))
    )


def wrong(path: Path, what: str, item: Mapping[str, Any], field: str, expected: str) -> ValueError:
    """Returns the error for a field of a record."""
    given = shown(item[field]) if field in item else "missing"
    return ValueError(f"{path}: {what}: `{field}` is {given}; expected {expected}")


def _is_id(value: object, known: Container[int]) -> bool:
    return isinstance(value, int) and value in known


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
