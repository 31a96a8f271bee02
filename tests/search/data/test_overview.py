"""What is said of a training's images before the first step."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from fbnetv3.search.data.image_set import ImageSet
from fbnetv3.search.data.overview import class_table, duplicates, remarks
from tests.search.tiny import tiny_images


def files(folder: Path, contents: dict[str, bytes]) -> ImageSet:
    """Returns a set of files of one class, which need not be images here."""
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return ImageSet(
        name="files",
        classes=("one",),
        labels=torch.zeros(len(contents)).long(),
        sources=tuple(folder / name for name in contents),
    )


def test_files_of_the_same_bytes_are_found_under_any_name(tmp_path: Path) -> None:
    train = files(tmp_path, {"a": b"first", "b": b"second", "c": b"other"})
    val = files(tmp_path, {"d": b"third", "e": b"second", "f": b"longer than all"})
    assert duplicates(train, val) == {1: 1}
    (text,) = [text for text in remarks(train, val) if "too high" in text]
    assert text.startswith("1 of the 3 validation images")
    assert f"{tmp_path / 'e'} = {tmp_path / 'b'}" in text


def test_a_file_that_has_gone_is_left_to_the_reader(tmp_path: Path) -> None:
    train = files(tmp_path, {"a": b"first", "b": b"second"})
    val = files(tmp_path, {"c": b"third"})
    (tmp_path / "b").unlink()
    (tmp_path / "c").unlink()
    assert duplicates(train, val) == {}


def test_images_in_memory_and_in_parquet_are_compared_too() -> None:
    train, val = tiny_images(40), tiny_images(40, seed=1)
    assert duplicates(train, val) == {}
    assert val.pixels is not None
    assert train.pixels is not None
    pixels = val.pixels.clone()
    pixels[7] = train.pixels[30]
    assert duplicates(train, dataclasses.replace(val, pixels=pixels)) == {7: 30}
    one, other = (
        ImageSet(name="p", classes=("a",), labels=torch.zeros(2).long(), sources=sources)
        for sources in ((b"1", b"22"), (b"22", b"33"))
    )
    assert duplicates(one, other) == {0: 1}


def test_few_images_and_unequal_classes_are_named() -> None:
    labels = torch.tensor([0] * 90 + [1] * 4 + [3] * 2)
    train = dataclasses.replace(tiny_images(96), labels=labels)
    few, unequal = remarks(train, tiny_images(40, seed=1))
    assert few == ("fewer than 10 images to train on in 3 classes: class2 0, class3 2, class1 4")
    assert "class 'class0' has 90 images and 'class2' has 0" in unequal
    assert remarks(tiny_images(96), tiny_images(40, seed=1)) == []


def test_classes_of_nearly_equal_names_are_named() -> None:
    names = ("Cat", "cat", "dog", "e\u0301", "\u00e9", "sea_lion", "sea lion", "lion")
    images = ImageSet(
        name="p", classes=names, labels=torch.arange(8), sources=tuple(map(str.encode, names))
    )
    found = [line for line in remarks(images, images) if "nearly equal" in line]
    assert len(found) == 3
    assert found[0].startswith("the names of classes 'Cat' and 'cat' are nearly equal")
    assert found[2].startswith("the names of classes 'sea_lion' and 'sea lion' are")


def test_the_table_has_a_line_a_class_or_a_summary() -> None:
    assert class_table(tiny_images(96), tiny_images(42, seed=1)) == [
        "class0      24 train      11 val",
        "class1      24 train      11 val",
        "class2      24 train      10 val",
        "class3      24 train      10 val",
    ]
    many = tiny_images(96, classes=48)
    assert class_table(many, many) == [
        "48 classes with 2 to 2 images to train on and 2 to 2 to validate on"
    ]
