"""A complete search, from settings to architectures and recipes.

    with Store.open(folder) as store:
        result = run_search(store, engine)

A pool, an encoder pretrained on costs (stage 1); rounds of trials (stage 2); evolution for every
limit (stage 3); the best of each limit retrained with more seeds, and the best mean chosen.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

import fbnetv3
from fbnetv3._internal.messages import shown
from fbnetv3.search.cost.latency_table import LatencyTable
from fbnetv3.search.execution.coordinator import Coordinator, Policy
from fbnetv3.search.execution.engine import Engine
from fbnetv3.search.execution.objective import Objective, TableObjective, epochs_of_rung
from fbnetv3.search.execution.spec import identity, load_objective
from fbnetv3.search.predictors.protocol import Predictor
from fbnetv3.search.predictors.registry import load_predictor
from fbnetv3.search.predictors.targets import check_percent
from fbnetv3.search.space.space import Space
from fbnetv3.search.storage.store import Store

from .answers import Answer, describe, write_answers
from .budget import fewer, planned
from .config import FEWEST, SearchConfig
from .evolution import Evolved
from .fitting import PREDICTOR
from .gene_effects import unresolved
from .held import evolve_held, held_genes
from .labels import nothing_learnt
from .latency_margin import with_margins
from .limit import Limit, bounds_of, cost_names, intersection
from .measuring import measure, shows_nothing
from .pool import TooFewError, check, draw, pool_of
from .prior_pool import draw_around, share_of
from .problem import Problem, problem_of
from .retraining import answers_of, ranking, retrain, with_prior_candidates
from .rounds import Notify, Optimizer
from .schedule import Schedule, TimedSchedule, describe_plan, plan_for
from .spending import LEFT_OUT, Spending

DEFAULT_POLICY = Policy()


def _silent(_name: str, _fields: Mapping[str, Any]) -> None:
    """Ignores an event."""


def create_search(
    folder: str | Path,
    *,
    space: Space,
    objective: Mapping[str, Any],
    config: SearchConfig,
    latency: LatencyTable | None = None,
    made: Objective | None = None,
    call: Mapping[str, Any] | None = None,
    on_objective: Callable[[Objective], object] | None = None,
) -> Store:
    """Returns the store of a new search, after checking that the search is possible.

    If `config` has 0 epochs or no target, the objective's are used. With a latency table,
    candidates also have the cost `latency_ms`, and limits on it get a margin for the table's error.
    `made` is the objective that the settings describe, where it cannot be made from them, and
    `call` further settings to keep. `on_objective` is called with the objective before the search
    is checked, which may take long.

    Raises:
        ValueError: space, objective and config do not match, a table's labels are fractions in
            place of percent, or too few candidates are feasible.
        FileNotFoundError: a file of the objective does not exist.
    """
    folder = Path(folder)
    made = load_objective(objective) if made is None else made
    if on_objective is not None:
        on_objective(made)
    config = config if latency is None else with_margins(config, latency)
    config = planned(with_rungs(config, made))
    settings: dict[str, Any] = {
        "identity": {
            "space": space.sha256,
            "objective": identity(objective),
            "code": fbnetv3.__version__,
        },
        "space": space.to_dict(),
        "objective": dict(objective),
        "num_classes": getattr(made, "num_classes", 1000),
        "plan": dataclasses.replace(
            config,
            epochs=config.epochs or getattr(made, "epochs", 1),
            target=config.target or getattr(made, "target", "log_error"),
        ).to_dict(),
    }
    if call is not None:
        settings["call"] = dict(call)
    if latency is not None:
        settings["latency"] = json.loads(latency.to_json())
    listed = getattr(made, "space", None)
    if isinstance(made, TableObjective) and listed != space:
        raise ValueError(
            f"the table has space {made.space.name!r}; expected the search's, {space.name!r}"
        )
    if isinstance(made, TableObjective) and config.epochs > made.epochs:
        raise ValueError(f"epochs is {config.epochs}; the table has curves of {made.epochs}")
    if isinstance(made, TableObjective):
        check_percent(made.labels, settings["plan"]["target"])
    problem = problem_of(settings, made)
    try:
        check(problem, config)
    except TooFewError as few:
        if few.found < FEWEST:
            raise
        config = fewer(config, few.found)
        pool_of(problem, config)
        plan = SearchConfig.from_dict(settings["plan"])
        settings["plan"] = fewer(plan, few.found).to_dict()
    return Store.create(folder, settings)


def with_rungs(config: SearchConfig, objective: Objective) -> SearchConfig:
    """Returns the config with the number of labels of each rung, as the objective has them.

    Where no rungs were asked for, the objective may know better ones than the usual.

    Raises:
        ValueError: the objective has no rungs, or none so short.
    """
    if not config.rungs:
        return config
    usual = getattr(objective, "usual_rung", None)
    if usual is not None and config.has_usual_rungs:
        config = dataclasses.replace(config, rungs=tuple(map(usual, config.rungs)))
    full = config.epochs or getattr(objective, "epochs", 1)
    epochs = tuple(epochs_of_rung(objective, share, full) for share in config.rungs)
    return dataclasses.replace(config, rung_epochs=epochs)


def run_search(
    store: Store,
    engine: Engine,
    *,
    policy: Policy = DEFAULT_POLICY,
    notify: Notify = _silent,
    objective: Objective | None = None,
) -> list[Answer]:
    """Runs or resumes a search and returns its results.

    Args:
        store: the search, opened for writing.
        engine: the engine for its trials; the caller closes it.
        policy: retries, time limits and stragglers.
        notify: called with the name of each event and its fields.
        objective: the search's objective, if it is at hand, so that it is not made again.

    Raises:
        ValueError: the settings are invalid, or all labels are NaN.
        StoreError: the disk is full.
        TrialError: trials fail one after another.
    """
    problem = problem_of(store.settings, objective)
    return search_problem(store, problem, engine, policy=policy, notify=notify)


def search_problem(
    store: Store,
    problem: Problem,
    engine: Engine,
    *,
    policy: Policy = DEFAULT_POLICY,
    notify: Notify = _silent,
) -> list[Answer]:
    """Runs or resumes the search of a given problem, as `run_search` does for a store's."""
    config = SearchConfig.from_dict(store.settings["plan"])
    coordinator = Coordinator(store, engine, policy)
    try:
        spending = Spending(store.folder) if config.time_s else None
        optimizer = Optimizer(problem, config, store, coordinator, _beating(notify, spending))
        optimizer.pretrain()
        schedule = Schedule(config)
        if spending is not None:
            parallel = max(1, engine.capacity())
            took = _measured(optimizer, spending, parallel)
            left_out = _left_out(optimizer, spending, took, parallel)
            schedule = TimedSchedule(
                config, store, spending, seconds=took, parallel=parallel, left_out=left_out
            )
            about = {"seconds": took, "parallel": parallel, "left_out": left_out}
            notify("plan", {**describe_plan(schedule.config), **about})
        else:
            notify("plan", describe_plan(config))
        optimizer.run(schedule, nullcontext if spending is None else spending.training)
        values = optimizer.labels().values
        if not np.isfinite(values).any():
            raise nothing_learnt(len(values))
        found = evolve_for(store, problem, optimizer.predictor, config.limits)
        _store_evolution(store, found)
        notify("evolved", {"limits": len(found)})
        config = schedule.last()
        rankings = [ranking(problem, optimizer, config, one) for one in found]
        rankings = with_prior_candidates(problem, optimizer, config, rankings)
        retrain(store, config, optimizer, coordinator, rankings, notify)
        answers = answers_of(store, config, optimizer, found, rankings)
    finally:
        coordinator.cancel()
    store.set_stage("answers", {"answers": [describe(problem.space, one) for one in answers]})
    write_answers(store, problem.space, answers)
    notify("finished", {"answers": len(answers)})
    return answers


def _beating(notify: Notify, spending: Spending | None) -> Notify:
    """Returns `notify`, which then also keeps the time spent."""
    if spending is None:
        return notify

    def both(name: str, fields: Mapping[str, Any]) -> None:
        spending.beat()
        notify(name, fields)

    return both


def _measured(optimizer: Optimizer, spending: Spending, parallel: int) -> dict[float, float]:
    """Returns share of the final training -> seconds, measured once in the life of a search."""
    known = spending.kept("seconds")
    if known is None:
        optimizer.notify("measuring", {"rungs": list(optimizer.config.rungs)})
        known = list(measure(optimizer, spending, parallel=parallel).items())
        spending.keep(seconds=known)
    return {float(share): float(seconds) for share, seconds in known}


def _left_out(
    optimizer: Optimizer, spending: Spending, took: Mapping[float, float], parallel: int
) -> dict[float, str]:
    """Returns share -> why it shows nothing, of rungs that the plan would use; tried once."""
    known = spending.kept(LEFT_OUT)
    if known is None:
        # A search of an earlier version has its plan, and trains what that says.
        plan = spending.kept("plan")
        rungs = [] if plan else plan_for(optimizer.config, spending, took, parallel).rungs
        found = {share: shows_nothing(optimizer, spending, share) for share in rungs}
        known = [[share, reason] for share, reason in found.items() if reason]
        spending.keep(**{LEFT_OUT: known})
    return {float(share): reason for share, reason in known}


def evolve_for(
    store: Store,
    problem: Problem,
    predictor: Predictor,
    limits: Sequence[str | Limit | Mapping[str, tuple[float, float]]],
) -> list[Evolved]:
    """Stage 3: returns the best predicted candidates within each limit.

    A limit is cost -> (lowest, highest), or a text such as "macs<=4e8".

    With priors, genes whose effect the labels do not show have the priors' values, and part of the
    start is drawn around the priors: the share that a round would have at so many labels.
    """
    config = SearchConfig.from_dict(store.settings["plan"])
    start = draw(problem, config.pool, seed=config.seed, bounds=config.within)
    # What was trained is within the limits of the search, however tight they are.
    trained = store.known_genes()
    start = np.concatenate([start, trained]) if len(trained) else start
    if config.priors:
        share = share_of(len(trained), (*config.sizes, config.batch)[0])
        num = max(1, int(share * config.pool))
        near = draw_around(problem, config, start, num, seed=(config.seed, 6))
        start = np.concatenate([start, near])
    if isinstance(limits, str | Limit | Mapping):
        raise ValueError(f"limits is {shown(limits)}; expected a list of limits")
    names = cost_names(problem)
    bounds = [intersection(config.within, bounds_of(limit, names)) for limit in limits]
    held = held_genes(config.priors, unresolved(store))
    found = evolve_held(problem, predictor, bounds, held, config=config, start=start)
    if held and not all(one.reachable for one in found):
        # In a list of candidates, none may have just these values.
        free = evolve_held(problem, predictor, bounds, {}, config=config, start=start)
        found = [a if a.reachable else b for a, b in zip(found, free, strict=True)]
    return found


def open_predictor(store: Store, problem: Problem) -> Predictor:
    """Returns the predictor after the last finished round.

    Raises:
        FileNotFoundError: no round has finished yet.
    """
    path = store.folder / PREDICTOR
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: no round has finished; wait for the first")
    return load_predictor(path, costs=problem.costs)


def _store_evolution(store: Store, found: list[Evolved]) -> None:
    content = [
        {
            "generations": one.generations,
            "history": [round(x, 6) for x in one.history if np.isfinite(x)],
            "nearest": dict(one.nearest),
            "best": one.rows[:5].tolist(),
        }
        for one in found
    ]
    store.set_stage("evolution", {"limits": content})
