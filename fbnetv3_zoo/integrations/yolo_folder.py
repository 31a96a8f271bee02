"""Reads YOLO's text files as COCO records.

`data.yaml` names the classes and the folders (or lists) of images; `classes.txt` (LabelImg, Label
Studio) or `obj.names` (CVAT) has a class a line, and all images of the folder belong to it. The
boxes of `.../images/a.jpg` are in `.../labels/a.txt`, those of other images beside them, a line
each: class, then center, width and height as shares of the upright image. Lines of polygons give
their bounding boxes and outlines. An image without a text file, or with an empty one, has no boxes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fbnetv3._internal.messages import shown
from fbnetv3.images.folders import list_images, visible
from fbnetv3.images.reader import upright_size

from .coco_records import SPLITS, Annotated, read_lines

# Files with a class a line -> the folder of the images, from theirs.
_LISTS = {"classes.txt": ".", "obj.names": ".", "labels/classes.txt": ".."}
# By so much exporters' shares may lie outside of 0 to 1.
_ROUNDING = 1e-3


def find(location: Path) -> dict[str, Callable[[], Annotated]]:
    """Returns what reads each split; empty if there is no `data.yaml`.

    Args:
        location: the folder, or its YAML file.

    Raises:
        ValueError: the YAML file is not understood.
    """
    files = [location] if location.is_file() else sorted(visible(location, "*.y*ml"))
    contents = {path: _read_yaml(path) for path in files}
    contents = {path: one for path, one in contents.items() if isinstance(one, dict)}
    named = [path for path, content in contents.items() if "names" in content]
    named = [path for path in named if path.stem == "data"] or named
    if len(named) > 1:
        raise ValueError(f"{named[0]} and {named[1]} both have `names`; give the file of one")
    for path in named:
        content = contents[path]
        names = _names(path, _read_yaml(path, as_texts=True)["names"])
        _check_count(path, content, names)
        found: dict[str, Callable[[], Annotated]] = {
            split: partial(_read, path, names, content, word)
            for split, words in SPLITS.items()
            for word in words
            if content.get(word)
        }
        if not found:
            raise ValueError(f"{path} has none of {', '.join(SPLITS)}; expected folders of images")
        return found
    if location.is_file():
        raise ValueError(f"{location} has no `names`; expected YOLO's data.yaml")
    for path in (path for path, content in contents.items() if "nc" in content):
        raise ValueError(f"{path} has no `names`; expected the classes, in their order")
    for name, images in _LISTS.items():
        path = location / name
        if path.is_file():
            given = _names(path, [line.strip() for line in read_lines(path) if line.strip()])
            parts = _parts(path.parent, images) or {"": images}
            return {split: partial(_read, path, given, parts, split) for split in parts}
    return {}


def _parts(root: Path, images: str) -> dict[str, str]:
    """Returns the folder of each split that has images, by its usual names, if there are two."""
    parts: dict[str, str] = {}
    for split, words in SPLITS.items():
        for word in words:
            names = (f"images/{word}", f"{word}/images", word, f"obj_{word}_data")
            places = (f"{images}/{name}" for name in names)
            if found := next((one for one in places if _has_images(root / one)), None):
                parts.setdefault(split, found)
    return parts if len(parts) > 1 and "train" in parts else {}


def _has_images(folder: Path) -> bool:
    return folder.is_dir() and bool(list_images(folder))


def _check_count(path: Path, content: dict[str, Any], names: Sequence[str]) -> None:
    if content.get("nc", len(names)) != len(names):
        raise ValueError(
            f"{path}: `nc` is {shown(content['nc'])}, and `names` has {len(names)}; expected the "
            "number of the names"
        )


def _read_yaml(path: Path, *, as_texts: bool = False) -> Any:
    """Returns a YAML file's content; with `as_texts` a class `no` is a name, not False."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8-sig")
        return yaml.load(text, Loader=yaml.BaseLoader if as_texts else yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None


def _names(path: Path, given: Any) -> list[str]:
    numbered = dict(enumerate(given)) if isinstance(given, list) else given
    if not isinstance(numbered, dict) or sorted(map(str, numbered)) != sorted(
        map(str, range(len(numbered)))
    ):
        raise ValueError(
            f"{path}: `names` is {shown(given)}; expected a list of names, or one for each number "
            "from 0"
        )
    by_number = {int(number): str(name) for number, name in numbered.items()}
    twice = [name for name, count in Counter(by_number.values()).items() if count > 1]
    if twice:
        raise ValueError(f"{path}: `names` has {twice[0]!r} twice; expected different names")
    return [by_number[number] for number in range(len(by_number))]


def _read(path: Path, names: Sequence[str], content: dict[str, Any], split: str) -> Annotated:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    # Keypoints stand behind the box.
    keypoints = bool(content.get("kpt_shape"))
    paths = _images(path, content, split)
    lost = next((image for image in paths if not image.is_file()), None)
    if lost is not None:
        raise FileNotFoundError(f"{path}: the list of `{split}` names {lost}, which is no file")
    if paths and not any(_label_file(image).is_file() for image in paths):
        raise FileNotFoundError(
            f"{path}: no image of `{split}` has labels; expected {_label_file(paths[0])} for "
            f"{paths[0]}, and so on"
        )
    for number, image in enumerate(paths, start=1):
        width, height = upright_size(image)
        images.append({"id": number, "file_name": str(image), "width": width, "height": height})
        lines = _lines(_label_file(image), len(names), keypoints=keypoints)
        for fields in _boxes(lines, width, height):
            annotations.append({"id": len(annotations) + 1, "image_id": number, **fields})
    categories = [{"id": number, "name": name} for number, name in enumerate(names)]
    return Annotated(
        path,
        {"images": images, "annotations": annotations, "categories": categories},
        Path(),
    )


def _images(path: Path, content: dict[str, Any], split: str) -> list[Path]:
    given = content[split]
    root = path.parent / str(content.get("path") or "")
    found: list[Path] = []
    for entry in given if isinstance(given, list) else [given]:
        # Exporters write "../train/images", which is meant from the file's own folder, and on
        # Windows with its separators.
        plain = str(entry).replace("\\", "/")
        tried = [root / plain, path.parent / plain, path.parent / plain.removeprefix("../")]
        place = next((one for one in tried if one.exists()), None)
        if place is None:
            raise FileNotFoundError(
                f"{path}: `{split}` is {shown(entry)}; there is no "
                f"{' or '.join(dict.fromkeys(map(str, tried)))}; correct it or `path`"
            )
        if place.is_dir():
            found += list_images(place)
        else:
            lines = filter(None, map(str.strip, read_lines(place)))
            found += [_listed(place.parent, line.replace("\\", "/")) for line in lines]
    return [image.absolute() for image in found]


def _listed(folder: Path, line: str) -> Path:
    """Returns an image of a list; CVAT's begin with a folder "data" that it does not write."""
    plain = folder / line.removeprefix("data/")
    return plain if plain.is_file() else folder / line


def _label_file(image: Path) -> Path:
    parts = list(image.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _lines(path: Path, num_classes: int, *, keypoints: bool) -> Iterator[tuple[int, list[float]]]:
    """Yields the class and the numbers of each line of a text file."""
    if not path.is_file():
        return
    for number, line in enumerate(read_lines(path), start=1):
        words = line.split()
        if words:
            words = words[:5] if keypoints else words
            values = _numbers(f"{path}, line {number}", words, num_classes)
            yield int(float(words[0])), values


def _boxes(
    lines: Iterator[tuple[int, list[float]]], width: int, height: int
) -> Iterator[dict[str, Any]]:
    for label, values in lines:
        xs, ys = values[0::2], values[1::2]
        if len(values) == 4:
            center_x, center_y, box_width, box_height = values
            left, top = center_x - box_width / 2, center_y - box_height / 2
            outline = {}
        else:
            left, top = min(xs), min(ys)
            box_width, box_height = max(xs) - left, max(ys) - top
            points = [
                side * value
                for x, y in zip(xs, ys, strict=True)
                for side, value in ((width, x), (height, y))
            ]
            outline = {"segmentation": [points]}
        box = [left * width, top * height, box_width * width, box_height * height]
        area = box[2] * box[3]
        yield {"category_id": label, "bbox": box, "iscrowd": 0, "area": area, **outline}


def _numbers(where: str, words: Sequence[str], num_classes: int) -> list[float]:
    # Tables of NumPy have all numbers as 1.0 or 1.0e+00.
    if not re.fullmatch(r"\d+(\.0*)?(e\+?\d+)?", words[0]) or float(words[0]) >= num_classes:
        raise ValueError(
            f"{where}: class is {shown(words[0])}; expected 0 to {num_classes - 1}, the numbers of "
            "`names`"
        )
    try:
        values = [float(word) for word in words[1:]]
    except ValueError:
        values = []
    low, high = -_ROUNDING, 1 + _ROUNDING
    if len(values) < 4 or len(values) % 2 or not all(low <= value <= high for value in values):
        raise ValueError(
            f"{where}: {shown(' '.join(words[1:]))}; expected center x, center y, width and "
            "height as shares of the image from 0 to 1, or the points of an outline"
        )
    return [min(1.0, max(0.0, value)) for value in values]
