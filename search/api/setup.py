"""Starting a search from Python, or recognising it in its folder."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from fbnetv3._internal.checks import whole_number
from fbnetv3._internal.messages import shown
from fbnetv3.search.execution.coordinator import Policy
from fbnetv3.search.execution.function_objective import FunctionObjective
from fbnetv3.search.execution.spec import check_not_imported
from fbnetv3.search.nars.budget import divide, parse_time
from fbnetv3.search.nars.config import SearchConfig
from fbnetv3.search.nars.growing import CALLED, Kind, grow
from fbnetv3.search.nars.limit import SHORT, cost_names, parse_limits, same_limits
from fbnetv3.search.nars.prior import Prior, make_prior
from fbnetv3.search.nars.problem import Problem, problem_of
from fbnetv3.search.nars.run import create_search
from fbnetv3.search.predictors.targets import Scale
from fbnetv3.search.space.layout import is_number
from fbnetv3.search.space.space import Space
from fbnetv3.search.storage.files import SETTINGS, read_settings
from fbnetv3.search.storage.store import Store

# One recipe as gene -> value, or several.
Priors = Mapping[str, Any] | Sequence[Mapping[str, Any]]
# A function that fails for a candidate fails again: another candidate replaces it at once.
POLICY = Policy(max_attempts=1)
# Candidates whose costs are asked for before the start, to see that the function works.
_TRIED = 64


def folder_of(folder: str | os.PathLike[str]) -> Path:
    """Returns the absolute path of a search's folder; a program may change the working directory.

    Raises:
        ValueError: it names no folder.
    """
    if not isinstance(folder, str | os.PathLike) or not str(folder).strip():
        raise ValueError(f"folder is {shown(folder)}; expected a folder, such as 'runs/s'")
    return Path(folder).expanduser().absolute()


def prepare(
    objective: FunctionObjective,
    folder: Path,
    *,
    trainings: int | None,
    limits: str | Sequence[str] | None,
    seed: int,
    predictor: str,
    pool: int,
    workers: int = 1,
    budget: float | None = None,
    time: str | float | timedelta | None = None,
    rungs: Sequence[float] | None = None,
    prior: Priors | None = None,
) -> Problem:
    """Creates the search in its folder, or checks that the folder has this very search.

    Exactly one of `trainings`, `budget` and `time` says how much it may train; where it is more
    than the folder's search had, that grows. The number of workers is that of the first call: a
    later one with more goes on in the same rounds.

    Raises:
        ValueError: an argument is wrong, or the folder has another search.
    """
    check_not_imported()
    space = objective.space
    Scale(objective.target)  # refuses an unknown one
    seed, pool = whole_number("seed", seed, 0), whole_number("pool", pool, 2)
    trainings = trainings if trainings is None else whole_number("trainings", trainings, 1)
    texts = _texts(limits)
    rungs = _shares(rungs)
    priors = _priors(space, prior)
    # NumPy's numbers are no JSON.
    budget = budget.item() if isinstance(budget, np.generic) else budget
    time = time.item() if isinstance(time, np.generic) else time
    given = {"trainings": trainings, "budget": budget, "time": time}
    chosen = [name for name, value in given.items() if value is not None]
    if len(chosen) != 1:
        raise ValueError(
            f"{' and '.join(chosen) or 'nothing'} given; expected one of trainings, budget (in "
            "full trainings) and time"
        )
    if isinstance(time, timedelta):
        time = time.total_seconds()
    later: dict[str, Any] = {"budget": budget, "time": time, "rungs": rungs}
    later["prior"] = [dict(one.values) for one in priors] or None
    call = {
        "space": space.sha256,
        "trainings": trainings,
        "limits": texts,
        "seed": seed,
        "target": objective.target,
        "predictor": predictor,
        "pool": pool,
        **{name: value for name, value in later.items() if value is not None},
    }
    bare = {"space": space.to_dict(), "objective": {"kind": "function"}, "num_classes": 1000}
    problem = problem_of(bare, objective)
    if (folder / SETTINGS).exists():
        grows = _check_same(folder, call)
        _check_costs(folder, problem, texts)
        try:
            Store.read(folder).close()
        except FileNotFoundError:  # it was stopped while it was made
            Store.open(folder).close()
        if grows is not None:
            grow(folder, *grows, problem=problem)
        return problem
    problem.costs(space.sample(_TRIED, np.random.default_rng(0)))
    bounds = parse_limits(texts, cost_names(problem))
    amount = _amount(trainings, budget, time, rungs, len(bounds), len(priors))
    config = SearchConfig(
        seed=seed,
        pool=max(2, min(pool, space.cardinality() * len(bounds))),
        predictor=predictor,
        target=objective.target,
        epochs=objective.epochs,
        limits=bounds,
        priors=priors,
        parallel=workers,
        **amount,
    )
    create_search(
        folder, space=space, objective=objective.spec(), config=config, made=objective, call=call
    ).close()
    return problem


def _priors(space: Space, prior: Priors | None) -> tuple[Prior, ...]:
    """Returns the priors that were given, numbered where there are several."""
    if prior is None:
        return ()
    if isinstance(prior, Mapping):
        found = [make_prior(space, prior, name="prior")]
    elif isinstance(prior, str) or not isinstance(prior, Sequence):
        raise ValueError(
            f"prior is {shown(prior)}; expected gene -> value, such as the .params of a trial, or "
            "a list of these"
        )
    else:
        found = [
            make_prior(space, one, name=f"prior {number}")
            for number, one in enumerate(prior, start=1)
        ]
    for one in found:
        if str(one):
            # Of `run` or `Study`, whose caller should see it.
            warnings.warn(str(one), stacklevel=5)
    return tuple(one.prior for one in found)


def _amount(
    trainings: int | None,
    budget: float | None,
    time: str | float | timedelta | None,
    rungs: list[float] | None,
    num_limits: int,
    num_priors: int,
) -> dict[str, Any]:
    """Returns the fields of the config that say how much to train."""
    if trainings is not None:
        if rungs is not None:
            raise ValueError(
                "rungs given with trainings; expected budget (in full trainings) or time with them"
            )
        return divide(trainings, num_limits, num_priors)._asdict()
    fields: dict[str, Any] = {"rungs": tuple(rungs or ())}
    if rungs is not None and not rungs:
        fields["policy"] = "early_stop"
    if time is not None:
        return {**fields, "time_s": parse_time(time)}
    if budget is None or not is_number(budget) or budget <= 0:
        raise ValueError(f"budget is {budget!r}; expected a number of full trainings above 0")
    return {**fields, "cost": float(budget)}


def _texts(limits: str | Sequence[str] | None) -> list[str]:
    """Returns limits as a list, of which none is empty."""
    if limits is None:
        return []
    several = isinstance(limits, Iterable) and not isinstance(limits, str | Mapping)
    texts: list[Any] = list(limits) if several else [limits]
    if not all(isinstance(text, str) and text for text in texts):
        raise ValueError(f"limits is {shown(limits)}; expected texts such as 'macs<=4e8'")
    return texts


def _shares(rungs: Sequence[float] | None) -> list[float] | None:
    """Returns rungs as a list of Python's numbers."""
    if rungs is None:
        return None
    try:
        return [float(share) for share in rungs]
    except (TypeError, ValueError):
        raise ValueError(
            f"rungs is {shown(rungs)}; expected shares of the final training, such as [1 / 32]"
        ) from None


def _check_same(folder: Path, call: dict[str, Any]) -> tuple[Kind, Any] | None:
    """Checks that a folder has the search of this call; returns the budget that it grows to."""
    settings = read_settings(folder)
    before = settings.get("call")
    if before is None:
        raise ValueError(
            f"{folder} has a search that was not started from Python; resume it with "
            f"fbnetv3-search resume {folder}, or give another folder"
        )
    grows: tuple[Kind, Any] | None = None
    kinds = {name: kind for kind, name in CALLED.items()}
    for name in {**before, **call}:
        value = call.get(name)
        if not _equal(name, before.get(name), value):
            if name in kinds and _is_more(name, value, before.get(name)):
                grows = kinds[name], value
                continue
            text = "" if name == "space" else f": {name} was {before.get(name)!r}, now {value!r}"
            what = "another space" if name == "space" else "other arguments"
            raise ValueError(
                f"{folder} has a search with {what}{text}; repeat its call to resume it, with a "
                "budget that may be larger, or give another folder"
            )
    return grows


def _equal(name: str, before: Any, value: Any) -> bool:
    """Returns whether two values of an argument mean the same, however they are spelled."""
    if before == value or None in (before, value):
        return bool(before == value)
    if name == "limits":
        return same_limits(before, value, SHORT)
    return name == "time" and parse_time(before) == parse_time(value)


def _is_more(name: str, value: Any, before: Any) -> bool:
    """Returns whether a budget is more than one of the same kind."""
    if None in (value, before):
        return False
    if name == "time":
        return parse_time(value) > parse_time(before)
    return is_number(value) and value > before


def _check_costs(folder: Path, problem: Problem, texts: list[str]) -> None:
    """Checks that a search that is resumed has the costs that its limits bound."""
    known = problem.costs(problem.space.sample(1, np.random.default_rng(0)))
    for bounds in parse_limits(texts, cost_names(problem)):
        for name in bounds:
            if name not in known:
                raise ValueError(
                    f"the search in {folder} has limits on {name!r}, now the costs are "
                    f"{', '.join(known) or 'none'}; give the cost function that it had"
                )
