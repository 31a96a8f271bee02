"""The protocol of engines, which run trials, and the engine for this machine.

An engine runs tasks and reports how each attempt ended; labels go through result files. Retries,
order and replacements are left to the coordinator, so that a search proposes the same trials on any
engine. `ray_engine` is the engine for many machines.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import IO, Any, Protocol

from fbnetv3._internal.processors import available_cpus

from .objective import Objective
from .worker import Outcome, Task, run_task


class Engine(Protocol):
    """Runs tasks.

    Attributes:
        name: name of the engine.
        heartbeats: whether workers touch heartbeat files that the coordinator can see.
    """

    name: str
    heartbeats: bool

    def capacity(self) -> int:
        """Returns how many more tasks can be submitted now."""

    def submit(self, task: Task) -> None:
        """Starts a task; at most `capacity()` of them."""

    def poll(self, timeout_s: float) -> list[Outcome]:
        """Returns the attempts that ended; waits up to `timeout_s` for the first."""

    def cancel(self, trial: str) -> None:
        """Stops a trial if it is running; it gets no outcome."""

    def close(self) -> None:
        """Stops all running trials."""


class Process(Protocol):
    """The part of `subprocess.Popen` that the engine needs of a worker process."""

    stdin: IO[bytes] | None
    stdout: IO[bytes] | None
    pid: int

    def poll(self) -> int | None:
        """Returns the exit code, negative for a signal, or None while the process runs."""

    def wait(self) -> int:
        """Returns the exit code once the process has ended."""

    def kill(self) -> None:
        """Kills the process."""


@dataclass
class Worker:
    """A worker process and its current task."""

    slot: int
    process: Process
    task: Task | None = None
    buffer: bytes = b""


class LocalEngine:
    """Worker processes on this machine, one for each GPU or group of cores.

    A worker that dies is noticed at once and replaced when next needed. Workers are new
    interpreters (nothing is forked or pickled) and exit with the coordinator.

    Args:
        objective: settings of the objective, for the workers.
        folder: the search's folder; each worker's output goes to `workers/<slot>.log` there.
        workers: number of processes.
        gpus: device of each worker, as in CUDA_VISIBLE_DEVICES; empty for the CPU.
        threads: number of CPU threads per worker; None divides the processors that this process may
            use, or is what OMP_NUM_THREADS says if that is less.
    """

    name = "local"
    heartbeats = True

    def __init__(
        self,
        objective: Mapping[str, Any],
        folder: str | Path,
        *,
        workers: int = 1,
        gpus: Sequence[str] = (),
        threads: int | None = None,
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers is {workers}; expected 1 or more")
        if gpus and len(gpus) != workers:
            raise ValueError(f"{len(gpus)} GPUs for {workers} workers; expected one for each")
        self._objective, self._folder, self._gpus = dict(objective), Path(folder), tuple(gpus)
        self._threads = threads or _threads_of_each(workers)
        self._workers: list[Worker | None] = [None] * workers

    def capacity(self) -> int:
        """Returns how many workers are free."""
        return sum(worker is None or worker.task is None for worker in self._workers)

    def submit(self, task: Task) -> None:
        """Sends a task to a free worker, starting one if needed.

        Raises:
            RuntimeError: no worker is free.
        """
        for slot, found in enumerate(self._workers):
            if found is not None and found.task is not None:
                continue
            alive = found is not None and found.process.poll() is None
            worker = found if found is not None and alive else self._start(slot)
            self._workers[slot] = worker
            worker.task = task
            # If the worker has just died, the next poll reports it.
            _send(worker, task.to_json())
            return
        raise RuntimeError(f"all {len(self._workers)} workers are busy; see capacity()")

    def poll(self, timeout_s: float) -> list[Outcome]:
        """Returns the attempts that ended, also through their worker's death."""
        busy = {
            worker.process.stdout.fileno(): worker
            for worker in self._workers
            if worker is not None and worker.task is not None and worker.process.stdout is not None
        }
        ready = connection.wait(list(busy), timeout_s) if busy else []
        outcomes = [self._receive(busy[pipe]) for pipe in ready if isinstance(pipe, int)]
        return [outcome for outcome in outcomes if outcome is not None]

    def cancel(self, trial: str) -> None:
        """Kills the worker that runs a trial."""
        for slot, worker in enumerate(self._workers):
            if worker is not None and worker.task is not None and worker.task.trial == trial:
                _stop(worker)
                self._workers[slot] = None

    def close(self) -> None:
        """Kills all workers."""
        for slot, worker in enumerate(self._workers):
            if worker is not None:
                _stop(worker)
                self._workers[slot] = None

    def pids(self) -> list[int]:
        """Returns the process ids of the live workers."""
        alive = [w for w in self._workers if w is not None and w.process.poll() is None]
        return [worker.process.pid for worker in alive]

    def _start(self, slot: int) -> Worker:
        environment = dict(os.environ)
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            environment[name] = str(self._threads)
        # What this process can import, its workers can.
        environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[slot]
        with self._log(slot) as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "fbnetv3.search.execution.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=environment,
                bufsize=0,
                # Ctrl-C should reach only the coordinator, which then stops its workers.
                start_new_session=True,
            )
        worker = Worker(slot, process)
        _send(worker, json.dumps(self._objective))
        return worker

    def _log(self, slot: int) -> IO[bytes]:
        """Returns the file that receives a worker's output."""
        log = self._folder / "workers" / f"{slot}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        return log.open("ab")

    def _receive(self, worker: Worker) -> Outcome | None:
        assert worker.process.stdout is not None
        assert worker.task is not None
        chunk = os.read(worker.process.stdout.fileno(), 65536)
        worker.buffer += chunk
        if not chunk:
            code = worker.process.wait()
            self._workers[worker.slot] = None
            _stop(worker)
            return Outcome(worker.task.trial, worker.task.attempt, f"worker died ({_died(code)})")
        line, newline, rest = worker.buffer.partition(b"\n")
        if not newline:
            return None
        worker.task, worker.buffer = None, rest
        return Outcome(**json.loads(line))


class InlineEngine:
    """Runs tasks one after another in this process, for cheap objectives such as tables.

    Args:
        objective: the objective.
        tasks_per_poll: number of tasks that one poll runs; outcomes are recorded between polls.
    """

    name = "inline"
    heartbeats = False

    def __init__(self, objective: Objective, *, tasks_per_poll: int = 256) -> None:
        self._objective, self._waiting = objective, list[Task]()
        self._tasks_per_poll = tasks_per_poll

    def capacity(self) -> int:
        """Returns how many more tasks the next poll can run."""
        return self._tasks_per_poll - len(self._waiting)

    def submit(self, task: Task) -> None:
        """Queues a task for the next poll."""
        self._waiting.append(task)

    def poll(self, timeout_s: float) -> list[Outcome]:
        """Runs all queued tasks."""
        tasks, self._waiting = self._waiting, []
        return [run_task(self._objective, task) for task in tasks]

    def cancel(self, trial: str) -> None:
        """Drops a queued task."""
        self._waiting = [task for task in self._waiting if task.trial != trial]

    def close(self) -> None:
        """Drops all queued tasks."""
        self._waiting = []


def _threads_of_each(workers: int) -> int:
    share = max(1, available_cpus() // workers)
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(asked)) if asked.isdigit() and int(asked) else share


def _send(worker: Worker, line: str) -> None:
    assert worker.process.stdin is not None
    try:
        worker.process.stdin.write(line.encode() + b"\n")
    except BrokenPipeError:
        return


def _stop(worker: Worker) -> None:
    worker.process.kill()
    worker.process.wait()
    for pipe in (worker.process.stdin, worker.process.stdout):
        if pipe is not None:
            pipe.close()


def _died(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
