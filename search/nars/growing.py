"""A search that gets more to train than it began with; all that it has trained counts.

What is new follows what was there: further rounds, and a last stage that chooses among all. So the
result is not that of a search with as much from its start, whose random first round is larger.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal

from fbnetv3._internal.messages import counted
from fbnetv3.search.storage.store import Store

from .budget import MOST, divide, parse_time
from .config import SearchConfig
from .labels import EARLIER, FINAL, SEARCH_KINDS
from .pool import TooFewError, pool_of
from .problem import Problem, problem_of
from .spending import Spending

Kind = Literal["trainings", "cost", "time_s"]
# What `run` and `Study` call a budget.
CALLED: dict[Kind, str] = {"trainings": "trainings", "cost": "budget", "time_s": "time"}
_WORDS: dict[Kind, str] = {
    "trainings": "a number of trainings",
    "cost": "a budget in full trainings",
    "time_s": "a time",
}


def grow(
    folder: Path, kind: Kind, budget: Any, *, problem: Problem | None = None, name: str = ""
) -> None:
    """Gives a search a larger budget. It may have finished, or have been stopped anywhere.

    Args:
        folder: the search's.
        kind: what the budget is counted in, as it was.
        budget: all that the search may then have spent: a number, or a time such as "8h". For a
            search that was started from Python, trainings include those of the last stage.
        problem: the search's, if it is at hand, so that it is not made again.
        name: of the budget, for messages; empty: that of `run`.

    Raises:
        ValueError: the search has a budget of another kind, or has no less than this one.
        StoreError: another process uses the folder.
    """
    with Store.open(folder) as store:
        settings = store.settings
        config = SearchConfig.from_dict(settings["plan"])
        has: Kind = "cost" if config.cost else "time_s" if config.time_s else "trainings"
        name = name or CALLED[kind]
        if has != kind:
            raise ValueError(
                f"{name} given; the search in {folder} has {_WORDS[has]}, which may grow"
            )
        if kind == "cost" and not config.cost < budget < math.inf:
            raise ValueError(
                f"{name} is {budget:g}; expected a number above the {config.cost:g} full trainings "
                f"that the search in {folder} has"
            )
        before = settings.get("call", {}).get(CALLED[kind])
        if kind == "trainings" and before is not None and budget <= before:
            raise ValueError(
                f"{name} is {budget}; expected more than the {before} that the search in {folder} "
                "has"
            )
        if kind == "time_s":
            grown = dataclasses.replace(config, time_s=parse_time(budget))
            larger = grown.time_s > config.time_s
        else:
            problem = problem_of(settings) if problem is None else problem
            grown = _with_more_rounds(store, config, kind, budget)
            try:
                pool_of(problem, grown)
            except TooFewError as few:
                grown = _with_more_rounds(store, config, kind, budget, candidates=few.found)
            larger = sum(grown.sizes) > sum(config.sizes)
        if not larger:
            made = counted(_made(store, *SEARCH_KINDS, FINAL, EARLIER), "training")
            raise ValueError(
                f"{name} is {budget}, which leaves no further round to the search in {folder}, "
                f"with {made} so far; give more"
            )
        # Killed before the settings are replaced, the search only has to be finished again.
        store.reopen_rounds(FINAL, EARLIER)
        if kind == "time_s":
            _extend_clock(folder, grown.time_s)
        call = settings.get("call")
        changed = {} if call is None else {"call": {**call, CALLED[kind]: budget}}
        store.replace_settings({**settings, "plan": grown.to_dict(), **changed})


def _with_more_rounds(
    store: Store, config: SearchConfig, kind: Kind, budget: float, *, candidates: int = MOST
) -> SearchConfig:
    """Returns the config with rounds for a budget, after those that were proposed.

    All of them train no more than `candidates`.
    """
    proposed = sum(batch.kind in SEARCH_KINDS for batch in store.batches())
    begun = config.sizes[:proposed]
    if kind == "trainings" and "call" not in store.settings:
        return dataclasses.replace(config, trainings=min(int(budget), candidates), begun=begun)
    left = budget
    if kind == "cost":
        rungs = zip(config.rungs, config.rung_sizes, strict=True)
        left = math.floor(budget - sum(share * num for share, num in rungs) + 1e-9)
    full = divide(
        int(left) - _made(store, FINAL, EARLIER),
        len(config.limits),
        len(config.priors),
        candidates=candidates,
    )
    cost = float(budget) if kind == "cost" else 0.0
    return dataclasses.replace(config, cost=cost, begun=begun, **full._asdict())


def _made(store: Store, *kinds: str) -> int:
    """Returns the number of full trainings that were made in some kinds of rounds."""
    return sum(
        trial.fidelity == 1
        for batch in store.batches()
        if batch.kind in kinds
        for trial in store.trials("done", batch=batch.number)
    )


def _extend_clock(folder: Path, time_s: float) -> None:
    spending = Spending(folder)
    plan = spending.kept("plan")
    if plan is not None:
        spending.keep(plan={**plan, "time_s": time_s}, last=None)
