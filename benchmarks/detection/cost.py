"""What the paper's COCO detectors cost: FBNetV3 A and E beside EfficientNet-B0 and B1, by counting.

    python -m benchmarks.detection.cost --out benchmarks/results/detection_cost.json

The detector is Faster R-CNN on the map at stride 16 (C4): the trunk up to it, a proposal head made
of a copy of its last row's blocks, and the network's own last rows on each proposed region of 6 x 6
as box head. Multiply-adds are those of convolutions and matrix products, for one image of 432 x 576
pixels and 75 regions (`fbnetv3.detectron2_config` says why); parameters are all trainable numbers.
Nothing is timed, so the result is the same everywhere, and
`tests/benchmarks/test_detection_cost.py` holds it to built modules.

Two comparisons, because the paper's detector A is not the classifier A:

* "paper": A is the narrower table that d2go publishes for its detectors, and squeeze-and-excite has
  a quarter of the expanded width in all four, EfficientNet too. The paper's shares come out here.
* "zoo": the zoo's A and E, and EfficientNet as it was published, whose squeeze-and-excite is as
  narrow as ours. This is what a user of this package gets.

The proposal head copies the last entry of the row's definition, d2go's rule: FBNetV3's rows list
their first block apart, EfficientNet's blocks are alike and all of the row is copied.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fbnetv3.arch.arch import Arch, Block, Row, round_channels
from fbnetv3.arch.tables import ARCHS

HEIGHT, WIDTH, REGIONS = 432, 576, 75
REGION_SIDE, NUM_ANCHORS, NUM_CLASSES = 6, 15, 80
# Rows in front of the map at stride 16, in all of these networks.
TRUNK_ROWS = 5
# How many of the multiply-adds and parameters A saves on EfficientNet-B0, as the paper has it.
PAPER_SAVED_PCT = {"macs": 18.3, "params": 34.1}
OTHER_REGIONS = (30, 50, 75, 100, 300, 1000)


def efficientnet(depth: float) -> Arch:
    """Returns EfficientNet-B0 (depth 1) or B1 (1.1): table 1 of arXiv 1905.11946."""
    rows = (
        # kernel, expansion, channels, repeats, stride
        (3, 1, 16, 1, 1),
        (3, 6, 24, 2, 2),
        (5, 6, 40, 2, 2),
        (3, 6, 80, 3, 2),
        (5, 6, 112, 3, 1),
        (5, 6, 192, 4, 2),
        (3, 6, 320, 1, 1),
    )
    return Arch(
        resolution=224,
        stem_channels=32,
        rows=tuple(
            Row(f"MB{n}", (k, k), (e, e), channels, math.ceil(depth * repeats), stride, True)
            for n, (k, e, channels, repeats, stride) in enumerate(rows, start=1)
        ),
        head_expansion=4,
        head_channels=1280,
    )


# d2go's FBNetV3_A (its detectors' trunk, rows and widths alone); other activations cost the same.
D2GO_A = Arch(
    resolution=224,
    stem_channels=16,
    rows=(
        Row("MB1", (3, 3), (1, 1), 16, 2, 1, False),
        Row("MB2", (5, 5), (4, 3), 24, 4, 2, False),
        Row("MB3", (5, 3), (4, 3), 32, 4, 2, True),
        Row("MB4", (5, 3), (4, 3), 64, 4, 2, False),
        Row("MB5", (5, 5), (4, 3), 112, 6, 1, True),
        Row("MB6", (5, 3), (4, 4), 184, 5, 2, True),
        Row("MB7", (5, 5), (6, 6), 200, 1, 1, True),
    ),
    head_expansion=6,
    head_channels=1984,
)


def narrow(block: Block) -> int:
    """Returns the squeezed width of the released FBNetV3: a quarter of the input, to 8."""
    return block.se_channels


def exact(block: Block) -> int:
    """Returns EfficientNet's: a quarter of the input."""
    return max(1, block.in_channels // 4)


def wide(block: Block) -> int:
    """Returns a quarter of the expanded width, where the row has squeeze-and-excite."""
    return round_channels(block.mid_channels / 4) if block.se_channels else 0


@dataclass(frozen=True)
class Network:
    """A table with what a table does not say.

    Attributes:
        name: for people.
        arch: the table; paddings are kernel // 2.
        squeeze: a block's squeezed width, 0 without squeeze-and-excite.
        is_efficientnet: no bias in the stem, and rows whose blocks are alike.
    """

    name: str
    arch: Arch
    squeeze: Callable[[Block], int]
    is_efficientnet: bool = False


COMPARISONS: dict[str, tuple[tuple[Network, Network], ...]] = {
    "paper": (
        (
            Network("d2go's A", D2GO_A, wide),
            Network("EfficientNet-B0, wide SE", efficientnet(1.0), wide, is_efficientnet=True),
        ),
        (
            Network("fbnetv3_e, wide SE", ARCHS["fbnetv3_e"], wide),
            Network("EfficientNet-B1, wide SE", efficientnet(1.1), wide, is_efficientnet=True),
        ),
    ),
    "zoo": (
        (
            Network("fbnetv3_a", ARCHS["fbnetv3_a"], narrow),
            Network("EfficientNet-B0", efficientnet(1.0), exact, is_efficientnet=True),
        ),
        (
            Network("fbnetv3_e", ARCHS["fbnetv3_e"], narrow),
            Network("EfficientNet-B1", efficientnet(1.1), exact, is_efficientnet=True),
        ),
    ),
}


@dataclass
class Part:
    """What a part of a detector costs: multiply-adds of one run, and parameters."""

    macs: int = 0
    params: int = 0

    def conv(self, weights: int, channels: int, area: int, *, bias: bool, norm: bool) -> None:
        """Adds a convolution or matrix product with `channels` outputs at `area` places."""
        self.macs += weights * area
        self.params += weights + channels * bias + 2 * channels * norm


@dataclass(frozen=True)
class Cost:
    """What a detector costs for one image; `boxes` is for all of its regions."""

    network: str
    trunk: Part
    proposals: Part
    boxes: Part

    @property
    def macs(self) -> int:
        """Multiply-adds of the whole detector."""
        return self.trunk.macs + self.proposals.macs + self.boxes.macs

    @property
    def params(self) -> int:
        """Parameters of the whole detector."""
        return self.trunk.params + self.proposals.params + self.boxes.params

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON types, totals included."""
        return {**asdict(self), "macs": self.macs, "params": self.params}


def add_blocks(
    part: Part, network: Network, blocks: Iterable[Block], height: int, width: int
) -> tuple[int, int]:
    """Adds blocks to a part; returns (height, width) of their output."""
    for block in blocks:
        mid, out = block.mid_channels, block.out_channels
        if block.has_expand:
            part.conv(block.in_channels * mid, mid, height * width, bias=False, norm=True)
        height, width = -(-height // block.stride), -(-width // block.stride)
        area = height * width
        part.conv(mid * block.kernel**2, mid, area, bias=False, norm=True)
        if squeezed := network.squeeze(block):
            part.conv(mid * squeezed, squeezed, 1, bias=True, norm=False)
            part.conv(mid * squeezed, mid, 1, bias=True, norm=False)
        part.conv(mid * out, out, area, bias=False, norm=True)
    return height, width


def count(network: Network, height: int, width: int, regions: int) -> Cost:
    """Returns the cost of a network's C4 detector for an image in pixels."""
    arch = network.arch
    blocks = list(arch.blocks())
    trunk, proposals, region = Part(), Part(), Part()
    height, width = -(-height // 2), -(-width // 2)
    stem = arch.stem_channels
    trunk.conv(27 * stem, stem, height * width, bias=not network.is_efficientnet, norm=True)
    inner = [block for block in blocks if block.row < TRUNK_ROWS]
    height, width = add_blocks(trunk, network, inner, height, width)

    repeats = [block for block in inner if block.row == TRUNK_ROWS - 1 and block.index]
    if network.is_efficientnet:
        # The first block's copy reads the map and is as wide as the others.
        repeats.append(repeats[0])
    add_blocks(proposals, network, repeats, height, width)
    channels, area = arch.rows[TRUNK_ROWS - 1].channels, height * width
    for outputs in (NUM_ANCHORS, 4 * NUM_ANCHORS):
        proposals.conv(channels * outputs, outputs, area, bias=True, norm=False)

    outer = [block for block in blocks if block.row >= TRUNK_ROWS]
    add_blocks(region, network, outer, REGION_SIDE, REGION_SIDE)
    for outputs in (NUM_CLASSES + 1, 4 * NUM_CLASSES):
        region.conv(arch.rows[-1].channels * outputs, outputs, 1, bias=True, norm=False)
    boxes = Part(regions * region.macs, region.params)
    return Cost(network.name, trunk, proposals, boxes)


def saved_pct(ours: int, theirs: int) -> float:
    """Returns the share of `theirs` that `ours` does without."""
    return round(100 * (1 - ours / theirs), 2)


def compare() -> dict[str, Any]:
    """Returns both comparisons, and what the number of regions does to the paper's share."""
    found: dict[str, Any] = {
        "height": HEIGHT,
        "width": WIDTH,
        "regions": REGIONS,
        "paper_saved_pct": PAPER_SAVED_PCT,
        "comparisons": [],
    }
    for name, pairs in COMPARISONS.items():
        for ours, theirs in pairs:
            costs = [count(network, HEIGHT, WIDTH, REGIONS) for network in (ours, theirs)]
            trunks = [cost.trunk for cost in costs]
            found["comparisons"].append(
                {
                    "networks": name,
                    "ours": costs[0].to_dict(),
                    "theirs": costs[1].to_dict(),
                    "saved_pct": {
                        "macs": saved_pct(*(cost.macs for cost in costs)),
                        "params": saved_pct(*(cost.params for cost in costs)),
                        "trunk_macs": saved_pct(*(trunk.macs for trunk in trunks)),
                        "trunk_params": saved_pct(*(trunk.params for trunk in trunks)),
                    },
                }
            )
    pair = COMPARISONS["paper"][0]
    found["saved_macs_pct_by_regions"] = {
        str(regions): saved_pct(*(count(net, HEIGHT, WIDTH, regions).macs for net in pair))
        for regions in OTHER_REGIONS
    }
    return found


def main() -> None:
    """Counts, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON")
    found = compare()
    parser.parse_args().out.write_text(json.dumps(found, indent=2) + "\n")
    for pair in found["comparisons"]:
        for cost in (pair["ours"], pair["theirs"]):
            print(
                f"{pair['networks']:6} {cost['network']:25} {cost['macs'] / 1e9:6.3f} G "
                f"{cost['params'] / 1e6:7.3f} M   trunk {cost['trunk']['macs'] / 1e9:6.3f} G "
                f"{cost['trunk']['params'] / 1e6:6.3f} M"
            )
        print("       saved %:", pair["saved_pct"])
    print("paper, A on B0, saved %:", found["paper_saved_pct"])
    print("saved MACs % by regions:", found["saved_macs_pct_by_regions"])


if __name__ == "__main__":
    main()
