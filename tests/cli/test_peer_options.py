"""Options by the names that other tools give them are answered with ours."""

from __future__ import annotations

import shlex

import pytest
from typer.testing import CliRunner

from fbnetv3.cli.peer_options import _THEIRS, own_option
from fbnetv3.search.training.recipe import Recipe
from tests.shell import APPS, COMMANDS_OF

OPTIONS = {
    f"{program} {words}": {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
    for program, commands in COMMANDS_OF.items()
    for words, command in commands.items()
}


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("fbnetv3 train --data d --imgsz 64", "--image-size"),
        ("fbnetv3 train --data d --img-size=64", "--image-size"),
        ("fbnetv3 train --data d --num-workers 4", "--workers"),
        ("fbnetv3 train --data d -j 4", "--workers"),
        ("fbnetv3 train --data d --weight_decay 1e-4", "--set weight_decay="),
        ("fbnetv3 train --data d --batch_size 4", "--batch-size"),
        ("fbnetv3 train --data d --learning-rate 0.1", "--lr"),
        ("fbnetv3 train --data d --output_dir run", "--out"),
        ("fbnetv3 eval m --data d --train-crop-size 64", "--image-size"),
        ("fbnetv3 detect train --data d --imgsz 320", "--size"),
        ("fbnetv3 classify a.jpg --topk 3", "--top-k"),
        ("fbnetv3 detect predict a.jpg --weights run", "--model"),
        ("fbnetv3 detect predict a.jpg --model run --conf 0.3", "--threshold"),
        ("fbnetv3-search run s --n-trials 30", "--trainings"),
    ],
)
def test_the_error_names_our_option(line: str, meant: str) -> None:
    program, *words = shlex.split(line)
    done = CliRunner().invoke(APPS[program], words, prog_name=program)
    assert done.exit_code == 2
    (text,) = done.stderr.splitlines()
    assert f"; did you mean {meant}? See {program} " in text


def test_an_option_that_is_no_option_here_is_told() -> None:
    words = ["detect", "predict", "--source", "photos", "--model", "run"]
    done = CliRunner().invoke(APPS["fbnetv3"], words, prog_name="fbnetv3")
    assert "--source is no option; give the value alone: `fbnetv3 detect predict IMAGES`" in (
        done.stderr
    )


def test_what_follows_two_dashes_is_no_option() -> None:
    done = CliRunner().invoke(APPS["fbnetv3"], ["list", "--", "--imgsz"], prog_name="fbnetv3")
    assert "did you mean" not in done.stderr


@pytest.mark.parametrize("ours", _THEIRS)
def test_a_command_has_the_option_that_is_named(ours: str) -> None:
    name = ours.split(maxsplit=1)[0]
    assert any(name in options for options in OPTIONS.values())
    for field in ours.split()[1:]:
        assert field.rstrip("=") in Recipe.__dataclass_fields__


@pytest.mark.parametrize("line", OPTIONS)
def test_no_option_of_a_command_is_taken_for_anothers(line: str) -> None:
    for option in OPTIONS[line]:
        assert own_option(option, OPTIONS[line]) is None
    assert own_option("value", OPTIONS[line]) is None
