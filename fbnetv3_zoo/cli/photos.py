"""Which images a command was given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from .group import note


def photos_in(images: Sequence[Path]) -> Iterator[Path]:
    """Yields the images among paths and in folders, and says what is odd about these."""
    from fbnetv3.images.folders import find_images

    for path in images:
        if path.is_dir():
            found = find_images(path)
            for text in found.notes:
                note(text)
            yield from found.images
        else:
            yield path
