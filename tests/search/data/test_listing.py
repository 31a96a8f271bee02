"""Lists of images in place of folders."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fbnetv3.search.data.datasets import open_images, open_train_val
from fbnetv3.search.data.listing import read_list


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Returns a folder of the images 0.png to 7.png, of noise."""
    rng = np.random.default_rng(0)
    for number in range(8):
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    return tmp_path


def listed(folder: Path, text: str) -> Path:
    path = folder / "list.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "0.png,cat\n1.png,dog\n2.png,cat\n",
        "file,label\n0.png,cat\n1.png,dog\n2.png,cat\n",
        "\ufeffID;Class;Path\r\n7;cat;0.png\r\n8;dog;1.png\r\n\r\n9;cat;2.png\r\n",
        'image\tlabel\n"0.png"\tcat\n1.png\tdog\n2.png\tcat\n',
    ],
)
def test_columns_are_found_by_name_or_are_the_first_two(photos: Path, text: str) -> None:
    found = read_list(listed(photos, text))
    assert found.classes == ("cat", "dog")
    assert found.paths == tuple(photos / f"{number}.png" for number in range(3))
    assert found.labels == (0, 1, 0)


def test_the_split_column_tells_training_from_validation(photos: Path) -> None:
    rows = ["0.png,a,train", "1.png,b,Train", "2.png,a,valid", "3.png,c,training", "4.png,b,test"]
    path = listed(photos, "\n".join(["file,label,split", *rows]))
    train, val = open_train_val(path)
    assert train.classes == val.classes == ("a", "b", "c")
    assert (train.labels.tolist(), val.labels.tolist()) == ([0, 1, 2], [0, 1])
    assert any("no image of 1 class(es), not measured: 'c'" in note for note in val.notes)
    assert len(open_images(path, "train")) == 3
    assert len(open_images(path)) == 2


def test_a_list_without_a_split_is_split_by_class(photos: Path) -> None:
    path = listed(photos, "".join(f"{n}.png,{'ab'[n % 2]}\n" for n in range(8)))
    train, val = open_train_val(path, val_share=0.25)
    assert train.labels.bincount().tolist() == [3, 3]
    assert val.labels.bincount().tolist() == [1, 1]
    assert len(open_images(path)) == 8
    with pytest.raises(ValueError, match="no split column"):
        open_images(path, "train")


def test_a_file_that_is_listed_or_linked_to_twice_counts_once(photos: Path) -> None:
    os.symlink(photos / "0.png", photos / "link.png")
    path = listed(photos, "0.png,a\nlink.png,a\n./0.png,a\n1.png,b\n")
    found = read_list(path)
    assert found.paths == (photos / "0.png", photos / "1.png")
    assert found.notes == (f"2 row(s) of {path} name a file again and count once",)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "is empty; expected rows of file,label"),
        ("file,label\n", "lists no image"),
        ("0.png,a\n1.png\n", "line 2: expected a file and a label, found '1.png'"),
        ("0.png,a\n1.png,a\n", "only one class, 'a'"),
        ("file,label,split\n0.png,a,later\n", "line 2: split is 'later'; expected train or val"),
        ("0.png,a\n1.png,b\n0.png,b\n", "lines 1 and 3: .*0.png is 'a' and 'b'"),
        ("file,label,split\n0.png,a,train\n1.png,b,train\n", "lists no image with split 'val'"),
        (
            "file,label,split\n0.png,a,train\n1.png,b,train\n2.png,a,val\n3.png,z,val\n",
            r"only in validation \['z'\]",
        ),
    ],
)
def test_what_is_wrong_with_a_list_is_said_with_its_line(
    photos: Path, text: str, named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        open_train_val(listed(photos, text))


def test_a_list_that_is_no_text_is_refused(photos: Path) -> None:
    path = photos / "list.csv"
    path.write_bytes(b"\xff\xfe0\x00")
    with pytest.raises(ValueError, match="not text in UTF-8"):
        read_list(path)


def test_a_missing_file_is_named(photos: Path) -> None:
    rows = [f"{n}.png,{'ab'[n % 2]}" for n in range(8)]
    train, _ = open_train_val(listed(photos, "\n".join([*rows, "gone.png,a"])))
    assert any("gone.png" in note for note in train.notes)
    with pytest.raises(ValueError, match=r"gone.png.*lost.png"):
        open_train_val(listed(photos, "\n".join([*rows, "gone.png,a", "lost.png,b"])))
