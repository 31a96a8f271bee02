"""One column of a search space: a name, its values, their order.

A gene is data; `space` puts genes together and knows what a candidate is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .layout import Value, same

KINDS = ("choice", "ordered", "int-grid", "float-grid")
GROUPS = ("arch", "recipe", "shared")


@dataclass(frozen=True)
class Gene:
    """One column of a space.

    Attributes:
        name: unique in the space.
        values: every value, in order; of a grid the inclusive low, low + step, ..., high.
        kind: "choice" (no order, one-hot), "ordered" (min-max of the position), "int-grid" or
            "float-grid" (min-max of the value).
        group: "arch", "recipe" or "shared" (both, or several cells).
        when: (parent gene, values of it for which this gene has a meaning), None for always.
        confidence: how sure the range's source is, for people.

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
        where = f"gene {self.name!r}"
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"{where}: the name is empty; expected one such as 'mb2_kernel'")
        object.__setattr__(self, "values", tuple(self.values))
        if not self.values:
            raise ValueError(f"{where} has no values; expected at least one")
        if len(self.values) > 4096:
            raise ValueError(f"{where} has {len(self.values)} values; expected at most 4096")
        if self.kind not in KINDS:
            raise ValueError(f"{where}: kind is {self.kind!r}; expected one of {', '.join(KINDS)}")
        if self.group not in GROUPS:
            raise ValueError(f"{where}: group is {self.group!r}; expected one of {GROUPS}")
        if any(same(a, b) for n, a in enumerate(self.values) for b in self.values[:n]):
            raise ValueError(f"{where} has a value twice: {self.values}")

    @staticmethod
    def grid(name: str, low: float, high: float, step: float = 1, **fields: Any) -> Gene:
        """Returns a gene over low, low + step, ..., high, both ends included."""
        if not (step > 0 and high >= low):
            raise ValueError(f"gene {name!r}: {(low, high, step)}; expected low <= high, step > 0")
        steps = (high - low) / step
        if abs(steps - round(steps)) > 1e-6:
            raise ValueError(f"gene {name!r}: {high} is not on the grid from {low} by {step}")
        whole = all(isinstance(x, int) for x in (low, high, step))
        values = tuple(
            low + n * step if whole else round(low + n * step, 12) for n in range(round(steps) + 1)
        )
        return Gene(name, values, kind="int-grid" if whole else "float-grid", **fields)

    def index(self, value: object) -> int:
        """Returns the position of a value.

        Raises:
            ValueError: the gene does not have it.
        """
        for position, own in enumerate(self.values):
            if same(own, value):
                return position
        raise ValueError(f"gene {self.name!r} cannot be {value!r}; it has {span(self.values)}")

    def to_dict(self) -> dict[str, Any]:
        """Returns the gene as plain JSON types; a grid as low, high, step."""
        fields: dict[str, Any] = {"name": self.name, "kind": self.kind, "group": self.group}
        if self.kind.endswith("grid") and len(self.values) > 1:
            first, second = self.values[0], self.values[1]
            step = round(float(second) - float(first), 12)
            whole = self.kind == "int-grid"
            fields |= {"low": first, "high": self.values[-1], "step": int(step) if whole else step}
        else:
            fields["values"] = list(self.values)
        if self.when:
            fields["when"] = [self.when[0], list(self.when[1])]
        return fields | ({"confidence": self.confidence} if self.confidence else {})

    @staticmethod
    def from_dict(fields: Mapping[str, Any]) -> Gene:
        """Returns the gene of a mapping as `to_dict` writes it."""
        body = dict(fields)
        if "name" not in body:
            raise ValueError(f"a gene lacks 'name': {body}")
        if (when := body.get("when")) is not None:
            if not isinstance(when, list | tuple) or len(when) != 2:
                raise ValueError(f"gene {body['name']!r}: when is {when!r}; use [gene, values]")
            body["when"] = (when[0], tuple(when[1]))
        kind = body.get("kind", "choice")
        try:
            if "low" in body:
                low, high, step = (body.pop(key) for key in ("low", "high", "step"))
                body.pop("kind", None)
                number = float if kind == "float-grid" else (lambda x: x)
                gene = Gene.grid(body.pop("name"), number(low), number(high), number(step), **body)
            else:
                gene = Gene(**{**body, "values": tuple(body["values"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"gene {fields['name']!r}: {error}; see Gene") from None
        return gene


def span(values: Sequence[Value]) -> str:
    """Returns the values as text for messages, long lists shortened."""
    if len(values) <= 8:
        return ", ".join(map(repr, values))
    return f"{values[0]!r}, {values[1]!r} ... {values[-1]!r}"
