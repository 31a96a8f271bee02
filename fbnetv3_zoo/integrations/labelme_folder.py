"""Reads LabelMe's JSON files, one for each image, as COCO records.

They lie beside the images, in one folder or in `train/` and `valid/`. Rectangles, circles, polygons
and masks are objects; shapes of one label and one `group_id` are the parts of one object. Points
and lines have no area and are left out. An outline is kept of polygons only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fbnetv3._internal.json_record import read_json
from fbnetv3._internal.messages import shown
from fbnetv3.images.folders import SUFFIXES, visible
from fbnetv3.images.reader import upright_size

from .coco_records import SPLITS, Annotated

_WITHOUT_AREA = frozenset({"point", "points", "line", "linestrip"})
_KINDS = frozenset({"rectangle", "circle", "polygon", "mask"})
# Bytes of a file in which LabelMe's have their list of shapes; COCO's may be of any length.
_HEAD = 1 << 16


def find(folder: Path) -> dict[str, Callable[[], Annotated]]:
    """Returns what reads each split; empty if there are no files of LabelMe."""
    parts = {
        split: files
        for split, names in SPLITS.items()
        if (files := next((f for name in names if (f := _files(folder / name))), []))
    }
    parts = parts or ({"": files} if (files := _files(folder)) else {})
    every = sorted({path for files in parts.values() for path in files})
    if not every or not _is_labelme(every[0]):
        return {}
    return {split: partial(_read, folder, files, every) for split, files in parts.items()}


def _files(folder: Path) -> list[Path]:
    return sorted(visible(folder, "*.json"))


def _is_labelme(path: Path) -> bool:
    with path.open("rb") as file:
        return b'"shapes"' in file.read(_HEAD)


def _content(path: Path) -> dict[str, Any]:
    content = read_json(path.read_bytes(), str(path))
    if not isinstance(content, dict) or not isinstance(content.get("shapes", []), list):
        raise ValueError(f"{path}: expected an object with a list `shapes`, as LabelMe writes it")
    return dict(content)


def _objects(path: Path, content: Mapping[str, Any]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Returns the label and the shapes of each object of a file, in their order."""
    found: dict[object, tuple[str, list[Mapping[str, Any]]]] = {}
    for number, shape in enumerate(content.get("shapes", [])):
        if not isinstance(shape, Mapping) or not str(shape.get("label") or "").strip():
            raise ValueError(f"{path}: shape {number} has no `label`; expected its class")
        kind = shape.get("shape_type") or "polygon"
        if kind in _WITHOUT_AREA:
            continue
        if kind not in _KINDS:
            raise ValueError(
                f"{path}: `shape_type` of shape {number} is {shown(kind)}; expected "
                f"{', '.join(sorted(_KINDS))}"
            )
        label, group = str(shape["label"]).strip(), shape.get("group_id")
        key = number if group is None else (label, group)
        found.setdefault(key, (label, []))[1].append(shape)
    return list(found.values())


def _read(folder: Path, files: Sequence[Path], every: Sequence[Path]) -> Annotated:
    contents = {path: _content(path) for path in every}
    objects = {path: _objects(path, content) for path, content in contents.items()}
    names = sorted({label for found in objects.values() for label, _ in found})
    numbers = {name: number for number, name in enumerate(names, start=1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, path in enumerate(files, start=1):
        image = _image_of(path, str(contents[path].get("imagePath") or ""))
        width, height = upright_size(image)
        size = {"width": width, "height": height}
        images.append({"id": number, "file_name": str(image.absolute()), **size})
        for label, shapes in objects[path]:
            outlines = [_points(path, shape) for shape in shapes]
            x, y = zip(*(point for outline in outlines for point in outline), strict=True)
            box = [min(x), min(y), max(x) - min(x), max(y) - min(y)]
            drawn = all((shape.get("shape_type") or "polygon") == "polygon" for shape in shapes)
            flat = [[value for point in outline for value in point] for outline in outlines]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": numbers[label],
                    "bbox": box,
                    "iscrowd": 0,
                    "area": box[2] * box[3],
                    **({"segmentation": flat} if drawn else {}),
                }
            )
    return Annotated(
        folder,
        {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": number, "name": name} for name, number in numbers.items()],
        },
        Path(),
    )


def _points(path: Path, shape: Mapping[str, Any]) -> list[tuple[float, float]]:
    """Returns points whose least rectangle is that of a shape."""
    given = shape.get("points")
    try:
        points = [(float(x), float(y)) for x, y in given or ()]
    except (TypeError, ValueError):
        points = []
    least = 3 if (shape.get("shape_type") or "polygon") == "polygon" else 2
    if len(points) < least or not all(math.isfinite(v) for point in points for v in point):
        raise ValueError(
            f"{path}: `points` of {shape['label']!r} are {shown(given)}; expected {least} or more "
            "pairs of pixels"
        )
    if shape.get("shape_type") == "circle":
        (x, y), edge = points[0], points[1]
        radius = math.dist((x, y), edge)
        return [(x - radius, y - radius), (x + radius, y + radius)]
    return points


def _image_of(path: Path, name: str) -> Path:
    """Returns the image of a file; its `imagePath` may be of another machine."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    names = [name, last, *(path.stem + suffix for suffix in sorted(SUFFIXES))]
    for one in filter(None, names):
        if (path.parent / one).is_file():
            return path.parent / one
    raise FileNotFoundError(
        f"{path}: image {name or path.stem!r} is not in {path.parent}; put it there"
    )
