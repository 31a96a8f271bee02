"""Checks of arguments that programs pass, with the value and what is expected in the message."""

from __future__ import annotations

import operator
from typing import Any

from .messages import shown


def whole_number(name: str, value: Any, least: int, of: str = "") -> int:
    """Returns a whole number as an int: one of Python or NumPy, or a float without a fraction.

    Args:
        name: of the argument.
        value: as given.
        least: the least that is allowed.
        of: what it counts, for the message.

    Raises:
        ValueError: it is none, or below `least`.
    """
    try:
        whole = isinstance(value, float) and value.is_integer()
        number = int(value) if whole else operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise ValueError(f"{name} is {shown(value)}; expected a whole number from {least}{of}")
    return number


def checked_seed(seed: int) -> int:
    """Returns a seed that torch takes.

    Raises:
        ValueError: it has more than 64 bits.
    """
    if not -(1 << 63) <= seed < 1 << 63:
        raise ValueError(f"seed is {seed}; expected a whole number of 64 bits")
    return seed
