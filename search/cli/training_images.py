"""The images that `fbnetv3 train` opens, and what it says of them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from fbnetv3.cli.group import note

if TYPE_CHECKING:
    from fbnetv3.images.listing import Task
    from fbnetv3.search.data.image_set import ImageSet


def opened(
    data: Path, val_share: float, seed: int, task: Task, *, silent: bool
) -> tuple[ImageSet, ImageSet]:
    """Returns the images to train and to validate on, and says what is odd about them."""
    from fbnetv3.search.data.datasets import open_train_val
    from fbnetv3.search.data.overview import remarks

    images, val_images = open_train_val(
        data, val_share=val_share, seed=seed, task=task, on_check=CheckLines(silent=silent)
    )
    if not silent:
        noted = dict.fromkeys([*images.notes, *val_images.notes])
        for text in [*noted, *remarks(images, val_images)]:
            note(text)
    return images, val_images


class CheckLines:
    """Prints how many files are checked, a line every few seconds."""

    def __init__(self, *, silent: bool, line_seconds: float = 5.0) -> None:
        self._silent, self._line_seconds = silent, line_seconds
        self._last_line = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Receives the number of files that are checked, and of all."""
        now = time.monotonic()
        if not self._silent and done < total and now - self._last_line >= self._line_seconds:
            self._last_line = now
            typer.echo(f"checked {done:,} of {total:,} images", err=True)
