"""The operators of a network or a space: what is timed once and summed.

An operator is one convolution with its batch-norm and activation, one squeeze-and-excite, or one
of the head's layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fbnetv3.arch.arch import Arch, round_channels
from fbnetv3.search.space.space import Floats, Space

from .cost import Form, make_tables

KINDS = ("conv", "gate", "linear")


@dataclass(frozen=True, order=True)
class Operator:
    """One layer at one shape: what is timed.

    Attributes:
        kind: "conv" (convolution, batch-norm, activation), "gate" (squeeze-and-excite, `outputs`
            being its inner width) or "linear" (1x1 on a 1x1 map).
        inputs: channels that come in.
        outputs: channels that go out.
        side: of the input map in pixels.
        kernel: side of the kernel.
        stride: of the convolution.
        padding: of the convolution.
        groups: of the convolution.
    """

    kind: str
    inputs: int
    outputs: int
    side: int
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    groups: int = 1


def operators_of(arch: Arch, *, num_classes: int = 1000) -> Iterator[Operator]:
    """Yields every operator of a network in order, at its own resolution."""
    side = arch.resolution
    yield Operator("conv", 3, arch.stem_channels, side, 3, 2, 1)
    side = (side + 1) // 2
    for block in arch.blocks():
        if block.kernel == 1:
            yield Operator("conv", block.in_channels, block.out_channels, side)
            continue
        after = (side + 2 * block.padding - block.kernel) // block.stride + 1
        yield from _block_operators(
            block.in_channels,
            block.mid_channels,
            block.out_channels,
            block.kernel,
            block.groups,
            block.se_channels,
            (side, block.stride, block.padding),
            after,
        )
        side = after
    mid = arch.head_mid_channels
    yield Operator("conv", arch.rows[-1].channels, mid, side)
    yield Operator("linear", mid, arch.head_channels, 1)
    yield Operator("linear", arch.head_channels, num_classes, 1)


def _block_operators(
    inputs: int,
    mid: int,
    outputs: int,
    kernel: int,
    groups: int,
    gate: int,
    entry: tuple[int, int, int],
    after: int,
) -> Iterator[Operator]:
    side, stride, padding = entry
    if mid != inputs:
        yield Operator("conv", inputs, mid, side)
    yield Operator("conv", mid, mid, side, kernel, stride, padding, groups)
    if gate:
        yield Operator("gate", mid, gate, after)
    yield Operator("conv", mid, outputs, after)


def operator_forms(total_ms: Callable[[Sequence[Operator]], float]) -> dict[str, Form]:
    """Returns what `cost.make_tables` needs to sum operators instead of MACs."""

    def stem(inputs: int, outputs: int, resolution: int) -> float:
        return total_ms([Operator("conv", inputs, outputs, resolution, 3, 2, 1)])

    def block(**cells: Any) -> float:
        return total_ms(_cell_operators(**cells)) * int(cells["copies"]) if cells["copies"] else 0.0

    def head(inputs: int, expansion: float, features: int, classes: int, side: int) -> float:
        mid = round_channels(inputs * expansion)
        layers = [
            Operator("conv", inputs, mid, side),
            Operator("linear", mid, features, 1),
            Operator("linear", features, classes, 1),
        ]
        return total_ms(layers)

    return {"stem": _each(stem), "block": _each(block), "head": _each(head)}


def _each(form: Callable[..., float]) -> Form:
    """Returns a function of arrays that calls `form` once for every entry."""

    def over(**cells: Any) -> tuple[Floats]:
        wide = np.broadcast_arrays(*cells.values())
        entries = zip(*(array.ravel().tolist() for array in wide), strict=True)
        found = [form(**dict(zip(cells, entry, strict=True))) for entry in entries]
        return (np.array(found).reshape(wide[0].shape),)

    return over


def _cell_operators(
    inputs: int,
    outputs: int,
    kernel: int,
    expansion: float,
    groups: int,
    se: bool,
    stride: int,
    padding: int,
    before: int,
    after: int,
    copies: int,
) -> list[Operator]:
    """Returns the operators of one block of a space's cells."""
    if kernel == 1:
        return [Operator("conv", inputs, outputs, before)]
    mid = round_channels(inputs * expansion)
    entry = (before, stride, kernel // 2 if padding < 0 else padding)
    gate = round_channels(inputs // 4) if se else 0
    return list(_block_operators(inputs, mid, outputs, kernel, groups or mid, gate, entry, after))


def operators_of_space(space: Space, *, num_classes: int = 1000) -> list[Operator]:
    """Returns every distinct operator of every network of a space."""
    found: set[Operator] = set()

    def note(operators: Sequence[Operator]) -> float:
        found.update(operators)
        return 0.0

    make_tables(space, operator_forms(note), num_classes=num_classes, in_chans=3)
    return sorted(found)
