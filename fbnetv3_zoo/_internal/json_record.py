"""Reading JSON, with errors that name the file or the invalid, missing or unknown field."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .messages import shown


def read_json(text: str | bytes, what: str) -> Any:
    """Returns the value of a JSON text; `what` names it in errors.

    Raises:
        ValueError: the text is not valid JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} is not valid JSON: {error}") from None


def read_object(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not valid JSON, or not an object.
    """
    found = read_json(path.read_bytes(), str(path))
    if not isinstance(found, dict):
        raise ValueError(f"{path} is {shown(found)}; expected a JSON object")
    return found


def keywords_of(kind: type, fields: Any, where: str) -> dict[str, Any]:
    """Returns a JSON object as keyword arguments of the dataclass `kind`.

    `where` names the object in errors.

    Raises:
        ValueError: `fields` is not an object, or a field is unknown or missing.
    """
    if not isinstance(fields, Mapping):
        raise ValueError(f"{where} is {shown(fields)}; expected a JSON object")
    declared = dataclasses.fields(kind)
    names = [f.name for f in declared]
    unknown = sorted(str(key) for key in fields if key not in names)
    if unknown:
        raise ValueError(
            f"{where} has unknown field {shown(unknown[0])}; known: {', '.join(names)}"
        )
    unset = dataclasses.MISSING
    required = [f.name for f in declared if f.default is unset and f.default_factory is unset]
    missing = [name for name in required if name not in fields]
    if missing:
        raise ValueError(f"{where} lacks field {missing[0]!r}; needed: {', '.join(required)}")
    return dict(fields)
