"""One tree of errors: drawn as it is, and told from a user's mistake by the commands."""

from __future__ import annotations

import inspect

import pytest
import typer.testing

from fbnetv3._internal import errors
from fbnetv3.cli.group import Program

CLASSES = {name: kind for name, kind in vars(errors).items() if inspect.isclass(kind)}


def test_the_tree_is_drawn_as_it_is() -> None:
    drawn = {}
    for line in str(errors.__doc__).splitlines():
        words = line.split()
        if line.startswith(8 * " "):
            drawn[words[0]] = words[1]
    below = {name: kind for name, kind in CLASSES.items() if kind is not errors.FBNetV3Error}
    assert drawn == {name: kind.__bases__[1].__name__ for name, kind in below.items()}
    assert all(kind.__bases__[0] is errors.FBNetV3Error for kind in below.values())


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (errors.FetchError("no network"), 1),
        (errors.Diverged("not finite", epoch=1, curve=()), 1),
        (FileNotFoundError("no such file"), 2),
        (ValueError("a wrong value"), 2),
        (ImportError("not installed"), 3),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_command_tells_work_that_failed_from_a_mistake(raised: Exception, code: int) -> None:
    program = Program("A program.", {})

    @program.command()
    def fail() -> None:
        raise raised

    @program.command()
    def other() -> None:
        pass

    found = typer.testing.CliRunner().invoke(program, ["fail"])
    assert found.exit_code == code
    assert f"error: {raised}" in found.stderr
