"""Image sets that come as arrays: what torchvision downloads, and files of numpy's arrays."""

import gzip
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torchvision.datasets import FashionMNIST

from fbnetv3.search.data.datasets import open_images, open_train_val

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)


def pixels(*shape: int) -> Array:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def write_idx(path: Path, values: Array, *, pack: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    data = head + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if pack else data)


def write_mnist(folder: Path, end: str = "-idx{}-ubyte") -> tuple[Array, Array]:
    """Writes 12 images to train on and 5 to test on; returns the training ones and their labels."""
    images, labels = pixels(12, 28, 28), RNG.integers(0, 10, 12)
    for begin, num in (("train", 12), ("t10k", 5)):
        name = folder / f"{begin}-images{end.format(3)}"
        write_idx(name, images[:num], pack=end.endswith(".gz"))
        name = folder / f"{begin}-labels{end.format(1)}"
        write_idx(name, labels[:num], pack=end.endswith(".gz"))
    return images, labels


def write_cifar100(folder: Path) -> Array:
    folder.mkdir(parents=True)
    rows = pixels(10, 3072)
    for name, num in (("train", 10), ("test", 4)):
        batch = {
            "data": rows[:num],
            "fine_labels": [99, *range(1, num)],
            "coarse_labels": [0] * num,
            "filenames": ["x.png"] * num,
        }
        (folder / name).write_bytes(pickle.dumps(batch))
    names = {"fine_label_names": [f"c{n}" for n in range(100)], "coarse_label_names": ["all"]}
    (folder / "meta").write_bytes(pickle.dumps(names))
    return rows


@pytest.mark.parametrize("below", [".", "cifar-100-python"])
def test_cifar100_is_read_by_its_fine_labels(tmp_path: Path, below: str) -> None:
    rows = write_cifar100(tmp_path / "cifar-100-python")
    train, val = open_train_val(tmp_path / ("." if below != "." else "cifar-100-python"))
    assert (len(train), len(val), len(train.classes)) == (10, 4, 100)
    assert train.labels.tolist()[:3] == [99, 1, 2]
    assert train.pixels is not None
    assert train.pixels.shape == (10, 32, 32, 3)
    assert int(train.pixels[7, 5, 9, 2]) == rows[7, 2 * 1024 + 5 * 32 + 9]


@pytest.mark.parametrize("end", ["-idx{}-ubyte", "-idx{}-ubyte.gz", ".idx{}-ubyte"])
def test_mnist_is_read_from_its_own_files(tmp_path: Path, end: str) -> None:
    images, labels = write_mnist(tmp_path / "MNIST" / "raw", end)
    for location in (tmp_path, tmp_path / "MNIST", tmp_path / "MNIST" / "raw"):
        train, val = open_train_val(location)
        assert (len(train), len(val)) == (12, 5)
        assert train.pixels is not None
        assert all(torch.equal(train.pixels[..., c], torch.from_numpy(images)) for c in range(3))
        assert train.labels.tolist() == labels.tolist()
        assert train.classes == tuple("0123456789")


def test_fashion_mnist_is_what_torchvision_reads(tmp_path: Path) -> None:
    write_mnist(tmp_path / "FashionMNIST" / "raw")
    for split, ours in zip((True, False), open_train_val(tmp_path), strict=True):
        theirs = FashionMNIST(str(tmp_path), train=split)
        assert ours.classes == tuple(theirs.classes)
        assert ours.labels.tolist() == theirs.targets.tolist()
        assert ours.pixels is not None
        assert torch.equal(ours.pixels[..., 0], theirs.data)


def test_several_sets_below_a_folder_are_refused_by_name(tmp_path: Path) -> None:
    write_mnist(tmp_path / "MNIST" / "raw")
    write_cifar100(tmp_path / "cifar-100-python")
    with pytest.raises(ValueError, match=r"several data sets in it: MNIST/raw, cifar-100-python"):
        open_images(tmp_path)
    assert len(open_images(tmp_path / "cifar-100-python", "train")) == 10


@pytest.mark.parametrize("damage", ["cut", "other", "packed"])
def test_a_damaged_file_of_mnist_is_named(tmp_path: Path, damage: str) -> None:
    write_mnist(tmp_path, "-idx{}-ubyte.gz" if damage == "packed" else "-idx{}-ubyte")
    path = next(tmp_path.glob("train-images*"))
    content = path.read_bytes()
    path.write_bytes({"cut": content[:-9], "other": b"<html>", "packed": content[:40]}[damage])
    with pytest.raises(ValueError, match=f"{path.name}.*(cut|MNIST's format|unpacked)"):
        open_images(tmp_path, "train")


def test_svhn_counts_its_tens_as_zero(tmp_path: Path) -> None:
    images = pixels(32, 32, 3, 6)
    for part in ("train", "test"):
        labels = np.array([[10], [1], [9], [10], [3], [2]], np.uint8)
        savemat(tmp_path / f"{part}_32x32.mat", {"X": images, "y": labels})
    train, _ = open_train_val(tmp_path)
    assert train.labels.tolist() == [0, 1, 9, 0, 3, 2]
    assert train.pixels is not None
    assert np.array_equal(train.pixels[4].numpy(), images[..., 4])
    (tmp_path / "train_32x32.mat").write_bytes(b"MATLAB 5.0")
    with pytest.raises(ValueError, match=r"train_32x32\.mat is damaged"):
        open_images(tmp_path, "train")


def test_arrays_of_medmnist_are_read_with_its_validation_part(tmp_path: Path) -> None:
    path = tmp_path / "bloodmnist.npz"
    images = pixels(9, 28, 28, 3)
    labels = np.array([[0], [7], [2], [3], [1], [0], [5], [6], [4]], np.uint8)
    arrays: dict[str, Any] = {}
    for part, num in (("train", 9), ("val", 3), ("test", 4)):
        arrays |= {f"{part}_images": images[:num], f"{part}_labels": labels[:num]}
    np.savez_compressed(path, **arrays)
    train, val = open_train_val(path)
    assert (len(train), len(val)) == (9, 3)
    assert train.classes == val.classes == tuple("01234567")
    assert train.labels.tolist() == labels[:, 0].tolist()
    assert train.pixels is not None
    assert np.array_equal(train.pixels.numpy(), images)
    assert "test_images and test_labels" in train.notes[0]


def test_arrays_of_keras_are_read_with_their_test_part(tmp_path: Path) -> None:
    path = tmp_path / "mnist.npz"
    images, labels = pixels(8, 28, 28), np.arange(8)
    np.savez(path, x_train=images, y_train=labels, x_test=images[:4], y_test=labels[:4])
    train, val = open_train_val(path)
    assert (len(train), len(val), train.notes) == (8, 4, ())
    assert len(train.classes) == 8


def test_arrays_without_parts_are_split(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, images=pixels(8, 3, 20, 24), labels=np.array(["cat", "ant"] * 4))
    train, val = open_train_val(path, val_share=0.25)
    assert (len(train), len(val), train.classes) == (6, 2, ("ant", "cat"))
    assert train.pixels is not None
    assert train.pixels.shape[1:] == (20, 24, 3)
    with pytest.raises(
        FileNotFoundError, match=r"mine\.npz has no arrays for train; it has images"
    ):
        open_images(path, "train")


def test_rows_of_ones_are_several_labels(tmp_path: Path) -> None:
    path = tmp_path / "chestmnist.npz"
    labels = np.array([[0, 1, 1], [0, 0, 0], [1, 0, 0], [0, 1, 0]])
    np.savez(path, train_images=pixels(4, 28, 28), train_labels=labels)
    images = open_images(path, "train")
    assert images.multi_label
    assert images.labels.int().tolist() == labels.tolist()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": pixels(3)}, "has the arrays a; expected train_images and train_labels, or x_train"),
        (
            {"x_train": pixels(3, 784), "y_train": np.arange(3)},
            r"shape \(3, 784\); expected \(N, H",
        ),
        (
            {"x_train": np.full((3, 8, 8), 0.5), "y_train": np.arange(3)},
            "images are float64 up to 0.5; expected whole numbers from 0 to 255",
        ),
        (
            {"x_train": pixels(3, 8, 8), "y_train": np.arange(3) / 2},
            r"labels are float64 of shape \(3,\); expected",
        ),
        ({"x_train": pixels(3, 8, 8), "y_train": np.arange(2)}, "3 images and 2 labels"),
        ({"x_train": pixels(3, 8, 8), "y_train": np.array([0, -1, 1])}, "label -1"),
        (
            {"x_train": pixels(3, 8, 8), "y_train": np.array([object()] * 3)},
            r"y_train cannot be read: .*allow_pickle",
        ),
    ],
)
def test_arrays_that_cannot_be_images_are_refused(
    tmp_path: Path, arrays: dict[str, Any], message: str
) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        open_train_val(tmp_path / "a.npz")


def test_a_damaged_file_of_arrays_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(b"PK nothing")
    with pytest.raises(ValueError, match=r"a\.npz is no \.npz file, or damaged: it is no zip"):
        open_images(path)


@pytest.mark.needs("pyarrow")
def test_what_save_to_disk_writes_is_read_as_its_parquet(tmp_path: Path) -> None:
    import io
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    def encoded(array: Array) -> bytes:
        file = io.BytesIO()
        Image.fromarray(array).save(file, "png")
        return file.getvalue()

    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["b", "a"]}}
    images = [{"bytes": encoded(pixels(9, 9, 3)), "path": None} for _ in range(6)]
    table = pa.table({"image": images, "label": [0, 1] * 3}).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    for part in ("train", "test"):
        (tmp_path / "saved" / part).mkdir(parents=True)
        with pa.ipc.new_stream(
            tmp_path / "saved" / part / "data-00000-of-00001.arrow", table.schema
        ) as writer:
            writer.write_table(table)
        (tmp_path / "saved" / part / "state.json").write_text("{}")
    (tmp_path / "saved" / "train" / "cache-12ab.arrow").write_bytes(b"of another step")
    (tmp_path / "parquet").mkdir()
    for part in ("train", "test"):
        pq.write_table(table, tmp_path / "parquet" / f"{part}-0.parquet")
    for ours, theirs in zip(
        open_train_val(tmp_path / "saved"), open_train_val(tmp_path / "parquet"), strict=True
    ):
        assert ours.classes == theirs.classes == ("b", "a")
        assert ours.labels.tolist() == theirs.labels.tolist()
        assert ours.pixels is not None
        assert theirs.pixels is not None
        assert torch.equal(ours.pixels, theirs.pixels)
    one = tmp_path / "saved" / "train" / "data-00000-of-00001.arrow"
    assert len(open_images(one)) == 6
    one.write_bytes(b"\0" * 20)
    with pytest.raises(ValueError, match="is no Arrow file, or damaged"):
        open_images(one)
