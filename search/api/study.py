"""A search that a program drives: it asks for trials, trains them anywhere, and tells the values.

The search itself runs in a thread, as it does for `run`; its engine hands trials to the program.
"""

from __future__ import annotations

import operator
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

import numpy as np

from fbnetv3._internal.checks import whole_number
from fbnetv3._internal.messages import shown
from fbnetv3.search.execution.function_objective import CostFunction, FunctionObjective
from fbnetv3.search.execution.peer_names import knows_peers, no_attribute
from fbnetv3.search.execution.worker import Outcome, Task, described
from fbnetv3.search.nars.problem import Problem
from fbnetv3.search.nars.run import search_problem
from fbnetv3.search.space.space import Space
from fbnetv3.search.storage.results import write_epoch
from fbnetv3.search.storage.store import Store

from .found import Found
from .records import Asked, Best, Finished
from .setup import POLICY, Priors, folder_of, prepare

# A round is handed out at once, unless its trainings are timed.
_ALL = 1_000_000


class _Stopped(Exception):  # noqa: N818  # ends the thread, no error
    """The program has closed the study."""


class _Desk:
    """The engine whose trials are asked for and told by another thread.

    Args:
        most: number of trials that are open at a time.
    """

    name = "ask"
    heartbeats = False

    def __init__(self, most: int) -> None:
        self._most, self._pid = most, os.getpid()
        self._changed = threading.Condition()
        self._open: dict[int, Task] = {}
        self._unasked: list[int] = []
        self._outcomes: list[Outcome] = []
        # Whether the search has handed out all that it can before it is told more.
        self._settled = False
        self._stopping = False
        self._ended = False
        self._error: BaseException | None = None

    # The search's thread

    def capacity(self) -> int:
        with self._changed:
            return self._most - len(self._open)

    def submit(self, task: Task) -> None:
        with self._changed:
            self._open[task.number] = task
            self._unasked.append(task.number)

    def poll(self, timeout_s: float) -> list[Outcome]:
        with self._changed:
            if not self._outcomes and not self._stopping:
                self._settled = True
                self._changed.notify_all()
                self._changed.wait(timeout_s)
            if self._stopping:
                raise _Stopped
            outcomes, self._outcomes = self._outcomes, []
            return outcomes

    def cancel(self, trial: str) -> None:
        with self._changed:
            self._open = {n: task for n, task in self._open.items() if task.trial != trial}
            self._unasked = [n for n in self._unasked if n in self._open]

    def close(self) -> None:
        """Has nothing to stop."""

    def end(self, error: BaseException | None) -> None:
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    # The program's threads

    def wait(self) -> bool:
        """Waits until the search needs to be told more, or has ended; returns whether it has.

        Raises:
            BaseException: what the search has ended with.
        """
        self.settle()
        if self._error is not None:
            raise self._error
        return self._ended

    def settle(self) -> None:
        """Waits until the search needs to be told more, or has ended in any way.

        Raises:
            RuntimeError: this process is a fork of the one that has the search.
        """
        if os.getpid() != self._pid:
            raise RuntimeError(
                f"this is a forked process, and the study is in process {self._pid}; return the "
                "value from here, and ask and tell there"
            )
        with self._changed:
            self._changed.wait_for(lambda: self._settled or self._ended)

    def ask(self, num: int) -> list[Task]:
        self.wait()
        with self._changed:
            numbers, self._unasked = self._unasked[:num], self._unasked[num:]
            return [self._open[number] for number in numbers]

    def tell(self, number: int, end: Callable[[Task], Outcome]) -> None:
        """Ends a trial with what `end` makes of it."""
        self.wait()
        with self._changed:
            if number not in self._open:
                waiting = ", ".join(map(str, self._open)) or "none"
                raise ValueError(
                    f"trial {number} is not open; expected one that was asked for and not yet "
                    f"told: {waiting}"
                )
            self._outcomes.append(end(self._open[number]))
            del self._open[number]
            self._unasked = [other for other in self._unasked if other != number]
            self._settled = False
            self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()


class Study:
    """A search whose trials another program trains, for example on a cluster.

        with search.Study(space, folder="runs/s", trainings=96, cost=cost) as study:
            while not study.finished:
                for trial in study.ask(8):
                    study.tell(trial, train(trial.params, seed=trial.seed))

    For the same seed it proposes the same trials as `search.run`. The same call with the same
    folder resumes it; trials that were asked for but not told are then handed out again. With a
    larger `trainings`, `budget` or `time` it goes on from all that was trained.

    Args:
        space: the search space.
        folder: the search's folder; made if it does not exist.
        trainings: number of trainings at most, not counting those that fail.
        budget: in place of `trainings`, what may be trained in full trainings, see `run`. Trials
            then have a `fidelity`.
        time: in place of `trainings`, how long the search may take, see `run`. The time counts
            while there is a study, and a training takes from when it can be asked for until it is
            told.
        workers: number of trainings at a time, so that a round has at least as many; None: 1. With
            `time`, it is also the most that `ask` returns; else a whole round can be asked for.
        rungs: with `budget` or `time`, the lengths of the short trainings, see `run`.
        cost: returns a candidate's costs, see `run`.
        limits: limits on costs, see `run`.
        seed: random seed of the search and of the trainings.
        target: "log_error" for accuracies in percent; "raw" for any other objective value.
        predictor: "mlp", "mlp_ensemble", "gp" or "auto".
        pool: number of candidates that rounds choose from.
        prior: a recipe that is believed to be good, or a list of them, see `run`.

    Raises:
        ValueError: an argument is wrong, or the folder has another search.
        StoreError: another process uses the folder.
    """

    @knows_peers
    def __init__(
        self,
        space: Space,
        *,
        folder: str | os.PathLike[str],
        trainings: int | None = None,
        budget: float | None = None,
        time: str | float | timedelta | None = None,
        workers: int | None = None,
        rungs: Sequence[float] | None = None,
        cost: CostFunction | None = None,
        limits: str | Sequence[str] | None = None,
        seed: int = 0,
        target: str = "log_error",
        predictor: str = "auto",
        pool: int = 20_000,
        prior: Priors | None = None,
    ) -> None:
        self._objective = FunctionObjective(space, None, cost, target=target)
        workers = None if workers is None else whole_number("workers", workers, 1)
        path = folder_of(folder)
        problem = prepare(
            self._objective,
            path,
            trainings=trainings,
            limits=limits,
            seed=seed,
            predictor=predictor,
            pool=pool,
            workers=workers or 1,
            budget=budget,
            time=time,
            rungs=rungs,
            prior=prior,
        )
        self._found = Found(path)
        self._desk = _Desk(_ALL if time is None else workers or 1)
        self._thread = threading.Thread(
            target=_search, args=(path, problem, self._desk), daemon=True
        )
        self._thread.start()
        # Also at the interpreter's exit, so that the folder is left as after Ctrl-C.
        self._close = weakref.finalize(self, _stop, self._desk, self._thread)
        self._desk.wait()

    @property
    def finished(self) -> bool:
        """Whether the search has ended; waits while it works on its next proposals."""
        return self._desk.wait()

    @property
    def found(self) -> Found:
        """The results so far, with all that was told."""
        self._desk.settle()
        return self._found

    @property
    def best(self) -> dict[str, Best]:
        """Limit -> the best candidate within it so far, see `Found.best`."""
        return self.found.best

    @property
    def trials(self) -> list[Finished]:
        """All trained trials, in the order in which they were proposed."""
        return self.found.trials

    def __getattr__(self, name: str) -> NoReturn:
        no_attribute("Study", name)

    def ask(self, num: int = 1) -> list[Asked]:
        """Returns up to `num` trials to train; waits while the search works on its next round.

        They are fewer at the end of a round, and none while all its other trials are being trained
        or after the end of the search. They may be trained in any order and told from any thread.

        Raises:
            ValueError: `num` is below 1, or the values told so far cannot be used.
            TrialError: trainings failed one after another.
        """
        num = whole_number("num", num, 1)
        space = self._objective.space
        return [
            Asked(task.number, space.values(np.array(task.genes)), task.seed, task.fidelity)
            for task in self._desk.ask(num)
        ]

    def tell(self, trial: Asked | int, value: float) -> None:
        """Records the objective value of a trial, on disk before it returns.

        Args:
            trial: the trial, or its number.
            value: higher is better; NaN if the training diverged.

        Raises:
            ValueError: the trial is not open, or the value is no number or not in percent.
        """
        number = _number(trial)
        label = self._objective.checked(value, f"trial {number}")

        def end(task: Task) -> Outcome:
            write_epoch(Path(task.folder), task.trial, task.attempt, 1, label)
            return Outcome(task.trial, task.attempt)

        self._desk.tell(number, end)

    def fail(self, trial: Asked | int, reason: str | BaseException) -> None:
        """Records that a trial could not be trained; the search replaces it by another one.

        Args:
            trial: the trial, or its number.
            reason: why, for the report; an exception may be given as it was caught.

        Raises:
            ValueError: the trial is not open.
        """
        number = _number(trial)
        if isinstance(reason, BaseException):
            reason = described(reason)
        if not isinstance(reason, str):
            raise ValueError(f"reason is {shown(reason)}; expected a text, or an exception")
        self._desk.tell(number, lambda task: Outcome(task.trial, task.attempt, reason))

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a study stays in its process; send the trials that it was asked for to others, and "
            "tell it their values here"
        )

    def close(self) -> None:
        """Stops the search; the same call resumes it."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _number(trial: Asked | int) -> int:
    if isinstance(trial, Asked):
        return trial.number
    try:
        return operator.index(trial)
    except TypeError:
        raise ValueError(
            f"trial is {shown(trial)}; expected one that was asked for, or its number"
        ) from None


def _search(folder: Path, problem: Problem, desk: _Desk) -> None:
    """Is the search's thread."""
    try:
        with Store.open(folder) as store:
            if store.stage("answers") is None:
                search_problem(store, problem, desk, policy=POLICY)
    except _Stopped:
        desk.end(ValueError("the study is closed; make another one to resume the search"))
    except BaseException as error:  # raised again where the program waits
        desk.end(error)
    else:
        desk.end(None)


def _stop(desk: _Desk, thread: threading.Thread) -> None:
    desk.stop()
    thread.join()
