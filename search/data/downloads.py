"""Image sets as torchvision downloads and unpacks them: CIFAR-10 and -100, MNIST and its kin, SVHN.

They are known by their files, in the folder that is given or in one folder of it. Of pickled files
only arrays and plain values are read.
"""

from __future__ import annotations

import gzip
import pickle
import zlib
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from fbnetv3._internal.messages import one_line
from fbnetv3.images.folders import visible
from fbnetv3.images.parts import Part

from .arrays import Array, Arrays, images_of
from .image_set import ImageSet

# Downloads and their archives that may lie beside each other.
_MOST_BESIDE = 60
_DIGITS = tuple(map(str, range(10)))
# By the name of the folder above the files, which themselves have the same names.
_MNIST_CLASSES: Mapping[str, tuple[str, ...]] = {
    "FashionMNIST": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    "KMNIST": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
}


def find_download(location: Path) -> Arrays | None:
    """Returns the set of a folder, or of the one in it that has one; None if there is none.

    Raises:
        ValueError: there are several in it.
    """
    own = _in_folder(location)
    if own is not None:
        return own
    found = [one for folder in _below(location) if (one := _in_folder(folder))]
    if len(found) > 1:
        names = ", ".join(str(one.location.relative_to(location)) for one in found)
        raise ValueError(
            f"{location} has several data sets in it: {names}; give one, as in {found[0].location}"
        )
    return found[0] if found else None


def _in_folder(folder: Path) -> Arrays | None:
    return next((one for find in (_cifar, _mnist, _svhn) if (one := find(folder))), None)


def _below(folder: Path) -> Iterator[Path]:
    """Yields the folders of one, and those called raw in these, as MNIST's files lie.

    None of a folder of many things, which are classes or images, and costly to look into.
    """
    found = list(islice(visible(folder, "*"), _MOST_BESIDE + 1))
    for child in sorted(found) if len(found) <= _MOST_BESIDE else ():
        if child.is_dir():
            yield child
            yield child / "raw"


def _cifar(folder: Path) -> Arrays | None:
    if (folder / "test_batch").is_file():
        batches = tuple(f"data_batch_{n}" for n in range(1, 6))
        files: dict[Part, tuple[str, ...]] = {"train": batches, "val": ("test_batch",)}
        label, meta, names = "labels", "batches.meta", "label_names"
        what = "CIFAR-10"
    elif all((folder / name).is_file() for name in ("meta", "train", "test")):
        files = {"train": ("train",), "val": ("test",)}
        label, meta, names = "fine_labels", "meta", "fine_label_names"
        what = "CIFAR-100"
    else:
        return None

    def read(part: Part | None) -> ImageSet:
        chosen = files[part or "val"]
        pixels, labels = [], []
        for name in chosen:
            batch = _unpickled(folder / name, what)
            try:
                pixels.append(np.asarray(batch["data"], dtype=np.uint8).reshape(-1, 3, 32, 32))
                labels += [int(value) for value in batch[label]]
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{folder / name} is not a {what} batch: {error!r}") from error
        classes = [str(name) for name in _unpickled(folder / meta, what).get(names, ())]
        name = f"{folder} ({', '.join(chosen)})"
        return images_of(name, np.concatenate(pixels), np.array(labels), classes)

    return Arrays(location=folder, parts={p: f[0] for p, f in files.items()}, read=read)


class _ArrayUnpickler(pickle.Unpickler):
    """Reads CIFAR's own files: arrays and plain values, and calls nothing else."""

    what = "CIFAR"

    def find_class(self, module: str, name: str) -> object:
        if (module.split(".", maxsplit=1)[0], name) in {
            ("numpy", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }:
            # The files name numpy.core, which is a deprecated alias since numpy 2.
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"it wants {module}.{name}, which {self.what} does not")


def _unpickled(path: Path, what: str) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; expected all files of the unpacked data set")
    try:
        with path.open("rb") as file:
            unpickler = _ArrayUnpickler(file, encoding="latin1")
            unpickler.what = what
            found = unpickler.load()
    except (pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError) as error:
        raise ValueError(f"{path} is damaged or not a {what} file: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}; expected {what}'s dictionary")
    return {str(key): value for key, value in found.items()}


def _mnist(folder: Path) -> Arrays | None:
    files: dict[Part, tuple[Path, Path]] = {}
    for part, begin in (("train", "train"), ("val", "t10k")):
        images, labels = (
            _idx_file(folder, f"{begin}-images", 3),
            _idx_file(folder, f"{begin}-labels", 1),
        )
        if images is None or labels is None:
            return None
        files["train" if part == "train" else "val"] = (images, labels)
    name = folder.parent.name if folder.name == "raw" else folder.name

    def read(part: Part | None) -> ImageSet:
        images, labels = (_idx_array(path) for path in files[part or "val"])
        path = files[part or "val"][0]
        return images_of(str(path), images, labels, _MNIST_CLASSES.get(name, _DIGITS))

    return Arrays(location=folder, parts={p: pair[0].name for p, pair in files.items()}, read=read)


def _idx_file(folder: Path, begin: str, dims: int) -> Path | None:
    """Returns a file in MNIST's format, plain before packed, by either of its usual names."""
    ends = [f"{dot}idx{dims}-ubyte{packed}" for packed in ("", ".gz") for dot in "-."]
    return next((p for end in ends if (p := folder / f"{begin}{end}").is_file()), None)


def _idx_array(path: Path) -> Array:
    """Returns (N, H, W) or (N,) uint8 of a file in MNIST's format."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be unpacked: {one_line(str(error))}") from error
    dims = data[3] if data[:3] == b"\0\0\x08" and len(data) > 3 else 0
    if dims not in (1, 3) or len(data) < 4 + 4 * dims:
        raise ValueError(f"{path} is not in MNIST's format, or it is cut")
    shape = np.frombuffer(data, ">u4", dims, 4).astype(np.int64)
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * dims)
    if len(values) != shape.prod():
        raise ValueError(
            f"{path} has {len(values)} values; expected {' x '.join(map(str, shape))}: it is cut, "
            "or damaged"
        )
    return values.reshape(shape)


def _svhn(folder: Path) -> Arrays | None:
    files: dict[Part, Path] = {
        "train": folder / "train_32x32.mat",
        "val": folder / "test_32x32.mat",
    }
    if not all(path.is_file() for path in files.values()):
        return None

    def read(part: Part | None) -> ImageSet:
        from scipy.io import loadmat

        path = files[part or "val"]
        try:
            found = loadmat(path, variable_names=("X", "y"))
            images, labels = found["X"].transpose(3, 0, 1, 2), found["y"] % 10  # 10 is the digit 0
        except Exception as error:  # whatever a damaged file does to the reader
            raise ValueError(f"{path} is damaged, or not a file of SVHN: {error!r}") from error
        return images_of(str(path), images, labels, _DIGITS)

    return Arrays(location=folder, parts={p: path.name for p, path in files.items()}, read=read)
