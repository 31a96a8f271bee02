"""WebDataset shards as an image set: every image in any order, labels, parts, clear errors."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fbnetv3.images.reader import open_image
from fbnetv3.search.data.datasets import check_folder, open_images, open_train_val
from fbnetv3.search.data.image_set import readable
from fbnetv3.search.data.overview import duplicates
from fbnetv3.search.data.shards import find_shards, is_shards


def picture(seed: int, side: int = 120) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def shard(path: Path, files: Mapping[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def samples(first: int, labels: list[int]) -> dict[str, bytes]:
    files = {}
    for number, label in enumerate(labels, first):
        files[f"{number:04}.png"] = picture(number)
        files[f"{number:04}.cls"] = str(label).encode()
    return files


def test_images_and_labels_are_those_of_the_shards(tmp_path: Path) -> None:
    shard(tmp_path / "s-000.tar", samples(0, [2, 0]))
    shard(tmp_path / "s-001.tar", samples(2, [1]))
    (tmp_path / "classnames.txt").write_text("cat\ndog\nfrog\n")
    for location in (tmp_path, tmp_path / "s-{000..001}.tar"):
        images = open_images(location)
        assert images.classes == ("cat", "dog", "frog")
        assert images.labels.tolist() == [2, 0, 1]
        assert images.sources is not None
        for number in (2, 0, 1):
            read = np.asarray(open_image(readable(images.sources[number])))
            np.testing.assert_array_equal(read, np.asarray(open_image(picture(number))))
        assert images.described(2) == f"{tmp_path / 's-001.tar'}/0002.png"


def test_hidden_files_are_no_shards(tmp_path: Path) -> None:
    shard(tmp_path / "train" / "s-000.tar", samples(0, [0, 1]))
    shard(tmp_path / "s-001.tar", samples(2, [1]))
    for folder in (tmp_path, tmp_path / "train"):
        (folder / "._s-000.tar").write_bytes(b"\x00\x05\x16\x07")
    found = find_shards(tmp_path)
    assert [path.name for path in found] == ["s-001.tar", "s-000.tar"]


def test_labels_may_be_names_in_json(tmp_path: Path) -> None:
    files = {}
    for number, label in enumerate(["dog", "cat", "dog"]):
        files[f"a/{number}.v1.png"] = picture(number)
        files[f"a/{number}.json"] = json.dumps({"label": label}).encode()
    images = open_images(shard(tmp_path / "x.tar", files))
    assert images.classes == ("cat", "dog")
    assert images.labels.tolist() == [1, 0, 1]


def test_parts_are_known_by_the_shards_names(tmp_path: Path) -> None:
    shard(tmp_path / "train-000.tar", samples(0, [0, 1, 2]))
    shard(tmp_path / "val-000.tar", samples(2, [1, 0]))
    train, val = open_train_val(tmp_path)
    assert (len(train), len(val)) == (3, 2)
    assert val.classes == train.classes == ("0", "1", "2")
    assert duplicates(train, val) == {0: 2}


def test_parts_are_known_by_a_word_in_the_shards_names(tmp_path: Path) -> None:
    shard(tmp_path / "imagenet1k-train-0000.tar", samples(0, [0, 1, 2]))
    shard(tmp_path / "imagenet1k-validation-00.tar", samples(3, [1, 0]))
    shard(tmp_path / "imagenet1k-test-00.tar", samples(5, [1, 0]))
    train, val = open_train_val(tmp_path)
    assert (train.labels.tolist(), val.labels.tolist()) == ([0, 1, 2], [1, 0])
    assert any(n.endswith("were left out: imagenet1k-test-00.tar") for n in val.notes)


def test_what_a_mac_puts_beside_files_in_a_tar_is_ignored(tmp_path: Path) -> None:
    files = {
        f"{folder}._{name}": b"junk" for name in samples(0, [0]) for folder in ("", "__MACOSX/")
    }
    images = open_images(shard(tmp_path / "x.tar", files | samples(0, [1, 0])))
    assert images.labels.tolist() == [1, 0]


def test_parts_may_be_folders_of_shards(tmp_path: Path) -> None:
    shard(tmp_path / "Train" / "000.tar", samples(0, [0, 1, 2]))
    shard(tmp_path / "dev" / "000.tar", samples(2, [1, 0]))
    shard(tmp_path / "old" / "000.tar", samples(9, [1, 0]))
    (tmp_path / "classes.txt").write_text("ant\nbee\ncow\n")
    train, val = open_train_val(tmp_path)
    assert train.labels.tolist() == [0, 1, 2]
    assert val.labels.tolist() == [1, 0]
    assert val.classes == train.classes == ("ant", "bee", "cow")


def test_a_tar_in_a_class_folder_makes_no_shards_of_it(tmp_path: Path) -> None:
    shard(tmp_path / "cat" / "backup.tar", samples(0, [0]))
    assert not is_shards(tmp_path)


def test_shards_without_parts_are_split_by_class(tmp_path: Path) -> None:
    shard(tmp_path / "x.tar", samples(0, [0] * 10 + [1] * 10))
    train, val = open_train_val(tmp_path, val_share=0.2)
    assert torch.bincount(val.labels).tolist() == [2, 2]
    assert len(train) == 16


def test_a_damaged_image_is_named_and_left_out(tmp_path: Path) -> None:
    files = samples(0, [0, 1, 0, 1])
    files["0002.png"] = files["0002.png"][:100]
    images = open_images(shard(tmp_path / "x.tar", files))
    assert len(images) == 3
    assert "x.tar/0002.png" in images.damaged[0]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"1.png": picture(0)}, "sample 1 has the label None; expected a number or a name"),
        ({"1.png": picture(0), "1.cls": b"-3"}, "sample 1 has label -3; expected from 0"),
        ({"1.png": picture(0), "1.json": b"{"}, "1.json is not JSON"),
        ({"1.cls": b"0"}, "has no image"),
        (samples(0, [0]) | {"a.png": picture(1), "a.cls": b"cat"}, "numbers .* and names"),
    ],
)
def test_what_is_wrong_with_a_sample_is_named(
    tmp_path: Path, files: dict[str, bytes], message: str
) -> None:
    path = shard(tmp_path / "x.tar", files)
    with pytest.raises(ValueError, match=message):
        open_images(path)


def test_compressed_cut_and_missing_shards_are_named(tmp_path: Path) -> None:
    packed = shard(tmp_path / "z.tar", samples(0, [0, 1]), "w:gz")
    with pytest.raises(ValueError, match=r"z\.tar is not a tar file, is compressed, or is damaged"):
        open_images(packed)
    with pytest.raises(FileNotFoundError, match=r"s-8\.tar \(3 of 3 are missing\)"):
        check_folder(tmp_path / "s-{8..10}.tar")
    (tmp_path / "classes.txt").write_text("cat\n")
    with pytest.raises(ValueError, match="expected more than 1, the highest label"):
        open_images(shard(tmp_path / "y.tar", samples(0, [0, 1])))


def test_several_ranges_are_expanded_as_by_a_shell(tmp_path: Path) -> None:
    for name in ("a0-08", "a0-09", "a0-10", "a1-08", "a1-09", "a1-10"):
        shard(tmp_path / f"{name}.tar", {})
    found = find_shards(tmp_path / "a{0..1}-{08..10}.tar")
    assert [p.stem for p in found] == ["a0-08", "a0-09", "a0-10", "a1-08", "a1-09", "a1-10"]
