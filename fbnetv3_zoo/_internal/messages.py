"""Untrusted values in messages: one printable line of limited length.

A file may contain terminal control characters, names of any length, or values nested too deeply to
print.
"""

from __future__ import annotations

from collections.abc import Sequence

MAX_SHOWN = 200


def shown(value: object, limit: int = MAX_SHOWN) -> str:
    """Returns the `repr` of a value, truncated after `limit` characters."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # ValueError: an integer of more than 4300 digits
        return f"<{type(value).__name__} too deep or too long to show>"
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"


def counted(num: int, one: str, several: str = "") -> str:
    """Returns a number with its noun: "1 epoch", "1,000 epochs", "2 classes".

    Args:
        num: the number.
        one: the noun of one.
        several: the noun of several; empty: that of one with an s.
    """
    return f"{num:,} {one if num == 1 else several or one + 's'}"


def one_line(text: str, limit: int = 2 * MAX_SHOWN) -> str:
    """Returns a text on one line, unprintable characters escaped, truncated at `limit`."""
    line = escaped(" ".join(text[: 4 * limit].split()))
    return line if len(line) <= limit else f"{line[:limit]}..."


def either(names: Sequence[str]) -> str:
    """Returns two names or more as "a, b or c"."""
    *others, last = names
    return f"{', '.join(others)} or {last}"


def escaped(text: str) -> str:
    """Returns a text with unprintable characters escaped, such as those that steer a terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
