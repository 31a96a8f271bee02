"""Readers of what image sets come in: lists of image files, tables of encoded images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fbnetv3._internal.messages import one_line, shown
from fbnetv3._internal.optional import missing
from fbnetv3.images.folders import LabelledImages

from .image_set import ImageSet, OnCheck, Source, read_images

# Usual names of label columns in parquet files, the likelier first.
_LABELS = ("label", "labels", "fine_label", "class", "category", "target", "cls", "class_name")
_NUM_LISTED = 8


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
    if images.label_sets is None:
        labels = torch.tensor(images.labels)
    else:
        labels = label_matrix(images.label_sets, len(images.classes))
    return read_images(
        images.name,
        images.classes,
        images.paths,
        labels,
        images.notes,
        on_check,
        any_damaged=any_damaged,
    )


def label_matrix(label_sets: Sequence[Sequence[int]], num_classes: int) -> torch.Tensor:
    """Returns (N, num_classes) bool: which classes each image has.

    Args:
        label_sets: the indices of each image's classes.
        num_classes: of the set.
    """
    labels = torch.zeros(len(label_sets), num_classes, dtype=torch.bool)
    rows = [row for row, indices in enumerate(label_sets) for _ in indices]
    columns = [index for indices in label_sets for index in indices]
    labels[rows, columns] = True
    return labels


def read_tables(
    name: str, files: Sequence[Path], every: Sequence[Path], *, any_damaged: bool = False
) -> ImageSet:
    """Returns the images of parquet or Arrow files, as Hugging Face's datasets library writes them.

    Needs pyarrow.

    Args:
        name: of the set, for messages.
        files: those of the part.
        every: those of all parts, which have the same classes.
        any_damaged: as in `read_images`.

    Raises:
        ImportError: pyarrow is not installed.
        ValueError: there is no column of images or none of labels, an image has no label, or a file
            is damaged.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise missing("pyarrow", error) from error
    image, label, classes, several = _columns(files[0])
    sources: list[Source] = []
    values: list[Any] = []
    for file in files:
        images, labels = _cells(file, (image, label))
        sources += [_source(row, file) for row in images]
        values += labels
    if not classes:
        everywhere = [value for file in every for value in _cells(file, (label,))[0]]
        classes, index = _classes_of(everywhere, files[0], label)
        values = [index[value] for value in values]
    if None in values:
        raise ValueError(
            f"{name}: image {values.index(None)} has no label in column {label!r}; label it or "
            "leave it out"
        )
    made = label_matrix(values, len(classes)) if several else torch.tensor(values)
    return read_images(name, classes, sources, made, any_damaged=any_damaged)


def _cells(file: Path, columns: Sequence[str]) -> list[list[Any]]:
    """Returns the cells of each column of a file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    there = _schema(file).names
    if lacking := [column for column in columns if column not in there]:
        raise ValueError(
            f"{file} has columns {there[:_NUM_LISTED]}, without {lacking[0]!r}; expected the "
            "same columns in each file"
        )
    try:
        if _is_arrow(file):
            table = _arrow(file).read_all().select(list(columns))
        else:
            table = pq.read_table(file, columns=list(columns), partitioning=None)
    except (pa.ArrowInvalid, OSError) as error:
        raise _damaged(file, error) from None
    return [table.column(column).to_pylist() for column in columns]


def _is_arrow(file: Path) -> bool:
    return file.suffix.lower() == ".arrow"


def _arrow(file: Path) -> Any:
    """Returns the reader of an Arrow file, in the stream format of the datasets library."""
    import pyarrow as pa

    return pa.ipc.open_stream(pa.memory_map(str(file)))


def _schema(file: Path) -> Any:
    """Returns the schema of a table on disk.

    Raises:
        ValueError: the file is damaged, or something else.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return _arrow(file).schema if _is_arrow(file) else pq.read_schema(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise _damaged(file, error) from None


def _damaged(file: Path, error: Exception) -> ValueError:
    kind = "Arrow" if _is_arrow(file) else "parquet"
    return ValueError(f"{file} is no {kind} file, or damaged: {one_line(str(error))}")


def _columns(file: Path) -> tuple[str, str, tuple[str, ...], bool]:
    """Returns the image column, the label column, the class names, and whether these are lists.

    The names are () where the file says nothing about them, as one that pandas wrote.
    """
    schema = _schema(file)
    features = _features(schema.metadata or {})
    image = next((k for k, v in features.items() if v.get("_type") == "Image"), None)
    image = image or next((f.name for f in schema if _holds_images(f.type)), None)
    named = {k: names for k, v in features.items() if (names := _names_of(v))}
    label = next(iter([*(k for k in _LABELS if k in named), *named]), None)
    if image is not None and label is not None:
        return image, label, named[label], features[label].get("_type") != "ClassLabel"
    label = next((name for name in _LABELS if name in schema.names), None)
    if image is None or label is None:
        raise ValueError(
            f"{file} has columns {schema.names[:_NUM_LISTED]}; expected one of encoded images "
            f"(bytes, or a struct with bytes), and one of labels called {', '.join(_LABELS)}"
        )
    return image, label, (), False


def _holds_images(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(kind.field(n).name == "bytes" for n in range(kind.num_fields))
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _source(row: Any, file: Path) -> Source:
    """Returns the image of a row: its bytes, or the file that stands for them."""
    if not isinstance(row, Mapping):
        return b"" if row is None else row
    if row.get("bytes") is None and row.get("path"):
        return file.parent / str(row["path"])
    return row.get("bytes") or b""


def _classes_of(
    values: Sequence[object], file: Path, label: str
) -> tuple[tuple[str, ...], dict[object, int]]:
    """Returns the class names that values of labels stand for, and the label of each value."""
    known = set(values)
    if all(isinstance(value, str) for value in known):
        names = sorted(map(str, known))
        return tuple(names), {name: number for number, name in enumerate(names)}
    wrong = [v for v in known if isinstance(v, bool) or not isinstance(v, int) or v < 0]
    if wrong:
        raise ValueError(
            f"{file}: column {label!r} has {shown(wrong[0])}; expected names of classes, or "
            "numbers from 0"
        )
    total = max(int(str(value)) for value in known) + 1
    return tuple(map(str, range(total))), {number: number for number in range(total)}


def _names_of(feature: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the class names of a column of labels or of lists of labels, () of others."""
    inner = feature.get("feature") if feature.get("_type") in ("Sequence", "List") else feature
    if not isinstance(inner, Mapping) or inner.get("_type") != "ClassLabel":
        return ()
    return tuple(str(name) for name in inner["names"])


def _features(metadata: dict[bytes, bytes]) -> dict[str, Any]:
    """Returns what the datasets library says about columns, {} where it did not write the file."""
    try:
        found = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {str(key): value for key, value in found.items() if isinstance(value, dict)}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}
