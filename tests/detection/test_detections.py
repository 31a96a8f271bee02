"""What is found, and whether two detectors find the same."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fbnetv3.detection.detections import Detections, agreement, overlaps
from fbnetv3.detection.pictures import with_boxes

NAMES = ("cat", "dog")


def found(*rows: tuple[float, float, float, float, int, float]) -> Detections:
    table = np.array(rows, np.float32).reshape(-1, 6)
    labels = table[:, 4].astype(np.int64)
    return Detections(table[:, :4], labels, table[:, 5], NAMES)


def test_overlaps_are_shares_of_the_union() -> None:
    a = np.array([[0, 0, 10, 10], [0, 0, 5, 10]], np.float32)
    b = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]], np.float32)
    np.testing.assert_allclose(overlaps(a, b), [[1, 1 / 3, 0], [0.5, 0, 0]])


def test_a_record_has_names_and_plain_numbers() -> None:
    few = found((1, 2, 3, 4, 2, 0.9), (0, 0, 9, 9, 1, 0.2)).above(0.5)
    assert few.to_list() == [{"class": "dog", "score": 0.9, "box": [1.0, 2.0, 3.0, 4.0]}]


@pytest.mark.parametrize(
    ("other", "share"),
    [
        ((0, 0, 100, 100, 1, 0.9), 1.0),
        ((0, 0, 100, 98, 1, 0.901), 1.0),
        ((0, 0, 100, 90, 1, 0.9), 0.5),  # overlap 0.9
        ((0, 0, 100, 100, 2, 0.9), 0.5),
        ((0, 0, 100, 100, 1, 0.8), 0.5),
    ],
)
def test_partners_have_the_class_the_place_and_the_score(
    other: tuple[float, float, float, float, int, float], share: float
) -> None:
    same = (50.0, 50.0, 60.0, 70.0, 2, 0.7)
    one = found((0, 0, 100, 100, 1, 0.9), same)
    got = agreement([(one, found(same, other))])
    assert (got.num_boxes, got.share) == (2, share)
    assert agreement([(one, one)]).max_box_error == 0.0


def test_no_box_has_two_partners_and_missing_ones_count() -> None:
    box = (0.0, 0.0, 10.0, 10.0, 1, 0.9)
    assert agreement([(found(box), found(box, box))]).share == round(2 / 3, 4)
    assert agreement([(found(box), found())]).share == 0.0
    assert agreement([(found(), found())]).share == 1.0


def test_boxes_are_drawn_where_they_are() -> None:
    image = Image.new("RGB", (200, 100), "white")
    drawn = np.asarray(with_boxes(image, found((20, 40, 120, 90, 1, 0.8))))
    changed = (drawn != 255).any(-1)
    assert changed[60, 20]
    assert changed[90, 70]
    assert not changed[60, 70]  # inside
    assert not changed[:, 150:].any()
    assert np.asarray(image).min() == 255
