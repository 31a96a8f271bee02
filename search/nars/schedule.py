"""Which rounds a search makes: those of its config, or as many as its time allows."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Collection, Mapping
from typing import Any

from fbnetv3.search.storage.store import Store

from .budget import LAST, MOST, divide, planned
from .config import SearchConfig
from .spending import Spending

# The duration of the latest full trainings says what the next ones take.
_LATEST = 50
# Beside trainings, what follows a round if it is the last takes about so many times as long as the
# wait between two rounds: its fit, and evolution.
_END = 1.5
# What a round takes beside trainings is not known before the first one: this share of the time that
# is left, at most.
_GUESS = 0.05


def describe_plan(config: SearchConfig) -> dict[str, Any]:
    """Returns the plan of a config, for `notify`.

    Its keys are `cost` (in full trainings) and `time_s`, 0 where they are no budget, `rungs` (share
    -> number of trainings), `rounds` (sizes of the rounds of full trainings), and of the last
    stage, `top` (candidates per limit, with those of priors), `final_seeds` and `last` (number of
    trainings).
    """
    top, seeds = config.top + len(config.priors), config.final_seeds
    rungs = len(config.rungs)
    return {
        "cost": config.cost,
        "time_s": config.time_s,
        "rungs": dict(zip(config.rungs, config.rung_sizes, strict=True)),
        "rounds": list(config.sizes[rungs:]),
        "top": top,
        "final_seeds": seeds,
        "last": top * seeds * len(config.limits),
    }


def plan_for(
    config: SearchConfig,
    spending: Spending,
    seconds: Mapping[float, float],
    parallel: int,
    left_out: Collection[float] = (),
) -> SearchConfig:
    """Returns the plan for what is left of a config's time; arguments as of `TimedSchedule`.

    Raises:
        ValueError: the time is too short to choose anything.
    """
    left = config.time_s - spending.spent_s()
    left -= _END * spending.overhead_s(_GUESS * left)
    rungs = [share for share in config.rungs if share not in left_out]
    prices = {share: seconds[share] / seconds[1.0] for share in rungs}
    cost = max(left, 0.0) / seconds[1.0] * parallel
    untimed = dataclasses.replace(config, cost=min(cost, MOST) or 1e-9, time_s=0.0)
    try:
        plan = planned(untimed, prices)
    except ValueError as error:
        raise ValueError(
            f"the time of {config.time_s:.0f} s is too short: a full training takes "
            f"{seconds[1.0]:.3g} s, {parallel} at a time, and {max(left, 0.0):.0f} s are "
            f"left for them; {error}"
        ) from None
    return dataclasses.replace(plan, cost=0.0, time_s=config.time_s)


class Schedule:
    """The rounds of a config.

    Attributes:
        config: the config, with numbers of trainings.
    """

    def __init__(self, config: SearchConfig) -> None:
        self.config = config

    def size(self, index: int, *, free: int) -> int | None:
        """Returns how many trials a round should have, None if there should be no such round.

        Args:
            index: number of the round.
            free: number of candidates that can be trained in it.
        """
        sizes = self.config.sizes
        if index >= len(sizes) or (index and not free):
            return None
        return min(sizes[index], free) if index else sizes[index]

    def last(self) -> SearchConfig:
        """Returns the config with the candidates and seeds that the last stage trains."""
        return self.config


class TimedSchedule(Schedule):
    """As many rounds as fit into a time.

    The plan is made from measured trainings. Before each round of full trainings, and before the
    last stage, it is corrected by what trainings have really taken.

    Args:
        config: the config, with a `time_s`.
        store: the search.
        spending: its clock.
        seconds: share of the final training -> seconds that such a training takes.
        parallel: number of trainings at a time.
        left_out: shares of rungs to do without.

    Raises:
        ValueError: the time is too short to choose anything.
    """

    def __init__(
        self,
        config: SearchConfig,
        store: Store,
        spending: Spending,
        *,
        seconds: dict[float, float],
        parallel: int,
        left_out: Collection[float] = (),
    ) -> None:
        self._store, self._spending = store, spending
        self._seconds, self._parallel = seconds, parallel
        found = spending.kept("plan")
        if found is None:
            found = plan_for(config, spending, seconds, parallel, left_out).to_dict()
            spending.keep(plan=found)
        super().__init__(SearchConfig.from_dict(found))
        self._time_s = config.time_s

    def size(self, index: int, *, free: int) -> int | None:
        """Returns how many trials a round should have, None if there should be no such round."""
        if not free:
            return None
        if index < len(self.config.rungs):
            return self.config.rung_sizes[index]
        contenders = self.config.top + len(self.config.priors)
        last = contenders * self.config.final_seeds * len(self.config.limits)
        num = self._fitting(_END) - last
        first = index == len(self.config.rungs)
        sizes = self.config.sizes
        batch = self.config.batch if self.config.rungs else sizes[min(index, 1)]
        if num < max(1, batch // 4) and not first:
            return None
        # A small rest makes the last round a little larger.
        return max(2, num) if num < 1.5 * batch else batch

    def last(self) -> SearchConfig:
        """Returns the config with the candidates and seeds that there is time for."""
        kept = self._spending.kept("last")
        if kept is None:
            limits, priors = len(self.config.limits), len(self.config.priors)
            # `divide` spends a part of what it is given on the last stage.
            budget = divide(
                max(LAST * self._fitting(0), 8 + limits * (1 + priors)),
                limits,
                priors,
                top=self.config.top,
                seeds=self.config.final_seeds,
            )
            kept = [budget.top, budget.final_seeds]
            self._spending.keep(last=kept)
        return dataclasses.replace(self.config, top=kept[0], final_seeds=kept[1])

    def _fitting(self, overheads: float) -> int:
        """Returns how many full trainings fit into the time that is left."""
        left = self._time_s - self._spending.spent_s()
        left -= overheads * self._spending.overhead_s(_GUESS * left)
        return max(0, int(left / self._full_s() * self._parallel))

    def _full_s(self) -> float:
        """Returns how long full trainings have taken of late."""
        full = (trial for trial in self._store.trials("done") if trial.fidelity == 1)
        took = [seconds for trial in full if (seconds := self._spending.took(trial)) is not None]
        return statistics.mean(took[-_LATEST:]) if took else self._seconds[1.0]
