"""Readers of what image sets come in: lists of image files, CIFAR-10's files, parquet."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fbnetv3._internal.optional import missing
from fbnetv3.images.folders import LabelledImages

from .image_set import ImageSet, OnCheck, Source, read_images


def read_labelled(
    images: LabelledImages,
    on_check: OnCheck = lambda _done, _total: None,
    *,
    any_damaged: bool = False,
) -> ImageSet:
    """Returns the set of labelled image files, from folders or whatever else lists them.

    Args:
        images: the files.
        on_check: as in `read_images`.
        any_damaged: as in `read_images`.

    Raises:
        ValueError: there is no image, or too many are damaged.
    """
    return read_images(
        images.name,
        images.classes,
        images.paths,
        images.labels,
        images.notes,
        on_check,
        any_damaged=any_damaged,
    )


def read_parquet(folder: Path, parts: Sequence[str], *, any_damaged: bool = False) -> ImageSet:
    """Returns the images of a Hugging Face data set's parquet files.

    A file belongs to a part where its name or a folder above it starts with the part's name, as in
    `data/train-00000-of-00001.parquet`. Needs pyarrow.

    Raises:
        ImportError: pyarrow is not installed.
        FileNotFoundError: no file belongs to `parts`.
        ValueError: the columns are not an image column and a label column with class names.
    """
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise missing("pyarrow", error) from error
    files = [
        file
        for file in sorted(folder.rglob("*.parquet"))
        if any(s.lower().startswith(tuple(parts)) for s in file.relative_to(folder).parts)
    ]
    if not files:
        raise FileNotFoundError(f"{folder} has no parquet file named {' or '.join(parts)}-*")
    features = _features(files[0], pq.read_schema(files[0]).metadata or {})
    image = next((k for k, v in features.items() if v.get("_type") == "Image"), None)
    labels = [k for k, v in features.items() if v.get("_type") == "ClassLabel"]
    usual: list[str] = [k for k in ("label", "labels", "fine_label") if k in labels]
    label = next(iter(usual + labels), None)
    if image is None or label is None:
        raise ValueError(
            f"{files[0]} has features {sorted(features)}; expected one of type Image and one of "
            "type ClassLabel, as Hugging Face writes them"
        )
    classes = tuple(str(name) for name in features[label]["names"])
    sources: list[Source] = []
    numbers: list[int] = []
    for file in files:
        table = pq.read_table(file, columns=[image, label])
        sources += [row["bytes"] for row in table.column(image).to_pylist()]
        numbers += table.column(label).to_pylist()
    return read_images(f"{folder} ({parts[0]})", classes, sources, numbers, any_damaged=any_damaged)


def _features(file: Path, metadata: dict[bytes, bytes]) -> dict[str, Any]:
    try:
        found = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {str(key): value for key, value in found.items() if isinstance(value, dict)}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{file} does not say which column is the image and which the label; expected the "
            "'huggingface' entry that the datasets library writes"
        ) from error


class _ArrayUnpickler(pickle.Unpickler):
    """Reads CIFAR-10's own files: arrays and plain values, and calls nothing else."""

    def find_class(self, module: str, name: str) -> object:
        if (module.split(".", maxsplit=1)[0], name) in {
            ("numpy", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }:
            # The files name numpy.core, which is a deprecated alias since numpy 2.
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"it wants {module}.{name}, which CIFAR-10 does not")


def read_cifar10(folder: Path, names: Sequence[str]) -> ImageSet:
    """Returns the images of some files of `cifar-10-batches-py`, in their order.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged.
    """
    pixels, labels = [], []
    for name in names:
        batch = _unpickled(folder / name)
        try:
            rows = np.asarray(batch["data"], dtype=np.uint8).reshape(-1, 3, 32, 32)
            pixels.append(torch.from_numpy(rows.transpose(0, 2, 3, 1).copy()))
            labels += [int(label) for label in batch["labels"]]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{folder / name} is not a CIFAR-10 batch: {error!r}") from error
    classes = _unpickled(folder / "batches.meta").get("label_names", ())
    return ImageSet(
        name=f"{folder} ({', '.join(names)})",
        classes=tuple(str(name) for name in classes),
        labels=torch.tensor(labels),
        pixels=torch.cat(pixels),
    )


def _unpickled(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; expected the unpacked cifar-10-batches-py")
    try:
        with path.open("rb") as file:
            found = _ArrayUnpickler(file, encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError) as error:
        raise ValueError(f"{path} is damaged or not a CIFAR-10 file: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}; expected CIFAR-10's dictionary")
    return {str(key): value for key, value in found.items()}
