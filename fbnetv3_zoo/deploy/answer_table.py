"""A Parquet table of predictions, made in parts that may end in any order. Needs no torch.

The photos are cut into parts of neighbours. A finished part is a file of its own, written at once,
so that whatever is killed, and however often a part is computed, each photo has one row. A run of
the same model over the same photos makes only the parts that are missing. The result is one file,
in whose place a hidden folder holds the parts until the end, or a folder of the parts.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from fbnetv3._internal.files import replacing, write_atomically
from fbnetv3._internal.optional import need

SUFFIX = ".parquet"
# Readers of Parquet folders leave out names that begin with an underscore.
_RECORD = "_fbnetv3.json"
# At most so many parts, unless these would be larger than is lost at ease.
_NUM_PARTS = 500
_PART_SIZES = (16, 5000)


class AnswerTable:
    """Predictions on their way to a Parquet file, or a folder of them.

    Args:
        path: a file's name ending in .parquet, or a folder's without an extension.
        identity: what must be equal for a run to go on with another's parts.
        photos: names of all photos; each gets one row, in this order.

    Raises:
        ValueError: the extension is another, or the folder holds something else.
        ImportError: pyarrow is not installed.
        OSError: the folder cannot be written.
    """

    def __init__(self, path: Path, identity: str, photos: Sequence[str]) -> None:
        need("pyarrow")
        self.path = path
        self.photos = tuple(dict.fromkeys(photos))
        smallest, largest = _PART_SIZES
        self._size = min(largest, max(smallest, -(-len(self.photos) // _NUM_PARTS)))
        # Names need not be UTF-8, nor may any character separate two of them.
        names = os.fsencode(json.dumps(self.photos))
        digest = hashlib.sha256(identity.encode(errors="surrogateescape") + names).hexdigest()
        self._is_file = path.suffix.lower() == SUFFIX and not path.is_dir()
        if not self._is_file and path.suffix and not path.is_dir():
            raise ValueError(f"output is {path}; expected a name ending in {SUFFIX}, or a folder")
        if self._is_file:
            self.folder = path.with_name(f".{path.name}.{digest[:12]}.parts")
        else:
            self.folder = path
        self._start(digest)

    def _start(self, digest: str) -> None:
        record = self.folder / _RECORD
        if not self.folder.exists():
            self.folder.mkdir()
        elif not self.folder.is_dir():
            raise ValueError(f"output {self.path} is a file; expected a folder, or {SUFFIX}")
        if not record.exists():
            if any(self.folder.iterdir()):
                raise ValueError(f"output {self.path} holds other files; expected a new folder")
            write_atomically(record, json.dumps({"identity": digest}))
        elif json.loads(record.read_text()) != {"identity": digest}:
            raise ValueError(
                f"output {self.path} holds predictions of another model, or for other photos; "
                "expected a new folder"
            )

    def missing(self) -> dict[int, tuple[str, ...]]:
        """Returns the photos of each part that is still to be made, by its number."""
        numbers = range(-(-len(self.photos) // self._size))
        return {n: self._photos(n) for n in numbers if not self._file(n).exists()}

    def add(self, number: int, records: Sequence[Mapping[str, Any]]) -> None:
        """Writes a part.

        Args:
            number: of the part, as in `missing`.
            records: `Prediction.to_dict()` of its photos, in order.

        Raises:
            OSError: the disk is full; another run goes on.
        """
        import pyarrow
        from pyarrow import parquet

        assert tuple(record["source"] for record in records) == self._photos(number)
        schema = _schema()
        rows = [_row(record) for record in records]
        content = BytesIO()
        parquet.write_table(pyarrow.Table.from_pylist(rows, schema), content)
        write_atomically(self._file(number), content.getvalue())

    def finish(self) -> int:
        """Gives the table its name, and returns how many photos could not be classified.

        Raises:
            OSError: the disk is full; another run goes on.
        """
        from pyarrow import parquet

        parts = [self._file(n) for n in range(-(-len(self.photos) // self._size))]
        failed = 0
        for part in parts:
            errors = parquet.read_table(part, columns=["error"])["error"]
            failed += len(errors) - errors.null_count
        if self._is_file:
            with (
                replacing(self.path) as whole,
                parquet.ParquetWriter(whole, _schema()) as writer,
            ):
                for part in parts:
                    writer.write_table(parquet.read_table(part))
            shutil.rmtree(self.folder)
        return failed

    def _photos(self, number: int) -> tuple[str, ...]:
        return self.photos[number * self._size : (number + 1) * self._size]

    def _file(self, number: int) -> Path:
        return self.folder / f"part-{number:05}{SUFFIX}"


def _schema() -> Any:
    import pyarrow as pa

    return pa.schema(
        {
            "file": pa.string(),
            "label": pa.string(),
            "probability": pa.float64(),
            "none_of_these": pa.bool_(),
            "error": pa.string(),
            "labels": pa.list_(pa.string()),
            "probabilities": pa.list_(pa.float64()),
            "indices": pa.list_(pa.int32()),
        }
    )


def _row(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a row; in names, bytes that are no UTF-8 are escaped."""
    text = record["source"].encode("utf-8", "backslashreplace").decode()
    return {
        "file": text,
        "label": next(iter(record["labels"]), None),
        "probability": next(iter(record["probabilities"]), None),
        **{key: value for key, value in record.items() if key != "source"},
    }
