"""Reads Pascal VOC's XML files as COCO records.

The files are in `Annotations/` with the images in `JPEGImages/` and the splits in
`ImageSets/Main/`, in `annotations/` or `labels/` with `images/`, or beside the images, for instance
in `train/` and `valid/`; folders inside them are the same on both sides. Corners count pixels from
1 and include the last one, as in VOC. Objects marked `difficult` become crowds, which neither count
as missed nor as false alarms and are not trained on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from fbnetv3._internal.messages import shown
from fbnetv3.images.folders import SUFFIXES, visible
from fbnetv3.images.reader import upright_size

from .coco_records import SPLITS, Annotated, read_lines

_FOLDERS = ("Annotations", "annotations", "labels")
# Split -> its list of images, the first that there is. Some years have `trainval` and `test` only.
_LISTS = {"train": ("train", "trainval"), "val": ("val",), "test": ("test",)}


def find(folder: Path) -> dict[str, Callable[[], Annotated]]:
    """Returns what reads each split; empty if there are no XML files."""
    nested = [
        p
        for p in sorted(folder.glob("VOC*")) + sorted(folder.glob("VOC*/VOC*"))
        if (p / "Annotations").is_dir()
    ]
    if len(nested) == 1:
        folder = nested[0]
    files: list[Path] = []
    for name in _FOLDERS:
        files = files or sorted(visible(folder / name, "**/*.xml"))
    parts = _splits_by_list(folder, files) if files else _splits_by_folder(folder)
    if not parts and not files:
        files = sorted(visible(folder, "*.xml"))
    parts = parts or ({"": files} if files else {})
    every = sorted({path for paths in parts.values() for path in paths})
    return {split: partial(_read, folder, paths, every) for split, paths in parts.items()}


def _splits_by_list(folder: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    by_stem = {_inside(folder, path).with_suffix("").as_posix(): path for path in files}
    parts: dict[str, list[Path]] = {}
    for split in SPLITS:
        lists = (folder / "ImageSets" / "Main" / f"{name}.txt" for name in _LISTS[split])
        listed = next((path for path in lists if path.is_file()), None)
        if listed is None:
            continue
        stems = [words[0] for line in read_lines(listed) if (words := line.split())]
        stems = [stem if stem in by_stem else _without_suffix(stem) for stem in stems]
        unknown = [stem for stem in stems if stem not in by_stem]
        if unknown:
            raise FileNotFoundError(
                f"{listed} names {unknown[0]!r}; expected a file {unknown[0]}.xml in Annotations/"
            )
        parts[split] = [by_stem[stem] for stem in stems]
    return parts


def _without_suffix(name: str) -> str:
    return Path(name).with_suffix("").as_posix() if Path(name).suffix.lower() in SUFFIXES else name


def _inside(folder: Path, path: Path) -> Path:
    """Returns where a file is inside `Annotations/` or another folder of `folder`."""
    return Path(*path.relative_to(folder).parts[1:])


def _splits_by_folder(folder: Path) -> dict[str, list[Path]]:
    parts = {}
    for split, names in SPLITS.items():
        for name in names:
            files = sorted(visible(folder / name, "**/*.xml"))
            if files:
                parts[split] = files
    return parts


def _names(files: Sequence[Path]) -> list[str]:
    """Returns the classes of all files, sorted, so that every split has the same."""
    found = {_name(path, item) for path in files for item in _parsed(path).iter("object")}
    return sorted(found)


def _name(path: Path, item: ElementTree.Element) -> str:
    text = item.findtext("name")
    name = (text or "").strip()
    if not name:
        given = "missing" if text is None else "empty"
        raise ValueError(f"{path}: `name` of an object is {given}; expected its class")
    return name


def _parsed(path: Path) -> ElementTree.Element:
    data = path.read_bytes()
    parser = None
    # Python's parser has no encodings of several bytes but UTF-8, such as a Chinese tool's GBK.
    if named := re.match(rb"""<\?xml[^>]*encoding=["']([\w.-]+)""", data):
        try:
            data = data.decode(named[1].decode()).encode()
        except (LookupError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not in the encoding that it states: {error}") from None
        parser = ElementTree.XMLParser(encoding="utf-8")
    try:
        root = ElementTree.fromstring(data, parser)
    except ElementTree.ParseError as error:
        raise ValueError(f"{path} is not valid XML: {error}") from None
    if root.tag.lower() != "annotation":
        raise ValueError(
            f"{path} begins with <{shown(root.tag)[1:-1]}>; expected <annotation>, as in Pascal "
            "VOC's files"
        )
    return root


def _read(folder: Path, files: Sequence[Path], every: Sequence[Path]) -> Annotated:
    categories = {name: number for number, name in enumerate(_names(every), start=1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, path in enumerate(files, start=1):
        root = _parsed(path)
        image = _image_of(folder, path, root.findtext("filename") or "")
        width, height = upright_size(image)
        size = {side: _number(path, root, f"size/{side}", 0) for side in ("width", "height")}
        images.append(
            {
                "id": number,
                "file_name": str(image.absolute()),
                # Some tools write 0.
                "width": int(size["width"]) or width,
                "height": int(size["height"]) or height,
            }
        )
        for item in root.iter("object"):
            fields = _box(path, item, categories)
            annotations.append({"id": len(annotations) + 1, "image_id": number, **fields})
    return Annotated(
        folder,
        {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": number, "name": name} for name, number in categories.items()],
        },
        Path(),
    )


def _image_of(folder: Path, path: Path, name: str) -> Path:
    inside = _inside(folder, path).parent
    folders = [path.parent]
    for images in ("JPEGImages", "images"):
        # The second is of a name that has the inner folders itself.
        folders += [folder / images / inside, folder / images]
        folders.append(path.parent.parent / images)
    # A `filename` is often of before the image was renamed, and may now be another image's.
    names = [path.stem + suffix for suffix in sorted(SUFFIXES)]
    names.insert(0 if Path(name).stem == path.stem else len(names), name)
    for candidate in (folder / one for folder in folders for one in filter(None, names)):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(
        f"{path}: image {name or path.stem!r} is in none of "
        f"{', '.join(map(str, dict.fromkeys(folders)))}"
    )


def _box(path: Path, item: ElementTree.Element, categories: Mapping[str, int]) -> dict[str, Any]:
    left, top, right, bottom = (
        _number(path, item, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")
    )
    box = [left - 1, top - 1, right - left + 1, bottom - top + 1]
    return {
        "category_id": categories[_name(path, item)],
        "bbox": box,
        "iscrowd": int(_number(path, item, "difficult", 0, "0 or 1") != 0),
        "area": box[2] * box[3],
    }


def _number(
    path: Path,
    item: ElementTree.Element,
    field: str,
    default: float | None = None,
    expected: str = "a number of pixels",
) -> float:
    text = item.findtext(field)
    if default is not None and not (text or "").strip():
        return default
    try:
        return float(text or "")
    except ValueError:
        name = item.findtext("name")
        what = f" of object {name!r}" if name else ""
        raise ValueError(
            f"{path}: `{field}`{what} is {'missing' if text is None else shown(text)}; expected "
            f"{expected}"
        ) from None
