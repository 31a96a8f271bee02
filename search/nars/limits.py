"""Limits as text, such as "macs<=5e8,params<=6e6"; `status.limit_text` writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_LIMIT = re.compile(r"^\s*(\w+)\s*(<=|>=)\s*([0-9.eE+-]+)\s*$")


def parse_limit(
    text: str, names: Mapping[str, str] | None = None
) -> dict[str, tuple[float, float]]:
    """Returns cost -> (lowest, highest) of a text such as "macs>=4e8,macs<=6e8".

    Raises:
        ValueError: the text has another form.
    """
    bounds: dict[str, tuple[float, float]] = {}
    for part in filter(None, text.split(",")):
        match = _LIMIT.match(part)
        try:
            name, sign, number = match.groups() if match else ("", "", "")
            value = float(number)
        except ValueError:
            raise ValueError(f"limit {part!r} is not understood; expected macs<=500e6") from None
        name = (names or {}).get(name, name)
        low, high = bounds.get(name, (-float("inf"), float("inf")))
        bounds[name] = (low, value) if sign == "<=" else (value, high)
    return bounds


def cost_names(problem: Any) -> dict[str, str]:
    """Returns short name -> cost: `macs` is the paper's convention where there are two."""
    import numpy as np

    known = problem.costs(problem.space.sample(1, np.random.default_rng(0)))
    return {"macs": "macs_paper"} if "macs_paper" in known and "macs" not in known else {}
