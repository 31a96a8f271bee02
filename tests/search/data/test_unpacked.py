"""Packed images as files, for what reads folders and lists."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from fbnetv3.images.classes import labelled_images
from fbnetv3.images.reader import open_image
from fbnetv3.search.data.unpacked import unpacked

RNG = np.random.default_rng(0)


def test_arrays_become_the_same_pixels(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (6, 9, 7, 3), np.uint8)
    np.savez(tmp_path / "a.npz", images=pixels, labels=np.array(["a, b", "c"] * 3))
    (tmp_path / "out").mkdir()
    found = labelled_images(
        unpacked(tmp_path / "a.npz", tmp_path / "out", part="val"), ["c", "a, b"]
    )
    assert found.labels == [1, 0] * 3
    for path, expected in zip(found.paths, pixels, strict=True):
        assert np.array_equal(np.asarray(open_image(path)), expected)


def test_several_labels_and_a_part_of_the_images(tmp_path: Path) -> None:
    labels = np.array([[1, 1], [0, 1], [0, 0], [1, 0]])
    images = RNG.integers(0, 256, (4, 8, 8), np.uint8)
    np.savez(tmp_path / "a.npz", train_images=images, train_labels=labels)
    (tmp_path / "out").mkdir()
    path = unpacked(tmp_path / "a.npz", tmp_path / "out", part="train", most=2)
    found = labelled_images(path, ["0", "1"], multi_label=True)
    assert found.label_sets == [(0, 1), ()]


def test_encoded_images_keep_their_bytes(tmp_path: Path) -> None:
    files = {}
    with tarfile.open(tmp_path / "train-0.tar", "w") as shard:
        for number, kind in enumerate(("jpeg", "png", "jpeg", "png")):
            encoded = io.BytesIO()
            pixels = RNG.integers(0, 256, (120, 130, 3), np.uint8)
            Image.fromarray(pixels).save(encoded, kind)
            files[number] = encoded.getvalue()
            for end, content in ((kind, files[number]), ("cls", str(number % 2).encode())):
                member = tarfile.TarInfo(f"{number:03}.{end}")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))
    (tmp_path / "out").mkdir()
    found = labelled_images(unpacked(tmp_path, tmp_path / "out", part="train"), ["0", "1"])
    assert [path.read_bytes() for path in found.paths] == list(files.values())
    assert [path.suffix for path in found.paths] == [".jpg", ".png"] * 2


def test_folders_and_lists_are_left_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("a.png,b\n")
    for path in (tmp_path, tmp_path / "list.csv"):
        assert unpacked(path, tmp_path / "out", part="val") == path
    assert not (tmp_path / "out").exists()
