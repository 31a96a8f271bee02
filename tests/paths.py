"""Where tests find things: the checkout, the golden data, an objective."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
GOLDEN = TESTS / "golden"
TOY = f"{TESTS / 'search' / 'toy_objective.py'}:make"
