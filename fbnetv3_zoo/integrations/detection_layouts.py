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
# Folders of a data set, in place of which its own is to be given.
_INNER = (*_IMAGE_FOLDERS, "annotations", "Annotations", "labels", "JPEGImages")
# Folders inside one without annotations that are tried.
_NUM_TRIED = 10
_OTHERS = (".csv", ".jsonl", ".names", ".parquet", ".txt", ".xml")
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
    if not found:
        near = _near(Path(location)) or f"; {_EXPECTED}"
        raise FileNotFoundError(f"{location} has no annotations{near}")
    return {split: partial(_of_split, split, read) for split, read in found.items()}


def _found(location: Path) -> Mapping[str, Callable[[], Annotated]]:
    if location.is_file():
        return _found_of_file(location, location.suffix.lower())
    if not location.is_dir():
        raise FileNotFoundError(f"no file or folder {location}; {_EXPECTED}")
    found: Mapping[str, Callable[[], Annotated]] = _find_coco(location)
    for find in (yolo_folder.find, voc_folder.find, labelme_folder.find, _find_json):
        found = found or find(location)
    return found


def _found_of_file(path: Path, suffix: str) -> Mapping[str, Callable[[], Annotated]]:
    if suffix in (".yaml", ".yml"):
        return yolo_folder.find(path)
    if suffix in _PACKED:
        raise ValueError(f"{path} is an archive; unpack it, and give its folder")
    if suffix in _OTHERS:
        raise ValueError(f"{path} is a {suffix} file; {_EXPECTED}")
    if labelme_folder.is_labelme(path):
        raise ValueError(f"{path} is LabelMe's file of one image; give its folder")
    return {"": partial(_coco, path)}


def _near(location: Path) -> str:
    """Returns what to give in place of a folder without annotations, as ", or ..." or ""."""
    inside = [path for path in sorted(visible(location, "*")) if path.is_dir()][:_NUM_TRIED]
    within = location.absolute().name in _INNER or split_named(location.absolute().name)
    for folder in (*inside, *([location.absolute().parent] if within else [])):
        try:
            if _found(folder):
                return f"; {folder} has some, give that"
        except (OSError, ValueError):
            continue
    return ""


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
    if split not in found and list(found) == [""]:
        raise ValueError(f"split is {split!r}; {location} has no splits, leave it out")
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
    files = files or _no_labelme(sorted(visible(folder / "annotations", "*.json")))
    files = files or sorted(visible(folder, "*/_annotations.coco.json"))
    files = files or sorted(visible(folder, "_annotations.coco.json"))
    return _by_split(files)


def _no_labelme(files: list[Path]) -> list[Path]:
    return [] if files and labelme_folder.is_labelme(files[0]) else files


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
    own = re.sub("^(instances|person_keypoints|annotations|coco)_", "", path.stem)
    own = re.sub("_(annotations|coco|instances)$", "", own)
    return own if split_named(own) or not split_named(path.parent.name) else path.parent.name


def _coco(path: Path) -> Annotated:
    content = read_coco(path)
    names = [image["file_name"] for image in content["images"]]
    note: tuple[str, ...] = ()
    if names and not _folder_with(path, names[0]) and not Path(names[0]).is_file():
        # Paths of another machine, or addresses.
        last = [name.rsplit("/", 1)[-1] for name in names]
        if _folder_with(path, last[0]) and len(set(last)) == len(set(names)):
            for image, name in zip(content["images"], last, strict=True):
                image["file_name"] = name
            note = (f"{path}: there is no file {names[0]!r}, and so on; {last[0]!r} is taken",)
    return Annotated(path, content, _image_folder(path, content), note)


def _image_folder(path: Path, content: Mapping[str, Any]) -> Path:
    """Returns the folder that has the first image.

    Raises:
        FileNotFoundError: none has it.
    """
    tried = _image_folders(path)
    images = tried[-1] / IMAGES
    if not content["images"]:
        return images
    names = [image["file_name"] for image in content["images"]]
    first = next((name for name in names if not Path(name).is_absolute()), names[0])
    if folder := _folder_with(path, first):
        return folder
    if images.is_dir():
        return images  # a file that is missing there is named later
    raise FileNotFoundError(
        f"{path}: image {first!r} is in none of {', '.join(map(str, tried))}; put the images there"
    )


def _folder_with(path: Path, name: str) -> Path | None:
    """Returns the folder of the images of a COCO file that has one of this name."""
    return next((folder for folder in _image_folders(path) if (folder / name).is_file()), None)


def _image_folders(path: Path) -> list[Path]:
    """Returns where the images of a COCO file may be; the last is the data set's folder."""
    root = path.parent.parent if path.parent.name == "annotations" else path.parent
    subset = _subset(path)
    splits = dict.fromkeys([subset, split_named(subset), "valid" if "val" in subset else ""])
    tried = [root / IMAGES / name for name in splits if name]
    return [*tried, *(root / name for name in (*filter(None, splits), *_IMAGE_FOLDERS)), root]
