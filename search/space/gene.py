"""One column of a search space: a name, its values, their order.

A gene is data; `space` combines genes and defines candidates.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from fbnetv3._internal.messages import shown

from .layout import Value, is_number, same

KINDS = ("choice", "ordered", "int-grid", "float-grid")
GROUPS = ("arch", "recipe", "shared")
_MAX_VALUES = 4096


@dataclass(frozen=True)
class Gene:
    """One column of a space.

    Attributes:
        name: name, unique in the space.
        values: all values, in order, NumPy's too, which become Python's; for a grid low,
            low + step, ..., high, inclusive.
        kind: "choice" (unordered, one-hot), "ordered" (encoded by position), "int-grid" or
            "float-grid" (encoded by value).
        group: "arch", "recipe" or "shared" (both, or several cells).
        when: (parent gene, values of it for which this gene has a meaning); None: always.
        confidence: note on the reliability of the range's source.

    Raises:
        ValueError: a field is out of range; the message names the gene.
    """

    name: str
    values: tuple[Value, ...]
    kind: str = "choice"
    group: str = "arch"
    when: tuple[str, tuple[Value, ...]] | None = None
    confidence: str = ""

    def __post_init__(self) -> None:
        where = f"gene {shown(self.name)}"
        if not (
            isinstance(self.name, str) and self.name.isprintable() and 0 < len(self.name) <= 80
        ):
            raise ValueError(f"{where}: expected a printable name of up to 80 characters")
        if isinstance(self.values, Set | Mapping):
            # The order of a set differs from process to process.
            raise ValueError(
                f"{where}: values is {shown(self.values)}; expected them in an order, as a tuple"
            )
        if isinstance(self.values, str) or not isinstance(self.values, Iterable):
            raise ValueError(
                f"{where}: values is {shown(self.values)}; expected a tuple of values, or for a "
                "range Gene.grid or Gene.log"
            )
        object.__setattr__(self, "values", tuple(map(_plain, self.values)))
        if not self.values:
            raise ValueError(f"{where} has no values; expected at least one")
        if len(self.values) > _MAX_VALUES:
            raise ValueError(
                f"{where} has {len(self.values)} values; expected at most {_MAX_VALUES}"
            )
        if self.kind not in KINDS:
            raise ValueError(
                f"{where}: kind is {shown(self.kind)}; expected one of {', '.join(KINDS)}"
            )
        if self.group not in GROUPS:
            raise ValueError(f"{where}: group is {shown(self.group)}; expected one of {GROUPS}")
        if not isinstance(self.confidence, str):
            raise ValueError(f"{where}: confidence is {shown(self.confidence)}; expected text")
        self._check_when(where)
        self._check_values(where)
        if self.kind == "float-grid":
            # The same values as after a round trip through JSON: 2 and 2.0 are one gene.
            object.__setattr__(self, "values", tuple(map(float, self.values)))

    def _check_when(self, where: str) -> None:
        if self.when is None:
            return
        ok = isinstance(self.when, tuple | list) and len(self.when) == 2
        if not (ok and isinstance(self.when[0], str) and isinstance(self.when[1], tuple | list)):
            raise ValueError(
                f"{where}: when is {shown(self.when)}; expected (gene, values), such as "
                "('act', ('gelu',))"
            )
        object.__setattr__(self, "when", (self.when[0], tuple(map(_plain, self.when[1]))))

    def _check_values(self, where: str) -> None:
        for value in self.values:
            number = is_number(value)
            if not number and not isinstance(value, str | bool):
                raise ValueError(
                    f"{where} has the value {shown(value)}; expected text, true, false or a finite "
                    "number: for any other, give a text that your function knows"
                )
        numbers = [value for value in self.values if is_number(value)]
        others = {(type(value), value) for value in self.values if not is_number(value)}
        near = itertools.pairwise(sorted(numbers, key=float))
        if any(same(a, b) for a, b in near) or len(numbers) + len(others) < len(self.values):
            raise ValueError(f"{where} has a value twice: {shown(self.values)}")
        if self.kind.endswith("grid"):
            self._check_grid(where, numbers)

    def _check_grid(self, where: str, numbers: list[Any]) -> None:
        integers = self.kind == "float-grid" or all(isinstance(value, int) for value in numbers)
        even = len(numbers) == len(self.values) and integers
        if even and len(numbers) > 1:
            first, step = numbers[0], round(numbers[1] - numbers[0], 12)
            even = step > 0 and all(
                math.isclose(value, first + n * step, rel_tol=1e-9, abs_tol=1e-9 * step)
                for n, value in enumerate(numbers)
            )
        if not even:
            raise ValueError(
                f"{where} has {span(self.values)}; expected numbers that increase in equal steps, "
                "integers for an int-grid"
            )

    @staticmethod
    def grid(
        name: str, low: float, high: float, step: float = 1, *, recipe: bool = False, **fields: Any
    ) -> Gene:
        """Returns a gene over low, low + step, ..., high, both ends included.

        Args:
            name: name of the gene.
            low: first value.
            high: last value, a whole number of steps above `low`.
            step: difference between neighbours.
            recipe: short for `group="recipe"`.
            **fields: other fields of a gene.

        Raises:
            ValueError: the range is empty, too long, or `high` is not on the grid.
        """
        low, high, step = ends = (_plain(low), _plain(high), _plain(step))
        if not (all(map(is_number, ends)) and step > 0 and high >= low):
            raise ValueError(
                f"gene {shown(name)}: {shown(ends)}; expected numbers low <= high and step > 0"
            )
        steps = (high - low) / step
        if not steps < _MAX_VALUES:
            raise ValueError(
                f"gene {shown(name)}: {shown(ends)} gives too many values; expected at most "
                f"{_MAX_VALUES}"
            )
        if abs(steps - round(steps)) > 1e-6:
            raise ValueError(
                f"gene {shown(name)}: {high} is not on the grid from {low} by {step}; expected a "
                "whole number of steps"
            )
        integer = all(isinstance(x, int) for x in (low, high, step))
        values = tuple(
            low + n * step if integer else round(low + n * step, 12)
            for n in range(round(steps) + 1)
        )
        kind = "int-grid" if integer else "float-grid"
        return Gene(name, values, kind=kind, **_group(recipe), **fields)

    @staticmethod
    def log(
        name: str,
        low: float,
        high: float,
        num: int | None = None,
        *,
        recipe: bool = False,
        **fields: Any,
    ) -> Gene:
        """Returns an ordered gene over values at equal ratios, both ends included.

        Values between the ends are rounded to three digits.

        Args:
            name: name of the gene.
            low: first value, above 0.
            high: last value.
            num: number of values; None: four for each factor of ten, and one.
            recipe: short for `group="recipe"`.
            **fields: other fields of a gene.

        Raises:
            ValueError: the range is empty, or neighbours would differ by less than 1 %.
        """
        low, high = _plain(low), _plain(high)
        if not (is_number(low) and is_number(high) and 0 < low < high):
            raise ValueError(
                f"gene {shown(name)}: {shown((low, high))}; expected numbers 0 < low < high"
            )
        decades = math.log10(high / low)
        count = max(2, round(4 * decades) + 1) if num is None else _plain(num)
        most = int(decades / math.log10(1.01)) + 1
        if not isinstance(count, int) or not 2 <= count <= most:
            raise ValueError(
                f"gene {shown(name)}: num is {shown(count)}; expected 2 to {most}, values that "
                "differ by 1 % or more"
            )
        ratios = (low * (high / low) ** (n / (count - 1)) for n in range(1, count - 1))
        inner = (float(f"{value:.3g}") for value in ratios)
        values = (float(low), *inner, float(high))
        return Gene(name, values, kind="ordered", **_group(recipe), **fields)

    def index(self, value: object) -> int:
        """Returns the index of a value.

        Raises:
            ValueError: the gene does not have the value.
        """
        for position, own in enumerate(self.values):
            if same(own, value):
                return position
        raise ValueError(
            f"gene {self.name!r} cannot be {shown(value)}; expected one of {span(self.values)}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the gene as plain JSON types, a grid as low, high, step."""
        fields: dict[str, Any] = {"name": self.name, "kind": self.kind, "group": self.group}
        if self.kind.endswith("grid") and len(self.values) > 1:
            first, second = self.values[0], self.values[1]
            step = round(float(second) - float(first), 12)
            integer = self.kind == "int-grid"
            end = self.values[-1]
            fields |= {"low": first, "high": end, "step": int(step) if integer else step}
        else:
            fields["values"] = list(self.values)
        if self.when:
            fields["when"] = [self.when[0], list(self.when[1])]
        return fields | ({"confidence": self.confidence} if self.confidence else {})

    @staticmethod
    def from_dict(fields: Mapping[str, Any]) -> Gene:
        """Returns the gene of a mapping as `to_dict` writes it.

        Raises:
            ValueError: a field is missing, unknown or out of range; the message names it.
        """
        if not isinstance(fields, Mapping):
            raise ValueError(f"a gene is {shown(fields)}; expected a JSON object")
        body = dict(fields)
        where = f"gene {shown(body.get('name'))}"
        grid = "low" in body
        needed = ("name", "low", "high", "step") if grid else ("name", "values")
        known = {f.name for f in dataclasses.fields(Gene)} - {"values"} | {*needed}
        for problem, names in (
            ("has the unknown field", sorted(set(body) - known)),
            ("lacks the field", [name for name in needed if name not in body]),
        ):
            if names:
                raise ValueError(f"{where} {problem} {shown(names[0])}; known: {sorted(known)}")
        when = body.get("when")
        if isinstance(when, list | tuple) and len(when) == 2 and isinstance(when[1], list | tuple):
            body["when"] = (when[0], tuple(when[1]))
        if not grid:
            if not isinstance(body["values"], list | tuple):
                raise ValueError(f"{where}: values is {shown(body['values'])}; expected a list")
            return Gene(**{**body, "values": tuple(body["values"])})
        kind = body.pop("kind", "int-grid")
        if kind not in ("int-grid", "float-grid"):
            raise ValueError(f"{where}: kind is {shown(kind)}; expected a grid if low is given")
        name, *ends = (body.pop(key) for key in needed)
        if kind == "float-grid":
            ends = [float(end) if is_number(end) else end for end in ends]
        return Gene.grid(name, *ends, **body)


def _plain(value: Any) -> Any:
    """Returns a value of NumPy as one of Python."""
    return value.item() if isinstance(value, np.generic) else value


def _group(recipe: bool) -> dict[str, Any]:
    return {"group": "recipe"} if recipe else {}


def span(values: Sequence[Value]) -> str:
    """Returns the values as text for messages; long lists are shortened."""
    if len(values) <= 8:
        return ", ".join(shown(value, 40) for value in values)
    return f"{shown(values[0], 40)}, {shown(values[1], 40)} ... {shown(values[-1], 40)}"
