"""Children of the best that were trained: what they reach beyond a pool, and that they repeat."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fbnetv3 import search
from fbnetv3.search.execution.spec import plan_of
from fbnetv3.search.nars.config import SearchConfig
from fbnetv3.search.nars.fresh import FEWEST_TRAINED, dense, fresh
from fbnetv3.search.nars.pool import pool_of
from fbnetv3.search.nars.problem import Problem
from fbnetv3.search.storage.store import Store

SPACE = search.Space("wide", [search.Gene.grid(f"g{n}", 0, 9) for n in range(24)])
SIX = search.Space("six", [search.Gene("a", ("x", "y")), search.Gene("b", (1, 2, 3))])


class Stop(Exception):  # noqa: N818  # ends a search, no error
    """The program has been stopped."""


def value(params: dict[str, Any]) -> float:
    """Returns 100 for the best candidate, which is at 7 throughout."""
    return float(100 - 0.5 * sum(abs(one - 7) for one in params.values()))


def train(params: dict[str, Any], *, seed: int, fidelity: float) -> float:
    if params["g0"] % 3 == 1:  # 7 too, which the rounds come to
        raise RuntimeError("it cannot be trained")
    return value(params)


def run(folder: Path, **changes: Any) -> search.Found:
    call: dict[str, Any] = {"trainings": 48, "predictor": "gp", "quiet": True, "pool": 500}
    return search.run(SPACE, train, folder=folder, **{**call, **changes})


def test_a_search_of_a_wide_space_goes_beyond_its_pool(tmp_path: Path) -> None:
    found = run(tmp_path / "s")
    with Store.read(tmp_path / "s") as store:
        pool = pool_of(
            Problem(SPACE, lambda _rows: {}), SearchConfig.from_dict(plan_of(store.settings))
        )
    best_of_pool = max(value(SPACE.values(row)) for row in pool)
    rounds = [trial.value for trial in found.trials if trial.kind == "bins"]
    assert max(rounds) > best_of_pool


def test_what_is_made_for_a_round_repeats_after_a_stop_and_a_failure(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", trainings=40)
    seen: list[int] = []

    def stop(trial: search.Finished) -> None:
        seen.append(trial.number)
        if len(seen) % 9 == 0:
            raise Stop

    for _ in range(10):
        with contextlib.suppress(Stop):
            stopped = run(tmp_path / "stopped", trainings=40, on_trial=stop)
    assert [(t.params, t.value) for t in stopped.trials] == [
        (t.params, t.value) for t in whole.trials
    ]
    with Store.read(tmp_path / "whole") as store:
        assert store.counts()["failed"] > 0


def test_children_are_within_the_limit_of_their_parents_and_differ_by_round() -> None:
    problem = Problem(SPACE, lambda rows: {"sum": rows.sum(1).astype(float)})
    config = SearchConfig(
        trainings=24, limits=({"sum": (0.0, 108.0)}, {"sum": (109.0, 130.0)}), predictor="gp"
    )
    trained = SPACE.sample(100, np.random.default_rng(0))
    values = trained.sum(1).astype(float)
    made = [fresh(problem, config, trained, values, index=n) for n in (1, 1, 2)]
    sums = made[0].sum(1)
    assert (sums <= 130).all()
    assert (sums <= 108).sum() > 200
    assert (sums > 108).sum() > 200
    np.testing.assert_array_equal(made[0], made[1])
    assert {row.tobytes() for row in made[0]} != {row.tobytes() for row in made[2]}
    # Too few are known within a limit.
    few = trained[: FEWEST_TRAINED - 1]
    assert not len(fresh(problem, SearchConfig(trainings=24), few, few.sum(1) * 1.0, index=1))


@pytest.mark.parametrize(("listed", "pool", "enough"), [
    (None, 6, True), (None, 1, True), (40_000, 40, True), (40_001, 40, False),
])  # fmt: skip
def test_a_pool_with_a_thousandth_of_all_candidates_needs_no_children(
    listed: int | None, pool: int, enough: bool
) -> None:
    rows = None if listed is None else np.zeros((listed, 2), np.int16)
    problem = Problem(SIX, lambda _rows: {}, rows=rows)
    assert dense(problem, np.zeros((pool, 2), np.int16)) is enough
    wide = Problem(SPACE, lambda _rows: {})
    assert not dense(wide, np.zeros((20_000, 24), np.int16))
