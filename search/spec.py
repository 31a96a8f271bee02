"""Objectives as settings: how a worker, in a process of its own, gets what gives it labels.

Settings are plain JSON, so that nothing is pickled:

    {"kind": "table", "space": "space.json", "table": "table.npz"}
    {"kind": "train", ...}                                  fields of `train_objective`
    {"kind": "python", "target": "my_package.module:make", "arguments": {...}}
    {"kind": "python", "target": "/somewhere/file.py:make", "arguments": {...}}
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .objective import Objective

KINDS = ("table", "train", "python")


def load_objective(spec: Mapping[str, Any]) -> Objective:
    """Returns the objective that settings describe.

    Raises:
        ValueError: the settings are of no known kind, or lack a field or have one too many.
        FileNotFoundError: a file that they name does not exist.
        ImportError: a target cannot be imported.
    """
    fields = {key: value for key, value in spec.items() if key != "kind"}
    kind = spec.get("kind")
    if kind not in KINDS:
        raise ValueError(f"the objective's kind is {kind!r}; expected one of {', '.join(KINDS)}")
    try:
        if kind == "table":
            return _table(**fields)
        if kind == "train":
            from .train_objective import TrainObjective

            return TrainObjective(**fields)
        return _python(**fields)
    except TypeError as error:
        raise ValueError(f"the settings of the {kind} objective do not fit: {error}") from error


def _table(*, space: str, table: str) -> Objective:
    from .objective import load_table

    return load_table(Path(space), Path(table))


def _python(*, target: str, arguments: Mapping[str, Any] | None = None) -> Objective:
    where, _, name = target.rpartition(":")
    if not where or not name:
        raise ValueError(f"target is {target!r}; expected 'module:name' or 'file.py:name'")
    module = _module_of_file(Path(where)) if where.endswith(".py") else _import(where)
    if not hasattr(module, name):
        raise ImportError(f"{where} has no {name!r}; expected a function that makes an objective")
    made: Objective = getattr(module, name)(**dict(arguments or {}))
    return made


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"objective {name!r} cannot be imported: {error}") from error


def _module_of_file(path: Path) -> ModuleType:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected a Python file of an objective")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
