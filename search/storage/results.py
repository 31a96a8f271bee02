"""The files of a search folder that are not the database: results of workers, rounds, settings.

A worker writes `trials/<id>/<attempt>/epoch_<k>.json`, one small JSON object an epoch, each by way
of a temporary file that is flushed and renamed, so that a reader sees a complete file or none. The
database of `store` is made from these files and can be made again. Standard library only, so that
workers start fast.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fbnetv3._internal.files import write_atomically

EPOCH_PREFIX, EPOCH_SUFFIX = "epoch_", ".json"
HEARTBEAT = "heartbeat"
# EFBIG is what a process gets that may write no larger files.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Epoch(NamedTuple):
    """One label: the value after `epoch` epochs (1, 2, ...); None where training diverged."""

    attempt: int
    epoch: int
    value: float | None


def is_disk_full(error: BaseException) -> bool:
    """Returns whether an error says that no more can be written."""
    return isinstance(error, OSError) and error.errno in _FULL


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON object so that after a crash the old file, the new one, or none is there.

    Raises:
        OSError: the disk is full or not writable; no part of the file is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(content, allow_nan=False) + "\n")


def write_epoch(folder: Path, trial: str, attempt: int, epoch: int, value: float) -> None:
    """Writes one label of a trial; a value that is no finite number means diverged training."""
    content = {
        "trial": trial,
        "attempt": attempt,
        "epoch": epoch,
        "value": value if math.isfinite(value) else None,
    }
    write_json(attempt_folder(folder, trial, attempt) / epoch_name(epoch), content)


def epoch_name(epoch: int) -> str:
    """Returns the name of an epoch's result file."""
    return f"{EPOCH_PREFIX}{epoch}{EPOCH_SUFFIX}"


def attempt_folder(folder: Path, trial: str, attempt: int) -> Path:
    """Returns where an attempt's result files are."""
    return folder / "trials" / trial / str(attempt)


def read_epochs(folder: Path, trial: str, messages: list[str]) -> Iterator[Epoch]:
    """Yields every complete label of a trial, by attempt; damaged files go to `messages`."""
    top = folder / "trials" / trial
    with contextlib.suppress(FileNotFoundError):
        attempts = sorted(int(name) for name in os.listdir(top) if name.isdigit())
        for attempt in attempts:
            yield from _read_attempt(top / str(attempt), trial, attempt, messages)


def last_written(folder: Path, trial: str) -> float:
    """Returns when the latest result file of a trial was written, in seconds since 1970."""
    files = (folder / "trials" / trial).glob(f"*/{EPOCH_PREFIX}*{EPOCH_SUFFIX}")
    return max((path.stat().st_mtime for path in files), default=0.0)


def _read_attempt(place: Path, trial: str, attempt: int, messages: list[str]) -> Iterator[Epoch]:
    for name in sorted(os.listdir(place)):
        number = name.removeprefix(EPOCH_PREFIX).removesuffix(EPOCH_SUFFIX)
        if name != f"{EPOCH_PREFIX}{number}{EPOCH_SUFFIX}" or not number.isdigit():
            continue
        path = place / name
        try:
            value = _value(json.loads(path.read_text()), trial, attempt, int(number))
        except (ValueError, OSError) as error:
            messages.append(f"ignored damaged result file {path}: {error}")
            continue
        yield Epoch(attempt, int(number), value)


def _value(content: Any, trial: str, attempt: int, epoch: int) -> float | None:
    expected = {"trial": trial, "attempt": attempt, "epoch": epoch}
    if not isinstance(content, dict) or "value" not in content:
        raise ValueError("it is not a JSON object with a value")
    for field, wanted in expected.items():
        if content.get(field) != wanted:
            raise ValueError(f"its {field} is {content.get(field)!r}; expected {wanted!r}")
    value = content["value"]
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"its value is {value!r}; expected a number or null")
    return float(value)
