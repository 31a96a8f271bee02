"""What messages show of values from elsewhere."""

import pytest

from fbnetv3._internal.messages import counted, one_line, shown


def nested(depth: int) -> list[object]:
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7, "7"),
        ("cat", "'cat'"),
        ("\x1b[2J", r"'\x1b[2J'"),
        ("x" * 500, "'" + "x" * 199 + "... (502 characters)"),
        (nested(100_000), "<list too deep or too long to show>"),
        pytest.param(10**5000, "<int too deep or too long to show>", id="huge"),
    ],
)
def test_any_value_is_shown_in_bounds(value: object, text: str) -> None:
    assert shown(value) == text


def test_a_text_becomes_one_printable_line_that_ends() -> None:
    assert one_line("first\nsecond\t third") == "first second third"
    assert one_line("caf\u00e9 \x1b[2J \ud800") == "caf\u00e9 \\x1b[2J \\ud800"
    assert one_line("word " * 1000) == "word " * 80 + "..."
    assert one_line("\x00" * 10_000, 8) == r"\x00\x00..."


def test_one_of_a_thing_is_counted_in_the_singular() -> None:
    assert [counted(n, "epoch") for n in (0, 1, 1000)] == ["0 epochs", "1 epoch", "1,000 epochs"]
    assert [counted(n, "class", "classes") for n in (1, 2)] == ["1 class", "2 classes"]
