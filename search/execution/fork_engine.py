"""The engine for objectives that no other process can import: lambdas, scripts, notebooks.

Its workers are forks of this process. A forked process can use neither CUDA, if this one has, nor
OpenMP's threads: torch's operators would wait for ever for threads that were not forked.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import IO, NoReturn

from .engine import LocalEngine, Worker
from .objective import Objective
from .worker import serve


class ForkEngine(LocalEngine):
    """Forked worker processes on this machine, each with one CPU thread.

    All are started at once, before this process opens files and starts threads for the search.

    Args:
        objective: the objective; it is neither pickled nor imported.
        folder: the search's folder; each worker's output goes to `workers/<slot>.log` there.
        workers: number of processes.

    Raises:
        ValueError: processes cannot be forked here.
    """

    name = "fork"

    def __init__(self, objective: Objective, folder: Path, *, workers: int) -> None:
        if reason := why_not():
            raise ValueError(
                f"workers is {workers}, and {reason}; move the functions to a module that other "
                "processes can import, or use workers=1"
            )
        super().__init__({}, folder, workers=workers, threads=1)
        self._made = objective
        for slot in range(workers):
            self._workers[slot] = self._start(slot)

    def _start(self, slot: int) -> Worker:
        others = [w.process for w in self._workers if w is not None]
        pipes = [pipe for process in others for pipe in (process.stdin, process.stdout)]
        with self._log(slot) as output:
            return Worker(slot, Fork(self._made, output, [pipe for pipe in pipes if pipe]))


def why_not() -> str:
    """Returns why this process cannot be forked; empty if it can."""
    if not hasattr(os, "fork"):
        return "this system cannot fork processes"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return "this process has used CUDA, which forked processes then cannot"
    return ""


class Fork:
    """A forked worker, with the part of `subprocess.Popen` that engines use.

    Args:
        objective: the objective that the worker evaluates.
        output: the file that receives what the worker prints.
        pipes: pipes of other workers, which this one must not keep open.
    """

    def __init__(self, objective: Objective, output: IO[bytes], pipes: list[IO[bytes]]) -> None:
        task_end, stdin = os.pipe()
        stdout, reply_end = os.pipe()
        self._code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            for number in (stdin, stdout, *(pipe.fileno() for pipe in pipes)):
                os.close(number)
            _work(objective, output, task_end, reply_end)
        os.close(task_end)
        os.close(reply_end)
        self.stdin: IO[bytes] | None = os.fdopen(stdin, "wb", buffering=0)
        self.stdout: IO[bytes] | None = os.fdopen(stdout, "rb", buffering=0)

    def poll(self) -> int | None:
        """Returns the exit code, negative for a signal, or None while the process runs."""
        return self._reap(os.WNOHANG)

    def wait(self) -> int:
        """Returns the exit code once the process has ended."""
        code = self._reap(0)
        assert code is not None
        return code

    def kill(self) -> None:
        """Kills the process."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def _reap(self, options: int) -> int | None:
        if self._code is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code


def _work(objective: Objective, output: IO[bytes], tasks: int, replies: int) -> NoReturn:
    """Is the forked process. It never returns into the code that was forked."""
    try:
        # Ctrl-C should reach only the coordinator, which then stops its workers.
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
        # A notebook's own streams would print into a cell.
        sys.stdout = sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        os.environ["OMP_NUM_THREADS"] = "1"
        torch = sys.modules.get("torch")
        if torch is not None:
            torch.set_num_threads(1)
        serve(os.fdopen(tasks), os.fdopen(replies, "w"), objective)
    finally:
        os._exit(1)
