"""Macros that generate parts of the documentation from the package and its records.

A page whose front matter has `render_macros: true` may call `{{ commands("fbnetv3") }}` and the
other functions here, which the site generator gets from `define_env`. This way no page copies the
options of a command, a table of weights or the conditions of a result by hand.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer.main

import fbnetv3
from fbnetv3.cli import app as cli
from fbnetv3.search.cli import app as search_cli

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
# Conditions to show, if the result records them.
_SHOWN = (
    "cpu",
    "machine",
    "num_cpus",
    "cores",
    "threads",
    "python",
    "numpy",
    "torch",
    "onnxruntime",
)


def define_env(env: Any) -> None:
    """Registers the macros with the site generator."""
    for function in (commands, section, data_file, conditions):
        env.macro(function)


def program(name: str) -> Any:
    """Returns the click command of `fbnetv3` or `fbnetv3-search`, with all its subcommands."""
    if name == "fbnetv3-search":
        return typer.main.get_command(search_cli.app)
    if "train" not in {command.name for command in cli.app.registered_commands}:
        cli.add_neighbours()
    return typer.main.get_command(cli.app)


def commands(name: str) -> str:
    """Returns the reference of a program: the description, options and examples of each command."""
    group = program(name)
    parts = [_prose(group.help), _prose(group.epilog or "")]
    for command_name, command in sorted(named_commands(group).items()):
        about, _, examples = (command.help or "").partition("Examples:")
        lines = getattr(command, "examples", None) or inspect.cleandoc(examples).splitlines()
        parts += [f"### {name} {command_name}", _prose(about), _parameters(command)]
        if lines:
            parts.append("\n".join(("```sh", *lines, "```")))
    return "\n\n".join(part for part in parts if part)


def named_commands(group: Any, words: str = "") -> dict[str, Any]:
    """Returns the commands of a group by their words, such as "detect train"."""
    found: dict[str, Any] = {}
    for name, command in group.commands.items():
        nested = hasattr(command, "commands")
        found |= named_commands(command, f"{words}{name} ") if nested else {words + name: command}
    return found


def _prose(text: str) -> str:
    # Unwraps the lines of each paragraph; \b is click's mark for preformatted text.
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(text or "").replace("\b", ""))
    return "\n\n".join(_escaped(" ".join(p.split())) for p in paragraphs)


def _escaped(text: str) -> str:
    text = text.replace("|", r"\|").replace("<", "&lt;")
    return re.sub(r"(?<!\w)(--?[a-z][\w-]*)", r"`\1`", text)


def _parameters(command: Any) -> str:
    rows = []
    for parameter in command.params:
        if parameter.name == "help" or getattr(parameter, "hidden", False):
            continue
        is_option = parameter.param_type_name == "option"
        names = [*parameter.opts, *parameter.secondary_opts] if is_option else [parameter.name]
        shown = ", ".join(f"`{name}`" for name in names)
        rows.append((shown, _kind(parameter), _default(parameter), _escaped(parameter.help or "")))
    return _table(("name", "type", "default", "description"), rows) if rows else ""


def _kind(parameter: Any) -> str:
    if getattr(parameter, "is_flag", False):
        return "flag"
    kind = str(parameter.type.name).strip("<>")
    several = getattr(parameter, "multiple", False) or parameter.nargs != 1
    return f"{kind}, repeatable" if several else kind


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    value = parameter.default() if callable(parameter.default) else parameter.default
    is_none = value is None or value is False or value in ((), [], "") or "UNSET" in repr(value)
    return "" if is_none else f"`{value}`"


def section(path: str, heading: str) -> str:
    """Returns a section of a Markdown file of the repository, without its heading.

    Raises:
        ValueError: if the file has no such heading.
    """
    text = (ROOT / path).read_text()
    marks = re.escape(heading.split(" ", 1)[0])
    found = re.search(rf"^{re.escape(heading)}$(.*?)(?=^{marks} |\Z)", text, re.M | re.S)
    if found is None:
        raise ValueError(f"{path} has no heading {heading!r}")
    return re.sub(r"^<!--.*?-->\n?", "", found.group(1), flags=re.M).strip()


def data_file(name: str) -> str:
    """Returns a text file of the package's data as a fenced block."""
    text = (Path(fbnetv3.__file__).parent / "data" / name).read_text()
    return "\n".join(("```text", text.strip(), "```"))


def conditions() -> str:
    """Returns a table of the result files with their hardware, versions and commits."""
    rows = []
    for path in sorted(RESULTS.rglob("*.json*")):
        found = list(_records(_read(path)))
        machine = "; ".join(
            f"{key} {' and '.join(values)}" for key in _SHOWN if (values := _values(found, key))
        )
        commits = ", ".join(value[:7] for value in _values(found, "commit"))
        rows.append((f"`{path.relative_to(RESULTS)}`", machine or "none recorded", commits))
    return _table(("in `benchmarks/results/`", "measured with", "commit"), rows)


def _read(path: Path) -> Any:
    text = path.read_text()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    return json.loads(text)


def _records(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yields the records of conditions in a result, at any depth."""
    if isinstance(value, Mapping):
        if "python" in value:
            yield {**value, **value.get("versions", {})}
        else:
            for inner in value.values():
                yield from _records(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _records(inner)


def _values(records: Iterable[Mapping[str, Any]], key: str) -> list[str]:
    return sorted({str(record[key]) for record in records if key in record})


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
