"""Finds annotated images in the layouts that data sets come in.

- COCO: `annotations/instances_train.json` (also `..._train2017.json`) with the images in `train/`,
  `train2017/`, `images/train/` or `images/`; `annotations.json` with `images/`;
  `train/_annotations.coco.json` beside the images; a JSON file itself; or, where there is none of
  the following, JSON files beside `images/` or `data/` (Label Studio's `result.json`, FiftyOne's
  `labels.json`), `train.json` beside `train/`, or one JSON file in each of `train/`, `val/`, ...
- YOLO: `data.yaml` or `classes.txt`, and text files in `labels/`; see `yolo_folder`.
- Pascal VOC: `Annotations/*.xml`, `JPEGImages/`, `ImageSets/Main/`; see `voc_folder`.
- LabelMe: a JSON file beside each image; see `labelme_folder`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from fbnetv3.images.folders import visible

from . import labelme_folder, voc_folder, yolo_folder
from .coco_records import SPLITS, Annotated, read_coco

ANNOTATIONS, IMAGES = "annotations.json", "images"
_IMAGE_FOLDERS = (IMAGES, "data")
_PACKED = (".zip", ".tar", ".tgz", ".gz", ".xz", ".bz2", ".7z", ".rar")
_EXPECTED = (
    "expected COCO (annotations/instances_train.json, or annotations.json with images/), YOLO "
    "(data.yaml or classes.txt), Pascal VOC (Annotations/*.xml) or LabelMe (a .json for each image)"
)
_SPLIT_OF = {name: split for split, names in SPLITS.items() for name in names}


def find_annotations(location: str | Path) -> dict[str, Callable[[], Annotated]]:
    """Returns what reads each split: "train", "val", "test"; "" for one of another name.

    Args:
        location: a folder, or a COCO file or YOLO's `data.yaml`.

    Raises:
        FileNotFoundError: there is no such path, or no annotations in it.
        ValueError: several files are of the same split.
    """
    found = _found(Path(location))
    return {split: partial(_of_split, split, read) for split, read in found.items()}


def _found(location: Path) -> Mapping[str, Callable[[], Annotated]]:
    if location.is_file():
        if location.suffix in (".yaml", ".yml"):
            return yolo_folder.find(location)
        if location.suffix.lower() in _PACKED:
            raise ValueError(f"{location} is an archive; unpack it, and give its folder")
        return {"": partial(_coco, location)}
    if not location.is_dir():
        raise FileNotFoundError(f"no file or folder {location}; {_EXPECTED}")
    found: Mapping[str, Callable[[], Annotated]] = _find_coco(location)
    for find in (yolo_folder.find, voc_folder.find, labelme_folder.find, _find_json):
        found = found or find(location)
    if not found:
        raise FileNotFoundError(f"{location} has no annotations; {_EXPECTED}")
    return found


def _of_split(split: str, read: Callable[[], Annotated]) -> Annotated:
    return replace(read(), split=split)


def read_annotations(location: str | Path, split: str | None = None) -> Annotated:
    """Returns the annotations of a split; None is the only one.

    Raises:
        FileNotFoundError: as `find_annotations`.
        ValueError: there is no such split, or there are several and none is given.
    """
    found = find_annotations(location)
    if split is None and len(found) == 1:
        (read,) = found.values()
        return read()
    if split not in found:
        raise ValueError(
            f"split is {split!r}; {location} has " + ", ".join(map(repr, sorted(found)))
        )
    return found[split]()


def split_named(name: str) -> str:
    """Returns the split that a name begins with or is: "train" of "train2017", or ""."""
    return _SPLIT_OF.get(re.sub(r"[-_]?\d*$", "", name.lower()), "")


def _find_coco(folder: Path) -> dict[str, Callable[[], Annotated]]:
    own = folder / ANNOTATIONS
    if own.is_file():
        return {"": partial(_coco, own)}
    files = sorted(visible(folder / "annotations", "instances_*.json"))
    files = files or sorted(visible(folder / "annotations", "*.json"))
    files = files or sorted(visible(folder, "*/_annotations.coco.json"))
    files = files or sorted(visible(folder, "_annotations.coco.json"))
    return _by_split(files)


def _find_json(folder: Path) -> dict[str, Callable[[], Annotated]]:
    with_images = any((folder / name).is_dir() for name in _IMAGE_FOLDERS)
    files = sorted(visible(folder, "*.json"))
    if not with_images:
        parts = [(path, _subset(path)) for path in files]
        files = [path for path, part in parts if split_named(part) and (folder / part).is_dir()]
    if not files:
        nested = [path for path in visible(folder, "*/*.json") if split_named(path.parent.name)]
        counts = Counter(path.parent for path in nested)
        # Several in a folder are something else, such as a file per image.
        files = sorted(path for path in nested if counts[path.parent] == 1)
    return _by_split(files)


def _by_split(files: Sequence[Path]) -> dict[str, Callable[[], Annotated]]:
    found: dict[str, Callable[[], Annotated]] = {}
    named: dict[str, Path] = {}
    for path in files:
        split = split_named(_subset(path))
        if split in named:
            raise ValueError(
                f"{named[split]} and {path} are both {split or 'of no split'}; give the file of one"
            )
        named[split] = path
        found[split] = partial(_coco, path)
    return found


def _subset(path: Path) -> str:
    """Returns what a file's name says of its images: "train2017" of instances_train2017.json."""
    own = re.sub("^(instances|person_keypoints)_", "", path.stem)
    return own if split_named(own) or not split_named(path.parent.name) else path.parent.name


def _coco(path: Path) -> Annotated:
    content = read_coco(path)
    return Annotated(path, content, _image_folder(path, content))


def _image_folder(path: Path, content: Mapping[str, Any]) -> Path:
    """Returns the folder that has the first image.

    Raises:
        FileNotFoundError: none has it.
    """
    root = path.parent.parent if path.parent.name == "annotations" else path.parent
    subset = _subset(path)
    splits = dict.fromkeys([subset, split_named(subset), "valid" if "val" in subset else ""])
    tried = [root / IMAGES / name for name in splits if name]
    tried += [root / name for name in (*filter(None, splits), *_IMAGE_FOLDERS)] + [root]
    if not content["images"]:
        return root / IMAGES
    names = [image["file_name"] for image in content["images"]]
    first = next((name for name in names if not Path(name).is_absolute()), names[0])
    for folder in tried:
        if (folder / first).is_file():
            return folder
    if (root / IMAGES).is_dir():
        return root / IMAGES  # a file that is missing there is named later
    raise FileNotFoundError(
        f"{path}: image {first!r} is in none of {', '.join(map(str, tried))}; put the images there"
    )
