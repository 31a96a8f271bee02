"""Runs a round's trials on an engine: leases, retries, replacements, stragglers.

Which trials to run and in which order is decided elsewhere. The coordinator sees to it that each
gets a label or, after the last attempt, a replacement. Nothing depends on the order in which trials
end.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from fbnetv3._internal.errors import StoreError, TrialError
from fbnetv3._internal.messages import counted
from fbnetv3.search.storage.files import way_to_resume
from fbnetv3.search.storage.results import HEARTBEAT, attempt_folder
from fbnetv3.search.storage.store import Store
from fbnetv3.search.storage.trials import Proposal, Trial

from .engine import Engine
from .worker import Outcome, Task

POLL_S = 1.0
# With the straggler rule a round may end with this share of its labels: 46 of 48.
ENOUGH = 46 / 48
# So many trials of a round may fail, however small the round is.
PATIENCE = 10
# What to do where earlier trials succeeded: the predictor does not know which candidates fail.
_AVOID = (
    "others succeeded before: if a kind of candidates always fails, such as networks too large for "
    "the memory, give NaN as their value, from which the search learns to avoid them, or a limit"
)
# A trial that runs longer than this, and than so many times the median, may hang.
OVERDUE_S, OVERDUE_FACTOR = 600.0, 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """When attempts fail, trials are replaced and rounds end.

    Attributes:
        max_attempts: number of failed attempts after which a trial is replaced.
        lease_s: seconds without a heartbeat after which an attempt has failed.
        timeout_s: time limit of an attempt, in seconds; None: no limit.
        straggler_factor: end a round that has nearly all labels once its slowest trials take this
            many times the median; their labels join the next fit. None waits for all, which makes
            a search repeatable, because which trials are late is random.
    """

    max_attempts: int = 3
    lease_s: float = 120.0
    timeout_s: float | None = None
    straggler_factor: float | None = None

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts is {self.max_attempts}; expected at least 1")
        if self.lease_s <= 0:
            raise ValueError(f"lease_s is {self.lease_s}; expected more than 0")
        if self.timeout_s is not None and self.timeout_s <= 0:
            raise ValueError(f"timeout_s is {self.timeout_s}; expected more than 0")
        if self.straggler_factor is not None and self.straggler_factor < 1:
            raise ValueError(f"straggler_factor is {self.straggler_factor}; expected 1 or more")


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a round.

    Attributes:
        done: number of trials that got a label since the round was started or resumed.
        failed: number of trials that failed all attempts.
        running: number of running trials.
        waiting: number of trials not yet started.
        seconds_left: estimate from the median trial; None before the first one ends.
        overdue_s: how long the slowest running trial has run, if that is out of all proportion to
            the others; else 0.
    """

    done: int
    failed: int
    running: int
    waiting: int
    seconds_left: float | None
    overdue_s: float = 0.0


@dataclass(slots=True)
class _Running:
    trial: Trial
    attempt: int
    started: float
    beat: float
    beat_seen: float


Replace = Callable[[Trial], Proposal | None]
Report = Callable[[Progress], None]


class Coordinator:
    """Submits trials to an engine and records their outcomes; one process per search."""

    def __init__(self, store: Store, engine: Engine, policy: Policy) -> None:
        self._store, self._engine, self._policy = store, engine, policy
        self._owner = f"{engine.name}:{os.getpid()}"
        self._running: dict[str, _Running] = {}
        self._waiting: deque[Trial] = deque()
        self._took: dict[float, list[float]] = {}  # fidelity -> seconds of its trials
        self._checked = 0.0

    def complete(self, replace: Replace, report: Report | None = None) -> None:
        """Runs all open trials of the store until each is done, or failed and replaced.

        Args:
            replace: returns the replacement of a trial that failed all attempts, or None.
            report: called about once a second and at the end.

        Raises:
            StoreError: the disk is full, here or at a worker.
            TrialError: no trial succeeds, or more fail than were wanted.
            ValueError: the objective gives what no search can use.
        """
        self._waiting = deque(
            t for t in self._store.trials("queued", "leased") if t.id not in self._running
        )
        wanted = len(self._waiting) + len(self._running)
        done, failures = 0, list[Trial]()
        while self._waiting or self._running:
            self._start()
            ended = self._engine.poll(POLL_S) if self._running else []
            # A failure and its replacement are one transaction, so that no round lacks a trial.
            with self._store.transaction():
                ends = [self._end(outcome) for outcome in ended]
                ends += self._lost()
                done += sum(end is None for end in ends)
                for trial in (end for end in ends if end is not None and end.state == "failed"):
                    failures.append(trial)
                    self._check_failures(done, failures, wanted)
                    proposal = replace(trial)
                    if proposal is not None:
                        self._waiting.append(self._store.add_replacement(trial, proposal))
            self._store.beat()
            if report is not None:
                report(self._progress(done, len(failures)))
            if self._may_close(done, wanted):
                return

    def cancel(self) -> None:
        """Stops all running trials; they stay open in the store."""
        for name in list(self._running):
            self._engine.cancel(name)
            del self._running[name]

    def _start(self) -> None:
        free = min(self._engine.capacity(), len(self._waiting))
        if free <= 0:
            return
        starts = []
        with self._store.transaction():
            for _ in range(free):
                trial = self._waiting.popleft()
                starts.append((trial, self._store.lease(trial, self._owner, self._policy.lease_s)))
        for trial, attempt in starts:
            now = time.monotonic()
            self._running[trial.id] = _Running(trial, attempt, now, 0.0, now)
            self._engine.submit(
                Task(
                    folder=str(self._store.folder.resolve()),
                    trial=trial.id,
                    attempt=attempt,
                    genes=trial.genes,
                    seed=trial.seed,
                    epochs=trial.epochs,
                    number=trial.seq,
                    fidelity=trial.fidelity,
                )
            )

    def _end(self, outcome: Outcome) -> Trial | None:
        """Returns None if the trial is done, else the trial in its state after the failure."""
        running = self._running.pop(outcome.trial)
        if self._store.ingest(running.trial):
            took = self._took.setdefault(running.trial.fidelity, [])
            took.append(time.monotonic() - running.started)
            return None
        if outcome.fatal == "objective":
            raise ValueError(outcome.error)
        if outcome.fatal:
            raise StoreError(
                f"a worker cannot write to {self._store.folder} ({outcome.error}); nothing is "
                f"lost: free some space, then: {way_to_resume(self._store.folder)}"
            )
        return self._fail(running, outcome.error or "its result files are missing or damaged")

    def _fail(self, running: _Running, reason: str) -> Trial:
        failed = self._store.release(running.trial, reason, self._policy.max_attempts)
        trial = self._store.trial(running.trial.seq)
        if not failed:
            self._waiting.append(trial)
        return trial

    def _lost(self) -> list[Trial]:
        """Ends attempts without a heartbeat and those over the time limit."""
        now, policy = time.monotonic(), self._policy
        if now - self._checked < min(5.0, policy.lease_s / 4):
            return []
        self._checked = now
        ends = []
        for name, running in list(self._running.items()):
            reason = ""
            if policy.timeout_s is not None and now - running.started > policy.timeout_s:
                reason = f"took longer than {policy.timeout_s:.0f} s"
            elif self._engine.heartbeats and now - self._last_beat(running, now) > policy.lease_s:
                reason = f"no heartbeat for {policy.lease_s:.0f} s"
            if reason:
                self._engine.cancel(name)
                del self._running[name]
                ends.append(self._fail(running, reason))
        self._store.extend_leases(self._owner, policy.lease_s)
        return ends

    def _last_beat(self, running: _Running, now: float) -> float:
        # Compare with the last time seen, not with now: a worker's clock may differ from ours.
        folder = attempt_folder(self._store.folder, running.trial.id, running.attempt)
        try:
            beat = (folder / HEARTBEAT).stat().st_mtime
        except OSError:
            beat = 0.0
        if beat != running.beat:
            running.beat, running.beat_seen = beat, now
        return running.beat_seen

    def _check_failures(self, done: int, failures: list[Trial], wanted: int) -> None:
        # Where trials of earlier rounds succeeded, a few failures say little of the objective.
        worked = self._store.counts()["done"] > 0
        hopeless = not done and len(failures) >= (PATIENCE if worked else min(3, wanted))
        if hopeless or len(failures) > max(wanted, PATIENCE):
            first, logs = failures[0], self._store.folder / "workers"
            raise TrialError(
                f"{counted(len(failures), 'trial')} failed after "
                f"{counted(self._policy.max_attempts, 'attempt')} each, {done} succeeded; the "
                f"first, {first.id[:12]}, failed with: {first.reason}"
                + (f"; see {logs} for the workers' output" if logs.exists() else "")
                + ("; " + _AVOID if worked and not done else "")
            )

    def _progress(self, done: int, failed: int) -> Progress:
        left = None
        unfinished = [*self._waiting, *(one.trial for one in self._running.values())]
        if unfinished and (usual := self._usual_s(unfinished[0])):
            slots = max(1, len(self._running) + self._engine.capacity())
            rounds = math.ceil(len(self._waiting) / slots) + 0.5 * bool(self._running)
            left = rounds * usual
        return Progress(
            done, failed, len(self._running), len(self._waiting), left, self._overdue_s()
        )

    def _overdue_s(self) -> float:
        now = time.monotonic()
        late = [
            now - one.started
            for one in self._running.values()
            if now - one.started > max(OVERDUE_S, OVERDUE_FACTOR * self._usual_s(one.trial))
        ]
        return max(late, default=0.0)

    def _usual_s(self, trial: Trial) -> float:
        """Returns how long such a trial takes; 0 if none has ended.

        Those of another length are scaled by their share of the final steps.
        """
        took = self._took.get(trial.fidelity)
        if took:
            return statistics.median(took[-1000:])
        others = {share: statistics.median(seconds) for share, seconds in self._took.items()}
        return max((s * trial.fidelity / share for share, s in others.items()), default=0.0)

    def _may_close(self, done: int, wanted: int) -> bool:
        factor = self._policy.straggler_factor
        if factor is None or self._waiting or done < math.ceil(ENOUGH * wanted):
            return False
        now = time.monotonic()
        return all(
            now - running.started > factor * self._usual_s(running.trial)
            for running in self._running.values()
        )
