"""The pages' colours, and the Jinja2 templates of `html/`, which escape all but `Markup`."""

from __future__ import annotations

import functools
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

# Name -> on a light page, on a dark one. r0 to r6 go from early to late.
COLOURS = {
    "ink": ("#1c2733", "#e4e9ee"),
    "soft": ("#5b6875", "#9aa7b3"),
    "line": ("#d9dfe5", "#37424d"),
    "c0": ("#2563a8", "#6aa7e8"),
    "c1": ("#c2571a", "#ef935a"),
    "c2": ("#3d8b5f", "#6fc596"),
    "accent": ("#d1335b", "#ff6f91"),
    "r0": ("#8794a1", "#6e7b88"),
    "r1": ("#7a92a9", "#63809c"),
    "r2": ("#6590b5", "#5b88b0"),
    "r3": ("#5287b8", "#5c94c6"),
    "r4": ("#417db4", "#6faadf"),
    "r5": ("#28649c", "#8fc1ee"),
    "r6": ("#154a7e", "#b8daf7"),
}


def render(template: str, **values: object) -> Markup:
    """Returns a template with its values filled in."""
    return Markup(_environment().get_template(template).render(values))


@functools.cache
def _environment() -> Environment:
    found = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("html")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals["colours"] = COLOURS
    return found
