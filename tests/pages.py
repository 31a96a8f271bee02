"""The blocks of a Markdown page: shell and Python are run, output shown is compared with printed.

Why no library does it: with Sybil 10.1 blocks, run and checks were 114 lines instead of 121, since
shell, capture and comparison stay ours. It passes over a block of an unknown kind without a word,
and its pytest plugin makes an item of each block, which `pytest -n 2` deals out to workers that
have neither each other's files nor names. pytest-markdown-docs 0.9 runs Python alone and compares
nothing.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from .shell import carried_out

NOT_RUN = "not run:"
VARY = "numbers vary"
_BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>[^\n]*?) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.M | re.S
)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")


class Block(NamedTuple):
    """A fenced block of a page.

    Attributes:
        kind: "sh", "python", or "text", which is the output of the block before it.
        text: what is in it.
        mark: of the comment above it, "" without one.
        where: page and line, for messages.
    """

    kind: str
    text: str
    mark: str
    where: str

    @property
    def is_run(self) -> bool:
        return self.kind in ("sh", "python") and not self.mark.startswith(NOT_RUN)


def blocks(page: Path) -> list[Block]:
    """Returns the fenced blocks of a page, in order."""
    text = page.read_text()
    found = []
    for m in _BLOCK.finditer(text):
        where = f"{page.name}, line {text.count(chr(10), 0, m.start('text'))}"
        found.append(Block(m["kind"], m["text"], m["mark"] or "", where))
    return found


def run(page: Path, folder: Path) -> None:
    """Runs a page's blocks in a folder, and compares what they print with what the page shows."""
    names: dict[str, Any] = {"__name__": "page"}
    printed: str | None = None
    for block in blocks(page):
        if block.is_run and block.kind == "sh":
            done = carried_out(block.text, folder, {})
            assert done.code == 0, f"{block.where}: {done.out}{done.err}"
            printed = done.out
        elif block.is_run:
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(compile(block.text, block.where, "exec"), names)
            printed = output.getvalue()
        elif block.kind != "text":
            printed = None
        elif printed is not None:
            shown, vary = block.text.splitlines(), block.mark == VARY
            line = missing_line(shown, printed.splitlines(), vary=vary)
            assert line is None, f"{block.where}: {line!r} is not in\n{printed}"


def agrees(shown: str, printed: str, *, vary: bool) -> bool:
    """Returns whether a line is the one that a page shows: words equal, numbers near, spaces apart.

    Where numbers vary from machine to machine, any number will do.
    """
    words = [" ".join(_NUMBER.sub("#", text).split()) for text in (shown, printed)]
    if words[0] != words[1]:
        return False
    pairs = zip(_NUMBER.findall(shown), _NUMBER.findall(printed), strict=True)
    return vary or all(
        float(b.replace(",", "")) == pytest.approx(float(a.replace(",", "")), rel=0.02)
        for a, b in pairs
    )


def missing_line(shown: Sequence[str], printed: Sequence[str], *, vary: bool) -> str | None:
    """Returns the first shown line that was not printed after the one before it; `...` is any."""
    rest = iter(printed)
    for line in shown:
        if line.strip() == "..." or any(agrees(line, other, vary=vary) for other in rest):
            continue
        return line
    return None
