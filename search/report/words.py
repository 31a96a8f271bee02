"""Formats numbers and durations for people."""

from __future__ import annotations


def short(value: float) -> str:
    """Returns a number with at most four digits and a unit: 1.2M, 340k, 0.05; 5.68e+16."""
    if abs(value) >= 1e13:
        return f"{value:.3g}"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.4g}{unit}"
    return f"{value:.4g}" if value else "0"


def duration(seconds: float) -> str:
    """Returns a time in seconds, minutes or hours."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def share_text(share: float) -> str:
    """Returns a share of the final training, as a fraction where it is a simple one."""
    parts = round(1 / share)
    return f"1/{parts}" if abs(parts * share - 1) < 1e-9 else f"{share:.3g}"
