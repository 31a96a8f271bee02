"""Logs of a run in other programs: one protocol, one file for each of them.

The run's own `log.json` and `log.csv` are whole without these. A writer is told every epoch, also
those before a resume, and writes each once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from fbnetv3._internal.files import write_atomically
from fbnetv3._internal.json_record import read_object
from fbnetv3._internal.messages import one_line
from fbnetv3._internal.optional import need

from . import log_mlflow, log_tensorboard, log_wandb
from .logbook import EpochLog

# In a run's folder: what each program calls the run, and the last epoch that it was given.
RECORD = "log_writers.json"


class LogWriter(Protocol):
    """One program's log of one run."""

    @property
    def id(self) -> str:
        """What the program calls the run, by which it is found again; "" if it needs none."""

    def epoch(self, number: int, values: Mapping[str, float]) -> None:
        """Writes the figures of an epoch, field of `EpochLog` -> value."""

    def close(self, finished: bool) -> None:
        """Ends the log; the run is finished, or may be resumed later."""


class OpenWriter(Protocol):
    """Opens a program's log."""

    def __call__(self, folder: Path, id: str, after: int, settings: Mapping[str, Any]) -> LogWriter:
        """Returns the log of a run.

        Args:
            folder: of the run.
            id: as `LogWriter.id` said when the run was begun; "" for a new one.
            after: epochs that the log has already.
            settings: of the run, as plain JSON types.
        """


WRITERS: dict[str, tuple[str, OpenWriter]] = {
    "tensorboard": (log_tensorboard.LIBRARY, log_tensorboard.TensorBoardLog),
    "wandb": (log_wandb.LIBRARY, log_wandb.WandbLog),
    "mlflow": (log_mlflow.LIBRARY, log_mlflow.MlflowLog),
}


def check_writers(names: Sequence[str]) -> None:
    """Refuses names that no writer has, before any work is done.

    Raises:
        ValueError: a name is unknown.
        ImportError: a writer's library is not installed.
    """
    for name in names:
        if name not in WRITERS:
            raise ValueError(f"unknown log {name!r}; expected {', '.join(WRITERS)}")
        need(WRITERS[name][0])


@contextlib.contextmanager
def written_to(
    names: Sequence[str], folder: Path, settings: Mapping[str, Any]
) -> Iterator[Callable[[EpochLog], None]]:
    """Yields what writes an epoch to some programs' logs; closes them at the end.

    Killed between a program's write and its record, that one epoch is written again. A program that
    fails during the run is warned of and tried again after the next epoch.

    Args:
        names: of `WRITERS`.
        folder: of the run.
        settings: of the run, as plain JSON types.

    Raises:
        ValueError: a program's log cannot be opened.
    """
    names = list(dict.fromkeys(names))
    known = _read(folder)
    waiting: dict[str, list[EpochLog]] = {name: [] for name in names}
    writers: dict[str, LogWriter] = {}
    finished = False

    def write(log: EpochLog) -> None:
        for name, logs in waiting.items():
            if log.epoch <= known[name]["epoch"]:
                continue
            logs.append(log)
            try:
                while logs:
                    writers[name].epoch(logs[0].epoch, _values(logs[0]))
                    known[name]["epoch"] = logs.pop(0).epoch
            # Whatever another program raises, the training does not depend on it.
            except Exception as error:
                reason = one_line(str(error))
                warnings.warn(f"epoch {log.epoch} is not in {name} yet: {reason}", stacklevel=2)
            write_atomically(folder / RECORD, json.dumps(known, indent=1).encode())

    try:
        for name in names:
            entry = known.setdefault(name, {"id": "", "epoch": 0})
            writers[name] = _opened(name, folder, entry, settings)
            entry["id"] = writers[name].id
        yield write
        finished = True
    finally:
        for writer in writers.values():
            writer.close(finished)


def _opened(
    name: str, folder: Path, entry: Mapping[str, Any], settings: Mapping[str, Any]
) -> LogWriter:
    _, make = WRITERS[name]
    try:
        return make(folder, entry["id"], entry["epoch"], settings)
    except Exception as error:  # of any kind, by the program
        raise ValueError(
            f"{name} cannot log this run ({one_line(str(error))}); see its own settings, or leave "
            f"--log {name} out"
        ) from error


def _values(log: EpochLog) -> dict[str, float]:
    fields = dataclasses.asdict(log)
    return {k: float(v) for k, v in fields.items() if v is not None and k != "epoch"}


def _read(folder: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        return read_object(folder / RECORD)
    return {}
