"""Architectures as validated data: rows of blocks, with conversion to and from JSON.

This module needs no torch. `tables` lists the published architectures, `models.model.build` turns
an architecture into modules, and `counts` computes its cost.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fbnetv3._internal.checks import check_choice, check_number, check_whole, refusal
from fbnetv3._internal.json_record import keywords_of, read_json

SCHEMA = "fbnetv3-arch/1"
ACTIVATIONS = ("hard_swish", "relu")


def round_channels(channels: float) -> int:
    """Returns the nearest multiple of 8, halves rounded up, at least 8 and 95 % of the input.

    A width that is already a multiple of 8 is kept. This is the rule of the released networks;
    `tests/golden/arch.json` has every width it produces.
    """
    rounded = max(8, math.floor(channels / 8 + 0.5) * 8)
    return rounded if rounded >= 0.95 * channels else rounded + 8


@dataclass(frozen=True, slots=True)
class Row:
    """One row of an architecture: `repeats` inverted residual blocks of the same width.

    `kernel`, `expansion` and `groups` are (first block, all others), as in the paper's table of
    its search space; a single number means both. Where `repeats` is 1 the second number is unused
    and set to the first, so that equal architectures have equal rows.

    Attributes:
        name: name of the row for display (`"MB2"`).
        kernel: size of the depthwise kernel, odd; 1 leaves the depthwise convolution out, so that
            the block is a plain 1x1 convolution.
        expansion: ratio of the block's hidden width to its input width, before rounding to 8.
        channels: output channels, used without rounding.
        repeats: number of blocks.
        stride: stride of the first block, 1 or 2.
        se: whether the blocks have squeeze-and-excite.
        padding: padding of the first block's depthwise convolution; None is kernel // 2.
        groups: groups of the k x k convolution; None makes it depthwise, one group per channel.
        act: activation, also used inside squeeze-and-excite.

    Raises:
        ValueError: a field is out of range; the message names the field.
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
        # The name appears in messages and in the names of a search's genes.
        if not (
            isinstance(self.name, str) and self.name.isprintable() and 0 < len(self.name) <= 80
        ):
            raise refusal(
                "row.name", self.name, "a printable name of up to 80 characters, such as 'MB2'"
            )
        where = f"row {self.name}: "
        check_whole(where + "repeats", self.repeats, 1, 64)
        self._set_pair("kernel")
        self._set_pair("expansion")
        if self.groups is not None:
            self._set_pair("groups")
        for value in self.kernel:
            check_whole(where + "kernel", value, 1, 15)
            if value % 2 == 0:
                raise refusal(where + "kernel", value, "an odd number")
        for number in self.expansion:
            check_number(where + "expansion", number, 0.25, 32)
        for value in self.groups or ():
            check_whole(where + "groups", value, 1, 64)
        check_whole(where + "channels", self.channels, 1, 8192)
        check_whole(where + "stride", self.stride, 1, 2)
        if self.stride == 2 and self.kernel[0] == 1:
            raise refusal(
                where + "stride", 2, "1 where kernel is 1, as there is no depthwise convolution"
            )
        if not isinstance(self.se, bool):
            raise refusal(where + "se", self.se, "true or false")
        self._set_padding(where)
        check_choice(where + "act", self.act, ACTIVATIONS)

    def _set_pair(self, field: str) -> None:
        value = getattr(self, field)
        pair = tuple(value) if isinstance(value, list | tuple) else (value, value)
        if len(pair) != 2:
            raise refusal(f"row {self.name}: {field}", value, "one number or (first, rest)")
        object.__setattr__(self, field, (pair[0], pair[0] if self.repeats == 1 else pair[1]))

    def _set_padding(self, where: str) -> None:
        default = self.kernel[0] // 2
        if self.padding is None:
            return
        check_whole(where + "padding", self.padding, 0, default)
        if self.stride == 1 and self.padding != default:
            raise refusal(where + "padding", self.padding, "kernel // 2 where stride is 1")
        if self.padding == default:
            object.__setattr__(self, "padding", None)


@dataclass(frozen=True, slots=True)
class Block:
    """One inverted residual block with all of its numbers computed. Made by `Arch.blocks`.

    Attributes:
        row: index of its row in the architecture, from 0.
        index: index within the row, from 0.
        in_channels: channels of the input.
        mid_channels: channels of the depthwise convolution.
        out_channels: channels of the output.
        kernel: kernel size of the depthwise convolution.
        stride: stride of the depthwise convolution.
        padding: padding of the depthwise convolution, in pixels on each side.
        groups: groups of the depthwise convolution.
        se_channels: hidden width of squeeze-and-excite, 0 if there is none.
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
        """Whether the block starts with a 1x1 expansion; only where it changes the width."""
        return self.kernel > 1 and self.mid_channels != self.in_channels

    @property
    def has_residual(self) -> bool:
        """Whether the input is added to the output: equal widths and stride 1."""
        return self.kernel > 1 and self.stride == 1 and self.in_channels == self.out_channels


@dataclass(frozen=True, slots=True)
class Arch:
    """A network architecture: stem, rows and head.

    Attributes:
        resolution: default height and width of the input in pixels.
        stem_channels: output channels of the stem, a 3x3 convolution with stride 2.
        rows: the rows of blocks between stem and head.
        head_expansion: ratio of the width of the head's first 1x1 convolution to its input width.
        head_channels: number of features before the classifier.
        stem_act: activation of the stem; the head always uses hard-swish.

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
        check_whole("resolution", self.resolution, 8, 4096)
        check_whole("stem_channels", self.stem_channels, 1, 8192)
        check_number("head_expansion", self.head_expansion, 0.25, 32)
        check_whole("head_channels", self.head_channels, 1, 65536)
        check_choice("stem_act", self.stem_act, ACTIVATIONS)
        object.__setattr__(self, "rows", tuple(self.rows))
        if not self.rows or not all(isinstance(row, Row) for row in self.rows):
            raise refusal("rows", self.rows, "at least one Row")
        if len({row.name for row in self.rows}) != len(self.rows):
            raise refusal("rows", [row.name for row in self.rows], "unique row names")
        for block in self.blocks():
            if block.mid_channels % block.groups:
                raise refusal(
                    f"row {self.rows[block.row].name}: groups",
                    self.rows[block.row].groups,
                    f"a divisor of the expanded width {block.mid_channels}",
                )
        self.check_side(self.resolution)

    @property
    def min_side(self) -> int:
        """The smallest input size in pixels that leaves no feature map empty.

        It is 1 with padding kernel // 2. The published paddings of A, B, C, E and F crop the border
        of small maps: A needs 49 pixels.
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
        """Raises an error if an input of `side` pixels leaves a feature map empty.

        Raises:
            ValueError: `side` is below `min_side`.
        """
        if side < self.min_side:
            raise refusal(
                name, side, f"{self.min_side} pixels or more, else a feature map is empty"
            )

    def blocks(self) -> Iterator[Block]:
        """Yields the inverted residual blocks in order, from stem to head."""
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
                    # A quarter of the block's input, independent of the expansion.
                    se_channels=round_channels(channels // 4) if row.se else 0,
                    act=row.act,
                )
                channels = row.channels

    def same_padding(self) -> Arch:
        """Returns the architecture with padding kernel // 2 everywhere, so that maps halve exactly.

        For dense prediction. Where the published paddings differ (A, B, C, E, F), the result
        computes a different function than the official weights were trained for, and needs
        fine-tuning.
        """
        rows = tuple(dataclasses.replace(row, padding=None) for row in self.rows)
        return dataclasses.replace(self, rows=rows)

    def with_pad_type(self, pad_type: str) -> Arch:
        """Returns the architecture padded by timm's word: "same", or "" for its own padding.

        Raises:
            ValueError: it is another word.
        """
        if pad_type not in ("", "same"):
            raise ValueError(
                f"pad_type is {pad_type!r}; expected 'same', or nothing for the published padding"
            )
        return self.same_padding() if pad_type else self

    def small_image(self, resolution: int = 32) -> Arch:
        """Returns the architecture for small images: the second stride-2 layer gets stride 1.

        As in the paper for CIFAR-10 (section 4.4): the stem is the first stride-2 layer, the first
        row with stride 2 is the second. Paddings become kernel // 2, the only ones that work on
        maps of 2 pixels.

        Args:
            resolution: height and width of the input in pixels.
        """
        rows, changed = [], False
        for row in self.rows:
            stride = 1 if row.stride == 2 and not changed else row.stride
            changed = changed or row.stride == 2
            rows.append(dataclasses.replace(row, stride=stride, padding=None))
        return dataclasses.replace(self, rows=tuple(rows), resolution=resolution)

    def to_dict(self) -> dict[str, Any]:
        """Returns the architecture as plain JSON types, with the name of the schema."""
        fields = dataclasses.asdict(self)
        for row in fields["rows"]:
            for field in ("kernel", "expansion", "groups"):
                if row[field] is not None:
                    first, rest = row[field]
                    row[field] = first if first == rest else [first, rest]
        fields["rows"] = list(fields["rows"])
        return {"schema": SCHEMA, **fields}

    def to_json(self) -> str:
        """Returns the architecture as JSON, which `from_json` reads back."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @property
    def sha256(self) -> str:
        """Identifies the architecture; independent of the names of its rows."""
        fields = self.to_dict()
        for row in fields["rows"]:
            del row["name"]
            pair = row["expansion"] if isinstance(row["expansion"], list) else [row["expansion"]]
            row["expansion"] = [float(number) for number in pair]
        fields["head_expansion"] = float(fields["head_expansion"])
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    @staticmethod
    def from_dict(fields: Mapping[str, Any]) -> Arch:
        """Returns the architecture of a mapping as written by `to_dict`.

        Raises:
            ValueError: a field is missing, unknown or out of range; the message names it.
        """
        if not isinstance(fields, Mapping):
            raise refusal("architecture", fields, "a JSON object")
        if fields.get("schema") != SCHEMA:
            raise refusal("schema", fields.get("schema"), repr(SCHEMA))
        rows = fields.get("rows")
        if not isinstance(rows, list):
            raise refusal("rows", rows, "a list of rows")
        made = tuple(Row(**keywords_of(Row, row, f"rows[{n}]")) for n, row in enumerate(rows))
        body = {key: value for key, value in fields.items() if key != "schema"}
        return Arch(**{**keywords_of(Arch, body, "architecture"), "rows": made})

    @staticmethod
    def from_json(text: str | bytes) -> Arch:
        """Returns the architecture of a JSON text.

        Raises:
            ValueError: the text is not valid JSON, or a field is missing, unknown or out of range.
        """
        return Arch.from_dict(read_json(text, "the architecture"))
