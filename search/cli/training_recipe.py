"""The recipe that the options of `fbnetv3 train` say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fbnetv3.search.training.recipe import Recipe

from .words import parse_setting


def recipe_of(name: str, given: Mapping[str, Any], others: list[str] | None) -> Recipe:
    """Returns a preset or a file's recipe with the fields replaced that are not None.

    A file's recipe was found at its own length, so that other epochs lengthen or shorten it.
    """
    from fbnetv3.search.training.presets import get_recipe

    if not name.endswith(".json"):
        found = get_recipe(name)
    elif not Path(name).is_file():
        raise FileNotFoundError(f"no recipe at {name}; expected a preset or a recipe's JSON")
    else:
        found = Recipe.from_json(Path(name).read_bytes())
    fields = {key: value for key, value in given.items() if value is not None}
    if name.endswith(".json"):
        found = found.lengthened(fields.get("epochs", found.epochs))
    if found.warmup_epochs > fields.get("epochs", found.epochs):
        fields["warmup_epochs"] = 0.0
    fields |= dict(map(parse_setting, others or ()))
    return Recipe.from_dict({**found.to_dict(), **fields})


def names_given(given: Mapping[str, Any], others: list[str] | None) -> set[str]:
    """Returns the names of the fields that options give; arguments as of `recipe_of`."""
    named = {name for name, value in given.items() if value is not None}
    return named | {name for name, _ in map(parse_setting, others or ())}
