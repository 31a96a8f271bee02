"""WebDataset shards: tar files in which the files of one sample follow each other.

Images are read from where they lie in a shard, so that a training takes them in any order, resumes
exactly, and starts after reading the shards' tables of contents alone. Shards have to lie on this
machine; the library `webdataset`, which streams them over a network, knows no order to resume in.
"""

from __future__ import annotations

import itertools
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import torch

from fbnetv3._internal.messages import shown
from fbnetv3.images.folders import SUFFIXES, is_hidden, visible
from fbnetv3.images.parts import part_of

from .image_set import ImageSet, OnCheck, read_images
from .member import Member

# Names of the classes, a line each, beside the shards.
_CLASS_FILES = ("classnames.txt", "classes.txt")
_LABEL_KEYS = ("label", "cls", "class")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


class _Sample(NamedTuple):
    """An image and its label: the index of a class, or its name."""

    image: Member
    label: int | str


def is_shards(location: Path) -> bool:
    """Returns whether a path is a shard, a range of them, or a folder that holds some.

    They lie in the folder, or in folders in it that are called like train and val parts.
    """
    if location.suffix.lower() == ".tar":
        return True
    return location.is_dir() and bool(_in_folder(location))


def find_shards(location: Path) -> list[Path]:
    """Returns the shards of a path, in order.

    Args:
        location: one shard, a range such as `data-{000..099}.tar`, or a folder.

    Raises:
        FileNotFoundError: a shard is missing.
    """
    if location.is_dir():
        return _in_folder(location)
    found = [Path(name) for name in _expanded(str(location))]
    gone = [path for path in found if not path.is_file()]
    if gone:
        raise FileNotFoundError(f"no shard {gone[0]} ({len(gone)} of {len(found)} are missing)")
    return found


def _in_folder(location: Path) -> list[Path]:
    """Returns the shards of a folder and its part folders."""
    nested = (path for path in visible(location, "*/*.tar") if part_of(path.parent.name))
    return sorted([*visible(location, "*.tar"), *nested])


def _expanded(pattern: str) -> Iterator[str]:
    """Yields the names of a pattern with ranges in braces, as a shell does."""
    parts = _RANGE.split(pattern)
    ranges = [
        [str(n).zfill(len(low)) for n in range(int(low), int(high) + 1)]
        for low, high in zip(parts[1::3], parts[2::3], strict=True)
    ]
    for chosen in itertools.product(*ranges):
        texts = itertools.zip_longest(parts[::3], chosen, fillvalue="")
        yield "".join(part for pair in texts for part in pair)


def read_shards(
    shards: Sequence[Path], name: str, on_check: OnCheck, *, any_damaged: bool = False
) -> ImageSet:
    """Returns the images of shards.

    A sample is the files whose names are equal up to the first point: an image, and its label as a
    number or a name in `.cls`, or in `.json` under "label", "cls" or "class". The numbers' names
    may be in `classnames.txt` or `classes.txt` beside the shards or their folder.

    Args:
        shards: tar files, not compressed.
        name: of the set, for messages.
        on_check: as in `read_images`.
        any_damaged: as in `read_images`.

    Raises:
        ValueError: a shard is damaged, a sample has no label, labels are numbers and names, a
            number has no name, or too many images are damaged.
    """
    samples = [sample for shard in shards for sample in _samples(shard)]
    if not samples:
        raise ValueError(f"{name} has no image; expected samples such as 0001.jpg and 0001.cls")
    numbers = {sample.label for sample in samples if isinstance(sample.label, int)}
    names = {sample.label for sample in samples if isinstance(sample.label, str)}
    if numbers and names:
        raise ValueError(
            f"{name} has labels that are numbers ({min(numbers)}, ...) and names "
            f"({shown(min(names))}, ...); expected one kind"
        )
    classes = tuple(sorted(names)) or _class_names(shards[0].parent, max(numbers), name)
    index: dict[int | str, int] = {label: n for n, label in enumerate(classes)}
    labels = [index.get(label, label) for _, label in samples]
    return read_images(
        name,
        classes,
        [sample.image for sample in samples],
        torch.tensor(labels),
        on_check=on_check,
        any_damaged=any_damaged,
    )


def _class_names(folder: Path, highest: int, name: str) -> tuple[str, ...]:
    for path in (place / file for place in (folder, folder.parent) for file in _CLASS_FILES):
        if path.is_file():
            names = tuple(path.read_text(encoding="utf-8-sig").splitlines())
            if highest >= len(names) or len(set(names)) < len(names):
                raise ValueError(
                    f"{path} has {len(set(names))} different names; expected more than {highest}, "
                    f"the highest label of {name}, each once"
                )
            return names
    return tuple(str(number) for number in range(highest + 1))


def _samples(shard: Path) -> Iterator[_Sample]:
    try:
        # "r:" refuses a compressed file, in which nothing can be found without reading all.
        with tarfile.open(shard, "r:") as archive:
            files = [
                file
                for file in archive
                if file.isfile() and not any(map(is_hidden, PurePosixPath(file.name).parts))
            ]
            for key, group in itertools.groupby(files, lambda file: _split(file.name)[0]):
                sample = _sample(shard, archive, key, list(group))
                if sample is not None:
                    yield sample
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(
            f"{shard} is not a tar file, is compressed, or is damaged: {error}"
        ) from error


def _split(name: str) -> tuple[str, str]:
    """Returns the sample's name of a file, with its folder, and the rest in lower case."""
    folder, _, file = name.rpartition("/")
    stem, _, rest = file.partition(".")
    return f"{folder}/{stem}", rest.lower()


def _sample(
    shard: Path, archive: tarfile.TarFile, key: str, files: Sequence[tarfile.TarInfo]
) -> _Sample | None:
    by_suffix = {_split(file.name)[1]: file for file in files}
    image = next((f for s, f in by_suffix.items() if "." + s.rpartition(".")[2] in SUFFIXES), None)
    if image is None:
        return None
    label: object = None
    if "cls" in by_suffix:
        label = _content(archive, by_suffix["cls"]).decode("utf-8", "replace").strip()
    elif "json" in by_suffix:
        try:
            record = json.loads(_content(archive, by_suffix["json"]))
        except ValueError as error:
            raise ValueError(f"{shard}: {by_suffix['json'].name} is not JSON: {error}") from error
        if isinstance(record, dict):
            label = next((record[k] for k in _LABEL_KEYS if k in record), None)
    if isinstance(label, str) and re.fullmatch(r"-?[0-9]+", label):
        label = int(label)
    if not isinstance(label, int | str) or isinstance(label, bool) or label == "":
        raise ValueError(
            f"{shard}: sample {key.lstrip('/')} has the label {shown(label)}; expected a number or "
            "a name in .cls, or in .json under label, cls or class. Unpack a .tar of class folders"
        )
    if isinstance(label, int) and label < 0:
        raise ValueError(f"{shard}: sample {key.lstrip('/')} has label {label}; expected from 0")
    return _Sample(Member(shard, image.name, image.offset_data, image.size), label)


def _content(archive: tarfile.TarFile, file: tarfile.TarInfo) -> bytes:
    opened = archive.extractfile(file)
    return b"" if opened is None else opened.read()
