"""Refusing keyword arguments that a function does not have, with the nearest that it has."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Collection, Iterable
from typing import Any

# torchvision's and transformers' names of an argument -> ours.
_ELSEWHERE = {"weights": "pretrained", "num_labels": "num_classes", "num_channels": "in_chans"}


def names_of(*functions: Callable[..., Any]) -> set[str]:
    """Returns the names of all arguments of functions that can be given by name."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        name
        for function in functions
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind in kinds and name != "self"
    }


def refuse_unknown(given: Iterable[str], known: Collection[str], whose: str) -> None:
    """Raises a TypeError that names the first unknown argument and the nearest known one.

    Args:
        given: names of the arguments that were given.
        known: names of those that are taken.
        whose: what takes them, for the message.
    """
    for name in given:
        if name not in known:
            same = _ELSEWHERE.get(name)
            near = [same] if same in known else difflib.get_close_matches(name, sorted(known), 1)
            raise TypeError(
                f"unknown argument {name!r}; expected those of {whose}"
                + (f"; did you mean {near[0]!r}?" if near else "")
            )
