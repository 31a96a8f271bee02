"""Writes the tables of MODEL_CARD.md from the records in the package.

    python benchmarks/model_card.py

A test compares the file with what this makes, so that neither can drift.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from fbnetv3.counts import count
from fbnetv3.tables import ARCHS
from fbnetv3.weights import WEIGHTS

CARD = Path(__file__).parent.parent / "MODEL_CARD.md"


def networks() -> str:
    """Returns the networks with their costs for one image, as a Markdown table."""
    rows = []
    for name, arch in ARCHS.items():
        c = count(arch)
        rows.append(
            (
                f"`{name}`",
                c.resolution,
                f"{c.macs_paper / 1e6:.6f}",
                f"{c.macs_fvcore / 1e6:.6f}",
                f"{c.weight_params / 1e6:.6f}",
                f"{c.params:,}",
            )
        )
    head = ("network", "input", "MACs (M)", "fvcore (M)", "weights (M)", "all parameters")
    return _table(head, rows)


def weights() -> str:
    """Returns the trained weights with their accuracy, who measured it, and licence."""
    rows = []
    for w in sorted(WEIGHTS.values(), key=lambda w: (w.labels != "imagenet1k", w.name)):
        p = w.preprocess
        rows.append(
            (
                f"`{w.name}`",
                w.labels,
                f"{p.resize} -> {p.crop}",
                f"{w.top1_pct:.3f}".rstrip("0"),
                "" if w.top5_pct is None else f"{w.top5_pct:.3f}".rstrip("0"),
                w.evaluated_by,
                w.license + ("" if w.commercial else ", **non-commercial**"),
                f"[origin]({w.origin})" if w.origin.startswith("http") else w.origin,
            )
        )
    head = ("weights", "data", "resize -> crop", "top-1 (%)", "top-5 (%)", "measured by")
    return _table((*head, "licence", "from"), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def render(text: str) -> str:
    """Returns the card's text with its tables made anew.

    Raises:
        ValueError: a table's marks are not there.
    """
    for name, table in (("networks", networks()), ("weights", weights())):
        block = f"<!-- {name} -->\n{table}\n<!-- /{name} -->"
        before, start, rest = text.partition(f"<!-- {name} -->")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        if not start or not end:
            raise ValueError(f"expected the marks <!-- {name} --> and <!-- /{name} --> in the card")
        text = before + block + after
    return text


if __name__ == "__main__":
    CARD.write_text(render(CARD.read_text()))
    print(f"wrote {CARD}")
