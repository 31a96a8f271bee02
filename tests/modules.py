"""Loads Python files that are no part of the package."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from .paths import ROOT


def module_of_file(path: Path) -> ModuleType:
    """Returns the file as a module named after it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def benchmark(name: str) -> ModuleType:
    """Returns a benchmark as `python -m benchmarks.NAME` finds it, such as "search.peers"."""
    sys.path.insert(0, str(ROOT))
    try:
        return importlib.import_module(f"benchmarks.{name}")
    finally:
        sys.path.remove(str(ROOT))
