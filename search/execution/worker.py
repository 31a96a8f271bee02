"""A worker: trains the trials it is given and writes their labels, without access to the database.

`python -m fbnetv3.search.execution.worker` reads one JSON object per line from its standard input,
first the objective, then tasks, and replies to each task with one line. It exits as soon as its
coordinator is gone, so that no two workers share a device after a crash.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import queue
import sys
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TextIO

from fbnetv3.search.storage.results import HEARTBEAT, attempt_folder, is_disk_full, write_epoch

from .objective import NO_FIDELITY, ObjectiveError, takes_fidelity
from .spec import load_objective

if TYPE_CHECKING:
    from .objective import Objective

HEARTBEAT_S = 5.0
Fatal = Literal["", "disk", "objective"]


@dataclass(frozen=True, slots=True)
class Task:
    """One attempt at one trial, as sent to a worker.

    Attributes:
        folder: the search's folder, where results are written.
        trial: the trial's id.
        attempt: number of the attempt, from 1.
        genes: canonical gene indices.
        seed: random seed of initialisation and data order.
        epochs: number of epochs.
        number: number of the trial in the search, from 1.
        fidelity: share of the final training's steps; below 1 it is a rung.
    """

    folder: str
    trial: str
    attempt: int
    genes: tuple[int, ...]
    seed: int
    epochs: int
    number: int = 0
    fidelity: float = 1.0

    def to_json(self) -> str:
        """Returns the task as one line."""
        return json.dumps(dataclasses.asdict(self))


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended. The labels are in its result files.

    Attributes:
        trial: the trial's id.
        attempt: number of the attempt.
        error: why it failed; empty if it did not.
        fatal: why every other trial would fail too: "disk" (it is full) or "objective" (it gives
            what no search can use); else empty.
    """

    trial: str
    attempt: int
    error: str = ""
    fatal: Fatal = ""


def run_task(objective: Objective, task: Task) -> Outcome:
    """Trains one trial, writing the label of each epoch. An error ends only the attempt."""
    try:
        folder = attempt_folder(Path(task.folder), task.trial, task.attempt)
        folder.mkdir(parents=True, exist_ok=True)
        with _heartbeat(folder / HEARTBEAT):
            share: dict[str, Any] = {"fidelity": task.fidelity} if takes_fidelity(objective) else {}
            if task.fidelity < 1 and not share:
                raise ObjectiveError(NO_FIDELITY)
            curve = objective.evaluate(task.genes, seed=task.seed, epochs=task.epochs, **share)
            count = 0
            for count, value in enumerate(curve, 1):
                write_epoch(Path(task.folder), task.trial, task.attempt, count, float(value))
                if count == task.epochs or not math.isfinite(value):
                    return Outcome(task.trial, task.attempt)
        return _failed(task, f"the objective yielded {count} labels; expected {task.epochs}")
    except OSError as error:
        return _failed(task, described(error), fatal="disk" if is_disk_full(error) else "")
    except ObjectiveError as error:
        return _failed(task, str(error), fatal="objective")
    except (Exception, SystemExit) as error:
        # Any exception of the objective fails this attempt only; the worker continues.
        traceback.print_exc()
        return _failed(task, described(error))


def _failed(task: Task, error: str, fatal: Fatal = "") -> Outcome:
    return Outcome(task.trial, task.attempt, error, fatal)


def described(error: BaseException) -> str:
    """Returns what an exception says, on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


@contextlib.contextmanager
def _heartbeat(path: Path) -> Iterator[None]:
    ended = threading.Event()

    def beat() -> None:
        while True:
            with contextlib.suppress(OSError):
                path.touch()
            if ended.wait(HEARTBEAT_S):
                return

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def main() -> None:
    """Serves one coordinator through standard input and output."""
    # Keep what an objective prints out of the replies.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    serve(sys.stdin, replies)


def serve(requests: TextIO, replies: TextIO, objective: Objective | None = None) -> NoReturn:
    """Serves one coordinator until its requests end; then the process exits.

    Args:
        requests: tasks, one per line; before them the objective's settings, unless it is given.
        replies: receives one line per task.
        objective: the objective, where it need not be made from settings.
    """
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        for line in requests:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    spec = json.loads(lines.get()) if objective is None else {}
    while True:
        fields = json.loads(lines.get())
        task = Task(**{**fields, "genes": tuple(fields["genes"])})
        try:
            objective = objective or load_objective(spec)
            outcome = run_task(objective, task)
        except Exception as error:
            traceback.print_exc()
            outcome = _failed(task, described(error))
        replies.write(json.dumps(dataclasses.asdict(outcome)) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
