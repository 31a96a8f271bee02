"""Compound scaling: a network made larger or smaller in width, depth and resolution at once.

Source: the paper scales its searched networks (section 4.1): A from B, F and G from E. It prints
no coefficients; those below were worked out from the released tables. Widths are scaled before
they are rounded: E's stem of 24 is a rounded 20, and only that gives F's stem.

* A is B at 224 pixels: width 1, depth 1.
* F is E with width 1.15, depth 1.09 and 272 pixels, exactly, for raw widths of E on the search
  space's grid (any width from 1.136 to 1.156 does).
* G is E with width 1.22, depth 1.09 and 320 pixels, apart from cells that no width gives together
  and that were adjusted by hand: a stem of 32 (24 by the rule), MB2 of 40 (32), MB4 of 104 (96)
  and a second block in MB7. `overrides` states them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fbnetv3.arch.arch import Arch, Row, round_channels
from fbnetv3.arch.counts import Counts, count


@dataclass(frozen=True)
class Scaling:
    """How a network is scaled.

    Attributes:
        width: factor of the channels of stem and rows, before rounding; head channels stay.
        depth: factor of the repeats of every row, rounded to the nearest, halves up.
        resolution: side of the input in pixels; None keeps it.
        raw_widths: name of a row, or "stem" -> its channels before rounding, where known.
        overrides: name of a row, or "stem" -> cells that are set by hand afterwards.

    Raises:
        ValueError: a factor is not positive.
    """

    width: float = 1.0
    depth: float = 1.0
    resolution: int | None = None
    raw_widths: Mapping[str, float] = field(default_factory=dict)
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("width", "depth"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} is {getattr(self, name)}; expected a factor above 0")


# E's widths before rounding, where the rounded one does not give F: all on the search's grid.
_RAW_E = {"stem": 20, "MB4": 76, "MB7": 236}
# Base network and scaling of the released ones. Their paddings follow no rule and are left out.
RELEASED: Mapping[str, tuple[str, Scaling]] = {
    "fbnetv3_a": ("fbnetv3_b", Scaling(resolution=224)),
    "fbnetv3_f": (
        "fbnetv3_e",
        Scaling(width=1.15, depth=1.09, resolution=272, raw_widths=_RAW_E),
    ),
    "fbnetv3_g": (
        "fbnetv3_e",
        Scaling(
            width=1.22,
            depth=1.09,
            resolution=320,
            raw_widths=_RAW_E,
            overrides={
                "stem": {"channels": 32},
                "MB2": {"channels": 40},
                "MB4": {"channels": 104},
                "MB7": {"repeats": 2},
            },
        ),
    ),
}


def scale(arch: Arch, scaling: Scaling) -> Arch:
    """Returns the scaled network, with padding kernel // 2 everywhere if its side changes.

    Raises:
        ValueError: a raw width or override names no row of the network, or no cell of a row.
    """
    names = {"stem", *(row.name for row in arch.rows)}
    for name in (*scaling.raw_widths, *scaling.overrides):
        if name not in names:
            raise ValueError(f"no row {name!r}; the network has {', '.join(sorted(names))}")
    cells = {field.name for field in dataclasses.fields(Row)} - {"name"}
    for name, changes in scaling.overrides.items():
        known = {"channels"} if name == "stem" else cells
        if wrong := set(changes) - known:
            raise ValueError(
                f"{name} has no cell {min(wrong)!r} to set; expected one of "
                f"{', '.join(sorted(known))}"
            )

    def width(name: str, channels: int) -> int:
        if scaling.width == 1:
            return channels
        return round_channels(scaling.raw_widths.get(name, channels) * scaling.width)

    rows = []
    for row in arch.rows:
        changed = {
            "channels": width(row.name, row.channels),
            "repeats": max(1, math.floor(row.repeats * scaling.depth + 0.5)),
            **scaling.overrides.get(row.name, {}),
        }
        rows.append(dataclasses.replace(row, **changed))
    stem = scaling.overrides.get("stem", {}).get("channels", width("stem", arch.stem_channels))
    side = arch.resolution if scaling.resolution is None else scaling.resolution
    made = dataclasses.replace(arch, rows=tuple(rows), stem_channels=stem, resolution=side)
    return made if side == arch.resolution else made.same_padding()


def scale_to(
    arch: Arch,
    macs: float,
    *,
    shares: tuple[float, float, float] = (1 / 3, 1 / 3, 1 / 3),
    step: int = 8,
    num_classes: int = 1000,
) -> tuple[Arch, Scaling, Counts]:
    """Returns the scaling of a network that comes nearest to a cost from below, and what it costs.

    The factor on the cost is divided among width, depth and resolution by `shares`: twice the
    MACs with a third each is 2 ** (1 / 3) through each of the three, as width and resolution act
    squared. Thirds are ours; EfficientNet's coefficients (1.1, 1.2, 1.15) are shares of 0.29, 0.28
    and 0.43.

    Args:
        arch: the network.
        macs: upper bound on the MACs (multiply-adds), in the paper's convention.
        shares: of width, depth, resolution; they add up to 1.
        step: resolutions are multiples of this, and at least 32.
        num_classes: of the classifier whose MACs count.

    Raises:
        ValueError: shares are no shares, `macs` is not above 0, or no scaling is as cheap.
    """
    if min(shares) < 0 or not math.isclose(sum(shares), 1, rel_tol=1e-6):
        raise ValueError(f"shares are {shares}; expected three that add up to 1")
    if not (math.isfinite(macs) and macs > 0):
        raise ValueError(f"macs is {macs}; expected a number above 0")
    own = count(arch, num_classes=num_classes).macs_paper
    low, high, best = math.log(macs / own) - 3, 6.0, None
    for _ in range(40):
        middle = (low + high) / 2
        scaling = _along(arch, math.exp(middle), shares, step)
        made = scale(arch, scaling)
        counts = count(made, num_classes=num_classes)
        if counts.macs_paper <= macs:
            low = middle
            if best is None or counts.macs_paper > best[2].macs_paper:
                best = (made, scaling, counts)
        else:
            high = middle
    if best is None:
        raise ValueError(f"no scaling of the network has {macs:.4g} MACs or fewer; allow more MACs")
    return best


def _along(arch: Arch, factor: float, shares: tuple[float, float, float], step: int) -> Scaling:
    width, depth, side = shares
    wanted = arch.resolution * factor ** (side / 2)
    return Scaling(
        width=factor ** (width / 2),
        depth=factor**depth,
        resolution=arch.resolution if side == 0 else max(32, round(wanted / step) * step),
    )
