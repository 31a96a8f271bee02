"""A network as a table: rows of blocks, validated where they are made, JSON both ways.

This module knows numbers only. It imports no torch and holds no model: `tables` has the
networks, `model.build` turns a table into modules, `counts` gives its cost in closed form.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fbnetv3._internal.json_record import keywords_of, read_json
from fbnetv3._internal.messages import shown

SCHEMA = "fbnetv3-arch/1"
ACTIVATIONS = ("hard_swish", "relu")


def round_channels(channels: float) -> int:
    """Returns the nearest multiple of 8, halves up, never below 8 nor below 95 % of the input.

    A width that is already a multiple of 8 is kept. Source: the released networks' rule, see
    `tests/golden/arch.json` for every width it produces.
    """
    rounded = max(8, math.floor(channels / 8 + 0.5) * 8)
    return rounded if rounded >= 0.95 * channels else rounded + 8


def _refuse(field: str, value: object, expected: str) -> ValueError:
    return ValueError(f"{field} is {shown(value)}; expected {expected}")


def _whole(field: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _refuse(field, value, f"a whole number from {low} to {high}")


def _number(field: str, value: object, low: float, high: float) -> None:
    ok = isinstance(value, int | float) and not isinstance(value, bool)
    if not ok or not low <= value <= high:  # type: ignore[operator]  # checked by `ok`
        raise _refuse(field, value, f"a number from {low} to {high}")


def _choice(field: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise _refuse(field, value, f"one of {', '.join(choices)}")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a network's table: `repeats` inverted residual blocks of one width.

    `kernel`, `expansion` and `groups` are (first block, all others), as in the paper's table of
    its search space; a single number means both. Where `repeats` is 1 the second number has no
    meaning and is set to the first, so that equal networks are equal rows.

    Attributes:
        name: what the row is called, for people (`"MB2"`).
        kernel: side of the depthwise kernel, odd; 1 leaves the depthwise convolution out, and the
            block is a plain 1x1 convolution.
        expansion: width of the block's middle over its input, before rounding to 8.
        channels: output channels, not rounded.
        repeats: number of blocks.
        stride: stride of the first block, 1 or 2.
        se: whether the blocks have squeeze-and-excite.
        padding: padding of the first block's depthwise convolution; None is kernel // 2.
        groups: groups of the k x k convolution; None makes it depthwise, a group each channel.
        act: activation, also inside squeeze-and-excite.

    Raises:
        ValueError: a cell is out of range; the message names the cell.
    """

    name: str
    kernel: tuple[int, int]
    expansion: tuple[float, float]
    channels: int
    repeats: int
    stride: int
    se: bool
    padding: int | None = None
    groups: tuple[int, int] | None = None
    act: str = "hard_swish"

    def __post_init__(self) -> None:
        # It stands in messages and in the names of a search's genes.
        if not (
            isinstance(self.name, str) and self.name.isprintable() and 0 < len(self.name) <= 80
        ):
            raise _refuse("row.name", self.name, "a printable name of up to 80 letters, as 'MB2'")
        where = f"row {self.name}: "
        _whole(where + "repeats", self.repeats, 1, 64)
        self._set_pair("kernel")
        self._set_pair("expansion")
        if self.groups is not None:
            self._set_pair("groups")
        for value in self.kernel:
            _whole(where + "kernel", value, 1, 15)
            if value % 2 == 0:
                raise _refuse(where + "kernel", value, "an odd number")
        for number in self.expansion:
            _number(where + "expansion", number, 0.25, 32)
        for value in self.groups or ():
            _whole(where + "groups", value, 1, 64)
        _whole(where + "channels", self.channels, 1, 8192)
        _whole(where + "stride", self.stride, 1, 2)
        if self.stride == 2 and self.kernel[0] == 1:
            raise _refuse(
                where + "stride", 2, "1 where kernel is 1, which leaves nothing to stride"
            )
        if not isinstance(self.se, bool):
            raise _refuse(where + "se", self.se, "true or false")
        self._set_padding(where)
        _choice(where + "act", self.act, ACTIVATIONS)

    def _set_pair(self, cell: str) -> None:
        value = getattr(self, cell)
        pair = tuple(value) if isinstance(value, list | tuple) else (value, value)
        if len(pair) != 2:
            raise _refuse(f"row {self.name}: {cell}", value, "one number or (first, rest)")
        object.__setattr__(self, cell, (pair[0], pair[0] if self.repeats == 1 else pair[1]))

    def _set_padding(self, where: str) -> None:
        usual = self.kernel[0] // 2
        if self.padding is None:
            return
        _whole(where + "padding", self.padding, 0, usual)
        if self.stride == 1 and self.padding != usual:
            raise _refuse(where + "padding", self.padding, "kernel // 2 where stride is 1")
        if self.padding == usual:
            object.__setattr__(self, "padding", None)


@dataclass(frozen=True, slots=True)
class Block:
    """One inverted residual block, every number worked out. Made by `Arch.blocks`.

    Attributes:
        row: place of its row in the table, from 0.
        index: place in the row, from 0.
        in_channels: channels of the map that comes in.
        mid_channels: channels of the depthwise convolution.
        out_channels: channels of the map that goes out.
        kernel: side of the depthwise convolution in pixels.
        stride: of the depthwise convolution.
        padding: of the depthwise convolution, in pixels on each side.
        groups: of the depthwise convolution.
        se_channels: width inside squeeze-and-excite, 0 without.
        act: name of the activation.
    """

    row: int
    index: int
    in_channels: int
    mid_channels: int
    out_channels: int
    kernel: int
    stride: int
    padding: int
    groups: int
    se_channels: int
    act: str

    @property
    def has_expand(self) -> bool:
        """Whether a 1x1 convolution comes first: only where it changes the width."""
        return self.kernel > 1 and self.mid_channels != self.in_channels

    @property
    def has_residual(self) -> bool:
        """Whether the input is added to the output: equal widths, no stride."""
        return self.kernel > 1 and self.stride == 1 and self.in_channels == self.out_channels


@dataclass(frozen=True, slots=True)
class Arch:
    """A whole network: stem, rows, head. Equal tables are equal networks.

    Attributes:
        resolution: side in pixels of the square input that the network is meant for.
        stem_channels: output channels of the 3x3 convolution with stride 2 that comes first.
        rows: the table.
        head_expansion: width of the head's first 1x1 convolution over its input.
        head_channels: features before the classifier.
        stem_act: activation of the stem; the head always has hard-swish.

    Raises:
        ValueError: a field is out of range; the message names the field.
    """

    resolution: int
    stem_channels: int
    rows: tuple[Row, ...]
    head_expansion: float
    head_channels: int
    stem_act: str = "hard_swish"

    def __post_init__(self) -> None:
        _whole("resolution", self.resolution, 8, 4096)
        _whole("stem_channels", self.stem_channels, 1, 8192)
        _number("head_expansion", self.head_expansion, 0.25, 32)
        _whole("head_channels", self.head_channels, 1, 65536)
        _choice("stem_act", self.stem_act, ACTIVATIONS)
        object.__setattr__(self, "rows", tuple(self.rows))
        if not self.rows or not all(isinstance(row, Row) for row in self.rows):
            raise _refuse("rows", self.rows, "at least one Row")
        if len({row.name for row in self.rows}) != len(self.rows):
            raise _refuse("rows", [row.name for row in self.rows], "row names that differ")
        for block in self.blocks():
            if block.mid_channels % block.groups:
                raise _refuse(
                    f"row {self.rows[block.row].name}: groups",
                    self.rows[block.row].groups,
                    f"a divisor of the expanded width {block.mid_channels}",
                )
        self.check_side(self.resolution)

    @property
    def min_side(self) -> int:
        """The smallest input side in pixels at which no map vanishes: 1 with padding kernel // 2.

        The published paddings of A, B, C, E and F drop the border of small maps: A needs 49 pixels.
        """
        side = 1
        for block in reversed(tuple(self.blocks())):
            side = max(1, (side - 1) * block.stride + block.kernel - 2 * block.padding)
        return 2 * side - 1

    @property
    def head_mid_channels(self) -> int:
        """Channels of the head's first convolution, before pooling."""
        return round_channels(self.rows[-1].channels * self.head_expansion)

    def check_side(self, side: int, name: str = "resolution") -> None:
        """Refuses an input side in pixels that leaves no map.

        Raises:
            ValueError: `side` is below `min_side`; says which is enough.
        """
        if side < self.min_side:
            raise _refuse(name, side, f"{self.min_side} pixels or more, else a map vanishes")

    def blocks(self) -> Iterator[Block]:
        """Yields every inverted residual block from the stem to the head."""
        channels = self.stem_channels
        for number, row in enumerate(self.rows):
            for index in range(row.repeats):
                first, rest = index == 0, int(index > 0)
                kernel = row.kernel[rest]
                mid = round_channels(channels * row.expansion[rest])
                padding = row.padding if first and row.padding is not None else kernel // 2
                yield Block(
                    row=number,
                    index=index,
                    in_channels=channels,
                    mid_channels=mid,
                    out_channels=row.channels,
                    kernel=kernel,
                    stride=row.stride if first else 1,
                    padding=padding,
                    groups=row.groups[rest] if row.groups else mid,
                    # A quarter of the block's input, whatever the expansion.
                    se_channels=round_channels(channels // 4) if row.se else 0,
                    act=row.act,
                )
                channels = row.channels

    def same_padding(self) -> Arch:
        """Returns the network with padding kernel // 2 everywhere, so that maps halve exactly.

        For dense prediction. Where the published paddings differ (A, B, C, E, F) this is another
        function than the one the official weights were trained for: it needs fine-tuning.
        """
        rows = tuple(dataclasses.replace(row, padding=None) for row in self.rows)
        return dataclasses.replace(self, rows=rows)

    def small_image(self, resolution: int = 32) -> Arch:
        """Returns the network for small images: the second stride-2 layer gets stride 1.

        As the paper does for CIFAR-10 (section 4.4): the stem is the first stride-2 layer, the
        first row with stride 2 the second. Paddings become kernel // 2, as maps of 2 pixels allow
        no other.

        Args:
            resolution: side of the square input in pixels.
        """
        rows, changed = [], False
        for row in self.rows:
            stride = 1 if row.stride == 2 and not changed else row.stride
            changed = changed or row.stride == 2
            rows.append(dataclasses.replace(row, stride=stride, padding=None))
        return dataclasses.replace(self, rows=tuple(rows), resolution=resolution)

    def to_dict(self) -> dict[str, Any]:
        """Returns the network as plain JSON types, with its schema's name."""
        fields = dataclasses.asdict(self)
        for row in fields["rows"]:
            for cell in ("kernel", "expansion", "groups"):
                if row[cell] is not None:
                    first, rest = row[cell]
                    row[cell] = first if first == rest else [first, rest]
        fields["rows"] = list(fields["rows"])
        return {"schema": SCHEMA, **fields}

    def to_json(self) -> str:
        """Returns the network as a JSON text that `from_json` reads back to an equal Arch."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @property
    def sha256(self) -> str:
        """The network's identity: equal for equal tables, whatever their row names."""
        fields = self.to_dict()
        for row in fields["rows"]:
            del row["name"]
            pair = row["expansion"] if isinstance(row["expansion"], list) else [row["expansion"]]
            row["expansion"] = [float(number) for number in pair]
        fields["head_expansion"] = float(fields["head_expansion"])
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    @staticmethod
    def from_dict(fields: Mapping[str, Any]) -> Arch:
        """Returns the network of a mapping as `to_dict` writes it.

        Raises:
            ValueError: a field is missing, unknown or out of range; the message names it.
        """
        if not isinstance(fields, Mapping):
            raise _refuse("architecture", fields, "a JSON object")
        if fields.get("schema") != SCHEMA:
            raise _refuse("schema", fields.get("schema"), repr(SCHEMA))
        rows = fields.get("rows")
        if not isinstance(rows, list):
            raise _refuse("rows", rows, "a list of rows")
        made = tuple(Row(**keywords_of(Row, row, f"rows[{n}]")) for n, row in enumerate(rows))
        body = {key: value for key, value in fields.items() if key != "schema"}
        return Arch(**{**keywords_of(Arch, body, "architecture"), "rows": made})

    @staticmethod
    def from_json(text: str | bytes) -> Arch:
        """Returns the network of a JSON text.

        Raises:
            ValueError: the text is no JSON, or a field is missing, unknown or out of range.
        """
        return Arch.from_dict(read_json(text, "the architecture"))
