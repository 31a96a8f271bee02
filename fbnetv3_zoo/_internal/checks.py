"""Checks of arguments and of fields of files; messages have the value and what is expected."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from .messages import shown


def refusal(field: str, value: object, expected: str) -> ValueError:
    """Returns the error to raise for a value that is not what is expected."""
    return ValueError(f"{field} is {shown(value)}; expected {expected}")


def check_whole(field: str, value: object, low: int, high: int, otherwise: str = "") -> None:
    """Raises ValueError if a value is no int from `low` to `high`.

    Args:
        field: its name.
        value: as given.
        low: the least that is allowed.
        high: the most that is allowed.
        otherwise: what else would do, for the message, such as "backbone, or ".
    """
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise refusal(field, value, f"{otherwise}a whole number from {low} to {high}")


def check_number(field: str, value: object, low: float, high: float) -> None:
    """Raises ValueError if a value is no int or float from `low` to `high`."""
    ok = isinstance(value, int | float) and not isinstance(value, bool)
    if not ok or not low <= value <= high:  # type: ignore[operator]  # checked by `ok`
        raise refusal(field, value, f"a number from {low} to {high}")


def check_choice(field: str, value: object, choices: Sequence[str]) -> None:
    """Raises ValueError if a value is none of `choices`."""
    if value not in choices:
        raise refusal(field, value, f"one of {', '.join(choices)}")


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
        raise refusal(name, value, f"a whole number from {least}{of}")
    return number


def checked_seed(seed: int) -> int:
    """Returns a seed that torch takes.

    Raises:
        ValueError: it has more than 64 bits.
    """
    if not -(1 << 63) <= seed < 1 << 63:
        raise ValueError(f"seed is {seed}; expected a whole number of 64 bits")
    return seed
