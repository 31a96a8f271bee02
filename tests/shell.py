"""Carries lines out as a user's shell would, quicker: our programs run in this process."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import typer.main
from typer.testing import CliRunner

from fbnetv3.cli import app as zoo_cli
from fbnetv3.search.cli import app as search_cli

zoo_cli.add_neighbours()
APPS = {"fbnetv3": zoo_cli.app, "fbnetv3-search": search_cli.app}
PROGRAMS: dict[str, Any] = {name: typer.main.get_command(app) for name, app in APPS.items()}


def commands_of(group: Any, words: str = "") -> dict[str, Any]:
    """Returns the commands of a program by their words, such as "detect train"."""
    found: dict[str, Any] = {}
    for name, command in group.commands.items():
        nested = hasattr(command, "commands")
        found |= commands_of(command, f"{words}{name} ") if nested else {words + name: command}
    return found


COMMANDS_OF = {name: commands_of(group) for name, group in PROGRAMS.items()}


class Done(NamedTuple):
    """How lines ended: the exit code, and what they printed."""

    code: int
    out: str
    err: str


def own_words(line: str) -> tuple[str, list[str]]:
    """Returns (program, its words) of a line; of a pipe, of the part that is ours."""
    words = shlex.split(line.rpartition("|")[2], comments=True)
    if words[0] == "torchrun":
        module, *rest = words[words.index("-m") + 1 :]
        if module in ("fbnetv3", "fbnetv3.search"):
            return module.replace(".", "-"), rest
        assert module == "fbnetv3.search.cli_train"
        return "fbnetv3", ["train", *rest]
    return words[0], words[1:]


def check_words(line: str) -> None:
    """Parses a line without running it.

    Raises:
        click.UsageError: a command or an option is unknown, a word is missing or one too many.
    """
    name, words = own_words(line)
    command, context = PROGRAMS[name], None
    while hasattr(command, "commands"):
        context = command.make_context(name, list(words), parent=context)
        name, command, words = command.resolve_command(context, words)
    command.make_context(name, words, parent=context)


def carried_out(text: str, folder: Path, env: Mapping[str, str]) -> Done:
    """Carries out one or more lines in a folder, up to one that fails.

    Lines that are nothing but one of our programs need no process of their own; all else goes to
    a shell that has the installed programs.
    """
    lines = text.replace("\\\n", " ").strip().splitlines()
    if not all(_is_plain(line) for line in lines):
        return _by_a_shell(text, folder, env)
    code, out, err = 0, "", ""
    with contextlib.chdir(folder):
        for line in lines:
            program, *words = shlex.split(line)
            ended = CliRunner(env=env).invoke(APPS[program], words, prog_name=program)
            code, out, err = ended.exit_code, out + ended.stdout, err + ended.stderr
            if code:
                break
    return Done(code, out, err)


def _is_plain(line: str) -> bool:
    ours = line.startswith(tuple(f"{program} " for program in APPS))
    return ours and not set("|*$;&#") & set(line) and " > " not in line


def _by_a_shell(text: str, folder: Path, env: Mapping[str, str]) -> Done:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["/bin/sh", "-eu", "-c", text],
        cwd=folder,
        env={**os.environ, **env, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    return Done(done.returncode, done.stdout, done.stderr)
