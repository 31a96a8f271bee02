"""Multiply-adds and parameters of a network in closed form, without building it.

Two conventions, both counting one multiply-add as one, as the paper does (it calls them FLOPs):

* `macs_paper`: convolutions, the classifier and every pooled input element; the published figures.
  The official classifier pools its 1 x 1 input once more, and that is in them.
* `macs_fvcore`: what fvcore's total gives for our modules: without that second pool, and with two
  for each batch-norm output element.

`tests/measure/test_flop_count.py` holds both equal to fvcore on built networks, to the unit.
"""

from __future__ import annotations

from dataclasses import dataclass

from .arch import Arch, Block


@dataclass(frozen=True)
class Counts:
    """What a network costs for one image.

    Attributes:
        resolution: side of the input in pixels.
        macs_paper: multiply-adds in the paper's convention.
        macs_fvcore: multiply-adds in fvcore's convention.
        params: every trainable number.
        weight_params: weights of convolutions and the classifier alone; the published figures.
    """

    resolution: int
    macs_paper: int
    macs_fvcore: int
    params: int
    weight_params: int


@dataclass
class _Sum:
    conv_macs: int = 0
    pooled: int = 0
    normed: int = 0
    weights: int = 0
    biases: int = 0
    norms: int = 0

    def conv(self, weights: int, area: int, *, channels: int, bias: bool, norm: bool) -> None:
        self.conv_macs += weights * area
        self.weights += weights
        self.biases += channels * bias
        self.norms += 2 * channels * norm
        self.normed += channels * area * norm


def count(
    arch: Arch, resolution: int | None = None, *, num_classes: int = 1000, in_chans: int = 3
) -> Counts:
    """Returns what `arch` costs at an input side in pixels (its own unless given).

    Raises:
        ValueError: the input is so small that a map vanishes.
    """
    side = arch.resolution if resolution is None else resolution
    arch.check_side(side)
    asked, total = side, _Sum()
    side = (side + 1) // 2
    total.conv(
        in_chans * 9 * arch.stem_channels,
        side * side,
        channels=arch.stem_channels,
        bias=True,
        norm=True,
    )
    for block in arch.blocks():
        side = _add_block(total, block, side)
    last, mid, features = arch.rows[-1].channels, arch.head_mid_channels, arch.head_channels
    total.conv(last * mid, side * side, channels=mid, bias=False, norm=True)
    total.pooled += mid * side * side
    total.conv(mid * features, 1, channels=features, bias=False, norm=False)
    if num_classes:
        total.conv(features * num_classes, 1, channels=num_classes, bias=True, norm=False)
    macs = total.conv_macs + total.pooled
    second_pool = features if num_classes else 0
    return Counts(
        resolution=asked,
        macs_paper=macs + second_pool,
        macs_fvcore=macs + 2 * total.normed,
        params=total.weights + total.biases + total.norms,
        weight_params=total.weights,
    )


def _add_block(total: _Sum, block: Block, side: int) -> int:
    """Adds one block's cost; returns the side of its output map."""
    mid, out = block.mid_channels, block.out_channels
    if block.kernel == 1:
        total.conv(block.in_channels * out, side * side, channels=out, bias=False, norm=True)
        return side
    if block.has_expand:
        total.conv(block.in_channels * mid, side * side, channels=mid, bias=False, norm=True)
    side = (side + 2 * block.padding - block.kernel) // block.stride + 1
    area = side * side
    weights = mid * (mid // block.groups) * block.kernel**2
    total.conv(weights, area, channels=mid, bias=False, norm=True)
    if block.se_channels:
        total.pooled += mid * area
        total.conv(mid * block.se_channels, 1, channels=block.se_channels, bias=True, norm=False)
        total.conv(mid * block.se_channels, 1, channels=mid, bias=True, norm=False)
    total.conv(mid * out, area, channels=out, bias=False, norm=True)
    return side
