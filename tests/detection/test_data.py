"""Which images are trained on, and what is said of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fbnetv3.detection.data import open_train_val

Content = dict[str, Any]


@pytest.fixture
def folder(shapes: Path, tmp_path: Path) -> Path:
    """The six drawn images, to be changed."""
    return Path(shutil.copytree(shapes, tmp_path / "changed"))


def change(folder: Path, changed: Callable[[Content], object]) -> None:
    path = folder / "annotations.json"
    content = json.loads(path.read_text())
    changed(content)
    path.write_text(json.dumps(content))


def boxed(*images: int) -> Callable[[Content], object]:
    """Leaves the boxes of these images only."""

    def changed(content: Content) -> None:
        rows = content["annotations"]
        content["annotations"] = [one for one in rows if one["image_id"] in images]

    return changed


@pytest.mark.parametrize("seed", range(5))
def test_both_parts_have_images_with_boxes(folder: Path, seed: int) -> None:
    change(folder, boxed(2, 5))
    train, val = open_train_val(folder, val_share=0.5, seed=seed)
    assert len(train) == 1
    assert len({2, 5} & set(val.image_ids)) == 1
    assert len(val) == 3  # half of the other four too
    assert "left out 2 images without a box to train on" in str(train.notes)


def test_one_image_with_boxes_is_too_few(folder: Path) -> None:
    change(folder, boxed(3))
    with pytest.raises(ValueError, match=r"has 1 image with boxes; expected at least 2, one to"):
        open_train_val(folder)


def test_an_annotation_of_an_unknown_image_is_not_lost_between_the_parts(folder: Path) -> None:
    change(folder, lambda content: content["annotations"][0].update(image_id=7))
    with pytest.raises(ValueError, match=r"annotation 1: `image_id` is 7; expected the `id` of an"):
        open_train_val(folder)


def test_what_was_put_right_is_told_of_the_whole(folder: Path) -> None:
    change(folder, lambda c: c["annotations"].append(c["annotations"][0]))
    train, val = open_train_val(folder)
    for part in (train, val):
        assert "left out 1 box given twice" in str(part.notes)


def test_classes_without_boxes_or_with_nearly_equal_names_are_told(folder: Path) -> None:
    change(folder, lambda c: c["categories"].append({"id": 3, "name": "Box"}))
    train, _ = open_train_val(folder)
    assert any("no box to train on of 1 of 3 classes, such as 'Box'" in n for n in train.notes)
    assert any("classes 'box' and 'Box' are nearly equal" in note for note in train.notes)


def split(folder: Path, changed: Callable[[Content], object]) -> Path:
    """Has all images in both splits; the one to validate on is changed."""
    content = json.loads((folder / "annotations.json").read_text())
    (folder / "annotations").mkdir()
    (folder / "annotations.json").rename(folder / "annotations" / "instances_train.json")
    changed(content)
    (folder / "annotations" / "instances_val.json").write_text(json.dumps(content))
    return folder


def _shifted(content: Content) -> None:
    for category in content["categories"]:
        category["id"] += 10
    for item in content["annotations"]:
        item["category_id"] += 10


def _first_class_only(content: Content) -> None:
    content["categories"] = content["categories"][:1]
    rows = content["annotations"]
    content["annotations"] = [one for one in rows if one["category_id"] == 1]


@pytest.mark.parametrize(
    ("changed", "names"),
    [(_shifted, ["box", "disc"]), (_first_class_only, ["box"])],
)
def test_a_split_to_validate_on_may_have_fewer_classes_and_other_ids(
    folder: Path, changed: Callable[[Content], object], names: list[str]
) -> None:
    train, val = open_train_val(split(folder, changed))
    assert train.class_names == ["box", "disc"]
    assert val.class_names == names
    # Both have all images here.
    said = "6 images to validate on are also trained on, such as 0001.png"
    assert any(said in note for note in train.notes)


def test_a_class_that_is_not_trained_is_refused(folder: Path) -> None:
    split(folder, lambda c: c["categories"].append({"id": 3, "name": "star"}))
    said = r"\(val\) has the classes \['box', 'disc', 'star'\], .*expected none that are not"
    with pytest.raises(ValueError, match=said):
        open_train_val(folder)


def test_the_split_without_boxes_is_named(folder: Path) -> None:
    split(folder, lambda c: c["annotations"].clear())
    with pytest.raises(ValueError, match=r"instances_val\.json \(val\) has no image with a box"):
        open_train_val(folder)
