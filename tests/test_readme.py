"""The README names only commands, options and functions that exist, and its first command works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

import fbnetv3
from fbnetv3.cli.app import add_neighbours, app
from tests.paths import ROOT

TEXT = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^\$ fbnetv3 (.+)$", TEXT, re.MULTILINE)


@pytest.fixture(scope="module", autouse=True)
def _all_commands() -> None:
    if "train" not in {command.name for command in app.registered_commands}:
        add_neighbours()


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_and_its_options_exist(line: str) -> None:
    command, *words = shlex.split(line)
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    for word in words:
        if word.startswith("-"):
            assert re.search(rf"(?<![\w-]){word}(?![\w-])", shown.stdout), f"{command} {word}"


def test_the_functions_exist() -> None:
    names = set(re.findall(r"fbnetv3\.([A-Za-z_]+)\(", TEXT))
    assert len(names) >= 3
    assert [name for name in names if not hasattr(fbnetv3, name)] == []


def test_the_first_command_says_what_is_on_the_photo() -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    program, *words = shlex.split(blocks[0].partition("uv run ")[2])
    assert program == "fbnetv3"
    photo = next(word for word in words if word.endswith(".jpg"))
    here = Path(fbnetv3.__file__).parent / "data" / "photos" / Path(photo).name
    shown = CliRunner().invoke(app, [str(here) if word == photo else word for word in words])
    assert shown.exit_code == 0
    assert "chelsea.jpg: cat " in shown.stdout
    assert blocks[1].startswith(".uv/bin/uv run pytest")
