"""Whether a checkpoint belongs to the training that would resume from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .detectors import DetectorConfig
from .recipe import DetectionRecipe

# What `DetectionRecipe.fitting` derives from the number of epochs.
_LENGTH_FIELDS = ("epochs", "warmup_steps", "ema_decay")


def check_same_run(folder: Path, recorded: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuses the checkpoint of another run. A run may get more epochs than it began with.

    Args:
        folder: of the checkpoint, for messages.
        recorded: identity of the run that wrote it, see `Loop`.
        asked: identity of the run that would resume.

    Raises:
        ValueError: they differ; names what, with both values.
    """
    former = {
        # Fields that a version before did not have take their defaults.
        "detector": DetectorConfig.from_dict(recorded["detector"], where=str(folder)).to_dict(),
        "recipe": DetectionRecipe(**recorded["recipe"]).to_dict(),
        "num_images": recorded["num_images"],
        "processes": recorded.get("processes", [1, 1]),
    }
    for name, theirs in json.loads(json.dumps(former)).items():
        mine = json.loads(json.dumps(asked[name]))
        if theirs != mine and not (name == "recipe" and _is_longer(theirs, mine)):
            raise ValueError(
                f"{folder} holds another run: its {_difference(name, theirs, mine)}; give another "
                "--out, or the settings that the run began with (only epochs may grow)"
            )


def _is_longer(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> bool:
    """Returns whether a recipe differs only by more epochs and what follows from them."""
    same = all(mine[key] == value for key, value in theirs.items() if key not in _LENGTH_FIELDS)
    return same and bool(mine["epochs"] > theirs["epochs"])


def _difference(name: str, theirs: Any, mine: Any) -> str:
    if not isinstance(theirs, dict) or not isinstance(mine, dict):
        return f"{name} is {theirs!r}, here {mine!r}"
    keys = [key for key in mine if theirs.get(key) != mine[key]]
    shown = [
        f"{key} is different"
        if key == "arch"
        else f"{key} is {theirs.get(key)!r}, here {mine[key]!r}"
        for key in keys
    ]
    return ", its ".join(shown)
