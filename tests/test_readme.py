"""The README names only functions that exist, and its first command works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from typer.testing import CliRunner

import fbnetv3
from fbnetv3.cli.app import app

from .pages import blocks
from .paths import ROOT

README = ROOT / "README.md"


def test_the_functions_exist() -> None:
    names = set(re.findall(r"fbnetv3\.([A-Za-z_]+)\(", README.read_text()))
    assert len(names) >= 3
    assert [name for name in names if not hasattr(fbnetv3, name)] == []


def test_the_first_command_says_what_is_on_the_photo() -> None:
    first, printed, tests = blocks(README)[:3]
    program, *words = shlex.split(first.text.partition("uv run ")[2])
    assert program == "fbnetv3"
    photo = next(word for word in words if word.endswith(".jpg"))
    here = Path(fbnetv3.__file__).parent / "data" / "photos" / Path(photo).name
    shown = CliRunner().invoke(app, [str(here) if word == photo else word for word in words])
    assert shown.exit_code == 0
    assert "chelsea.jpg: cat " in shown.stdout
    assert "chelsea.jpg: cat " in printed.text
    assert tests.text.startswith(".uv/bin/uv run pytest")


def test_the_size_of_an_installation_and_the_way_without_cuda_are_said() -> None:
    text = " ".join(README.read_text().split())
    assert re.search(r"installation's \d\.\d GB, CUDA and Triton take \d\.\d GB", text)
    assert "pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu" in text
