"""Public names of a package that are looked up when they are first used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(
    package: str, homes: Mapping[str, str], advice: Callable[[], Mapping[str, str]] = dict
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Returns a package's `__getattr__` and `__dir__`.

    Args:
        package: its full name.
        homes: public name -> the file below the package that defines it.
        advice: returns name that other libraries have -> what to use in its place.
    """
    names = vars(sys.modules[package])

    def __getattr__(name: str) -> Any:  # noqa: N807  # it becomes the package's
        if name not in homes:
            from difflib import get_close_matches

            near = get_close_matches(name, homes, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            if meant := advice().get(name):
                hint = f"; use {meant}"
            raise AttributeError(f"module {package!r} has no attribute {name!r}{hint}")
        value = names[name] = getattr(import_module(f".{homes[name]}", package), name)
        return value

    def __dir__() -> list[str]:  # noqa: N807
        return sorted({*names, *homes})

    return __getattr__, __dir__
