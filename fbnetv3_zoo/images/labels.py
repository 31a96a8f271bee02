"""Names of the classes a network was trained on, and photos to try one on, inside the package.

`data/<name>.txt` has a class a line in the order of the logits: its identifier (WordNet's number
where there is one, as ImageNet's folders are called), a tab, its name. An ImageNet class has the
first of WordNet's words; two pairs of classes share theirs and are told apart in brackets. Sources
and licences are in `data/LICENSES.txt` and `data/photos/LICENSES.txt`.
"""

from __future__ import annotations

import functools
from importlib import resources
from pathlib import Path

CLASS_LISTS = ("cifar10", "imagenet1k")


def class_names(name: str) -> tuple[str, ...]:
    """Returns the names of the classes in the order of the logits.

    Raises:
        ValueError: there is no such list.
    """
    return tuple(label for _, label in _read(name))


def class_ids(name: str) -> tuple[str, ...]:
    """Returns what folders of the classes are called, such as "n01440764", in the same order.

    Raises:
        ValueError: there is no such list.
    """
    return tuple(identifier for identifier, _ in _read(name))


def example_photos() -> list[Path]:
    """Returns the photos that come with the package, sorted; all are in the public domain."""
    # The package is always installed as files, never run from a zip: it holds weights as well.
    folder = Path(str(resources.files("fbnetv3"))) / "data" / "photos"
    return sorted(folder.glob("*.jpg"))


@functools.cache
def _read(name: str) -> tuple[tuple[str, str], ...]:
    if name not in CLASS_LISTS:
        raise ValueError(f"unknown class list {name!r}; expected one of {', '.join(CLASS_LISTS)}")
    text = (resources.files("fbnetv3") / "data" / f"{name}.txt").read_text(encoding="utf-8")
    rows = (line.split("\t") for line in text.splitlines())
    return tuple((identifier, label) for identifier, label in rows)
