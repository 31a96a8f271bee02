"""Limits: bounds on the known costs of a candidate, how far outside one is, and their text."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fbnetv3.search.space.space import Floats


@dataclass(frozen=True)
class Limit:
    """Bounds on known costs: name of the cost -> (lowest, highest), either may be infinite.

    Raises:
        ValueError: a bound is NaN, or the lowest exceeds the highest.
    """

    bounds: Mapping[str, tuple[float, float]]

    def __post_init__(self) -> None:
        for name, (low, high) in self.bounds.items():
            if not low <= high:
                raise ValueError(f"limit on {name} is {(low, high)}; expected lowest <= highest")

    def violation(self, costs: Mapping[str, npt.NDArray[Any]]) -> Floats:
        """Returns (P,) how far outside each candidate is, relative to the bounds; 0 is inside."""
        total = np.zeros(len(next(iter(costs.values()), ())))
        for name, (low, high) in self.bounds.items():
            if name not in costs:
                raise ValueError(f"limit on {name!r}; the known costs are {', '.join(costs)}")
            value = np.asarray(costs[name], np.float64)
            for bound, over in ((high, value - high), (low, low - value)):
                if np.isfinite(bound):
                    total += np.maximum(over, 0) / max(abs(bound), 1e-12)
        return total


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
