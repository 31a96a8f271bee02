"""What `fbnetv3 detect` shows and writes beside its answers: tables, pictures, how far it is."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .group import print_table

if TYPE_CHECKING:
    from fbnetv3.detection.detections import Detections
    from fbnetv3.integrations.coco_scores import Scores

# Objects of an image that are printed.
_MOST_SHOWN = 10
_LINE_SECONDS = 10.0
# Comment in the pictures, to know them again.
_MARK = b"fbnetv3 detect"
# A set with more gets no table of its classes unless asked for as JSON.
_MAX_CLASSES = 100


def print_scores(scores: Scores) -> None:
    """Prints the table of the classes, and the scores with their intervals."""
    if len(scores.classes) <= _MAX_CLASSES:
        print_table(
            ("class", "boxes", "AP (%)", "AP50 (%)", "recall (%)"),
            [
                (one.name, one.num_boxes, *map(_percent, (one.ap, one.ap50, one.recall)))
                for one in scores.classes
            ],
        )
    for name, value in scores.values.items():
        text = f"{100 * value:.1f} %" if value >= 0 else "no such boxes"
        if name in scores.intervals:
            low, high = scores.intervals[name]
            text += f"  (95 % interval {100 * low:.1f} to {100 * high:.1f})"
        print(f"{name:>9}  {text}")
    print(f"{scores.num_boxes} boxes in {scores.num_images} images")


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def write_records(out: Path, model: str, records: list[dict[str, Any]]) -> None:
    """Writes what was found in all images to `predictions.json`."""
    from fbnetv3._internal.files import write_atomically

    out.mkdir(parents=True, exist_ok=True)
    content = {"model": model, "predictions": records}
    write_atomically(out / "predictions.json", json.dumps(content, indent=1) + "\n")


class Pictures:
    """Writes images with boxes to a folder, each under its own name or one with a number.

    Replaces pictures of a former command, and no other file. Makes the folder at once, so that one
    that cannot be written is told before the work.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._names: set[str] = set()

    def write(self, path: Path, found: Detections) -> Path:
        """Writes a picture; returns its path."""
        from fbnetv3.detection.pictures import with_boxes
        from fbnetv3.images.reader import open_image

        name, number = path.stem, 1
        while name in self._names or not _is_free(self._folder / f"{name}.jpg"):
            number += 1
            name = f"{path.stem}_{number}"
        self._names.add(name)
        target = self._folder / f"{name}.jpg"
        with_boxes(open_image(path), found).save(target, quality=92, comment=_MARK)
        return target


def _is_free(path: Path) -> bool:
    """Returns whether there is no file, or a picture of ours."""
    from PIL import Image, UnidentifiedImageError

    if not path.exists():
        return True
    try:
        with Image.open(path) as image:
            return image.info.get("comment") == _MARK
    except (OSError, UnidentifiedImageError):
        return False


def objects_in_words(objects: Sequence[Mapping[str, Any]], threshold: float) -> str:
    """Returns what was found on an image as one line, from the highest score down.

    Args:
        objects: class, score and box of each, from the highest score down.
        threshold: the lowest score, which is named if there is no object.
    """
    shown = [
        f"{one['class']} {100 * one['score']:.0f} % {one['box']}" for one in objects[:_MOST_SHOWN]
    ]
    if len(objects) > _MOST_SHOWN:
        shown.append(f"{len(objects) - _MOST_SHOWN} more")
    nothing = f"no box with a score of at least {100 * threshold:.0f} % (--threshold)"
    return "; ".join(shown) or nothing


class Lines:
    """Prints how far it is, a line every few seconds."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total, self._last = what, total, time.monotonic()

    def step(self, done: int) -> None:
        """Prints a line if it is time."""
        now = time.monotonic()
        if done < self._total and now - self._last >= _LINE_SECONDS:
            self._last = now
            typer.echo(f"{self._what} {done:,} of {self._total:,} images", err=True)
