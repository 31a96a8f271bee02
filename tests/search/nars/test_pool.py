"""The pool: every candidate keeps a limit, however tight it is, or the search is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fbnetv3.search.cost.cost import costs as exact
from fbnetv3.search.execution.coordinator import Coordinator, Policy
from fbnetv3.search.execution.engine import InlineEngine
from fbnetv3.search.execution.spec import load_objective
from fbnetv3.search.nars.budget import planned
from fbnetv3.search.nars.config import SearchConfig
from fbnetv3.search.nars.limit import parse_limits
from fbnetv3.search.nars.pool import check, draw, evolve_inside, pool_of
from fbnetv3.search.nars.problem import Problem
from fbnetv3.search.nars.rounds import Optimizer
from fbnetv3.search.nars.run import create_search
from fbnetv3.search.space.gene import Gene
from fbnetv3.search.space.space import Matrix, Space
from fbnetv3.search.space.spaces import get_space
from fbnetv3.search.storage.store import Store
from tests.search.killable import INFINITE, PLAN, SPACE, toy


def problem_in(name: str, classes: int) -> Problem:
    space = get_space(name)
    return Problem(space, lambda rows: exact(space, rows, num_classes=classes).as_dict())


def macs(rows: Matrix) -> dict[str, Any]:
    return {"macs": 100.0 + rows @ np.arange(1, 7)}


@pytest.mark.parametrize(
    ("name", "classes", "most"), [("paper_joint", 1000, 4e8), ("cifar_joint", 10, 7.5e5)]
)
def test_limit_that_random_draws_hardly_ever_keep_fills_the_pool(
    name: str, classes: int, most: float
) -> None:
    problem = problem_in(name, classes)
    limits = ({"macs_paper": (-INFINITE, most)},)
    draws = problem.space.pool(2000, seed=0)
    assert (problem.costs(draws)["macs_paper"] <= most).mean() < 0.005
    pool = pool_of(problem, SearchConfig(pool=2000, limits=limits))
    assert len(problem.space.unique(pool)) == len(pool) == 2000
    assert (problem.costs(pool)["macs_paper"] <= most).all()
    # They are not copies of one network: every gene that is free within the limit varies.
    assert sum(np.ptp(column) > 0 for column in pool.T) > 0.9 * pool.shape[1]


def test_pool_larger_than_a_space_has_all_of_it() -> None:
    small = Space("small", [Gene("a", (0, 1, 2)), Gene("b", (0, 1))])
    pool = draw(Problem(small, lambda _rows: {}), 100, seed=0, bounds={})
    assert len(pool) == len(small.unique(pool)) == 6


def test_each_limit_has_its_share_of_the_pool() -> None:
    problem = problem_in("cifar_joint", 10)
    ends = (7.5e5, 3e6)
    limits = tuple({"macs_paper": (-INFINITE, end)} for end in ends)
    pool = pool_of(problem, SearchConfig(pool=1000, limits=limits))
    found = problem.costs(pool)["macs_paper"]
    assert (found <= ends[0]).sum() >= 500
    assert (found <= ends[1]).all()


@pytest.mark.parametrize("budget", [{"cost": 40.0}, {"time_s": 3600.0}])
def test_the_first_rung_is_within_a_limit_that_random_draws_hardly_ever_keep(
    budget: dict[str, Any], tmp_path: Path
) -> None:
    problem = problem_in("cifar_joint", 10)
    ends = (7.5e5, 3e6)
    limits = tuple({"macs_paper": (-INFINITE, end)} for end in ends)
    plan = planned(
        SearchConfig(
            pool=500, limits=limits, predictor="gp", target="raw", rung_epochs=(1,), **budget
        )
    )
    check(problem, plan)
    with Store.create(tmp_path / "s", {"plan": plan.to_dict()}) as store:
        coordinator = Coordinator(store, InlineEngine(load_objective(toy())), Policy())
        Optimizer(problem, plan, store, coordinator).propose(0, 24)
        found = np.array([trial.costs["macs_paper"] for trial in store.trials()])
        assert {trial.fidelity for trial in store.trials()} == {1 / 32}
    assert (found <= ends[0]).sum() >= 12
    assert (found <= ends[1]).all()


def test_jointly_impossible_limits_are_refused_before_anything_is_trained() -> None:
    problem = problem_in("cifar_joint", 10)
    limits = ({"macs_paper": (-INFINITE, 6e5), "params": (3e5, INFINITE)},)
    with pytest.raises(ValueError, match=r"<=600000, 300000<=params is feasible.*has macs"):
        check(problem, SearchConfig(limits=limits))


def test_limit_within_which_a_round_has_too_few_candidates_is_refused(tmp_path: Path) -> None:
    plan = SearchConfig(**{**vars(PLAN), "limits": ({}, {"macs": (-INFINITE, 101.0)})})
    with pytest.raises(ValueError, match=r"only 2 .* the 6 per limit .*\(macs<=101\)"):
        create_search(tmp_path / "s", space=SPACE, objective=toy(), config=plan)
    assert not (tmp_path / "s").exists()


def test_limit_that_contradicts_the_bounds_is_refused() -> None:
    plan = SearchConfig(within={"macs": (130.0, INFINITE)}, limits=({"macs": (0.0, 120.0)},))
    with pytest.raises(ValueError, match="expected lowest <= highest"):
        check(Problem(SPACE, macs), plan)


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ("latency<=4", "fbnetv3-search latency-table"),
        ("mac<=3e6", "'macs' is short for macs_paper"),
    ],
)
def test_limit_on_no_cost_says_how_to_name_one(limit: str, said: str) -> None:
    problem = problem_in("cifar_joint", 10)
    with pytest.raises(ValueError, match=f"known costs are macs_paper, .*; .*{said}"):
        check(problem, SearchConfig(limits=parse_limits([limit])))


def test_limits_name_any_cost_and_differ() -> None:
    limits = parse_limits(["gpu-ms (b1)<=4", "macs>=1e3,macs<=2e3"])
    assert limits == ({"gpu-ms (b1)": (-np.inf, 4.0)}, {"macs": (1e3, 2e3)})
    assert parse_limits([]) == ({},)
    with pytest.raises(ValueError, match="limits has one twice: 'macs<=400e6'"):
        parse_limits(["macs<=4e8", "macs<=400e6"])
    for text in ("<=4", "macs<4", "macs<=4<=5", "3<=macs>=2", "macs<=4M"):
        with pytest.raises(ValueError, match="is not understood; expected macs<=500e6"):
            parse_limits([text])


def test_same_seed_evolves_the_same_pool_and_another_seed_another_one() -> None:
    problem = Problem(SPACE, macs)
    limits = ({"macs": (-INFINITE, 108.0)},)
    first, again, other = (
        pool_of(problem, SearchConfig(pool=40, batch=8, rounds=2, limits=limits, seed=seed))
        for seed in (0, 0, 1)
    )
    assert (first == again).all()
    assert first.tolist() != other.tolist()


def test_evolution_returns_the_nearest_candidates_when_none_is_inside() -> None:
    def outside(rows: Matrix) -> Any:
        return macs(rows)["macs"] - 90

    start = SPACE.sample(50, np.random.default_rng(0))
    found = evolve_inside(SPACE, outside, 10, start=start, rng=np.random.default_rng(1))
    assert outside(found).min() == 10
