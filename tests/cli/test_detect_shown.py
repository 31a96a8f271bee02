"""What `fbnetv3 detect predict` prints of an image stays readable."""

from __future__ import annotations

from typing import Any

import pytest

from fbnetv3.cli.detect_shown import objects_in_words


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "no box with a score of at least 30 % (--threshold)"),
        (2, "cat 90 % [0, 0, 4, 4]; cat 89 % [0, 0, 4, 4]"),
    ],
)
def test_few_objects_are_all_printed(number: int, text: str) -> None:
    assert objects_in_words(objects(number), 0.3) == text


def test_of_many_objects_the_first_ten_are_printed_and_the_rest_counted() -> None:
    shown = objects_in_words(objects(300), 0.3).split("; ")
    assert shown == [*objects_in_words(objects(10), 0.3).split("; "), "290 more"]


def objects(number: int) -> list[dict[str, Any]]:
    """Returns detections as `Detections.to_list` does, from the highest score down."""
    return [{"class": "cat", "score": 0.9 - n / 100, "box": [0, 0, 4, 4]} for n in range(number)]
