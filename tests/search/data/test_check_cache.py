"""Files that were checked before are not opened again, unless they changed."""

from __future__ import annotations

import builtins
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fbnetv3.images.reader import check_image
from fbnetv3.search.data import image_set
from fbnetv3.search.data.check_cache import CheckCache
from fbnetv3.search.data.datasets import open_train_val
from fbnetv3.search.data.image_set import read_images


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Returns four images of different sizes."""
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for number, path in enumerate(paths):
        Image.new("RGB", (100 + number, 50)).save(path)
    return paths


def test_a_folder_whose_name_is_no_utf_8_has_a_cache(tmp_path: Path) -> None:
    assert CheckCache(os.fsdecode(b"photos \xff"), tmp_path).size(tmp_path / "1.png") is None


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


def test_a_start_looks_at_each_file_a_few_times_and_a_second_one_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_set, "_CACHED_FROM", 4)
    monkeypatch.setenv("FBNETV3_HOME", str(tmp_path / "home"))
    num, looks = 120, Counter[str]()
    for number in range(num):
        folder = tmp_path / "data" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (100 + number, 50)).save(folder / f"{number}.png")

    def counted(module: Any, name: str) -> None:
        plain = getattr(module, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            looks[name] += str(args[0]).endswith(".png")
            return plain(*args, **kwargs)

        monkeypatch.setattr(module, name, call)

    for name in ("stat", "lstat"):
        counted(os, name)
    counted(builtins, "open")

    def start() -> Counter[str]:
        looks.clear()
        assert len(open_train_val(tmp_path / "data")[0]) == 0.9 * num
        return looks.copy()

    first, second = start(), start()
    assert first["open"] <= num
    assert first["stat"] <= 4 * num
    assert second["stat"] <= num
    assert (second["open"], first["lstat"], second["lstat"]) == (0, 0, 0)


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
