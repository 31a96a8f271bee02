"""Where tests find things: the checkout, the golden data, the shared data beside the checkout."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
GOLDEN = TESTS / "golden"
# Not in every checkout; who reads it skips where it lacks.
SHARED = ROOT.parent / "shared" / "data"
TOY = f"{TESTS / 'search' / 'toy_objective.py'}:make"
