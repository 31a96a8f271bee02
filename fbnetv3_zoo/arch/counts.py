"""MACs (multiply-adds) and parameters of an architecture, computed without building the model.

There are two conventions. Both count one multiply-add as one; the paper and fvcore call them FLOPs.

* `macs_paper`: convolutions, the classifier and one per pooled input element; matches the published
  figures. They include a second pooling of the 1 x 1 features in the official classifier.
* `macs_fvcore`: fvcore's total for our modules, without that second pooling and with two per output
  element of batch-norm.

`tests/measure/test_flop_count.py` checks both against fvcore on the built models, exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

from .arch import Arch, Block


@dataclass(frozen=True)
class Counts:
    """Cost of a model per image.

    Attributes:
        resolution: height and width of the input in pixels.
        macs_paper: MACs in the paper's convention.
        macs_fvcore: MACs in fvcore's convention.
        params: number of trainable parameters.
        weight_params: weights of convolutions and the classifier only, as published.
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
    """Returns the cost of `arch` at a resolution in pixels (default: its own).

    Raises:
        ValueError: the input is too small for the architecture.
    """
    resolution = arch.resolution if resolution is None else resolution
    arch.check_side(resolution)
    total = _Sum()
    side = (resolution + 1) // 2
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
        resolution=resolution,
        macs_paper=macs + second_pool,
        macs_fvcore=macs + 2 * total.normed,
        params=total.weights + total.biases + total.norms,
        weight_params=total.weights,
    )


def _add_block(total: _Sum, block: Block, side: int) -> int:
    """Adds the cost of one block; returns the height and width of its output map."""
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
