"""What a search gives to a Python program: trials, rounds, the best within each limit."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NoReturn

from fbnetv3.search.execution.peer_names import no_attribute
from fbnetv3.search.nars.limit import SHORT, same_limits


@dataclass(frozen=True)
class Asked:
    """A trial to be trained, as `Study.ask` returns it.

    Attributes:
        number: number of the trial in the search, from 1.
        params: gene -> value, without genes that have no meaning for the candidate.
        seed: random seed of initialisation and data order.
        fidelity: share of the final training's steps, above 0 and up to 1.
    """

    number: int
    params: Mapping[str, Any]
    seed: int
    fidelity: float = 1.0

    def __hash__(self) -> int:
        return hash(self.number)

    def __getattr__(self, name: str) -> NoReturn:
        no_attribute("Asked", name)


@dataclass(frozen=True)
class Finished:
    """A trial that was trained.

    Attributes:
        number: number of the trial in the search, from 1.
        params: gene -> value.
        value: objective value; NaN if the training diverged.
        costs: known costs.
        seed: random seed.
        round: number of the round, 0 for the random one.
        kind: "random" or "bins" for trials of rounds, "final" for those that retrain the best,
            "earlier" for those that did so before the search grew,
            "measure" for those that showed how long trainings take, "import" for imported values.
        fidelity: share of the final training's steps; values of different shares are not
            comparable.
    """

    number: int
    params: Mapping[str, Any]
    value: float
    costs: Mapping[str, float]
    seed: int
    round: int
    kind: str
    fidelity: float = 1.0


@dataclass(frozen=True)
class FinishedRound:
    """A round whose trials are all trained, after which the predictor was fitted again.

    Attributes:
        index: number of the round, 0 for the random one.
        trainings: number of objective values so far, of the longest trainings.
        best: the best of them, within any limit; NaN if all trainings diverged.
        tau: Kendall's rank correlation of held-out predictions; None with too few values.
        fidelity: share of the final training's steps that the longest trainings so far have made.
    """

    index: int
    trainings: int
    best: float
    tau: float | None
    fidelity: float = 1.0


@dataclass(frozen=True)
class Best:
    """The best candidate within a limit.

    Attributes:
        params: gene -> value.
        value: objective value, the mean over seeds.
        sd: standard deviation over seeds; 0 for one seed.
        values: objective value with each seed.
        costs: known costs.
        prior: name of the prior whose recipe it has; empty if it has none.
    """

    params: Mapping[str, Any]
    value: float
    sd: float
    values: tuple[float, ...]
    costs: Mapping[str, float]
    prior: str = ""


class BestWithin(dict[str, Best]):
    """Limit -> the best candidate within it; a dict that says which limits it has.

    A limit is also found by another spelling of it, such as "macs<=400e6" for "macs<=4e8".
    """

    def __missing__(self, limit: object) -> Best:
        if isinstance(limit, str):
            for text, best in self.items():
                with contextlib.suppress(ValueError):
                    if same_limits([text], [limit], SHORT):
                        return best
        known = ", ".join(map(repr, self)) or "none, nothing was trained within a limit yet"
        raise KeyError(f"no best for limit {limit!r}; the limits are {known}")

    def __getattr__(self, name: str) -> NoReturn:
        if name in {field.name for field in fields(Best)}:
            limit = next(iter(self), "")
            raise AttributeError(f"best has no attribute {name!r}; use best[{limit!r}].{name}")
        no_attribute("best", name)
