"""The config of a search."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np

from fbnetv3._internal.json_record import keywords_of
from fbnetv3.search.predictors.registry import known_predictor

from .early_stop import THRESHOLD
from .evolution import EvolutionSettings
from .limit import Limit
from .prior import Prior
from .selection import BINS
from .words import Bins

IN_TURN: Bins = "limits"
# The least budget that leaves something to choose after a random start.
FEWEST = 8
# Those of retrained candidates follow it.
MOST_SEED = 2**32 - 1
POLICIES = ("early_stop", "rungs")
# A rung and its trainings, if nothing else is said: measured in the simulation of policies on
# recorded trainings of CIFAR-10, where 250 of 7,810 steps were the rung.
RUNGS, RUNG_SIZE = (1 / 32,), 160


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """The config of a search; the defaults are the paper's unless noted otherwise.

    Attributes:
        seed: random seed of the search, and of the trainings of stage 2.
        pool: size of the pool (quasi-random, distinct, within `within` and one of `limits`).
        trainings: number of trainings of all rounds, which then adapt to it, see `sizes`; 0:
            `rounds` + 1 rounds of `batch`, as in the paper.
        batch: number of trials per round; with `trainings`, the most.
        parallel: number of trainings at a time; with a budget, no round after the first is smaller.
        rounds: number of rounds after the random first one; with `trainings`, it follows.
        epochs: epochs of a full training; 0: the objective's default.
        early_stop: shorten trainings after the first round if the ranking of candidates allows it.
            Not with rungs.
        threshold: rank correlation with the last epoch from which on an epoch's ranking will do.
        bin_by: the cost that the bins divide; empty: the first known cost.
        bins: "equal" (the paper), "quantile" or "none", see `selection.select_batch`; or "limits",
            the best within each limit in turn. Empty: "limits" with several limits or with a
            budget, else "equal".
        within: bounds on every candidate, as cost -> (lowest, highest). Rounds also train no
            candidate that exceeds every limit.
        predictor: "mlp" (the paper's), "mlp_ensemble", "gp", or "auto", the better of the last two
            at each fit; or another name of `registry.PREDICTORS`.
        target: transform of the labels for the predictor, "log_error" (of percent) or "raw"; empty:
            the objective's.
        limits: limits to find the best architecture for, each as cost -> (lowest, highest).
        population: number of candidates of evolution's first generation per limit, half of them the
            best predicted.
        children: number of children per candidate in a generation.
        keep: number of candidates that a generation keeps per limit.
        top: candidates per limit to retrain at full length.
        final_seeds: number of seeds per retrained candidate, the search's own included; the best
            mean wins.
        priors: recipes to draw candidates around; the best network of each limit with each of them
            is in every round but the smallest and is retrained at the end.
        policy: "early_stop", the paper's: the first round is random and trained in full; or
            "rungs": many short trainings come first, each with a schedule of its own, and all
            rounds after them are trained in full. Empty: "rungs" with a budget, else "early_stop".
        rungs: lengths of the short trainings as shares of the final training's steps, ascending.
        rung_sizes: number of trainings of each rung, or the same for all; with a budget, it
            follows.
        rung_epochs: number of labels of a training of each rung, which the objective knows.
        cost: budget in full trainings, of which a rung's cost their share. Number and size of
            rungs and rounds follow, and `top` and `final_seeds` are the most.
        time_s: budget in seconds, with which the same follow from measured trainings.
        begun: sizes of the rounds that the search had proposed when its budget grew.

    Raises:
        ValueError: a value is out of range.
    """

    seed: int = 0
    pool: int = 20_000
    trainings: int = 0
    batch: int = 48
    parallel: int = 1
    rounds: int = 5
    epochs: int = 0
    early_stop: bool = True
    threshold: float = THRESHOLD
    bin_by: str = ""
    bins: str = ""
    within: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    predictor: str = "auto"
    target: str = ""
    limits: tuple[Mapping[str, tuple[float, float]], ...] = ({},)
    population: int = 100
    children: int = 24
    keep: int = 40
    top: int = 5
    final_seeds: int = 3
    priors: tuple[Prior, ...] = ()
    policy: str = ""
    rungs: tuple[float, ...] = ()
    rung_sizes: tuple[int, ...] = ()
    rung_epochs: tuple[int, ...] = ()
    cost: float = 0.0
    time_s: float = 0.0
    begun: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        least = {
            "seed": 0,
            "pool": 2,
            "trainings": 0,
            "batch": 2,
            "parallel": 1,
            "rounds": 0,
            "epochs": 0,
            "population": 2,
            "children": 1,
            "keep": 1,
            "top": 1,
            "final_seeds": 1,
        }
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least {low}")
        if self.seed > MOST_SEED:
            raise ValueError(f"seed is {self.seed}; expected at most {MOST_SEED}")
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold is {self.threshold}; expected between 0 and 1")
        if not self.limits:
            raise ValueError("limits is empty; give at least {}, a search without bounds")
        self._check_rungs()
        if self.trainings:
            if self.trainings < FEWEST:
                raise ValueError(
                    f"trainings is {self.trainings}; expected at least {FEWEST}, or 0 for rounds "
                    "of `batch`"
                )
            object.__setattr__(self, "rounds", len(self.sizes) - 1)
        if not self.bins:
            budget = self.trainings or self._budget or self.rungs
            in_turn = len(self.limits) > 1 or bool(budget)
            object.__setattr__(self, "bins", IN_TURN if in_turn else BINS[0])
        if self.bins not in get_args(Bins):
            known = ", ".join(get_args(Bins))
            raise ValueError(f"bins is {self.bins!r}; expected one of {known}")
        object.__setattr__(self, "predictor", known_predictor(self.predictor))
        for bounds in (self.within, *self.limits):
            Limit(bounds)
        names = [prior.name for prior in self.priors]
        if len(set(names)) < len(names):
            raise ValueError(f"two of the priors {', '.join(names)} have one name; rename one")

    def _check_rungs(self) -> None:
        for name, budget in (("cost", self.cost), ("time_s", self.time_s)):
            if not 0 <= budget < math.inf:
                raise ValueError(f"{name} is {budget:g}; expected a number above 0")
        if self.cost and self.time_s:
            raise ValueError(
                f"cost is {self.cost:g} and time_s {self.time_s:g}; expected one of them"
            )
        policy = self.policy or ("rungs" if self._budget or self.rungs else POLICIES[0])
        if policy not in POLICIES:
            raise ValueError(f"policy is {policy!r}; expected one of {', '.join(POLICIES)}")
        object.__setattr__(self, "policy", policy)
        if policy != "rungs":
            if self.rungs:
                raise ValueError(f"policy is {policy!r} with rungs; expected policy 'rungs'")
            return
        # A plan for a budget may have none.
        if not self.rungs and not (self._budget and self.trainings):
            object.__setattr__(self, "rungs", RUNGS)
        shares = (0.0, *self.rungs, 1.0)
        if not all(low < high for low, high in itertools.pairwise(shares)):
            raise ValueError(
                f"rungs are {', '.join(f'{one:g}' for one in self.rungs)}; expected shares of the "
                "final training, above 0, ascending and below 1"
            )
        if not self.rounds:
            raise ValueError(
                "rounds is 0 with rungs; expected 1 or more, which are trained in full"
            )
        sizes = self.rung_sizes
        if not sizes and not self._budget:
            sizes = (RUNG_SIZE,)
        if len(sizes) == 1:
            sizes = sizes * len(self.rungs)
        if sizes and (len(sizes) != len(self.rungs) or min(sizes) < 2):
            raise ValueError(
                f"rung_sizes are {', '.join(map(str, sizes))}; expected a number of trainings, 2 "
                f"or more, for each of {len(self.rungs)} rungs"
            )
        object.__setattr__(self, "rung_sizes", sizes)

    @property
    def _budget(self) -> float:
        return self.cost or self.time_s

    @property
    def has_usual_rungs(self) -> bool:
        """Whether the rungs are those of a search of which none were asked for."""
        return self.rungs is RUNGS

    @property
    def evolution(self) -> EvolutionSettings:
        """Settings of stage 3."""
        return EvolutionSettings(
            first_best=self.population // 2,
            first_random=self.population - self.population // 2,
            children=self.children,
            keep=self.keep,
        )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of trials of each round, the random first one included.

        With `trainings`, a quarter of them is random and each later round is a twentieth, or as
        many as are trained at a time, all at most `batch`: labels are few at first, and each round
        is chosen by all labels before it.

        With rungs, these come first, and every later round is a `batch`. Without a plan for a
        budget there are none yet. Rounds that were proposed before the budget grew stay as they
        were.
        """
        if not self.trainings and self._budget:
            return ()
        if self.begun:
            rungs = len(self.rungs)
            head = (*self.begun, *self.rung_sizes[len(self.begun) :])
            size = self.batch if rungs else self.round_size(self.trainings // 20)
            return (*head, *_rounds(self.trainings - sum(head[rungs:]), size))
        if self.rungs:
            num = self.trainings or self.rounds * self.batch
            return (*self.rung_sizes, *_rounds(num, self.batch))
        if not self.trainings:
            return (self.batch,) * (self.rounds + 1)
        first = max(2, min(self.batch, self.trainings // 4))
        return (first, *_rounds(self.trainings - first, self.round_size(self.trainings // 20)))

    def round_size(self, num: int) -> int:
        """Returns the size of a budget's rounds: `num`, within `parallel` and `batch`."""
        return max(2, min(self.batch, max(num, self.parallel)))

    def fidelity(self, index: int) -> float:
        """Returns the share of the final training that the trials of a round are trained for."""
        return self.rungs[index] if index < len(self.rungs) else 1.0

    @staticmethod
    def from_dict(fields: Mapping[str, Any]) -> SearchConfig:
        """Returns the config of a mapping that `to_dict` or `dataclasses.asdict` returned.

        Raises:
            ValueError: a field is unknown or out of range.
        """
        given = keywords_of(SearchConfig, fields, "the search config")
        given["limits"] = tuple(_bounds(limit) for limit in given.get("limits", ({},)))
        given["within"] = _bounds(given.get("within", {}))
        given["priors"] = tuple(map(Prior.from_dict, given.get("priors", ())))
        for name in ("rungs", "rung_sizes", "rung_epochs", "begun"):
            given[name] = tuple(given.get(name, ()))
        return SearchConfig(**given)

    def to_dict(self) -> dict[str, Any]:
        """Returns the config as plain JSON types; an infinite bound is None."""
        fields = dataclasses.asdict(self)
        for bounds in (fields["within"], *fields["limits"]):
            for name, ends in bounds.items():
                bounds[name] = [end if np.isfinite(end) else None for end in ends]
        return {key: list(one) if isinstance(one, tuple) else one for key, one in fields.items()}


def _rounds(num: int, size: int) -> tuple[int, ...]:
    """Returns the sizes of rounds that train `num` candidates, the last of them what is left."""
    full, rest = divmod(max(0, num), size)
    return (size,) * full + ((rest,) if rest else ())


def _bounds(limit: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    return {
        name: (
            -np.inf if ends[0] is None else float(ends[0]),
            np.inf if ends[1] is None else float(ends[1]),
        )
        for name, ends in limit.items()
    }
