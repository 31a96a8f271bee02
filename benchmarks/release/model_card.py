"""Writes the metadata and the tables of MODEL_CARD.md from the records in the package.

    python -m benchmarks.release.model_card

A test fails if the file differs from what this generates.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

from huggingface_hub import EvalResult
from huggingface_hub.repocard_data import CardData, eval_results_to_model_index

from benchmarks.records import ROOT, with_block
from fbnetv3.arch.counts import count
from fbnetv3.arch.tables import ARCHS
from fbnetv3.hub.weights import WEIGHTS, Weights

CARD = ROOT / "MODEL_CARD.md"
# By label list: the hub's name of the data set, its display name, and the split that was evaluated.
DATASETS = {
    "imagenet1k": ("imagenet-1k", "ImageNet-1k", "validation"),
    "cifar10": ("cifar10", "CIFAR-10", "test"),
}


def metadata() -> str:
    """Returns the YAML front matter of the card, as the Hugging Face hub expects it.

    Each set of weights is an entry of the model index, whose metrics name who measured them.
    The license is "other", because some of the listed weights forbid commercial use.
    """
    data: dict[str, Any] = {
        "license": "other",
        "license_name": "per-weights",
        "license_link": "MODEL_CARD.md",
        "library_name": "fbnetv3-zoo",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "fbnetv3", "timm", "onnx", "mobile"],
        "datasets": sorted({DATASETS[w.labels][0] for w in WEIGHTS.values()}),
        "metrics": ["accuracy"],
        "model-index": [
            entry for w in _in_order() for entry in eval_results_to_model_index(w.name, _results(w))
        ],
    }
    return f"---\n{CardData(**data).to_yaml()}\n---\n"


def _results(w: Weights) -> list[EvalResult]:
    dataset, display, split = DATASETS[w.labels]
    values = {"Top-1": w.top1_pct, "Top-5": w.top5_pct}
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type=dataset,
            dataset_name=display,
            dataset_split=split,
            metric_type="accuracy",
            metric_name=f"{name} (%), measured by {w.evaluated_by}",
            metric_value=value,
            verified=False,
            source_url=w.origin if w.origin.startswith("http") else None,
        )
        for name, value in values.items()
        if value is not None
    ]


def _in_order() -> list[Weights]:
    return sorted(WEIGHTS.values(), key=lambda w: (w.labels != "imagenet1k", w.name))


def networks() -> str:
    """Returns the models with their costs per image, as a Markdown table."""
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
    head = ("model", "input size", "MACs (M)", "fvcore (M)", "weights (M)", "params")
    return _table(head, rows)


def weights() -> str:
    """Returns the trained weights with their accuracy, who measured it, and license."""
    rows = []
    for w in _in_order():
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
    return _table((*head, "license", "source"), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def render(text: str) -> str:
    """Returns the card's text with its metadata and tables regenerated.

    Raises:
        ValueError: the markers of a table are missing.
    """
    for name, table in (("networks", networks()), ("weights", weights())):
        text = with_block(text, name, table)
    body = text.split("---\n", 2)[2] if text.startswith("---\n") else "\n" + text
    return metadata() + body


def main() -> None:
    """Writes the card."""
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    CARD.write_text(render(CARD.read_text()))
    print(f"wrote {CARD}")


if __name__ == "__main__":
    main()
