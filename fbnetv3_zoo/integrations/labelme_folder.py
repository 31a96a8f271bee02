"""Reads LabelMe's JSON files, one for each image, as COCO records.

They lie beside the images, or in `annotations/`, `json/` or `labels/` beside `images/`; in one
folder or in `train/` and `valid/`. Rectangles, also turned ones, circles, polygons and masks are
objects; shapes of one label and one `group_id` are the parts of one object. Points and lines have
no area and are left out. An outline is kept of polygons only.
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
# Those with four corners are X-AnyLabeling's and of LabelMe's last versions.
_CORNERS = frozenset({"oriented_rectangle", "quadrilateral", "rotation"})
_KINDS = frozenset({"rectangle", "circle", "polygon", "mask"}) | _CORNERS
_FOLDERS = (".", "images", "annotations", "json", "labels")
# Bytes of a file in which LabelMe's have one of these; COCO's may be of any length.
_HEAD, _KEYS = 1 << 16, (b'"shapes"', b'"imagePath"', b'"imageData"')


def find(folder: Path) -> dict[str, Callable[[], Annotated]]:
    """Returns what reads each split; empty if there are no files of LabelMe."""
    parts: dict[str, list[Path]] = {}
    for name in _FOLDERS:
        parts = parts or _parts(folder / name)
    every = sorted({path for files in parts.values() for path in files})
    return {split: partial(_read, folder, files, every) for split, files in parts.items()}


def _parts(folder: Path) -> dict[str, list[Path]]:
    parts = {}
    for split, names in SPLITS.items():
        folders = [folder / name / inner for name in names for inner in _FOLDERS]
        if files := next(filter(None, map(_files, folders)), None):
            parts[split] = files
    return parts or ({"": files} if (files := _files(folder)) else {})


def _files(folder: Path) -> list[Path]:
    return sorted(filter(is_labelme, visible(folder, "*.json")))


def is_labelme(path: Path) -> bool:
    """Whether a JSON file is one of LabelMe."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    return any(key in head for key in _KEYS)


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
    file_of: dict[Path, Path] = {}
    for number, path in enumerate(files, start=1):
        content = contents[path]
        image = _image_of(path, str(content.get("imagePath") or ""))
        if (other := file_of.setdefault(image.resolve(), path)) != path:
            raise ValueError(
                f"{other} and {path} are both of the image {image}; expected one file for each, "
                "correct `imagePath`"
            )
        width, height = upright_size(image)
        # Early versions state no size.
        size = {
            "width": content.get("imageWidth") or width,
            "height": content.get("imageHeight") or height,
        }
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
    names = [name.replace("\\", "/"), last, *(path.stem + suffix for suffix in sorted(SUFFIXES))]
    inner, outer = path.parent, path.parent.parent
    for folder in (inner, outer / "images", outer.parent / "images" / inner.name):
        for one in filter(None, names):
            if (folder / one).is_file():
                return folder / one
    raise FileNotFoundError(f"{path}: image {name or path.stem!r} is not in {inner}; put it there")
