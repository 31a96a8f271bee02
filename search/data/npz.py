"""Image sets in a file of numpy's arrays, `.npz`, as MedMNIST and Keras name them.

`train_images` and `train_labels` (also val, test), or `x_train` and `y_train` (also x_val, x_test),
or `images` and `labels` or `x` and `y` of a set without parts. Nothing is unpickled.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, is_zipfile

import numpy as np

from fbnetv3._internal.messages import one_line
from fbnetv3.images.parts import Part, left_out, part_of_word

from .arrays import Array, Arrays, images_of
from .image_set import ImageSet

_NAME = re.compile(
    r"(?P<before>[a-z]+)_(?P<a>images|labels)|(?P<b>x|y)_(?P<after>[a-z]+)|(?P<c>images|labels|x|y)"
)
_IMAGES = ("images", "x")
_NUM_LISTED = 8


def open_npz(path: Path) -> Arrays:
    """Returns the set of a file of arrays.

    Raises:
        ValueError: it is damaged, or its arrays have other names.
    """
    names = _names(path)
    unused = left_out(names)
    words: dict[Part, str] = {}
    for word in names:
        part = part_of_word(word)
        if part is not None and word not in unused:
            words[part] = word
    notes = tuple(
        f"{' and '.join(names[word])} of {path} are for neither training nor validation and were "
        "left out"
        for word in sorted(unused)
    )

    def read(part: Part | None) -> ImageSet:
        word = "" if part is None and not words else words.get(part or "val")
        if word is None:
            has = ", ".join(name for pair in names.values() for name in pair)
            raise FileNotFoundError(f"{path} has no arrays for {part or 'val'}; it has {has}")
        labels = {one: _array(path, pair[1]) for one, pair in names.items()}
        images = _array(path, names[word][0])
        classes = _classes(labels.values())
        return images_of(f"{path} ({names[word][0]})", images, labels[word], classes, notes)

    parts: dict[Part, str] = {part: names[word][0] for part, word in words.items()}
    return Arrays(location=path, parts=parts, read=read)


def _names(path: Path) -> dict[str, tuple[str, str]]:
    """Returns the arrays of images and of labels of each part's word, "" without parts."""
    with _opened(path) as file:
        there = list(file.files)
    found: dict[str, dict[bool, str]] = {}
    for name in there:
        match = _NAME.fullmatch(name.lower())
        if match:
            word = match["before"] or match["after"] or ""
            found.setdefault(word, {})[(match["a"] or match["b"] or match["c"]) in _IMAGES] = name
    pairs = {
        word: (pair[True], pair[False])
        for word, pair in found.items()
        if len(pair) == 2 and (not word or part_of_word(word))
    }
    if not pairs:
        raise ValueError(
            f"{path} has the arrays {one_line(', '.join(there[:_NUM_LISTED]))}; expected "
            "train_images and train_labels, or x_train and y_train, and the like of val or test"
        )
    return pairs


def _opened(path: Path) -> Any:
    # NumPy takes what is no archive for a pickle, and says how to load it unsafely.
    if not is_zipfile(path):
        raise ValueError(f"{path} is no .npz file, or damaged: it is no zip archive")
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path} is no .npz file, or damaged: {one_line(str(error))}") from None


def _array(path: Path, name: str) -> Array:
    try:
        with _opened(path) as file:
            found: Array = file[name]
            return found
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: {name} cannot be read: {one_line(str(error))}") from None


def _classes(every: Iterable[Array]) -> tuple[str, ...]:
    """Returns the names of the classes of the labels of all parts."""
    labels = list(every)
    if all(one.dtype.kind == "U" for one in labels):
        return tuple(sorted({str(value) for one in labels for value in one.flat}))
    wide = max(one.shape[1] if one.ndim == 2 else 1 for one in labels)
    if wide > 1:
        return tuple(map(str, range(wide)))
    whole = [int(one.max()) for one in labels if one.size and one.dtype.kind in "iub"]
    return tuple(map(str, range(1 + max(whole, default=0))))
