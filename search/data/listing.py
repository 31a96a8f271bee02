"""Image lists: a CSV file with a row for each image, its file and its class."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from fbnetv3._internal.messages import one_line, shown
from fbnetv3.images.folders import PART_NAMES, LabelledImages, Part

SUFFIXES = frozenset({".csv", ".tsv", ".txt"})
# Names of the columns, compared without case.
_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "file": ("file", "path", "image", "filename", "file_name", "filepath", "image_path"),
    "label": ("label", "class", "category", "target", "class_name"),
    "split": ("split", "part", "set", "subset"),
}
_NUM_LISTED = 5


class _Row(NamedTuple):
    line: int
    path: Path
    label: str
    part: Part | None


def is_list(path: Path) -> bool:
    """Returns whether a path is a file that may list images, by its suffix."""
    return path.is_file() and path.suffix.lower() in SUFFIXES


def has_split(path: Path) -> bool:
    """Returns whether a list has a column that tells training from validation.

    Raises:
        ValueError: see `read_list`.
    """
    return any(row.part for row in _rows(path))


def read_list(path: Path, part: Part | None = None) -> LabelledImages:
    """Returns the images of a list.

    The first line may name the columns: file, label and optionally split (or usual names for them);
    without such names the first two columns are taken. Columns are separated by commas, semicolons
    or tabs. Files are relative to the list's folder. A file that is listed or linked to twice
    counts once.

    Args:
        path: the list.
        part: only the rows of this split; None: all.

    Raises:
        ValueError: a row is incomplete, a split is unknown, a file has two classes, there are too
            few classes, or there is no row.
    """
    rows, repeated = _once(path, _rows(path))
    of_training = {row.label for row in rows if row.part != "val"}
    mine = [row for row in rows if part is None or row.part == part]
    labels = {row.label for row in mine}
    # Validation has training's classes, unless it has others too.
    classes = tuple(sorted(of_training if labels <= of_training else labels))
    if not mine:
        raise ValueError(f"{path} lists no image" + (f" with split {part!r}" if part else ""))
    if len(classes) < 2:
        raise ValueError(
            f"{path} has only one class, {classes[0]!r}; expected rows of file,label with two "
            "classes or more"
        )
    number = {name: index for index, name in enumerate(classes)}
    return LabelledImages(
        name=f"{path} ({part})" if part else str(path),
        classes=classes,
        paths=tuple(row.path for row in mine),
        labels=tuple(number[row.label] for row in mine),
        notes=(f"{repeated} row(s) of {path} name a file again and count once",)
        if repeated
        else (),
    )


def _rows(path: Path) -> list[_Row]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 ({error.reason}); save it as CSV") from None
    first = text.partition("\n")[0]
    lines = csv.reader(text.splitlines(), delimiter=max(",;\t", key=first.count))
    table = [(number, cells) for number, cells in enumerate(lines, 1) if any(map(str.strip, cells))]
    if not table:
        raise ValueError(f"{path} is empty; expected rows of file,label")
    columns = _columns_of(table[0][1])
    if columns:
        table = table[1:]
    return [
        _row(path, number, cells, columns or {"file": 0, "label": 1}) for number, cells in table
    ]


def _columns_of(head: Sequence[str]) -> dict[str, int] | None:
    """Returns column -> index if the first line names the columns."""
    plain = [cell.strip().lower() for cell in head]
    found = {
        column: plain.index(name)
        for column, names in _COLUMNS.items()
        for name in names[::-1]
        if name in plain
    }
    return found if {"file", "label"} <= found.keys() else None


def _row(path: Path, line: int, cells: Sequence[str], columns: Mapping[str, int]) -> _Row:
    values = {
        column: cells[index].strip() if index < len(cells) else ""
        for column, index in columns.items()
    }
    if not (values["file"] and values["label"]):
        raise ValueError(
            f"{path}, line {line}: expected a file and a label, found {shown(','.join(cells))}"
        )
    part = None
    if "split" in columns:
        word = values["split"].lower()
        part = next((key for key, names in PART_NAMES.items() if word in names), None)
        if part is None:
            raise ValueError(
                f"{path}, line {line}: split is {shown(values['split'])}; expected train or val"
            )
    return _Row(line, path.parent / values["file"], values["label"], part)


def _once(path: Path, rows: Sequence[_Row]) -> tuple[list[_Row], int]:
    """Returns the rows of different files, and how many were left out."""
    kept: dict[tuple[str, Part | None], _Row] = {}
    for row in rows:
        first = kept.setdefault((os.path.realpath(row.path), row.part), row)
        if first.label != row.label:
            raise ValueError(
                f"{path}, lines {first.line} and {row.line}: {one_line(str(row.path))} is "
                f"{shown(first.label)} and {shown(row.label)}; expected one label for a file"
            )
    return list(kept.values()), len(rows) - len(kept)
