"""Whether a checkpoint belongs to the run that would resume from it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from fbnetv3.hub.license_policy import check_terms, is_non_commercial

from .recipe import LENGTH_FIELDS, Recipe

# Recorded as digests, which tell a user nothing.
_DIGESTS = frozenset({"network", "classes", "teacher"})


def check_same_run(folder: Path, recorded: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuses the checkpoint of another run. A run may get more epochs than it began with.

    Args:
        folder: of the checkpoint, for messages.
        recorded: identity of the run that wrote it, see `Loop`.
        asked: identity of the run that would resume.

    Raises:
        ValueError: they differ; names what, with both values.
    """
    for name, mine in asked.items():
        theirs = recorded.get(name)
        if name == "recipe" and isinstance(theirs, Mapping):
            theirs = Recipe.from_dict(theirs).to_dict()
            if _is_longer(theirs, mine):
                continue
        check_equal(folder, name, theirs, mine, digests=_DIGESTS)


def check_equal(
    folder: Path, name: str, theirs: Any, mine: Any, *, digests: Collection[str]
) -> None:
    """Refuses the checkpoint of a run that differs in one part of its identity.

    Args:
        folder: of the checkpoint, for messages.
        name: of the part.
        theirs: of the run that wrote the checkpoint.
        mine: of the run that would resume.
        digests: parts and fields whose values tell a user nothing.

    Raises:
        ValueError: they differ; names what, with both values.
    """
    if theirs == mine:
        return
    are = "are" if name.endswith("s") else "is"
    if name in digests:
        shown = f"{are} different"
    elif isinstance(theirs, Mapping) and isinstance(mine, Mapping):
        keys = [key for key in mine if theirs.get(key) != mine[key]]
        fields = [k if k in digests else f"{k} {theirs.get(k)!r}, here {mine[k]!r}" for k in keys]
        shown = f"{are} different: {', '.join(fields)}"
    else:
        shown = f"{are} {theirs!r}, here {mine!r}"
    raise ValueError(
        f"the checkpoint in {folder} is of another run: its {name} {shown}; give another --out, or "
        "the settings that the run began with (only epochs may grow)"
    )


def _is_longer(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> bool:
    """Returns whether a recipe differs only by more epochs and what follows from them."""
    if mine["epochs"] <= theirs["epochs"]:
        return False
    follows = Recipe.from_dict(theirs).lengthened(mine["epochs"]).to_dict()
    return all(
        # A short run may have had no warm-up, which lies behind it.
        key in ("epochs", "warmup_epochs")
        or mine[key] == value
        or (key in LENGTH_FIELDS and math.isclose(mine[key], follows[key], rel_tol=1e-9))
        for key, value in theirs.items()
    )


def check_license_of_run(folder: Path, of_run: str, ours: str) -> None:
    """Checks that weights with the licence `ours` may go on from a run with that of `of_run`.

    Raises:
        ValueError: the licence policy refuses the run's, or ours allows what it forbids.
    """
    if not of_run:
        return
    check_terms(str(folder), of_run)
    if is_non_commercial(of_run) and not is_non_commercial(ours):
        raise ValueError(
            f"{folder} is a run from weights licensed {of_run}: no commercial use, which also "
            f"holds for what goes on from it; its model is needed again, or --license {of_run}"
        )
