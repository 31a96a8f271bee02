"""Whether a checkpoint belongs to the training that would resume from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fbnetv3.search.training.identity import check_equal

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
        # Not known of runs of a version before.
        "annotations": recorded.get("annotations", asked["annotations"]),
    }
    for name, theirs in json.loads(json.dumps(former)).items():
        mine = json.loads(json.dumps(asked[name]))
        if not (name == "recipe" and _is_longer(theirs, mine)):
            check_equal(folder, name, theirs, mine, digests=("arch", "annotations"))


def _is_longer(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> bool:
    """Returns whether a recipe differs only by more epochs and what follows from them."""
    same = all(mine[key] == value for key, value in theirs.items() if key not in _LENGTH_FIELDS)
    return same and bool(mine["epochs"] > theirs["epochs"])
