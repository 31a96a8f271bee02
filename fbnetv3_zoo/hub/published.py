"""Published accuracy and cost of ImageNet networks: FBNetV3's, and those one would take instead.

The figures of others are facts with their source in `data/published.json`, which
`python -m benchmarks.latency.published` writes; those of the official FBNetV3 are the records of
`weights`. All were trained on ImageNet-1k only, some with a teacher that was too.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

from fbnetv3.arch.counts import count

from .license_policy import is_commercial
from .weights import WEIGHTS

FILE = "published.json"
# timm's spelling of licenses -> SPDX.
_SPDX = {"apache-2.0": "Apache-2.0", "mit": "MIT", "bsd-3-clause": "BSD-3-Clause"}


class Published(NamedTuple):
    """What is published of a set of weights at a resolution.

    Attributes:
        name: `model.tag`, as in timm; Ultralytics' names have no tag.
        family: of the network, such as "EfficientNet".
        resolution: side of the input, in pixels.
        default: whether a bare `model` stands for it: timm's default weights, at the resolution
            that they were trained for.
        top1_pct: top-1 on ImageNet's validation images, in percent.
        macs: multiply-adds of one image.
        params: number of parameters.
        source: who published the accuracy: "Meta", "timm" or "Ultralytics".
        license: of the weights.
        real_pct: top-1 on ImageNet with ReaL's labels; None where nobody published it, as below.
        v2_pct: top-1 on ImageNet-V2 (matched frequency).
        a_pct: top-1 on ImageNet-A.
        r_pct: top-1 on ImageNet-R.
        sketch_pct: top-1 on ImageNet-Sketch.
        gpu_images_per_s: timm's, on the card that the file names.
        cpu_images_per_s: timm's, on the processor that the file names.
    """

    name: str
    family: str
    resolution: int
    default: bool
    top1_pct: float
    macs: int
    params: int
    source: str
    license: str
    real_pct: float | None = None
    v2_pct: float | None = None
    a_pct: float | None = None
    r_pct: float | None = None
    sketch_pct: float | None = None
    gpu_images_per_s: float | None = None
    cpu_images_per_s: float | None = None

    @property
    def model(self) -> str:
        """The network, without the tag of its weights."""
        return self.name.partition(".")[0]

    @property
    def commercial(self) -> bool:
        """Whether the license of the weights is known to allow commercial use."""
        return is_commercial(self.license)


COLUMNS = Published._fields


@cache
def published() -> tuple[Published, ...]:
    """Returns all rows, by family and name."""
    content = _content()
    found = [
        Published(**dict(zip(content["columns"], row, strict=True))) for row in content["rows"]
    ]
    found = [row._replace(license=_SPDX.get(row.license, row.license)) for row in found]
    return tuple(sorted([*found, *_official()], key=lambda row: (row.family, row.name)))


def about() -> dict[str, str]:
    """Returns where each kind of figure is from."""
    found: dict[str, str] = _content()["about"]
    return found


def _content() -> Any:
    text = resources.files("fbnetv3").joinpath("data", FILE).read_text(encoding="utf-8")
    return json.loads(text)


def _official() -> Iterable[Published]:
    for weights in WEIGHTS.values():
        if weights.evaluated_by == "Meta":
            side = weights.preprocess.crop
            counts = count(weights.arch, side)
            yield Published(
                weights.name,
                "FBNetV3",
                side,
                True,
                weights.top1_pct,
                counts.macs_paper,
                counts.params,
                weights.evaluated_by,
                weights.license,
            )


def named(name: str) -> Published:
    """Returns the row that a name stands for.

    Args:
        name: `model`, for its default weights, or `model.tag`; `@224` behind it asks for a
            resolution other than that of the default, or the lowest.

    Raises:
        ValueError: nothing is known under that name (the message suggests the closest), or not at
            that resolution.
    """
    plain, _, side = name.partition("@")
    rows = [row for row in published() if plain in (row.name, row.model)]
    if not rows:
        known = sorted({word for row in published() for word in (row.name, row.model)})
        near = difflib.get_close_matches(plain.lower().replace("-", "_"), known, n=3, cutoff=0.4)
        hint = f"; did you mean {', '.join(map(repr, near))}?" if near else ""
        families = ", ".join(sorted({row.family for row in published()}))
        raise ValueError(
            f"no published figures of {plain!r}{hint} Known are timm's names of {families}"
        )
    if side:
        rows = [row for row in rows if str(row.resolution) == side]
        if not rows:
            known_sides = sorted({r.resolution for r in published() if plain in (r.name, r.model)})
            raise ValueError(
                f"no published figures of {plain!r} at {side} pixels; expected one of "
                f"{', '.join(map(str, known_sides))}"
            )
    return min(rows, key=lambda row: (not row.default, row.resolution, -row.top1_pct))
