"""Kills a search again and again, coordinator and workers, until it has come to its end."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).with_name("killable.py")
LONGEST_S = 4.0


@dataclass(frozen=True)
class Ordeal:
    """What a search went through, and what came of it.

    Attributes:
        summary: what `killable` printed at the end.
        coordinator_kills: kill -9 of the coordinator.
        worker_kills: kill -9 of a worker.
        starts: how often the program was started.
        attempts: of all trials together.
        needless: attempts at a trial whose labels were all there already.
        seconds: from the first start to the end.
    """

    summary: dict[str, Any]
    coordinator_kills: int
    worker_kills: int
    starts: int
    attempts: int
    needless: int
    seconds: float


def undergo(folder: Path, *, kills: int, seed: int, sleep_s: float, plan: str = "paper") -> Ordeal:
    """Runs a search of `killable`, with so many kills at random moments, half of workers."""
    rng, begun = random.Random(seed), time.monotonic()
    counts = {"coordinator": 0, "worker": 0}
    starts = 0
    while True:
        starts += 1
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(folder), str(sleep_s), plan],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        while sum(counts.values()) < kills and process.poll() is None:
            _wait(process, folder, rng)
            workers = children(process.pid)
            if process.poll() is not None:
                break
            if workers and counts["worker"] <= counts["coordinator"]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rng.choice(workers), signal.SIGKILL)
                counts["worker"] += 1
            else:
                process.kill()
                counts["coordinator"] += 1
        output, _ = process.communicate()
        if process.returncode == 0:
            break
        if process.returncode != -signal.SIGKILL:
            raise RuntimeError(f"the search ended with {process.returncode}, which no kill does")
    summary = json.loads(output)
    return Ordeal(
        summary=summary,
        coordinator_kills=counts["coordinator"],
        worker_kills=counts["worker"],
        starts=starts,
        attempts=sum(1 for _ in (folder / "trials").glob("*/*")),
        needless=needless(folder, summary["trials"]),
        seconds=time.monotonic() - begun,
    )


def needless(folder: Path, trials: list[Any]) -> int:
    """Returns how many attempts began when earlier ones had a label for every epoch."""
    count = 0
    for name, epochs in ((t[0], t[4]) for t in trials):
        labels: set[str] = set()
        for attempt in sorted((folder / "trials" / name).iterdir(), key=lambda p: int(p.name)):
            count += len(labels) >= epochs
            labels |= {path.name for path in attempt.glob("epoch_*.json")}
    return count


def _wait(process: subprocess.Popen[str], folder: Path, rng: random.Random) -> None:
    """Waits for a random moment; three times out of four one at which trials are running."""
    if rng.random() < 0.25:
        time.sleep(rng.uniform(0.0, LONGEST_S))
        return
    before = results(folder)
    while process.poll() is None and results(folder) == before:
        time.sleep(0.05)
    time.sleep(rng.uniform(0.0, 0.7))


def results(folder: Path) -> int:
    """Returns how many labels have been written."""
    return sum(1 for _ in (folder / "trials").glob("*/*/epoch_*.json"))


def children(pid: int) -> list[int]:
    """Returns the processes that a process has started and that live."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name in parentheses may hold anything; state and parent follow it.
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state != "Z":
                found.append(int(stat.parent.name))
    return found
