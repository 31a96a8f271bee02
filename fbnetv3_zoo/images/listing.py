"""Image lists: a CSV file with a row for each image, its file and its class or classes.

Each image has one label, or several. Several labels of an image are in one cell, separated by
`|`, `;`, a comma or a space; or in rows of their own; or there is a column of zeros and ones for
each class. How a list is read is decided on all of its rows, so that its parts agree.
"""

from __future__ import annotations

import codecs
import csv
import functools
import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from fbnetv3._internal.messages import counted, one_line, shown

from .folders import SUFFIXES, LabelledImages
from .listed_files import ListedFiles, image_folders
from .parts import Part, left_out, part_of_word

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
    "label": ("label", "class", "category", "target", "class_name", "dx"),
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
    """The cells of a list: column -> index, the classes' columns, and the numbered rows.

    `is_named` tells whether the first line named the columns; without it the first row may do so
    in words that are not known.
    """

    columns: Mapping[str, int]
    classes: Mapping[str, int]
    is_valid: bool
    is_named: bool
    rows: Sequence[tuple[int, list[str]]]


def is_list(path: Path) -> bool:
    """Returns whether a path is a file that may list images, by its suffix."""
    return path.suffix.lower() in LIST_SUFFIXES and path.is_file()


def listed_parts(path: Path, task: Task = "auto") -> frozenset[Part]:
    """Returns the parts that a list tells apart; empty if it has no column for them.

    Raises:
        ValueError: see `read_list`.
    """
    return frozenset(row.part for row in _read(path, task).rows if row.part)


def listed_folders(path: Path, fewest: int) -> list[Path]:
    """Returns the folders that the images of a list were found in, or its own.

    Args:
        path: the list.
        fewest: none are returned for a list of fewer images.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no list.
    """
    names = list({_here(path, file): None for file in _files_of(_sheet(path))})
    return image_folders(path, names, ListedFiles()) if len(names) >= fewest else []


def read_list(path: Path, part: Part | None = None, task: Task = "auto") -> LabelledImages:
    """Returns the images of a list.

    The first line may name the columns: file, label (or labels) and optionally split, or usual
    names for them, or file and a column of zeros and ones for each class; without such names the
    first two columns are taken, and a third one of splits. Columns are separated by commas,
    semicolons or tabs, or the label from its file by a space. Files are relative to the list's
    folder, may be written as on Windows, and may be named as `ListedFiles` finds them. A file that
    is listed or linked to twice counts once.

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
    files = ListedFiles()
    homes = image_folders(path, [_here(path, file) for file in _files_of(sheet)], files)
    sheet = sheet if sheet.is_named else _without_names(sheet, homes, files)
    if sheet.classes:
        labels_of, several, notes = _by_columns(path, sheet, task)
    else:
        labels_of, several, notes = _by_cell(path, sheet, task)
    unused = _words_left_out(sheet)
    if unused:
        notes.append(
            f"rows of {path} with split {' or '.join(sorted(unused))} are for neither training nor "
            "validation and were left out"
        )
    if homes != [path.parent]:
        notes.append(f"images of {path} were found in {', '.join(map(str, homes))}")
    home_of = _home_of(path, homes, files)
    rows = []
    for line, cells in sheet.rows:
        file, labels = _cell(cells, sheet.columns["file"]), labels_of(cells)
        if not file or not (labels or several):
            raise ValueError(
                f"{path}, line {line}: expected a file and a label, found {shown(','.join(cells))}"
            )
        if "://" in file:
            raise ValueError(
                f"{path}, line {line}: {shown(file)} is an address; fetch the images, and list "
                "their files"
            )
        if _split_word(cells, sheet) in unused:
            continue
        part = _part_of(path, line, cells, sheet)
        name = _here(path, file)
        rows.append(_Row(line, home_of(line, name) / name, labels, part))
    kept, repeated = _once(path, rows, several, files)
    if repeated:
        notes.append(f"files that {path} lists again count once: {counted(repeated, 'row')}")
    return _Listed(path, tuple(kept), several, tuple(sheet.classes), tuple(notes))


def _sheet(path: Path) -> _Sheet:
    lines = _lines(path)
    first = next((line for line in lines if line.strip()), "")
    head = max(",;\t", key=first.count)
    quote = "'" if first.startswith("'") else '"'
    named = _named_columns(next(csv.reader([first], delimiter=head, quotechar=quote), []))
    # Without names the cells may be full of separators: that of the columns comes first.
    delimiter = head if named else next((c for c in first if c in ",;\t"), "")
    # Lists of before CSV: a name, which may have spaces, a space, and a number.
    reader = (
        csv.reader(lines, delimiter=delimiter, quotechar=quote)
        if delimiter
        else (line.rsplit(maxsplit=1) for line in lines)
    )
    try:
        table = [
            (number, cells) for number, cells in enumerate(reader, 1) if any(map(str.strip, cells))
        ]
    except csv.Error as error:
        raise ValueError(
            f"{path} is no CSV: {error}; expected rows of file,label, and each quote closed"
        ) from None
    if not table:
        raise ValueError(f"{path} is empty; expected rows of file,label")
    if named is None:
        columns, has_names = _guessed(table)
        return _Sheet(columns, {}, False, has_names, table[has_names:])
    columns, classes, is_valid = named
    return _Sheet(columns, classes, is_valid, True, table[1:])


def _lines(path: Path) -> list[str]:
    """Returns the lines of a list, those that only programs read as empty ones."""
    content = path.read_bytes()
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not text in UTF-8 ({error.reason}); save it as CSV in UTF-8"
        ) from None
    if "\0" in text:
        raise ValueError(f"{path} is not text in UTF-8 (null bytes); save it as CSV in UTF-8")
    lines = list(io.StringIO(text, newline=""))  # with their ends, which cells may have inside
    for number, line in enumerate(lines):
        if line.strip() and not line.startswith(("#", "sep=")):
            break
        lines[number] = ""
    return lines


def _guessed(table: Sequence[tuple[int, list[str]]]) -> tuple[dict[str, int], bool]:
    """Returns the columns of a list without known names, and whether they have names."""
    width = min(len(cells) for _, cells in table)
    columns = [
        [os.path.splitext(_cell(cells, column))[1].lower() in SUFFIXES for _, cells in table]
        for column in range(min(3, max(2, width)))
    ]
    file = next((n for n, is_image in enumerate(columns) if any(is_image)), 0)
    has_names = not columns[file][0] and len(table) > 1 and all(columns[file][1:])
    if file == 0:
        last = {_cell(cells, 2).lower() for _, cells in table[has_names:]}
        splits = {"split": 2} if width > 2 and all(map(part_of_word, last)) else {}
        return {"file": 0, "label": 1, **splits}, has_names
    # Behind rows' numbers, or behind the label.
    numbered = width > file + 1 and all(
        _cell(cells, 0).isdecimal() for _, cells in table[has_names:]
    )
    return {"file": file, "label": file + 1 if numbered else 0}, has_names


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


def _split_word(cells: list[str], sheet: _Sheet) -> str:
    return _cell(cells, sheet.columns["split"]).lower() if "split" in sheet.columns else ""


def _words_left_out(sheet: _Sheet) -> frozenset[str]:
    return left_out({_split_word(cells, sheet) for _, cells in sheet.rows})


def _part_of(path: Path, line: int, cells: list[str], sheet: _Sheet) -> Part | None:
    if "split" not in sheet.columns:
        return None
    word = _split_word(cells, sheet)
    if sheet.is_valid and (word in _YES or word in _NO):
        return "val" if word in _YES else "train"
    part = part_of_word(word)
    if part is None:
        text = _cell(cells, sheet.columns["split"])
        raise ValueError(f"{path}, line {line}: split is {shown(text)}; expected train or val")
    return part


def _files_of(sheet: _Sheet) -> list[str]:
    return [file for _, cells in sheet.rows if (file := _cell(cells, sheet.columns["file"]))]


def _without_names(sheet: _Sheet, homes: Sequence[Path], files: ListedFiles) -> _Sheet:
    """Returns a list without its first row, if that has neither a file nor a class of another."""
    (_, first), *others = sheet.rows
    if len(others) < 2:
        return sheet
    names = [_cell(cells, sheet.columns["file"]) for cells in (first, others[0][1])]
    if os.path.splitext(names[0])[1].lower() in SUFFIXES:
        return sheet
    there = [any(files.has(home / name) for home in homes) for name in names]
    labels = {_cell(cells, sheet.columns["label"]) for _, cells in others}
    if there == [False, True] and _cell(first, sheet.columns["label"]) not in labels:
        return sheet._replace(rows=others)
    return sheet


def _home_of(path: Path, homes: Sequence[Path], files: ListedFiles) -> Callable[[int, str], Path]:
    """Returns what finds the folder of a file in a line.

    It raises ValueError for a file that is in several.
    """

    def find(line: int, name: str) -> Path:
        if len(homes) == 1:
            return homes[0]
        found = [home for home in homes if files.has(home / name)]
        if len(found) > 1:
            raise ValueError(
                f"{path}, line {line}: {shown(name)} is in {found[0]} and in {found[1]}; expected "
                "names that begin with their folder"
            )
        return found[0] if found else homes[0]

    return find


def _here(path: Path, file: str) -> str:
    """Returns a file's name as this system writes it: a list may come from Windows."""
    if "\\" not in file or os.sep == "\\" or (path.parent / file).exists():
        return file
    return file.replace("\\", "/")


def _once(
    path: Path, rows: Sequence[_Row], several: bool, files: ListedFiles
) -> tuple[list[_Row], int]:
    """Returns the rows of different files, and how many were left out."""
    kept: dict[tuple[str, Part | None], _Row] = {}
    for row in rows:
        file, real = files(row.path)
        key = (real, row.part)
        first = kept.setdefault(key, row._replace(path=file))
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
