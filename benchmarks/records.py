"""Where results stand: JSON files, JSON Lines that a stopped run goes on with, blocks of pages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .conditions import conditions

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PERFORMANCE_PAGE = ROOT / "docs" / "performance.md"
SEARCH_PAGE = ROOT / "benchmarks" / "SEARCH.md"


def write(path: Path, record: Mapping[str, Any]) -> None:
    """Writes a JSON file; one that has no conditions yet gets those of now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"conditions": conditions(), **record}, indent=1) + "\n")


def append(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Appends a line of JSON for each row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a file, none without it; a line cut short by a kill is none."""
    found = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def with_block(text: str, name: str, content: str) -> str:
    """Returns a page's text with new content between the marks of a block.

    Raises:
        ValueError: the marks are not there.
    """
    first, last = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, start, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not start or not end:
        raise ValueError(f"expected the marks {first} and {last} in the page")
    return f"{before}{first}\n{content}\n{last}{after}"


def write_block(page: Path, name: str, content: str) -> None:
    """Writes new content between the marks of a page's block."""
    page.write_text(with_block(page.read_text(), name, content))
