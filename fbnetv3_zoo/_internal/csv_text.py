"""Reading of CSV files, with what is wrong with one in one line."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import NamedTuple


class CsvLine(NamedTuple):
    """A line of a CSV file.

    Attributes:
        number: its number in the file, from 1.
        cells: its cells, one for each column.
    """

    number: int
    cells: list[str]


def read_csv(path: Path) -> tuple[list[str], list[CsvLine]]:
    """Returns the names of the columns of a CSV file, and its lines that are not blank.

    Args:
        path: the file; `-` for standard input.

    Raises:
        ValueError: it is no text in UTF-8, has no header, two columns have one name, or a line has
            more or fewer cells than the header.
    """
    stdin = str(path) == "-"
    source = sys.stdin if stdin else path.open(newline="", encoding="utf-8-sig")
    try:
        with source as file:
            reader = csv.reader(file)
            names = [name.strip() for name in next(reader, [])]
            lines = [CsvLine(reader.line_num, cells) for cells in reader if cells]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a CSV text file: {error}") from None
    if not names:
        raise ValueError(f"{path} is empty; expected a line with the names of its columns")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"{path} has two columns {twice[0]!r}; expected one")
    for number, cells in lines:
        if len(cells) != len(names):
            raise ValueError(
                f"{path}, line {number}: {len(cells)} cells; expected {len(names)}, one for each "
                "column of the header"
            )
    return names, lines
