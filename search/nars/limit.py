"""Limits: bounds on the known costs of a candidate, how far outside one is, and their text."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fbnetv3._internal.messages import shown
from fbnetv3.search.space.space import Floats

# Short name -> cost.
SHORT = {"macs": "macs_paper"}
# As in macs<=5e8, or as limits are shown: 4e8<=macs<=5e8.
_NUMBER = r"\s*([0-9.eE+-]+)\s*"
_LIMIT = re.compile(rf"^(?:{_NUMBER}<=)?\s*([^<>=]*[^<>=\s])\s*(<=|>=){_NUMBER}$")


@dataclass(frozen=True)
class Limit:
    """Bounds on known costs: name of the cost -> (lowest, highest), either may be infinite.

    Raises:
        ValueError: it is of another form, a bound is NaN, or the lowest exceeds the highest.
    """

    bounds: Mapping[str, tuple[float, float]]

    def __post_init__(self) -> None:
        if not isinstance(self.bounds, Mapping):
            raise ValueError(
                f"limit {shown(self.bounds)} is not understood; expected cost -> (lowest, highest)"
            )
        for name, ends in self.bounds.items():
            try:
                low, high = map(float, ends)
            except (TypeError, ValueError):
                raise ValueError(
                    f"limit on {name!r} is {shown(ends)}; expected (lowest, highest), either may "
                    "be infinite"
                ) from None
            if not low <= high:
                raise ValueError(
                    f"limit {low:g}<={name}<={high:g} leaves nothing; expected lowest <= highest"
                )

    def violation(self, costs: Mapping[str, npt.NDArray[Any]]) -> Floats:
        """Returns (P,) how far outside each candidate is, relative to the bounds; 0 is inside."""
        total = np.zeros(len(next(iter(costs.values()), ())))
        for name, (low, high) in self.bounds.items():
            if name not in costs:
                known = ", ".join(costs) or "none"
                raise ValueError(f"limit on {name!r}; the known costs are {known}")
            value = np.asarray(costs[name], np.float64)
            for bound, over in ((high, value - high), (low, low - value)):
                if np.isfinite(bound):
                    total += np.maximum(over, 0) / max(abs(bound), 1e-12)
        return total


def bounds_of(
    limit: str | Limit | Mapping[str, tuple[float, float]], names: Mapping[str, str]
) -> Mapping[str, tuple[float, float]]:
    """Returns cost -> (lowest, highest) of a limit in any form.

    Raises:
        ValueError: it has no such form.
    """
    if isinstance(limit, str):
        return parse_limit(limit, names)
    return (limit if isinstance(limit, Limit) else Limit(limit)).bounds


def intersection(
    first: Mapping[str, tuple[float, float]], second: Mapping[str, tuple[float, float]]
) -> dict[str, tuple[float, float]]:
    """Returns the bounds that hold where both do."""
    wide = (-np.inf, np.inf)
    return {
        name: (
            max(first.get(name, wide)[0], second.get(name, wide)[0]),
            min(first.get(name, wide)[1], second.get(name, wide)[1]),
        )
        for name in {**first, **second}
    }


def limit_text(
    limit: Mapping[str, Sequence[float | None]], number: Callable[[float], str] = "{:g}".format
) -> str:
    """Returns a limit as in `--limit`, such as `macs<=3e+06`; None stands for no bound."""

    def end(value: float | None, text: str) -> str:
        return "" if value is None or math.isinf(value) else text.format(number(value))

    return ", ".join(
        f"{end(low, '{}<=')}{name}{end(high, '<={}')}" for name, (low, high) in limit.items()
    )


def parse_limit(
    text: str, names: Mapping[str, str] | None = None
) -> dict[str, tuple[float, float]]:
    """Returns cost -> (lowest, highest) of a text such as "macs>=4e8,macs<=6e8".

    Of several bounds at the same end of a cost the tightest counts.

    Raises:
        ValueError: the text has another form.
    """
    if not isinstance(text, str):
        raise _not_understood(text)
    bounds: dict[str, tuple[float, float]] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        match = _LIMIT.match(part)
        try:
            first, name, sign, number = match.groups() if match else ("", "", "", "")
            low, high = -math.inf if first is None else float(first), float(number)
        except ValueError:
            raise _not_understood(part) from None
        if sign == ">=":
            if first is not None:
                raise _not_understood(part)
            low, high = high, math.inf
        bounds = intersection(bounds, {(names or {}).get(name, name): (low, high)})
    return bounds


def _not_understood(text: object) -> ValueError:
    return ValueError(
        f"limit {shown(text)} is not understood; expected macs<=500e6, or 4e8<=macs<=5e8"
    )


def parse_limits(
    texts: Sequence[str], names: Mapping[str, str] | None = None
) -> tuple[dict[str, tuple[float, float]], ...]:
    """Returns the bounds of limits, see `parse_limit`; no limit is one without bounds.

    Raises:
        ValueError: one has another form, or two have the same bounds.
    """
    found: list[dict[str, tuple[float, float]]] = []
    for text in texts:
        bounds = parse_limit(text, names)
        if bounds in found:
            raise ValueError(f"limits has one twice: {shown(text)}; expected different ones")
        found.append(bounds)
    return tuple(found) or ({},)


def same_limits(
    first: Sequence[str], second: Sequence[str], names: Mapping[str, str] | None = None
) -> bool:
    """Returns whether two lists of limits, see `parse_limits`, have the same bounds."""

    def bounds(texts: Sequence[str]) -> list[list[tuple[str, tuple[float, float]]]]:
        return sorted(sorted(bounds.items()) for bounds in parse_limits(texts, names))

    return bounds(first) == bounds(second)


def cost_names(problem: Any) -> dict[str, str]:
    """Returns short name -> cost: `macs` is the paper's convention where there are two."""
    known = problem.costs(problem.space.sample(1, np.random.default_rng(0)))
    return {s: name for s, name in SHORT.items() if name in known and s not in known}
