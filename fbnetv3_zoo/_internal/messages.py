"""What a message may show of values from elsewhere: one printable line that ends.

A file may hold control characters meant for a terminal, names of any length, or values nested so
deeply that printing them fails.
"""

from __future__ import annotations

MAX_SHOWN = 200


def shown(value: object, limit: int = MAX_SHOWN) -> str:
    """Returns a value as Python writes it, cut after `limit` characters."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # ValueError: a number of more than 4300 digits
        return f"<{type(value).__name__} too deep or too long to show>"
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"


def one_line(text: str, limit: int = 2 * MAX_SHOWN) -> str:
    """Returns a text with its line breaks as spaces, escaped where unprintable, cut at `limit`."""
    plain = " ".join(text[: 4 * limit].split())
    escaped = "".join(c if c.isprintable() else repr(c)[1:-1] for c in plain)
    return escaped if len(escaped) <= limit else f"{escaped[:limit]}..."
