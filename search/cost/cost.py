"""Exact MACs (multiply-adds) and parameters of a batch of candidates, without building modules.

Every block's cost depends on a few genes only, so that its closed form (that of
`fbnetv3.arch.counts`) is worked out once for all their values; a candidate is then a sum of
table entries. Integers throughout: equal to fvcore on built networks to the unit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from fbnetv3.arch.arch import round_channels
from fbnetv3.search.space.layout import WIDTHS, gene_of
from fbnetv3.search.space.space import Matrix, Space

Ints = npt.NDArray[np.int64]
Form = Callable[..., Sequence[Any]]
KINDS = ("macs_paper", "macs_fvcore", "params")
_CHUNK = 4096
_MERGE = 8192
_LARGEST_TABLE = 4_000_000


@dataclass(frozen=True)
class Costs:
    """What each of P candidates costs for one image; a multiply-add counts one.

    Attributes:
        macs_paper: (P,) in the paper's convention: convolutions, classifier, pooled elements.
        macs_fvcore: (P,) fvcore's total: two more for each batch-norm output element.
        params: (P,) trainable numbers.
    """

    macs_paper: Ints
    macs_fvcore: Ints
    params: Ints

    def as_dict(self) -> dict[str, Ints]:
        """Returns name of the cost -> (P,)."""
        return {name: getattr(self, name) for name in KINDS}


def costs(space: Space, matrix: Matrix, *, num_classes: int = 1000, in_chans: int = 3) -> Costs:
    """Returns the exact costs of a batch (P, num_genes) of a space that describes networks.

    Raises:
        ValueError: the space describes no network, or strides depend on genes.
    """
    return Costs(*gather(_tables(space.to_json(), num_classes, in_chans), space, matrix))


def gather(tables: Sequence[Table], space: Space, matrix: Matrix) -> npt.NDArray[Any]:
    """Returns (kinds, P): for each candidate the sum of its entries in every table."""
    batch = space.canonical(matrix)
    kinds, kind_of = len(tables[0].values), tables[0].values.dtype
    out = np.zeros((kinds, len(batch)), kind_of)
    for start in range(0, len(batch), _CHUNK):
        genes = np.ascontiguousarray(batch[start : start + _CHUNK].T, dtype=np.intp)
        part = out[:, start : start + _CHUNK]
        for table in tables:
            place = np.zeros(genes.shape[1], np.intp)
            for column, stride in zip(table.columns, table.strides, strict=True):
                place += genes[column] * stride
            for kind in range(kinds):
                part[kind] += table.values[kind].take(place)
    return out


@dataclass(frozen=True)
class Table:
    """Costs (kinds, entries) of parts of a network for every setting of the genes in `columns`."""

    columns: tuple[int, ...]
    strides: tuple[int, ...]
    values: npt.NDArray[Any]


@dataclass(frozen=True)
class _Cell:
    """A number of the network: one for each value of a gene, or a single one."""

    column: int | None
    values: npt.NDArray[Any]

    def then(self, change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> _Cell:
        return _Cell(self.column, change(self.values))


@dataclass(frozen=True)
class _Part:
    """A stem, block or head, and the cells that its cost depends on."""

    kind: str
    cells: Mapping[str, _Cell]


@lru_cache(maxsize=32)
def _tables(space_json: str, num_classes: int, in_chans: int) -> tuple[Table, ...]:
    forms: Mapping[str, Form] = {"stem": _stem, "block": _block, "head": _head}
    return make_tables(
        Space.from_json(space_json), forms, num_classes=num_classes, in_chans=in_chans
    )


def make_tables(
    space: Space,
    forms: Mapping[str, Form],
    *,
    num_classes: int,
    in_chans: int,
) -> tuple[Table, ...]:
    """Returns the tables of a space; small ones that share genes are one.

    Args:
        space: must describe networks.
        forms: for "stem", "block" and "head", a function of arrays of their cells (see `_stem`,
            `_block`, `_head`) that returns one array for each kind of cost.
        num_classes: of the classifier.
        in_chans: of the input.
    """
    groups: list[tuple[set[int], list[_Part]]] = []
    for part in _parts(space, num_classes, in_chans):
        columns = {cell.column for cell in part.cells.values() if cell.column is not None}
        for known, members in groups:
            if math.prod(int(space.sizes[c]) for c in known | columns) <= _MERGE:
                known.update(columns)
                members.append(part)
                break
        else:
            groups.append((columns, [part]))
    return tuple(_table(space, forms, sorted(columns), parts) for columns, parts in groups)


def _table(
    space: Space,
    forms: Mapping[str, Form],
    columns: Sequence[int],
    parts: Sequence[_Part],
) -> Table:
    """Evaluates parts for every setting of the genes in `columns`."""
    sizes = [int(space.sizes[c]) for c in columns]
    entries = math.prod(sizes)
    if entries > _LARGEST_TABLE:
        names = ", ".join(space.genes[c].name for c in columns)
        raise ValueError(f"the genes {names} have {entries} settings; use coarser ranges")
    settings = np.indices(sizes).reshape(len(sizes), entries)
    found = []
    for part in parts:
        filled = {
            name: cell.values[0]
            if cell.column is None
            else cell.values[settings[columns.index(cell.column)]]
            for name, cell in part.cells.items()
        }
        found.append(np.stack([np.broadcast_to(x, entries) for x in forms[part.kind](**filled)]))
    strides = [math.prod(sizes[place + 1 :]) for place in range(len(sizes))]
    return Table(tuple(columns), tuple(strides), np.sum(found, axis=0))


def _parts(space: Space, num_classes: int, in_chans: int) -> list[_Part]:
    """Returns what a network of the space is made of, its stem first."""
    arch = space.layout.arch
    if arch is None:
        raise ValueError(
            f"space {space.name!r} describes no network; its costs come from its benchmark table"
        )

    def cell(value: Any, kind: str = "") -> _Cell:
        gene = gene_of(value)
        column = None if gene is None else space.column(gene)
        values = [value] if column is None else list(space.genes[column].values)
        if kind in WIDTHS and space.layout.round_widths:
            values = [round_channels(float(v)) for v in values]
        return _Cell(column, np.asarray(values))

    resolution = cell(arch["resolution"])
    side = resolution.then(lambda x: (x + 1) // 2)
    width = cell(arch["stem_channels"], "channels")
    stem = {"inputs": _Cell(None, np.array([in_chans])), "outputs": width, "resolution": resolution}
    parts = [_Part("stem", stem)]
    for row in arch["rows"]:
        kernels, expansions = _pair(row["kernel"]), _pair(row["expansion"])
        groups, out = _pair(row.get("groups")), cell(row["channels"], "channels")
        after = side.then(_stride(space, row))
        if int(after.values.min()) < 1:
            raise ValueError(
                f"row {row['name']} shrinks the feature map to nothing; use a larger resolution"
            )
        for rest in (0, 1):
            cells = {
                "inputs": out if rest else width,
                "outputs": out,
                "kernel": cell(kernels[rest]),
                "expansion": cell(expansions[rest]),
                "groups": cell(groups[rest] or 0),
                "se": cell(row["se"]),
                "stride": cell(1 if rest else row["stride"]),
                "padding": cell(-1 if rest or row.get("padding") is None else row["padding"]),
                "before": after if rest else side,
                "after": after,
                "copies": cell(row["repeats"]).then(lambda x: x - 1)
                if rest
                else _Cell(None, np.array([1])),
            }
            parts.append(_Part("block", cells))
        side, width = after, out
    head = {
        "inputs": width,
        "expansion": cell(arch["head_expansion"]),
        "features": cell(arch["head_channels"]),
        "classes": _Cell(None, np.array([num_classes])),
        "side": side,
    }
    return [*parts, _Part("head", head)]


def _stride(space: Space, row: Mapping[str, Any]) -> Callable[[Ints], Ints]:
    """Returns what a row does to the side of its map."""
    stride, kernel, padding = row["stride"], _pair(row["kernel"])[0], row.get("padding")
    gene = gene_of(kernel)
    kernels = [kernel] if gene is None else list(space.gene(gene).values)
    if gene_of(stride) or (stride == 2 and 1 in kernels and len(kernels) > 1):
        raise ValueError(f"row {row['name']}: the stride depends on a gene; expected a fixed one")
    if kernels == [1]:
        return lambda side: side
    if padding is None:
        return lambda side: (side + stride - 1) // stride
    return lambda side: (side + 2 * padding - kernel) // stride + 1


def _pair(cell: Any) -> Any:
    return cell if isinstance(cell, list | tuple) else (cell, cell)


def _round(channels: Any) -> Any:
    """Is `round_channels` over arrays."""
    rounded = np.maximum(8, np.floor(channels / 8 + 0.5) * 8)
    return np.where(rounded >= 0.95 * channels, rounded, rounded + 8).astype(np.int64)


def _stem(inputs: Any, outputs: Any, resolution: Any) -> tuple[Any, Any, Any]:
    weights, area = inputs * 9 * outputs, ((resolution + 1) // 2) ** 2
    return weights * area, weights * area + 2 * outputs * area, weights + 3 * outputs


def _block(
    inputs: Any,
    outputs: Any,
    kernel: Any,
    expansion: Any,
    groups: Any,
    se: Any,
    before: Any,
    after: Any,
    copies: Any,
    **_: Any,
) -> tuple[Any, Any, Any]:
    """Returns the costs of `copies` equal blocks; a kernel of 1 is a plain 1x1 convolution.

    Stride and padding are among the cells too; they act through `before` and `after`.
    """
    mid = _round(inputs * expansion)
    area, wide = after * after, (mid != inputs) * before * before
    grow = np.where(mid != inputs, inputs * mid, 0)
    deep = mid * np.where(groups > 0, mid // np.maximum(groups, 1), 1) * kernel * kernel
    gate = np.where(se, _round(inputs // 4), 0)
    weights = grow + deep + mid * outputs
    macs = grow * wide + (deep + mid * outputs) * area + 2 * mid * gate + (gate > 0) * mid * area
    normed = mid * wide + (mid + outputs) * area
    params = weights + 2 * (mid * (mid != inputs) + mid + outputs)
    params = params + (gate > 0) * (2 * mid * gate + mid + gate)
    plain = kernel == 1
    macs = np.where(plain, inputs * outputs * before * before, macs)
    normed = np.where(plain, outputs * before * before, normed)
    params = np.where(plain, inputs * outputs + 2 * outputs, params)
    return macs * copies, (macs + 2 * normed) * copies, params * copies


def _head(
    inputs: Any, expansion: Any, features: Any, classes: Any, side: Any
) -> tuple[Any, Any, Any]:
    """Returns the costs of the head; the published convention pools its 1x1 map once more."""
    mid, area = _round(inputs * expansion), side * side
    macs = inputs * mid * area + mid * area + mid * features + features * classes
    params = inputs * mid + 2 * mid + mid * features + (features + 1) * classes
    return macs + features * (classes > 0), macs + 2 * mid * area, params
