"""Objectives as settings, from which a worker process makes its objective.

Settings are plain JSON, so that nothing is pickled:

    {"kind": "table", "space": "space.json", "table": "table.npz"}
    {"kind": "train", ...}                                  fields of `train_objective`
    {"kind": "python", "target": "my_package.module:make", "arguments": {...}}
    {"kind": "python", "target": "/somewhere/file.py:make", "arguments": {...}}
    {"kind": "function", "space": {...}, "train": "module:name", "cost": "module:name", ...}
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fbnetv3._internal.files import sha256_of

if TYPE_CHECKING:
    from fbnetv3.search.space.space import Space

    from .objective import Objective

KINDS = ("table", "train", "python", "function")
_ELSEWHERE = (
    "the search was started from Python, and this process cannot import its functions: they are in "
    "a script or a notebook, or another program trains; continue it with the same call of "
    "search.run or search.Study"
)


def load_objective(spec: Mapping[str, Any]) -> Objective:
    """Returns the objective that settings describe.

    Raises:
        ValueError: the kind is unknown, a field is missing or unknown, or the target is not valid.
        FileNotFoundError: a file of the settings does not exist.
        ImportError: a target needs a package that is not installed.
    """
    fields = {key: value for key, value in spec.items() if key != "kind"}
    kind = spec.get("kind")
    if kind not in KINDS:
        raise ValueError(f"the objective's kind is {kind!r}; expected one of {', '.join(KINDS)}")
    try:
        if kind == "table":
            return _table(**fields)
        if kind == "function":
            if not fields.get("train") or fields.get("cost") == "":
                raise ValueError(_ELSEWHERE)
            return _functions(**fields)
        if kind == "train":
            from .train_objective import TrainObjective

            known = list(inspect.signature(TrainObjective).parameters)
            if unknown := [name for name in fields if name not in known]:
                raise ValueError(
                    f"the train objective has no field {unknown[0]!r}; expected one of "
                    f"{', '.join(known)}"
                )
            return TrainObjective(**fields)
        return _checked(_python(**fields))
    except TypeError as error:
        raise ValueError(f"wrong settings of the {kind} objective: {error}") from error


def load_costs(spec: Mapping[str, Any]) -> Objective:
    """Returns the objective of functions for its costs alone; `train` need not be importable.

    Raises:
        ValueError: this process cannot import the cost function.
    """
    if spec["cost"] == "":
        raise ValueError(
            "the search was started from Python, and this process cannot import its cost function: "
            "it is in a script or a notebook; put it into a module, and repeat the call from there"
        )
    return _functions(**{k: v for k, v in spec.items() if k not in ("kind", "train")}, train=None)


def identity(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of an objective that labels depend on, without locations of files."""
    kept = {k: v for k, v in spec.items() if k not in ("checkpoints", "device", "space")}
    if spec.get("kind") == "function":
        return {"kind": "function", "target": spec["target"]}
    if spec.get("kind") == "table":
        path = Path(str(spec.get("table")))
        if not path.is_file():
            raise FileNotFoundError(f"no table at {path}; expected a table of labels")
        kept["table"] = sha256_of(path)
    if str(kept.get("target")).partition(":")[0].endswith(".py"):
        kept["target"] = Path(kept["target"]).name
    if "data" in kept:
        kept["data"] = Path(kept["data"]).name
    return kept


def space_of(settings: Mapping[str, Any]) -> Space:
    """Returns the space that a search's settings hold.

    Raises:
        ValueError: they hold none.
    """
    from fbnetv3.search.space.space import Space

    return Space.from_json(json.dumps(_setting(settings, "space")))


def plan_of(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the search config that a search's settings hold, as plain JSON types.

    Raises:
        ValueError: they hold none.
    """
    plan: Mapping[str, Any] = _setting(settings, "plan")
    return plan


def _setting(settings: Mapping[str, Any], name: str) -> Any:
    if name not in settings:
        raise ValueError(
            f"the search's settings have no {name!r}; expected those of a search that search.run, "
            "create_search or fbnetv3-search run started"
        )
    return settings[name]


def _table(*, space: str, table: str) -> Objective:
    from .objective import load_table

    return load_table(Path(space), Path(table))


def _functions(
    *, space: Mapping[str, Any], train: str | None, cost: str | None, target: str
) -> Objective:
    from fbnetv3.search.space.space import Space

    from .function_objective import FunctionObjective

    own = Space.from_json(json.dumps(space))
    return FunctionObjective(
        own, *(None if name is None else _named(name) for name in (train, cost)), target=target
    )


def _named(target: str) -> Any:
    """Returns what `module:name` or `file.py:name` names."""
    source, _, name = target.rpartition(":")
    if not source or not name:
        raise ValueError(f"target is {target!r}; expected 'module:name' or 'file.py:name'")
    with _importing(source):
        module = _module_of_file(Path(source)) if source.endswith(".py") else _import(source)
    if not hasattr(module, name):
        raise ValueError(f"{source} has no {name!r}; expected a function that makes an objective")
    return getattr(module, name)


# What is being imported for its functions, which should start no search of its own.
_IMPORTED: list[str] = []


@contextlib.contextmanager
def _importing(source: str) -> Iterator[None]:
    _IMPORTED.append(source)
    try:
        yield
    finally:
        _IMPORTED.pop()


def check_not_imported() -> None:
    """Checks that no search is started by a module that is imported for its functions.

    Raises:
        ValueError: one is.
    """
    if _IMPORTED:
        raise ValueError(
            f"{_IMPORTED[-1]} starts a search when a worker imports it for its functions; put the "
            'call under if __name__ == "__main__":, or in another file'
        )


def _python(*, target: str, arguments: Mapping[str, Any] | None = None) -> Objective:
    make = _named(target)
    try:
        made: Objective = make(**dict(arguments or {}))
    except (TypeError, ValueError, OSError, ImportError):
        raise
    except Exception as error:  # the user's code may raise anything
        raise _failed(target, error) from error
    return made


def _checked(made: Any) -> Objective:
    if not callable(getattr(made, "evaluate", None)):
        raise ValueError(
            f"the target returned a {type(made).__name__}; expected an object with "
            "evaluate(genes, *, seed, epochs)"
        )
    objective: Objective = made
    return objective


def _failed(what: str, error: Exception) -> ValueError:
    return ValueError(f"{what} raised {type(error).__name__}: {error}; FBNETV3_DEBUG=1 shows where")


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise ImportError(f"objective {name!r} needs {error.name}; install it") from error
        raise ValueError(
            f"no module {name!r} for the objective; expected an importable one, or file.py:name"
        ) from error


def _module_of_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; expected a Python file with an objective")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    try:
        # Like a script, so that no __pycache__ is written beside the user's file.
        exec(compile(path.read_bytes(), path, "exec"), module.__dict__)
    except ModuleNotFoundError as error:
        raise ImportError(f"objective {path} needs {error.name}; install it") from error
    except SyntaxError as error:
        raise ValueError(f"{path} is not valid Python: {error}") from error
    except Exception as error:  # the user's code may raise anything
        raise _failed(str(path), error) from error
    return module
