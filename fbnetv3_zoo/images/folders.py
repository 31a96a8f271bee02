"""Folders of images to paths and classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .labels import CLASS_LISTS, class_ids
from .labels import class_names as listed
from .reader import list_images


def labelled_images(
    folder: Path, class_names: Sequence[str]
) -> tuple[list[Path], list[int] | None]:
    """Returns the images of a folder, and their classes where its folders are called after them.

    Args:
        folder: images, or a folder for each class, called by its name, its number or, for
            ImageNet, its WordNet identifier.
        class_names: of the network.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no images, or only some of its folders are classes.
    """
    images = list_images(folder)
    if not images:
        raise ValueError(f"no images in {folder}; see fbnetv3.images.reader.SUFFIXES")
    numbers = {str(number): number for number in range(len(class_names))}
    for name in CLASS_LISTS:
        if tuple(class_names) == listed(name):
            numbers |= {identifier: n for n, identifier in enumerate(class_ids(name))}
    numbers |= {name: number for number, name in enumerate(class_names)}
    found = [numbers.get(image.relative_to(folder).parts[0]) for image in images]
    if all(number is None for number in found):
        return images, None
    labels = [number for number in found if number is not None]
    if len(labels) != len(images):
        odd = images[found.index(None)].relative_to(folder).parts[0]
        raise ValueError(f"{folder} has folders of classes and {odd!r}, which is none")
    return images, labels
