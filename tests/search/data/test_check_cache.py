"""Files that were checked before are not opened again, unless they changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from fbnetv3.images.reader import check_image
from fbnetv3.search.data import image_set
from fbnetv3.search.data.check_cache import CheckCache
from fbnetv3.search.data.image_set import read_images


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Returns four images of different sizes."""
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for number, path in enumerate(paths):
        Image.new("RGB", (100 + number, 50)).save(path)
    return paths


def test_a_second_reading_opens_only_what_changed(
    tmp_path: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_set, "_CACHED_FROM", 4)
    monkeypatch.setenv("FBNETV3_HOME", str(tmp_path / "home"))
    opened: list[Path] = []

    def counted(path: Path) -> tuple[int, int]:
        opened.append(path)
        return check_image(path)

    monkeypatch.setattr(image_set, "check_image", counted)

    def read() -> tuple[set[Path], tuple[str, ...]]:
        opened.clear()
        found = read_images("photos", ("a", "b"), photos, torch.tensor([0, 1, 0, 1]))
        return set(opened), found.notes

    assert read() == (set(photos), ())
    assert read() == (set(), ())
    os.utime(photos[1], ns=(0, 1))
    photos[2].write_bytes(photos[2].read_bytes()[:40])
    again, notes = read()
    assert again == {photos[1], photos[2]}
    assert any("2.png" in note for note in notes)
    # A damaged file is looked at each time.
    assert read()[0] == {photos[2]}


@pytest.mark.parametrize("content", [b"", b"[]", b'{"schema": 1}', b"\xff"])
def test_a_cache_that_cannot_be_read_is_empty(
    tmp_path: Path, photos: list[Path], content: bytes
) -> None:
    cache = CheckCache("set", tmp_path / "cache")
    cache.add(photos[0], (100, 50))
    cache.save()
    assert CheckCache("set", tmp_path / "cache").size(photos[0]) == (100, 50)
    assert CheckCache("other", tmp_path / "cache").size(photos[0]) is None
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(content)
    assert CheckCache("set", tmp_path / "cache").size(photos[0]) is None


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, photos: list[Path]) -> None:
    (tmp_path / "file").touch()
    cache = CheckCache("set", tmp_path / "file" / "folder")
    cache.add(photos[0], (100, 50))
    cache.save()
