"""How the genes of a space become a network and a recipe: two templates with "$gene" cells.

A layout is data. `arch` is `Arch.to_dict()` in which any cell may be the text "$gene"; `recipe` is
the same for the fields of a recipe. Several cells may name the same gene.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fbnetv3._internal.json_record import keywords_of
from fbnetv3._internal.messages import shown
from fbnetv3.arch.arch import SCHEMA, Arch, Row, round_channels

Value = str | int | float | bool
PAIRS = ("kernel", "expansion", "groups")
WIDTHS = ("channels", "stem_channels")
# Sums and differences of numbers up to this one stay finite.
_MAX_NUMBER = 1e300


@dataclass(frozen=True)
class Layout:
    """Templates that turn the values of genes into an Arch and a recipe.

    Attributes:
        arch: an architecture as JSON with "$gene" cells; None if the space describes no network.
        recipe: recipe fields, each a literal or "$gene".
        round_widths: round channels to multiples of 8 as the released networks do; two raw widths
            that round to the same are then one candidate.

    Raises:
        ValueError: a field of a template is missing, unknown or of a wrong type.
    """

    arch: Mapping[str, Any] | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    round_widths: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.recipe, Mapping):
            raise ValueError(f"layout.recipe is {shown(self.recipe)}; expected a JSON object")
        for key, cell in self.recipe.items():
            if not key.isprintable() or len(key) > 80:
                raise ValueError(f"layout.recipe has the field {shown(key)}; expected a short name")
            _check_cell(cell, f"layout.recipe.{key}")
        if not isinstance(self.round_widths, bool):
            raise ValueError(
                f"layout.round_widths is {shown(self.round_widths)}; expected true or false"
            )
        if self.arch is None:
            return
        if not isinstance(self.arch, Mapping):
            raise ValueError(f"layout.arch is {shown(self.arch)}; expected a JSON object")
        keywords_of(Arch, {k: v for k, v in self.arch.items() if k != "schema"}, "layout.arch")
        rows = self.arch["rows"]
        if not isinstance(rows, list | tuple):
            raise ValueError(f"layout.arch.rows is {shown(rows)}; expected a list of rows")
        for number, row in enumerate(rows):
            _check_row(keywords_of(Row, row, f"layout.arch.rows[{number}]"), number)
        for key, cell in self.arch.items():
            if key != "rows":
                _check_cell(cell, f"layout.arch.{key}")

    def cells(self) -> Iterator[tuple[str, str, str]]:
        """Yields (gene, kind of cell, path of the cell) for every "$gene" cell."""
        if self.arch is not None:
            for kind, path, value in _arch_cells(self.arch):
                if name := gene_of(value):
                    yield name, kind, path
        for key, value in self.recipe.items():
            if name := gene_of(value):
                yield name, "recipe", f"recipe.{key}"

    def network(self, values: Mapping[str, Value]) -> Arch:
        """Returns the Arch of gene values.

        Raises:
            ValueError: the layout describes no network, or the values give an invalid one.
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
        """Returns gene -> value of its cells in an architecture, ignoring paddings.

        Raises:
            ValueError: a fixed cell differs from the layout, or two cells of one gene differ.
        """
        if self.arch is None:
            raise ValueError("this space describes no network")
        ours = {(kind, path): value for kind, path, value in _arch_cells(self.arch)}
        theirs = {(kind, path): value for kind, path, value in _arch_cells(arch.to_dict())}
        single = {f"rows[{n}]" for n, row in enumerate(arch.rows) if row.repeats == 1}
        found: dict[str, Any] = {}
        for key in ours | theirs:
            kind, path = key
            if kind in ("name", "schema", "padding"):
                continue
            want, have = ours.get(key, _DEFAULTS.get(kind)), theirs.get(key, _DEFAULTS.get(kind))
            if path.endswith(".rest") and path.split(".")[0] in single:
                continue
            name = gene_of(want)
            if name is None:
                if want != have:
                    raise ValueError(f"{path} is {have!r}; the space has it fixed at {want!r}")
            elif found.setdefault(name, have) != have:
                raise ValueError(
                    f"{path} is {have!r}; expected {found[name]!r}, as in the other cells of gene "
                    f"{name!r}"
                )
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
        # Arch rejects widths that are not numbers.
        rounds = key in WIDTHS and self.round_widths and is_number(value)
        return round_channels(value) if rounds else value


_DEFAULTS: dict[str, Any] = {"act": "hard_swish", "stem_act": "hard_swish", "groups": None}


def gene_of(cell: object) -> str | None:
    """Returns the gene that a cell names, None for a literal."""
    return cell[1:] if isinstance(cell, str) and cell.startswith("$") else None


def same(a: object, b: object) -> bool:
    """Returns whether two gene values are equal, floats up to rounding."""
    if isinstance(a, bool) or isinstance(b, bool) or isinstance(a, str) or isinstance(b, str):
        return type(a) is type(b) and a == b
    numbers = is_number(a) and is_number(b)
    return numbers and math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-15)  # type: ignore[arg-type]


def _value(cell: Any, values: Mapping[str, Value]) -> Any:
    name = gene_of(cell)
    return cell if name is None else values[name]


def is_number(value: object) -> bool:
    """Returns whether a value is a finite number (not a bool) of at most `_MAX_NUMBER`."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and -_MAX_NUMBER <= value <= _MAX_NUMBER  # type: ignore[operator]  # a number


def _check_row(row: Mapping[str, Any], number: int) -> None:
    for key, cell in row.items():
        path = f"layout.arch.rows[{number}].{key}"
        parts = _pair(cell) if key in PAIRS else (cell,)
        if len(parts) != 2 and key in PAIRS:
            raise ValueError(f"{path} is {shown(cell)}; expected one cell or two")
        for part in parts:
            _check_cell(part, path)
    if row.get("padding") is not None and gene_of(_pair(row["kernel"])[0]):
        raise ValueError(
            f"row {shown(row['name'])}: padding is {shown(row['padding'])} beside a kernel that"
            " is a gene; expected a fixed kernel, or no padding (kernel // 2)"
        )


def _check_cell(cell: object, path: str) -> None:
    if not (cell is None or isinstance(cell, str | bool) or is_number(cell)):
        raise ValueError(
            f"{path} is {shown(cell)}; expected text, a finite number, true, false or null"
        )


def _pair(cell: Any) -> Sequence[Any]:
    return cell if isinstance(cell, list | tuple) else (cell, cell)


def _arch_cells(arch: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    for key, value in arch.items():
        if key != "rows":
            yield key, key, value
    for number, row in enumerate(arch["rows"]):
        for key, value in row.items():
            path = f"rows[{number}].{key}"
            if key in PAIRS and value is not None:
                for part, half in zip(_pair(value), ("first", "rest"), strict=True):
                    yield key, f"{path}.{half}", part
            else:
                yield key, path, value
