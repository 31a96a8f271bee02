"""The objective that the options of a search ask for, as settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .words import parse_setting

# Of a full training on --data; enough to rank networks on images of CIFAR-10's size.
EPOCHS = 10


def bare_settings(space: Any, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings from which a search's known costs follow."""
    return {"space": space.to_dict(), "objective": dict(spec), "num_classes": 1000}


def table_space(path: str) -> Any:
    """Returns the space of a table.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has no space.
    """
    from fbnetv3._internal.json_record import read_json
    from fbnetv3.search.space.space import Space

    if not Path(path).is_file():
        raise FileNotFoundError(f"no space at {path}; a table needs its space as JSON")
    fields = read_json(Path(path).read_bytes(), Path(path).name)
    own = fields.get("space", fields) if isinstance(fields, dict) else fields
    return Space.from_json(json.dumps(own))


def objective_settings(
    space: str,
    table: Path | None,
    data: Path | None,
    target: str | None,
    settings: list[str] | None,
    folder: Path,
    epochs: int,
) -> dict[str, Any]:
    """Returns the settings of the one objective that was asked for."""
    given = [name for name, value in (("--table", table), ("--data", data),
                                      ("--objective", target)) if value is not None]  # fmt: skip
    if len(given) != 1:
        raise ValueError(
            f"{' and '.join(given) or 'no objective'} given; expected one of --table, --data, "
            "--objective"
        )
    fields = dict(parse_setting(text) for text in settings or ())
    if table is not None:
        return {"kind": "table", "space": str(Path(space).resolve()),
                "table": str(table.resolve())}  # fmt: skip
    if data is not None:
        where = str(Path(space).resolve()) if space.endswith(".json") else space
        return {
            "kind": "train",
            "space": where,
            "data": str(data.resolve()),
            "checkpoints": str((folder / "checkpoints").resolve()),
            "epochs": epochs or EPOCHS,
            **fields,
        }
    assert target is not None
    file, colon, name = target.rpartition(":")
    absolute = f"{Path(file).resolve()}{colon}{name}" if file.endswith(".py") else target
    return {"kind": "python", "target": absolute, "arguments": fields}
