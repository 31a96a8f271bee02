"""Image lists: a CSV file with a row for each image, its file and its class or classes.

Each image has one label, or several. Several labels of an image are in one cell, separated by
`|`, `;`, a comma or a space; or in rows of their own; or there is a column of zeros and ones for
each class. How a list is read is decided on all of its rows, so that its parts agree.
"""

from __future__ import annotations

import codecs
import csv
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from fbnetv3._internal.messages import one_line, shown

from .folders import PART_NAMES, SUFFIXES, LabelledImages, Part

# How many labels an image has; "auto" is told from the data.
Task = Literal["auto", "single-label", "multi-label"]
TASKS: tuple[Task, ...] = ("auto", "single-label", "multi-label")
LIST_SUFFIXES = frozenset({".csv", ".tsv", ".txt"})
# Names of the columns, compared without case; the first that is there counts.
_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "file": (
        *("file", "path", "image", "filename", "file_name", "filepath", "image_path", "fname"),
        *("image_name", "image index", "image_id", "id"),
    ),
    "label": ("label", "class", "category", "target", "class_name"),
    "labels": ("labels", "tags", "classes", "categories", "class_names", "finding labels"),
    "split": ("split", "part", "set", "subset", "is_valid"),
}
# What separates labels in a cell, the likelier first. Names of classes may have the last two in
# them, which therefore count only in a column for several labels.
_SEPARATORS, _IN_NAMES = ("|", ";", ",", " "), (",", " ")
_YES, _NO = frozenset({"1", "1.0", "true", "yes"}), frozenset({"0", "0.0", "false", "no", ""})
_NUM_LISTED = 5


class _Row(NamedTuple):
    line: int
    path: Path
    labels: tuple[str, ...]
    part: Part | None


@dataclass(frozen=True)
class _Listed:
    """A list as it was read: its images, whether they have several labels, and how that is known.

    Attributes:
        path: the list.
        rows: one for each image of each part.
        several: whether an image may have several labels, or none.
        order: classes in the order of their columns; empty if there are none.
        notes: remarks for the user.
    """

    path: Path
    rows: tuple[_Row, ...]
    several: bool
    order: tuple[str, ...]
    notes: tuple[str, ...]


class _Sheet(NamedTuple):
    """The cells of a list: column -> index, the classes' columns, and the numbered rows."""

    columns: Mapping[str, int]
    classes: Mapping[str, int]
    is_valid: bool
    rows: Sequence[tuple[int, list[str]]]


def is_list(path: Path) -> bool:
    """Returns whether a path is a file that may list images, by its suffix."""
    return path.suffix.lower() in LIST_SUFFIXES and path.is_file()


def has_split(path: Path, task: Task = "auto") -> bool:
    """Returns whether a list has a column that tells training from validation.

    Raises:
        ValueError: see `read_list`.
    """
    return any(row.part for row in _read(path, task).rows)


def read_list(path: Path, part: Part | None = None, task: Task = "auto") -> LabelledImages:
    """Returns the images of a list.

    The first line may name the columns: file, label (or labels) and optionally split, or usual
    names for them, or file and a column of zeros and ones for each class; without such names the
    first two columns are taken. Columns are separated by commas, semicolons or tabs, or the label
    from its file by a space. Files are relative to the list's folder, may be written as on Windows,
    and may lack the suffix. A file that is listed or linked to twice counts once.

    Args:
        path: the list.
        part: only the rows of this split; None: all.
        task: whether images have several labels. "auto" tells it from the cells: several labels are
            separated by `|` or `;`, and in a column named labels or tags also by commas or spaces;
            with a column for each class some row has not exactly one.

    Raises:
        ValueError: a row is incomplete, a split is unknown, a file has two classes though images
            have one, there are too few classes, or there is no row.
    """
    listed = _read(path, task)
    of_training = {name for row in listed.rows if row.part != "val" for name in row.labels}
    mine = [row for row in listed.rows if part is None or row.part == part]
    if not mine:
        raise ValueError(f"{path} lists no image" + (f" with split {part!r}" if part else ""))
    labels = {name for row in mine for name in row.labels}
    # Validation has training's classes, unless it has others too.
    names = of_training if labels <= of_training else labels
    classes = listed.order or tuple(sorted(names))
    if len(classes) < 2:
        raise ValueError(
            f"{path} has only one class, {classes[0]!r}; expected rows of file,label with two "
            "classes or more"
            if classes
            else f"{path} has no label in any row; expected rows of file,label"
        )
    number = {name: index for index, name in enumerate(classes)}
    indices = tuple(tuple(sorted(number[name] for name in row.labels)) for row in mine)
    return LabelledImages(
        name=f"{path} ({part})" if part else str(path),
        classes=classes,
        paths=tuple(row.path for row in mine),
        labels=() if listed.several else tuple(first for (first,) in indices),
        label_sets=indices if listed.several else None,
        notes=listed.notes,
    )


def _read(path: Path, task: Task) -> _Listed:
    if task not in TASKS:
        raise ValueError(f"task is {task!r}; expected {', '.join(TASKS)}")
    found = path.stat()
    return _parsed(path, task, (found.st_size, found.st_mtime_ns))


@functools.lru_cache(maxsize=4)
def _parsed(path: Path, task: Task, _stamp: tuple[int, int]) -> _Listed:
    """Returns a list as it was read; kept, as its parts are asked for one after the other."""
    sheet = _sheet(path)
    if sheet.classes:
        labels_of, several, notes = _by_columns(path, sheet, task)
    else:
        labels_of, several, notes = _by_cell(path, sheet, task)
    with_suffix = _SuffixFinder()
    rows = []
    for line, cells in sheet.rows:
        file, labels = _cell(cells, sheet.columns["file"]), labels_of(cells)
        if not file or not (labels or several):
            raise ValueError(
                f"{path}, line {line}: expected a file and a label, found {shown(','.join(cells))}"
            )
        part = _part_of(path, line, cells, sheet)
        rows.append(_Row(line, with_suffix(path.parent / _here(path, file)), labels, part))
    kept, repeated = _once(path, rows, several)
    if repeated:
        notes.append(f"{repeated} row(s) of {path} name a file again and count once")
    return _Listed(path, tuple(kept), several, tuple(sheet.classes), tuple(notes))


def _sheet(path: Path) -> _Sheet:
    lines = _lines(path)
    first = next((line for line in lines if line.strip()), "")
    head = max(",;\t", key=first.count)
    named = _named_columns(next(csv.reader([first], delimiter=head), []))
    # Without names the cells may be full of separators: that of the columns comes first.
    delimiter = head if named else next((c for c in first if c in ",;\t"), "")
    # Lists of before CSV: a name, which may have spaces, a space, and a number.
    reader = (
        csv.reader(lines, delimiter=delimiter)
        if delimiter
        else (line.rsplit(maxsplit=1) for line in lines)
    )
    table = [
        (number, cells) for number, cells in enumerate(reader, 1) if any(map(str.strip, cells))
    ]
    if not table:
        raise ValueError(f"{path} is empty; expected rows of file,label")
    if named is None:
        file, has_names = _guessed(table)
        return _Sheet({"file": file, "label": 1 - file}, {}, False, table[has_names:])
    columns, classes, is_valid = named
    return _Sheet(columns, classes, is_valid, table[1:])


def _lines(path: Path) -> list[str]:
    """Returns the lines of a list, those that only programs read as empty ones."""
    content = path.read_bytes()
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        lines = content.decode("utf-16" if marked else "utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not text in UTF-8 ({error.reason}); save it as CSV in UTF-8"
        ) from None
    for number, line in enumerate(lines):
        if line.strip() and not line.startswith(("#", "sep=")):
            break
        lines[number] = ""
    return lines


def _guessed(table: Sequence[tuple[int, list[str]]]) -> tuple[int, bool]:
    """Returns which of two columns without known names is the file, and whether they have names."""
    columns = [
        [os.path.splitext(_cell(cells, column))[1].lower() in SUFFIXES for _, cells in table]
        for column in (0, 1)
    ]
    file = int(not any(columns[0]) and any(columns[1]))
    return file, not columns[file][0] and len(table) > 1 and all(columns[file][1:])


def _named_columns(
    head: Sequence[str],
) -> tuple[dict[str, int], dict[str, int], bool] | None:
    """Returns column -> index, class -> index, and whether the split says is_valid.

    None if the first line does not name the columns.
    """
    plain = [cell.strip().lower() for cell in head]
    found = {
        column: plain.index(name)
        for column, names in _COLUMNS.items()
        for name in names[::-1]
        if name in plain
    }
    if "file" not in found:
        return None
    is_valid = "split" in found and plain[found["split"]] == "is_valid"
    if "label" in found or "labels" in found:
        return found, {}, is_valid
    taken = set(found.values())
    others = {
        cell.strip(): index
        for index, cell in enumerate(head)
        if index not in taken and cell.strip()
    }
    if len(others) == 1:
        return found | {"label": next(iter(others.values()))}, {}, is_valid
    return (found, others, is_valid) if others else None


LabelsOf = Callable[[list[str]], tuple[str, ...]]


def _by_cell(path: Path, sheet: _Sheet, task: Task) -> tuple[LabelsOf, bool, list[str]]:
    """Returns what reads the labels of a row from their cell, whether they are several, notes."""
    column = sheet.columns.get("label", sheet.columns.get("labels", 1))
    cells = [_cell(row, column) for _, row in sheet.rows]
    if task == "single-label":
        return (lambda row: tuple(filter(None, (_cell(row, column),)))), False, []
    # A list as Python prints it, which pandas writes.
    bracketed = any(cell.startswith("[") and cell.endswith("]") for cell in cells)
    wide = task == "multi-label" or "label" not in sheet.columns or bracketed
    separators = [one for one in _SEPARATORS if wide or one not in _IN_NAMES]
    separators = [","] if bracketed else separators
    separator = next((one for one in separators if any(one in cell for cell in cells)), None)
    if separator is None and not bracketed and task == "auto":
        return (lambda row: tuple(filter(None, (_cell(row, column),)))), False, []
    named = "a space" if separator == " " else repr(separator)
    note = (
        f"images of {path} have several labels, separated by {named}; with --task single-label "
        "each cell is one label"
    )

    def labels_of(row: list[str]) -> tuple[str, ...]:
        cell = _cell(row, column)
        cell = cell.strip("[]") if bracketed else cell
        parts = cell.split(separator) if separator else [cell]
        return tuple(dict.fromkeys(filter(None, (part.strip(" '\"") for part in parts))))

    return labels_of, True, [note] if task == "auto" else []


def _by_columns(path: Path, sheet: _Sheet, task: Task) -> tuple[LabelsOf, bool, list[str]]:
    """Returns what reads the labels of a row from the classes' columns; the rest as above."""

    def labels_of(row: list[str]) -> tuple[str, ...]:
        return tuple(
            name for name, index in sheet.classes.items() if _cell(row, index).lower() in _YES
        )

    for line, row in sheet.rows:
        for name, index in sheet.classes.items():
            cell = _cell(row, index).lower()
            if cell not in _YES and cell not in _NO:
                raise ValueError(
                    f"{path}, line {line}: column {one_line(name)!r} has {shown(cell)}; expected 0 "
                    "or 1 for each class, or a column named label"
                )
    exclusive = all(len(labels_of(row)) == 1 for _, row in sheet.rows)
    if task == "single-label" or (exclusive and task == "auto"):
        note = (
            f"each image of {path} has exactly one of {len(sheet.classes)} classes; "
            "--task multi-label trains for several"
        )
        return labels_of, False, [note] if task == "auto" else []
    return labels_of, True, []


def _cell(row: list[str], index: int) -> str:
    return row[index].strip() if index < len(row) else ""


def _part_of(path: Path, line: int, cells: list[str], sheet: _Sheet) -> Part | None:
    if "split" not in sheet.columns:
        return None
    text = _cell(cells, sheet.columns["split"])
    word = text.lower()
    if sheet.is_valid and (word in _YES or word in _NO):
        return "val" if word in _YES else "train"
    part = next((key for key, names in PART_NAMES.items() if word in names), None)
    if part is None:
        raise ValueError(f"{path}, line {line}: split is {shown(text)}; expected train or val")
    return part


def _here(path: Path, file: str) -> str:
    """Returns a file's name as this system writes it: a list may come from Windows."""
    if "\\" not in file or os.sep == "\\" or (path.parent / file).exists():
        return file
    return file.replace("\\", "/")


class _SuffixFinder:
    """Completes names without an image's suffix, from one listing of each folder."""

    def __init__(self) -> None:
        self._folders: dict[Path, dict[str, str]] = {}

    def __call__(self, path: Path) -> Path:
        if path.suffix.lower() in SUFFIXES:
            return path
        if path.parent not in self._folders:
            names = sorted(os.listdir(path.parent)) if path.parent.is_dir() else []
            stems = (os.path.splitext(name) for name in names)
            self._folders[path.parent] = {
                stem: stem + suffix for stem, suffix in stems if suffix.lower() in SUFFIXES
            }
        return path.parent / self._folders[path.parent].get(path.name, path.name)


def _once(path: Path, rows: Sequence[_Row], several: bool) -> tuple[list[_Row], int]:
    """Returns the rows of different files, and how many were left out."""
    kept: dict[tuple[str, Part | None], _Row] = {}
    real = _RealPaths()
    for row in rows:
        key = (real(row.path), row.part)
        first = kept.setdefault(key, row)
        if first.labels == row.labels:
            continue
        if several:
            both = tuple(dict.fromkeys(first.labels + row.labels))
            kept[key] = first._replace(labels=both)
            continue
        mine, other = (shown(", ".join(one.labels)) for one in (first, row))
        raise ValueError(
            f"{path}, lines {first.line} and {row.line}: {one_line(str(row.path))} is {mine} and "
            f"{other}; expected one label for a file, or --task multi-label"
        )
    return list(kept.values()), len(rows) - len(kept)


class _RealPaths:
    """Resolves links at the cost of one look at each file: folders are resolved once."""

    def __init__(self) -> None:
        self._folders: dict[str, str] = {}

    def __call__(self, path: Path) -> str:
        folder, name = os.path.split(path)
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        joined = os.path.join(self._folders[folder], name)
        return os.path.realpath(joined) if os.path.islink(joined) else joined
