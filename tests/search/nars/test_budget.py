"""Budgets of cost and time: how they are divided, kept to, and over a stop."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import timedelta
from math import nan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fbnetv3.search.execution.coordinator import Coordinator, Policy
from fbnetv3.search.execution.engine import InlineEngine
from fbnetv3.search.nars.budget import FEWEST_ON_A_RUNG, parse_time, planned
from fbnetv3.search.nars.config import SearchConfig
from fbnetv3.search.nars.measuring import measure, nothing_shown, shows_nothing
from fbnetv3.search.nars.problem import Problem
from fbnetv3.search.nars.rounds import Optimizer
from fbnetv3.search.nars.schedule import Schedule, TimedSchedule, describe_plan, plan_for
from fbnetv3.search.nars.spending import BUDGET, Spending
from fbnetv3.search.nars.status import status_of
from fbnetv3.search.storage.results import write_epoch
from fbnetv3.search.storage.store import Store
from fbnetv3.search.storage.trials import Batch, Proposal
from tests.search.killable import SPACE

# Labels of networks that have learnt nothing of ten classes.
GUESSES = [9.6, 9.8, 10.0, 10.0, 10.1, 10.6, 10.2, 9.9, 10.0, 10.3, 9.7, 10.0]
LIMITS = ({"macs": (0.0, 1.0)}, {"macs": (0.0, 2.0)})


def cost_of(config: SearchConfig) -> float:
    """Returns what a config costs, in full trainings."""
    rungs = sum(s * n for s, n in zip(config.rungs, config.rung_sizes, strict=True))
    last = config.top * config.final_seeds * len(config.limits)
    return rungs + sum(config.sizes[len(config.rungs) :]) + last


@pytest.mark.parametrize("cost", [12, 24, 48, 96, 150, 240, 1000.5])
@pytest.mark.parametrize("limits", [LIMITS[:1], LIMITS])
def test_a_cost_is_spent_mostly_on_full_trainings(
    cost: float, limits: tuple[dict[str, tuple[float, float]], ...]
) -> None:
    config = planned(SearchConfig(cost=cost, limits=limits))
    assert 0.9 * cost < cost_of(config) <= cost
    assert config.policy == "rungs"
    num = sum(config.sizes[len(config.rungs) :])
    assert num == config.trainings > 0.6 * cost
    assert config.top * config.final_seeds * len(limits) <= max(cost / 4, 2)
    assert len(config.sizes) - len(config.rungs) >= 4 or cost < 24
    assert max(config.sizes[len(config.rungs) :]) <= max(48, num // 4)
    # A plan is made once; a search that is read from its folder keeps it.
    assert planned(config) == config
    assert SearchConfig.from_dict(config.to_dict()) == config


def test_the_budget_of_the_simulation_is_spent_as_it_was_found_best() -> None:
    config = planned(SearchConfig(cost=140))
    assert (config.rungs, config.rung_sizes) == ((1 / 32,), (160,))
    assert config.sizes[1:] == (13,) * 9 + (6,)
    assert (config.top, config.final_seeds) == (4, 3)


def test_a_rung_that_is_not_cheap_is_left_out() -> None:
    config = SearchConfig(cost=60, rungs=(0.1, 0.5), rung_epochs=(1, 5))
    both = planned(config, {0.1: 0.1, 0.5: 0.2})
    assert both.rungs == (0.1, 0.5)
    one = planned(config, {0.1: 0.1, 0.5: 0.6})
    assert (one.rungs, one.rung_sizes, one.rung_epochs) == ((0.1,), (60,), (1,))
    none = planned(config, {0.1: 0.9, 0.5: 1.0})
    assert none.rungs == ()
    assert none.sizes == SearchConfig(trainings=none.trainings).sizes
    assert none.sizes[0] == none.trainings // 4  # a random first round in full
    assert none.fidelity(0) == 1.0
    assert SearchConfig.from_dict(none.to_dict()) == none


def test_without_rungs_a_cost_is_a_number_of_trainings() -> None:
    config = planned(SearchConfig(cost=48, policy="early_stop"))
    assert (config.rungs, config.early_stop) == ((), True)
    assert cost_of(config) <= 48


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cost": -1.0}, "cost is -1; expected a number above 0"),
        ({"cost": 9.0, "time_s": 9.0}, "cost is 9 and time_s 9; expected one of them"),
        ({"policy": "halving"}, "policy is 'halving'; expected one of early_stop, rungs"),
        ({"policy": "early_stop", "rungs": (0.1,)}, "'early_stop' with rungs"),
        ({"rungs": (0.2, 0.1)}, "rungs are 0.2, 0.1; expected shares of the final training"),
        ({"rungs": (1.0,)}, "rungs are 1; expected shares"),
        ({"rungs": (0.1, 0.2), "rung_sizes": (9, 9, 9)}, "rung_sizes are 9, 9, 9; expected"),
        ({"rungs": (0.1,), "rung_sizes": (1,)}, "expected a number of trainings, 2 or more"),
    ],
)
def test_rungs_and_budgets_that_make_no_sense_are_refused(
    fields: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        SearchConfig(**fields)  # type: ignore[arg-type]  # mixed


def test_times_are_read_as_people_write_them() -> None:
    assert [parse_time(text) for text in ("90", "90s", "20m", "8h", "1.5d", 60)] == [
        90, 90, 1200, 28800, 129600, 60,
    ]  # fmt: skip
    assert {parse_time(text) for text in ("1h30m", "90m", " 1 h 30 min", "1.5H", "5400")} == {5400}
    assert parse_time(timedelta(hours=1.5)) == 5400
    for wrong in ("", "m", "-3h", "1.2.3h", "1:30", "1hh", "1h-30m", "nan", 0, 1e300):
        with pytest.raises(ValueError, match="expected a time above 0 such as 20m, 1h30m"):
            parse_time(wrong)


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def timed(folder: Path, clock: Clock, time_s: float) -> tuple[Store, Spending, TimedSchedule]:
    config = SearchConfig(time_s=time_s, rungs=(0.1,), rung_epochs=(1,), limits=LIMITS)
    begun = (folder / "search.json").exists()
    store = Store.open(folder) if begun else Store.create(folder, {"plan": config.to_dict()})
    spending = Spending(folder, clock)
    took = {0.1: 2.0, 1.0: 10.0}
    schedule = TimedSchedule(config, store, spending, seconds=took, parallel=2)
    return store, spending, schedule


def test_a_time_is_planned_from_what_trainings_take_and_kept_to(tmp_path: Path) -> None:
    clock = Clock()
    store, spending, schedule = timed(tmp_path, clock, 600.0)
    with store:
        config = schedule.config
        # 600 s of two at a time are 120 full trainings of 10 s.
        plan = describe_plan(config)
        rungs, rounds, last = plan["rungs"], plan["rounds"], plan["last"]
        assert 100 < rungs[0.1] * 0.2 + sum(rounds) + last <= 120
        assert schedule.size(0, free=1000) == rungs[0.1]
        assert schedule.size(0, free=0) is None
        sizes: list[int] = []
        with spending.training():
            clock.now += rungs[0.1] * 2.0 / 2
        while (size := schedule.size(len(sizes) + 1, free=1000)) is not None:
            sizes.append(size)
            with spending.training():
                clock.now += size * 10.0 / 2
        assert len(rounds) - 1 <= len(sizes) <= len(rounds) + 1
        end = schedule.last()
        clock.now += end.top * end.final_seeds * 2 * 10.0 / 2
        assert 0.85 * 600 < spending.spent_s() <= 1.05 * 600


def test_trainings_that_take_longer_than_measured_make_fewer_rounds(tmp_path: Path) -> None:
    clock = Clock()
    store, spending, schedule = timed(tmp_path, clock, 600.0)
    with store:
        with spending.training():
            clock.now += 400.0
        # 40 fit into 200 s, of which 10 are the last stage's: three rounds.
        assert schedule.size(2, free=1000) == 10
        with spending.training():
            clock.now += 150.0
        assert schedule.size(3, free=1000) is None
        end = schedule.last()
        assert end.top * end.final_seeds * 2 <= 10
        assert status_of(store)["of_rounds"] > 3
        store.set_stage("answers", {"answers": [{"contenders": []}] * len(LIMITS)})
        # What was planned and never made is not waited for.
        assert status_of(store)["of_rounds"] == status_of(store)["rounds"] == 0


def test_a_resumed_search_keeps_its_plan_and_the_time_spent(tmp_path: Path) -> None:
    clock = Clock()
    store, spending, schedule = timed(tmp_path, clock, 600.0)
    clock.now += 100.0
    spending.keep()
    last = schedule.last()
    store.close()
    assert (tmp_path / BUDGET).is_file()
    clock.now += 86400.0  # nobody was there
    store, spending, again = timed(tmp_path, clock, 600.0)
    with store:
        assert spending.spent_s() == 100.0
        assert again.config == schedule.config
        clock.now += 400.0
        assert again.last() == last


def test_a_time_that_is_too_short_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="takes 10 s, 2 at a time, and 20 s are left"):
        timed(tmp_path, Clock(), 20.0)


def test_a_fixed_schedule_has_the_rounds_of_its_config() -> None:
    config = dataclasses.replace(SearchConfig(), batch=6, rounds=2)
    sizes = [Schedule(config).size(index, free=9) for index in range(4)]
    assert sizes == [6, 6, 6, None]


def test_only_waits_between_rounds_count_as_their_overhead(tmp_path: Path) -> None:
    clock = Clock()
    spending = Spending(tmp_path, clock)
    clock.now += 70.0
    with spending.measuring():
        clock.now += 30.0
    clock.now += 1.0
    assert (spending.overhead_s(), spending.overhead_s(5.0)) == (70.0, 5.0)
    for wait in (4.0, 9.0, 6.0, 5.0):
        with spending.training():
            clock.now += 100.0
        clock.now += wait
    with spending.training():
        pass
    assert spending.overhead_s() == 6.0
    # Another process goes on: what was between them is no wait.
    again = Spending(tmp_path, clock)
    clock.now += 50.0
    with again.training():
        pass
    assert again.overhead_s() == 6.0


@pytest.mark.parametrize("took", [-5.0, 86400.0])
def test_a_length_that_cannot_be_is_not_planned_with(tmp_path: Path, took: float) -> None:
    clock = Clock()
    store, spending, schedule = timed(tmp_path, clock, 600.0)
    with store:
        rounds = schedule.size(2, free=1000)
        store.add_batch(
            Batch(0, "random", {}, ""), [Proposal((0,), {}, 1, seed) for seed in (0, 1)]
        )
        for trial in store.trials():
            write_epoch(store.folder, trial.id, store.lease(trial, "me", 60), 1, 70.0)
            store.ingest(trial)
        # Of a process that saw no end of it, on a clock that was set.
        store._database.execute("UPDATE trial SET ended = started + ?", (took,))
        assert [spending.took(trial) for trial in store.trials()] == [None, None]
        assert schedule.size(2, free=1000) == rounds


class WarmingUp:
    """Trains for seconds of a clock that are its share; the first training takes 50 s more."""

    epochs = 1

    def __init__(self, clock: Clock) -> None:
        self._clock, self._begun = clock, False

    def evaluate(
        self, genes: Any, *, seed: int, epochs: int, fidelity: float = 1.0
    ) -> Iterator[float]:
        self._clock.now += 100 * fidelity + (0 if self._begun else 50)
        self._begun = True
        yield 50.0 + genes[0]


def test_what_a_worker_takes_to_start_is_not_taken_for_the_length_of_a_rung(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(
        "fbnetv3.search.storage.store.time", SimpleNamespace(time=clock, monotonic=clock)
    )
    config = SearchConfig(
        time_s=1e4, rungs=(0.01, 0.1), rung_epochs=(1, 1), pool=50, target="raw", predictor="gp"
    )
    settings = {"plan": config.to_dict(), "space": SPACE.to_dict()}
    with Store.create(tmp_path / "s", settings) as store:
        engine = InlineEngine(WarmingUp(clock), tasks_per_poll=1)
        coordinator = Coordinator(store, engine, Policy())
        problem = Problem(SPACE, lambda _rows: {})
        optimizer = Optimizer(problem, config, store, coordinator)
        found = measure(optimizer, Spending(store.folder, clock), parallel=1)
    assert found == pytest.approx({0.01: 1.0, 0.1: 10.0, 1.0: 100.0})


class Short:
    """Trains for seconds of a clock; the labels of its rung have a spread of their own.

    Args:
        clock: the clock.
        spread: of the labels of short trainings, in points.
    """

    epochs = 1

    def __init__(self, clock: Clock, spread: float) -> None:
        self._clock, self._spread = clock, spread

    def evaluate(
        self, genes: Any, *, seed: int, epochs: int, fidelity: float = 1.0
    ) -> Iterator[float]:
        self._clock.now += 100 * fidelity
        position = sum(genes) / sum(len(gene.values) - 1 for gene in SPACE.genes)
        yield 50.0 + 20 * position if fidelity == 1 else 10.0 + self._spread * position


@pytest.mark.parametrize(("spread", "used"), [(1.0, False), (0.0, False), (30.0, True)])
def test_a_rung_that_shows_nothing_is_left_out_after_a_dozen_trainings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spread: float, used: bool
) -> None:
    clock = Clock()
    monkeypatch.setattr(
        "fbnetv3.search.storage.store.time", SimpleNamespace(time=clock, monotonic=clock)
    )
    config = SearchConfig(
        time_s=1e4, rungs=(0.03,), rung_epochs=(1,), pool=50, epochs=1, target="log_error"
    )
    settings = {"plan": config.to_dict(), "space": SPACE.to_dict()}
    with Store.create(tmp_path / "s", settings) as store:
        engine = InlineEngine(Short(clock, spread), tasks_per_poll=1)
        optimizer = Optimizer(
            Problem(SPACE, lambda _rows: {}), config, store, Coordinator(store, engine, Policy())
        )
        spending = Spending(store.folder, clock)
        took = measure(optimizer, spending, parallel=1)
        assert plan_for(config, spending, took, 1).rungs == (0.03,)
        reason = shows_nothing(optimizer, spending, 0.03)
        trained = [trial.fidelity for trial in store.trials("done")]
        # Asked again, after a kill, it trains no more.
        assert shows_nothing(optimizer, spending, 0.03) == reason
        assert len(store.trials("done")) == len(trained)
        schedule = TimedSchedule(
            config, store, spending, seconds=took, parallel=1, left_out=[0.03] if reason else []
        )
    assert (trained.count(0.03), trained.count(1.0)) == (FEWEST_ON_A_RUNG, 1)
    if used:
        assert reason == ""
        assert schedule.config.rungs == (0.03,)
    else:
        assert reason.startswith("12 of them show nothing, with 10")
        assert schedule.config.rungs == ()
        # The rung's share of the time goes to full trainings.
        assert sum(schedule.config.sizes) + describe_plan(schedule.config)["last"] > 90


@pytest.mark.parametrize(("short", "full", "shown"), [
    (GUESSES, [50.0], False),
    (GUESSES[:11], [50.0], True),  # too few to tell
    (GUESSES, [15.0], True),  # neither has the full training learnt much
    (GUESSES, [nan], True),
    ([*GUESSES, 25.0], [50.0], True),  # one that has learnt something
    ([nan] * 12, [50.0], True),
    ([nan, *GUESSES], [50.0, 52.0], False),
])  # fmt: skip
def test_guesses_show_nothing_and_labels_that_differ_do(
    short: list[float], full: list[float], shown: bool
) -> None:
    assert (nothing_shown(np.array(short), np.array(full)) == "") is shown
