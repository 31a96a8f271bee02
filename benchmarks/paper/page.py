"""Writes docs/paper.md: the paper's claims beside what this package has and what was measured.

    python -m benchmarks.paper.page

The claims are in `claims.toml`, figures in `measured`. A test fails if the page is not what this
generates.
"""

from __future__ import annotations

import argparse
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.paper.measured import COMMANDS, FIGURES
from benchmarks.records import ROOT

CLAIMS = Path(__file__).with_name("claims.toml")
PAGE = ROOT / "docs" / "paper.md"
# Of results; those of `PARTS` say whether a part of the method is as in the paper.
RESULTS = ("reproduced", "reproduced in part", "not reproduced")
OPEN = ("not measured yet", "cannot be tried here")
PARTS = ("as in the paper", "differs")
KNOWN = {
    "text": "",
    "released": " (published with the models)",
    "inferred": " (inferred from the released models)",
    "not checked": " (its figures could not be checked and are left out)",
}
_NAME = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim, number or part of the method of the paper.

    Attributes:
        paper: what the paper says.
        verdict: one of `RESULTS`, `OPEN` or `PARTS`.
        here: what this package has or does otherwise.
        where: commands and files of the repository.
        measured: what was measured and at which scale; names of figures in braces.
        needs: what trying it would take, or the command that measures it.
        known: how the paper's figures are known, a key of `KNOWN`.

    Raises:
        ValueError: a field is not as described.
    """

    paper: str
    verdict: str
    here: str = ""
    where: Sequence[str] = field(default_factory=tuple)
    measured: str = ""
    needs: str = ""
    known: str = "text"

    def __post_init__(self) -> None:
        if self.verdict not in (*RESULTS, *OPEN, *PARTS):
            raise ValueError(f"verdict is {self.verdict!r} of {self.paper!r}")
        if self.known not in KNOWN:
            raise ValueError(f"known is {self.known!r} of {self.paper!r}")
        if self.verdict in RESULTS and not self.figures:
            raise ValueError(f"{self.paper!r} is {self.verdict} without a figure")
        if (self.verdict in OPEN) != bool(self.needs):
            raise ValueError(f"{self.paper!r} is {self.verdict}; expected `needs` only if open")
        if self.verdict == "differs" and not self.here:
            raise ValueError(f"{self.paper!r} differs; expected `here`")
        if not (self.where or self.figures):
            raise ValueError(f"{self.paper!r} is nowhere; expected a file or command")

    @property
    def figures(self) -> list[str]:
        """Names of the figures that `measured` shows."""
        return _NAME.findall(self.measured)

    def row(self) -> tuple[str, str, str]:
        """Returns the claim's cells: the paper, its verdict, and what is here and was measured."""
        parts = [self.here, ", ".join(f"`{one}`" for one in self.where)]
        if self.measured:
            shown = _NAME.sub(lambda m: FIGURES[m[1]].text(), self.measured)
            files = sorted({FIGURES[name].file for name in self.figures})
            sources = "; ".join(f"`{COMMANDS[file]}`, `results/{file}`" for file in files)
            parts.append(f"*Measured:* {shown} ({sources})")
        if self.needs:
            parts.append(f"*Needs:* {self.needs}")
        cell = "<br>".join(part for part in parts if part)
        return f"{self.paper}{KNOWN[self.known]}", self.verdict, cell


def chapters() -> list[tuple[dict[str, Any], list[Claim]]]:
    """Returns the chapters of `claims.toml`, each with its claims."""
    found = tomllib.loads(CLAIMS.read_text())["chapter"]
    return [(one, [Claim(**fields) for fields in one.get("claim", ())]) for one in found]


def claims() -> Iterator[Claim]:
    """Yields all claims."""
    for _, found in chapters():
        yield from found


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(' '.join(c.split()) for c in line)} |" for line in lines)


def summary() -> str:
    """Returns how many claims have each verdict."""
    count = Counter(claim.verdict for claim in claims())
    rows = [(verdict, str(count[verdict])) for verdict in (*RESULTS, *OPEN, *PARTS)]
    return _table(("verdict", "claims"), rows)


def render() -> str:
    """Returns the page."""
    first = tomllib.loads(CLAIMS.read_text())
    out = [
        "<!-- Written by `python -m benchmarks.paper.page`; edit benchmarks/paper/claims.toml. -->",
        f"# {first['title']}",
        first["about"].strip(),
        summary(),
    ]
    for chapter, found in chapters():
        out += [f"## {chapter['title']}"]
        if about := chapter.get("about", "").strip():
            out.append(about)
        if terms := chapter.get("term"):
            rows = [(one["paper"], one["here"]) for one in terms]
            out.append(_table(("in the paper", "here"), rows))
        if found:
            head = ("the paper", "verdict", "here, and what was measured")
            out.append(_table(head, [claim.row() for claim in found]))
        for figure in chapter.get("figure", ()):
            out += [f"![{figure['alt']}]({figure['file']})", figure["caption"].strip()]
    return "\n\n".join(out) + "\n"


def main() -> None:
    """Writes the page."""
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    PAGE.write_text(render())
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
