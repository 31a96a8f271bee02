"""A whole search in one call."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from fbnetv3._internal.checks import whole_number
from fbnetv3._internal.messages import shown
from fbnetv3.search.execution.engine import Engine, InlineEngine, LocalEngine
from fbnetv3.search.execution.fork_engine import ForkEngine
from fbnetv3.search.execution.function_objective import (
    CostFunction,
    FunctionObjective,
    TrainFunction,
)
from fbnetv3.search.execution.peer_names import knows_peers
from fbnetv3.search.nars.run import search_problem
from fbnetv3.search.report.live import Live
from fbnetv3.search.space.space import Space
from fbnetv3.search.storage.store import Store

from .found import Found
from .setup import POLICY, Priors, folder_of, prepare
from .watching import OnRound, OnTrial, Watcher


@knows_peers
def run(
    space: Space,
    train: TrainFunction,
    *,
    folder: str | os.PathLike[str],
    trainings: int | None = None,
    budget: float | None = None,
    time: str | float | timedelta | None = None,
    rungs: Sequence[float] | None = None,
    cost: CostFunction | None = None,
    limits: str | Sequence[str] | None = None,
    workers: int = 1,
    seed: int = 0,
    target: str = "log_error",
    predictor: str = "auto",
    pool: int = 20_000,
    prior: Priors | None = None,
    on_trial: OnTrial | None = None,
    on_round: OnRound | None = None,
    quiet: bool = False,
) -> Found:
    """Searches a space with plain functions and returns what was found.

    `train(params, *, seed, fidelity)` trains one candidate, of which `params` has the value of
    each gene. It returns the objective value, higher is better, or yields it after every epoch, of
    which the last counts; NaN means that training diverged. `fidelity` is the share of the final
    training's steps, above 0 and up to 1: below 1 train that much, with a learning rate that falls
    to its end within it. A candidate whose training raises an exception, or exits, is replaced by
    another one. If three fail before the first succeeds, or ten of a round before one does, the
    search stops.

    After Ctrl-C, a crash or a power failure the same call resumes the search, with the same result
    as without the interruption; after the end it returns the results again. A call with a larger
    `trainings`, `budget` or `time` goes on from all that was trained. `train` and `cost` are not
    compared with those of earlier calls.

    With one worker, `train` runs in this process. More workers are processes: new interpreters if
    they can import `train` and `cost` from a module, otherwise (lambdas, scripts, notebooks) forks
    of this process with one CPU thread each.

    Args:
        space: the search space.
        train: trains a candidate.
        folder: the search's folder; made if it does not exist.
        trainings: number of trainings at most, not counting those that fail. A tenth or less of
            them retrains the best of each limit with more seeds.
        budget: in place of `trainings`, what may be trained in full trainings, of which shorter
            ones cost their share: many short trainings, then rounds in full of what they promise.
        time: in place of `trainings`, how long the search may take, such as "20m" or "1h30m". One
            training of each length is measured first.
        rungs: with `budget` or `time`, the lengths of the short trainings as shares of the final
            one, ascending; None: 1/32. An empty list has all trainings be full ones.
        cost: returns a candidate's costs as name -> number, without training. It is called for
            every candidate considered, usually some 100,000, so it should take microseconds. None:
            exact MACs and parameters, if the space describes networks.
        limits: limits on costs such as "macs<=4e8" or "macs>=2e8,params<=3e6"; the best candidate
            is searched within each.
        workers: number of trainings at a time.
        seed: random seed of the search and of the trainings.
        target: "log_error" for accuracies in percent; "raw" for any other objective value, of which
            higher is better too: to minimize a loss, return its negative.
        predictor: "mlp", "mlp_ensemble", "gp" or "auto".
        pool: number of candidates that rounds choose from.
        prior: a recipe that is believed to be good, as gene -> value with some or all genes, or a
            list of them. Candidates are drawn around it, less and less as values come; the best
            network with exactly this recipe is tried again and again, and is retrained at the end
            beside the best of the search. A number between two values of its gene becomes the
            nearer one, with a warning that has both; one outside the gene's range is refused.
        on_trial: called with every trained trial. An exception stops the search, resumably.
        on_round: called with every finished round, likewise.
        quiet: print no progress to standard error.

    Raises:
        ValueError: an argument is wrong, the folder has another search, or `train` or `cost` gives
            something that cannot be used.
        StoreError: another process uses the folder, or the disk is full.
        TrialError: trainings fail one after another.
    """
    objective = FunctionObjective(space, train, cost, target=target)
    workers = whole_number("workers", workers, 1)
    for name, function in (("on_trial", on_trial), ("on_round", on_round)):
        if function is not None and not callable(function):
            raise ValueError(f"{name} is {shown(function)}; expected a function of one record")
    path = folder_of(folder)
    problem = prepare(
        objective,
        path,
        trainings=trainings,
        limits=limits,
        seed=seed,
        predictor=predictor,
        pool=pool,
        workers=workers,
        budget=budget,
        time=time,
        rungs=rungs,
        prior=prior,
    )
    found = Found(path)
    if found.finished:
        return found
    # The engine before the store: forked workers should have no part in the store's files.
    with (
        contextlib.closing(_engine(objective, path, workers)) as engine,
        Store.open(path) as store,
        Live(store, quiet=quiet) as live,
    ):
        watcher = Watcher(store, space, on_trial=on_trial, on_round=on_round)

        def notify(name: str, fields: Mapping[str, Any]) -> None:
            live.note(name, fields)
            watcher.note(name, fields)

        try:
            search_problem(store, problem, engine, policy=POLICY, notify=notify)
        except KeyboardInterrupt as stop:
            stop.add_note(f"no finished trial is lost; the same call resumes the search in {path}")
            raise
    return found


def _engine(objective: FunctionObjective, folder: Path, workers: int) -> Engine:
    if workers == 1:
        return InlineEngine(objective, tasks_per_poll=1)
    spec = objective.spec()
    if "" in (spec["train"], spec["cost"]):
        return ForkEngine(objective, folder, workers=workers)
    return LocalEngine(spec, folder, workers=workers)
