"""Writes the images of a packed set as files, for what reads folders and lists only."""

from __future__ import annotations

import csv
from pathlib import Path

from PIL import Image

from fbnetv3.images.parts import Part

from .datasets import is_packed, open_images, parts_of
from .image_set import readable

_JPEG = b"\xff\xd8"


def unpacked(location: Path, folder: Path, *, part: Part, most: int | None = None) -> Path:
    """Returns a path that `fbnetv3.images.classes.labelled_images` reads.

    That is the location itself, if it is a folder or a list of images, else a list of files that
    are written to `folder`: of arrays as PNG, others as they are.

    Args:
        location: see `open_images`.
        folder: an empty folder.
        part: the part to use, if the set has it.
        most: at most so many images, evenly taken; None: all.

    Raises:
        ValueError: see `open_images`.
    """
    if not is_packed(location):
        return location
    images = open_images(location, part if part in parts_of(location) else None)
    step = 1 if most is None else max(1, -(-len(images) // most))
    rows = []
    for number in range(0, len(images), step):
        if images.pixels is not None:
            name = f"{number:07}.png"
            Image.fromarray(images.pixels[number].numpy()).save(folder / name)
        else:
            assert images.sources is not None
            source = readable(images.sources[number])
            content = source.read_bytes() if isinstance(source, Path) else source
            name = f"{number:07}.{'jpg' if content.startswith(_JPEG) else 'png'}"
            (folder / name).write_bytes(content)
        labels = images.labels[number]
        indices = labels.nonzero().flatten().tolist() if images.multi_label else [int(labels)]
        rows.append((name, "|".join(images.classes[index] for index in indices)))
    path = folder / "list.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([("file", "labels" if images.multi_label else "label"), *rows])
    return path
