"""Names of the training and validation parts of a data set, as folders, files and lists have them.

The names of test parts mean validation, unless there is one for validation too: then a test part
is left out.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal

Part = Literal["train", "val"]

_TESTS = ("test", "testing", "testset", "testingset", "eval")
# The usual names of the two parts, the likelier first; compared without case, without "_- ." and
# without the words below: `Training_Set`, `seg_train`, `val images`.
PART_NAMES: Mapping[Part, tuple[str, ...]] = {
    "train": ("train", "training", "trainset", "trainingset", "trainval"),
    "val": (
        *("val", "valid", "validation", "valset", "validset", "validationset", "dev"),
        *_TESTS,
    ),
}
_BESIDE_PARTS = frozenset(
    {"data", "dataset", "folder", "image", "images", "img", "imgs", "part", "photos", "pictures"}
    | {"samples", "seg", "set", "split"}
)


def part_of(name: str) -> Part | None:
    """Returns the part of a data set that a folder's name usually stands for."""
    return part_of_word(part_word(name))


def part_of_word(word: str) -> Part | None:
    """Returns the part that a word in lower case names."""
    return next((part for part, names in PART_NAMES.items() if word in names), None)


def part_word(name: str) -> str:
    """Returns the word of a folder's name that may stand for a part."""
    words = [word for word in re.split(r"[_\-. ]+", name.lower()) if word not in _BESIDE_PARTS]
    return "".join(words)


def word_in_path(path: Path) -> str | None:
    """Returns the word for a part in a file's name, else in the nearest folder's that has one.

    As in `imagenet1k-train-0000.tar`, `data/train-00000-of-00001.parquet`, `train/0000.parquet`.

    Args:
        path: relative to the data set.
    """
    for name in reversed(path.parts):
        for word in re.split(r"[^a-z]+", name.lower()):
            if part_of_word(word):
                return word
    return None


def left_out(words: Collection[str]) -> frozenset[str]:
    """Returns those words for a part of a data set whose images are not used: see the top."""
    for_val = {word for word in words if part_of_word(word) == "val"}
    tests = for_val.intersection(_TESTS)
    return frozenset(tests) if tests < for_val else frozenset()
