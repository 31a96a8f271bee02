"""A file of predictions, CSV or JSON Lines, that a killed run goes on with. Needs no torch.

Predictions are appended to a hidden file of JSON Lines beside the result, which takes its name at
the end. A run of the same model over the same photos skips those that are in it.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from fbnetv3._internal.files import naming, rename, write_atomically

from .classify import Prediction

SUFFIXES = (".csv", ".jsonl")
_FLUSHED = 64


class AnswerFile:
    """Predictions on their way to a file: add them, then `finish`.

    Args:
        path: the file, whose suffix is .csv or .jsonl.
        identity: what must be equal for a run to go on with another's predictions.

    Raises:
        ValueError: the suffix is another, or the path is a folder.
        OSError: the folder cannot be written.
    """

    def __init__(self, path: Path, identity: str) -> None:
        if path.suffix.lower() not in SUFFIXES:
            raise ValueError(
                f"output is {path}; expected a name ending in .csv, .jsonl or .parquet, or a folder"
            )
        if path.is_dir():
            raise ValueError(f"output {path} is a folder; expected a file's name")
        digest = hashlib.sha256(identity.encode(errors="surrogateescape")).hexdigest()[:12]
        self.path = path
        self._part = path.with_name(f".{path.name}.{digest}.part")
        self.num_failed = 0
        self.done: set[str] = set()
        for record in _whole_lines(self._part):
            self._count(record)
        try:
            self._file: IO[str] = self._part.open("a", encoding="utf-8")
        except OSError as error:
            error.filename = str(path)  # the name that the caller knows
            raise
        self._waiting = 0

    def _count(self, record: dict[str, Any]) -> None:
        self.num_failed += record["error"] is not None and record["source"] not in self.done
        self.done.add(record["source"])

    def add(self, prediction: Prediction) -> None:
        """Appends a prediction; a kill loses the last 64 at most."""
        record = prediction.to_dict()
        # ASCII, so that names with bytes that are no UTF-8 come back as they were.
        with naming(self.path):
            self._file.write(json.dumps(record) + "\n")
            self._count(record)
            self._waiting += 1
            if self._waiting >= _FLUSHED:
                self._file.flush()
                self._waiting = 0

    def close(self) -> None:
        """Keeps what there is for another run."""
        if not self._file.closed:
            with naming(self.path):
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()

    def finish(self, sources: Iterable[str]) -> None:
        """Gives the file its name, with the predictions for these photos in this order.

        Raises:
            OSError: the disk is full; another run goes on.
        """
        self.close()
        found = {record["source"]: record for record in _whole_lines(self._part)}
        records = [found[source] for source in dict.fromkeys(sources)]
        if self.path.suffix.lower() == ".csv":
            write_atomically(self.path, _csv(records))
            self._part.unlink()
            return
        if list(found.values()) != records:
            write_atomically(self._part, "".join(json.dumps(record) + "\n" for record in records))
        rename(self._part, self.path)


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yields a file's records, and cuts off a last line that a kill left incomplete."""
    if not path.is_file():
        return
    good = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            good += len(line)
            yield json.loads(line)
    if good != path.stat().st_size:
        os.truncate(path, good)


def _csv(records: Sequence[dict[str, Any]]) -> bytes:
    most = max((len(record["labels"]) for record in records), default=0)
    columns = ["file", "label", "probability", "none_of_these", "error"]
    columns += [f"{name}_{n}" for n in range(2, most + 1) for name in ("label", "probability")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for record in records:
        pairs = list(zip(record["labels"], record["probabilities"], strict=True))
        first, *others = pairs or [("", "")]
        none = record["none_of_these"]
        row = [record["source"], *first, "" if none is None else int(none), record["error"] or ""]
        writer.writerow([*row, *(value for pair in others for value in pair)])
    return text.getvalue().encode("utf-8", "surrogateescape")
