"""The README.md of a finished model: accuracy, training, files, use."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from fbnetv3.search.training.recipe import Recipe

_HEAD = """---
pipeline_tag: image-classification
library_name: fbnetv3
tags:
- image-classification
- fbnetv3
---
"""


def card(result: Mapping[str, Any], recipe: Recipe) -> str:
    """Returns the model card of what `deliver` found, as Markdown."""
    parts = [
        _HEAD,
        f"# Result {result['name']} of a search: {', '.join(result['limits'])}\n",
        f"{_summary(result)}\n",
        "## Accuracy\n",
        _accuracy(result),
        "## Training\n",
        _training(result, recipe),
        "## Files\n",
        _table(("file", "SHA-256"), [(f"`{k}`", f"`{v}`") for k, v in result["sha256"].items()]),
        "## Use\n",
        _use(result),
    ]
    return "\n".join(parts)


def _summary(result: Mapping[str, Any]) -> str:
    size = f"{result['params']:,} parameters"
    if "macs" in result:
        macs = f"{result['macs'] / 1e6:.1f} M MACs (multiply-adds)"
        size = f"{macs} at {result['resolution']} pixels, {size}"
    return f"{result['network']}; {size}."


def _accuracy(result: Mapping[str, Any]) -> str:
    best = next(iter(result["accuracy"]))
    rows = [
        (
            {"ema": "EMA", "raw": "raw"}[kind] + (" (`model.safetensors`)" if kind == best else ""),
            _percent(one["top1_pct"], one["top1_interval"]),
            _percent(one["top5_pct"], one["top5_interval"]),
            f"{one['num_images']:,}",
        )
        for kind, one in result["accuracy"].items()
    ]
    int8 = result.get("int8", {})
    if int8.get("written"):
        top1 = _percent(int8["top1_pct"], int8["top1_interval"])
        rows.append(("int8", top1, "", f"{int8['num_images']:,}"))
    text = f"On {result['data']}, in percent with 95 % Wilson intervals over the images:\n\n"
    text += _table(("weights", "top-1", "top-5", "images"), rows)
    if result["data"].endswith("(validation part)"):
        text += "\nThese images were held out of one set here; the search may have seen them.\n"
    if int8.get("written"):
        text += (
            f"\nint8 may lose {int8['max_drop_pct']:g} points; float has "
            f"{int8['top1_float_pct']:.2f} on the same images.\n"
        )
    elif int8:
        text += f"\nThere is no int8 file: {int8['reason']}.\n"
    else:
        text += "\nNot exported: only networks of this package are.\n"
    return text


def _training(result: Mapping[str, Any], recipe: Recipe) -> str:
    teacher = result["teacher"] or "none, labels only"
    rows = [("teacher", teacher), ("seed", result["seed"])]
    rows += [(name, value) for name, value in dataclasses.asdict(recipe).items()]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return _table(("", "value"), rows) + f"\nMade with {versions}.\n"


def _use(result: Mapping[str, Any]) -> str:
    if "macs" not in result:
        return "```sh\nfbnetv3 eval local-dir:FOLDER --data IMAGES\n```\n"
    return (
        '```python\nimport fbnetv3\n\nmodel = fbnetv3.create("local-dir:FOLDER", pretrained=True)\n'
        "```\n"
    )


def _percent(value: float, interval: list[float]) -> str:
    return f"{value:.2f} ({interval[0]:.2f} to {interval[1]:.2f})"


def _table(heads: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)
