"""Public names of a package that are looked up when they are first used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(
    package: str, homes: Mapping[str, str], elsewhere: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Returns a package's `__getattr__` and `__dir__`.

    Args:
        package: its full name.
        homes: public name -> the file below the package that defines it.
        elsewhere: pattern of names that other libraries use -> what to use here.
    """
    names = vars(sys.modules[package])

    def __getattr__(name: str) -> Any:  # noqa: N807  # it becomes the package's
        if name not in homes:
            from difflib import get_close_matches
            from fnmatch import fnmatchcase

            near = get_close_matches(name, homes, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            for pattern, here in (elsewhere or {}).items():
                if fnmatchcase(name, pattern):
                    hint = f"; use {here}"
            raise AttributeError(f"module {package!r} has no attribute {name!r}{hint}")
        value = names[name] = getattr(import_module(f".{homes[name]}", package), name)
        return value

    def __dir__() -> list[str]:  # noqa: N807
        return sorted({*names, *homes})

    return __getattr__, __dir__
