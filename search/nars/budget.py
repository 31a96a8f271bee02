"""How a budget is divided between rungs, rounds of full trainings, and the last stage.

A budget is a number of full trainings, or a time and what a training of each rung was measured to
take. Most of it goes to full trainings: a tenth at most to the rungs, which show where they are
worth while, and a tenth at most to retraining the best with more seeds.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

from fbnetv3._internal.messages import counted

from .config import FEWEST, SearchConfig

# At most one of so many trainings retrains the best.
LAST = 10
_TOP, _SEEDS = 5, 3
# At most this share of the budget goes to rungs, and at most so many trainings to each of them; a
# large budget gets as many as full trainings.
RUNGS_SHARE, MOST_ON_A_RUNG = 0.1, 160
# Fewer trainings on a rung show nothing.
FEWEST_ON_A_RUNG = 12
# A rung that costs more than this share of a full training is left out.
WORTH_WHILE = 0.25
# Rounds of full trainings, as long as that makes them no larger than `batch`.
ROUNDS = 10
# More trainings than this are no budget of a search but a mistake.
MOST = 1_000_000
_UNITS = {"s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST_S = 1e9
_TIME = re.compile(rf"(\d+\.?\d*|\.\d+)\s*({'|'.join(_UNITS)})(?![a-z])\s*")


class Budget(NamedTuple):
    """The fields of a search config that decide how many trainings a search makes.

    Attributes:
        trainings: number of trainings of all rounds.
        top: candidates per limit to retrain.
        final_seeds: number of seeds per retrained candidate.
    """

    trainings: int
    top: int
    final_seeds: int


@dataclass(frozen=True)
class Shares:
    """How a budget in full trainings is divided.

    Attributes:
        rungs: share of the final training -> number of trainings.
        full: what is done at full length.
    """

    rungs: Mapping[float, int]
    full: Budget


def divide(
    trainings: int,
    num_limits: int,
    num_priors: int = 0,
    *,
    top: int = _TOP,
    seeds: int = _SEEDS,
    candidates: int = MOST,
) -> Budget:
    """Returns how to spend at most `trainings` trainings on a search for some limits.

    Args:
        trainings: their number.
        num_limits: number of limits.
        num_priors: number of priors, each with a candidate more per limit to retrain.
        top: candidates per limit to retrain, at most.
        seeds: number of seeds per retrained candidate, at most.
        candidates: how many there are. What is left where each is trained retrains the best.

    Raises:
        ValueError: they are too few to choose anything after a random start, or too many.
    """
    if trainings > MOST:
        raise ValueError(f"trainings is {trainings:.6g}; expected at most {MOST:,}")
    least = num_limits * (1 + num_priors)
    if trainings < FEWEST + least:
        more = f" with {counted(num_priors, 'prior')}" if num_priors else ""
        raise ValueError(
            f"trainings is {trainings}; expected {FEWEST + least} or more, to search within "
            f"{counted(num_limits, 'limit')}{more}"
        )
    choices = [(t, s) for t in range(1, top + 1) for s in range(1, seeds + 1)]

    def last(top: int, seeds: int) -> int:
        return num_limits * (top + num_priors) * seeds

    most = max(trainings // LAST, trainings - candidates)
    fitting = [c for c in choices if last(*c) <= most]
    # Further seeds of a single candidate would decide nothing.
    top, seeds = max(fitting, key=lambda c: (last(*c), c[0] > 1, c[1]), default=(1, 1))
    rest = trainings - last(top, seeds)
    if rest < FEWEST:
        rest, top, seeds = trainings - least, 1, 1
    return Budget(min(rest, candidates), top, seeds)


def divide_cost(config: SearchConfig, cost: float, prices: Mapping[float, float]) -> Shares:
    """Returns how to spend a budget.

    Args:
        config: has the limits and the most that the last stage may retrain.
        cost: the budget, in full trainings.
        prices: share of the final training -> cost of such a training, in full trainings.

    Raises:
        ValueError: the budget is too small to choose anything, or too large.
    """
    if cost > MOST:
        raise ValueError(f"the budget is {cost:.6g} full trainings; expected at most {MOST:,}")
    num_limits, num_priors = len(config.limits), len(config.priors)
    least = FEWEST + num_limits * (1 + num_priors)
    kept = {share: price for share, price in prices.items() if price <= WORTH_WHILE}
    rungs = {}
    for share, price in sorted(kept.items()):
        most = max(MOST_ON_A_RUNG, math.floor(cost))
        num = min(most, math.floor(RUNGS_SHARE * cost / len(kept) / price + 1e-9))
        if num >= FEWEST_ON_A_RUNG:
            rungs[share] = num
    left = math.floor(cost - sum(num * kept[share] for share, num in rungs.items()) + 1e-9)
    if left < least:
        raise ValueError(
            f"the budget is {cost:.3g} full trainings; expected {least + 1} or more, "
            f"to search within {counted(num_limits, 'limit')}: give more time or cost, or shorten "
            "the final training"
        )
    full = divide(left, num_limits, num_priors, top=config.top, seeds=config.final_seeds)
    return Shares(rungs, full)


def planned(config: SearchConfig, prices: Mapping[float, float] | None = None) -> SearchConfig:
    """Returns a config with rungs, rounds and last stage for its budget.

    Args:
        config: a config with a `cost`; one without it, or with a plan already, is returned as it
            is.
        prices: see `divide_cost`; None: the shares themselves.

    Raises:
        ValueError: the budget is too small to choose anything.
    """
    if not config.cost or config.trainings:
        return config
    if prices is None:
        prices = {share: share for share in config.rungs}
    found = divide_cost(config, config.cost, prices)
    num = found.full.trainings
    rungs = tuple(found.rungs)
    epochs = dict(zip(config.rungs, config.rung_epochs, strict=False))
    return dataclasses.replace(
        config,
        rungs=rungs,
        rung_sizes=tuple(found.rungs.values()),
        rung_epochs=tuple(epochs[share] for share in rungs) if epochs else (),
        # Without rungs, `sizes` has a random start and smaller rounds, as for `trainings`.
        batch=config.round_size(math.ceil(num / ROUNDS)) if rungs else config.batch,
        **found.full._asdict(),
    )


def fewer(config: SearchConfig, candidates: int) -> SearchConfig:
    """Returns a config with a budget whose rounds train no more candidates than there are.

    What that leaves of the budget retrains the best with more seeds. A config without a budget, or
    for too few candidates to choose from, is returned as it is.
    """
    if not config.trainings or candidates < FEWEST:
        return config
    num_limits, num_priors = len(config.limits), len(config.priors)
    last = num_limits * (config.top + num_priors) * config.final_seeds
    full = divide(config.trainings + last, num_limits, num_priors, candidates=candidates)
    rungs = tuple(min(size, candidates) for size in config.rung_sizes)
    return dataclasses.replace(config, rung_sizes=rungs, **full._asdict())


def parse_time(value: str | float | timedelta) -> float:
    """Returns the seconds of a time such as "20m", "1h30m" or "1.5d", or a number of seconds.

    Raises:
        ValueError: it is not understood, or not above 0.
    """
    if isinstance(value, timedelta):
        value = value.total_seconds()
    text = str(value).strip().lower()
    parts = _TIME.findall(text)
    try:
        seconds = float(text)
    except ValueError:
        seconds = sum(float(num) * _UNITS[unit] for num, unit in parts)
        seconds = 0.0 if _TIME.sub("", text) else seconds
    if not 0 < seconds <= _LONGEST_S:
        raise ValueError(
            f"time is {value!r}; expected a time above 0 such as 20m, 1h30m, 8h or 2d, or seconds"
        )
    return seconds
