"""How the genes of a space become a network and a recipe: two templates with "$gene" cells.

A layout is data. `arch` is `Arch.to_dict()` in which any cell may be the text "$gene"; `recipe` is
the same for the fields of a recipe. A cell that several rows share is simply named twice.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fbnetv3.arch import SCHEMA, Arch, round_channels
from fbnetv3.json_record import keywords_of

Value = str | int | float | bool
PAIRS = ("kernel", "expansion", "groups")
WIDTHS = ("channels", "stem_channels")


@dataclass(frozen=True)
class Layout:
    """Templates that turn the values of genes into an Arch and a recipe.

    Attributes:
        arch: an architecture as JSON with "$gene" cells, None where the space has no network.
        recipe: recipe fields, each a literal or "$gene".
        round_widths: round channels to multiples of 8 as the released networks do; two raw widths
            that round to the same are then one candidate.
    """

    arch: Mapping[str, Any] | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    round_widths: bool = True

    def __post_init__(self) -> None:
        if self.arch is not None:
            for key in ("resolution", "stem_channels", "rows", "head_expansion", "head_channels"):
                if key not in self.arch:
                    raise ValueError(f"layout.arch lacks {key!r}; see Arch.to_dict() for the form")
            for row in self.arch["rows"]:
                if row.get("padding") is not None and gene_of(_pair(row["kernel"])[0]):
                    raise ValueError(
                        f"row {row.get('name')}: padding is {row['padding']!r} beside a kernel that"
                        " is a gene; expected a fixed kernel, or no padding (kernel // 2)"
                    )

    def cells(self) -> Iterator[tuple[str, str, str]]:
        """Yields (gene, kind of cell, place) for every "$gene" cell."""
        if self.arch is not None:
            for kind, place, value in _arch_cells(self.arch):
                if name := gene_of(value):
                    yield name, kind, place
        for key, value in self.recipe.items():
            if name := gene_of(value):
                yield name, "recipe", f"recipe.{key}"

    def network(self, values: Mapping[str, Value]) -> Arch:
        """Returns the Arch of gene values.

        Raises:
            ValueError: the layout has no network, or the values give an impossible one.
        """
        if self.arch is None:
            raise ValueError("this space describes no network; read a candidate with values()")
        fill = self._fill
        body = {k: fill(k, v, values) for k, v in self.arch.items() if k not in ("rows", "schema")}
        rows = [{k: fill(k, v, values) for k, v in row.items()} for row in self.arch["rows"]]
        return Arch.from_dict({"schema": SCHEMA, **body, "rows": rows})

    def settings(self, values: Mapping[str, Value]) -> dict[str, Any]:
        """Returns the recipe of gene values as a plain dict."""
        return {key: _value(value, values) for key, value in self.recipe.items()}

    def locate(self, arch: Arch) -> dict[str, Any]:
        """Returns gene -> cell of a network, paddings apart, or says where it leaves the layout.

        Raises:
            ValueError: a fixed cell differs, or two cells of one gene do.
        """
        if self.arch is None:
            raise ValueError("this space describes no network")
        ours = {(kind, place): value for kind, place, value in _arch_cells(self.arch)}
        theirs = {(kind, place): value for kind, place, value in _arch_cells(arch.to_dict())}
        single = {f"rows[{n}]" for n, row in enumerate(arch.rows) if row.repeats == 1}
        found: dict[str, Any] = {}
        for key in ours | theirs:
            kind, place = key
            if kind in ("name", "schema", "padding"):
                continue
            want, have = ours.get(key, _DEFAULTS.get(kind)), theirs.get(key, _DEFAULTS.get(kind))
            if place.endswith(".rest") and place.split(".")[0] in single:
                continue
            name = gene_of(want)
            if name is None:
                if want != have:
                    raise ValueError(f"{place} is {have!r}; the space has it fixed at {want!r}")
            elif found.setdefault(name, have) != have:
                raise ValueError(f"{place} is {have!r}; the space shares it, {found[name]!r}")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Returns the layout as plain JSON types."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    @staticmethod
    def from_dict(fields: Mapping[str, Any]) -> Layout:
        """Returns the layout of a mapping as `to_dict` writes it."""
        return Layout(**keywords_of(Layout, fields, "layout"))

    def _fill(self, key: str, cell: Any, values: Mapping[str, Value]) -> Any:
        if isinstance(cell, list | tuple):
            return [self._fill(key, part, values) for part in cell]
        value = _value(cell, values)
        return round_channels(value) if key in WIDTHS and self.round_widths else value


_DEFAULTS: dict[str, Any] = {"act": "hard_swish", "stem_act": "hard_swish", "groups": None}


def gene_of(cell: object) -> str | None:
    """Returns the gene a cell names, None for a literal."""
    return cell[1:] if isinstance(cell, str) and cell.startswith("$") else None


def same(a: object, b: object) -> bool:
    """Returns whether two gene values are the same, floats up to rounding."""
    if isinstance(a, bool) or isinstance(b, bool) or isinstance(a, str) or isinstance(b, str):
        return type(a) is type(b) and a == b
    numbers = isinstance(a, int | float) and isinstance(b, int | float)
    return numbers and math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-15)  # type: ignore[arg-type]


def _value(cell: Any, values: Mapping[str, Value]) -> Any:
    name = gene_of(cell)
    return cell if name is None else values[name]


def _pair(cell: Any) -> Sequence[Any]:
    return cell if isinstance(cell, list | tuple) else (cell, cell)


def _arch_cells(arch: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    for key, value in arch.items():
        if key != "rows":
            yield key, key, value
    for number, row in enumerate(arch["rows"]):
        for key, value in row.items():
            place = f"rows[{number}].{key}"
            if key in PAIRS and value is not None:
                for part, half in zip(_pair(value), ("first", "rest"), strict=True):
                    yield key, f"{place}.{half}", part
            else:
                yield key, place, value
