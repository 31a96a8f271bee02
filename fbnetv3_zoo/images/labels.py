"""Class names of ImageNet and CIFAR-10, and example photos, inside the package.

`data/<name>.txt` has one line per class in the order of the logits: its identifier (WordNet's for
ImageNet, which names its folders), a tab, its name. The name of an ImageNet class is the first of
WordNet's words; two pairs of classes that share it are distinguished in brackets. Sources and
licences are in `data/LICENSES.txt` and `data/photos/LICENSES.txt`.
"""

from __future__ import annotations

import functools
from importlib import resources
from pathlib import Path

CLASS_LISTS = ("cifar10", "imagenet1k")


def class_names(name: str) -> tuple[str, ...]:
    """Returns the class names in the order of the logits.

    Raises:
        ValueError: the list is unknown.
    """
    return tuple(label for _, label in _read(name))


def class_ids(name: str) -> tuple[str, ...]:
    """Returns the identifiers of the classes, such as "n01440764", in the same order.

    Raises:
        ValueError: the list is unknown.
    """
    return tuple(identifier for identifier, _ in _read(name))


def example_photos() -> list[Path]:
    """Returns the example photos of the package, sorted; all are in the public domain."""
    # The package is always installed as files, never run from a zip, because it includes weights.
    folder = Path(str(resources.files("fbnetv3"))) / "data" / "photos"
    return sorted(folder.glob("*.jpg"))


@functools.cache
def _read(name: str) -> tuple[tuple[str, str], ...]:
    if name not in CLASS_LISTS:
        raise ValueError(f"unknown class list {name!r}; expected one of {', '.join(CLASS_LISTS)}")
    text = (resources.files("fbnetv3") / "data" / f"{name}.txt").read_text(encoding="utf-8")
    rows = (line.split("\t") for line in text.splitlines())
    return tuple((identifier, label) for identifier, label in rows)
