"""The benchmark's rules hold for every method: budgets, shares of trainings, what answers are."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_ind

from fbnetv3.search.execution.objective import TableObjective
from fbnetv3.search.nars.limit import Limit
from fbnetv3.search.space.gene import Gene
from fbnetv3.search.space.space import Space
from tests.modules import benchmark

NAMES = ("arch", "arch", "recipe", "recipe", "arch")
SPACE = Space(
    "small",
    tuple(
        Gene(f"g{n}", tuple(range(4)), kind="ordered", group=group) for n, group in enumerate(NAMES)
    ),
)
NEEDS_OPTUNA = ("tpe", "tpe_free", "asha", "hyperband", "optuna_tpe", "optuna_nsga2",
                "optuna_tpe_multivariate")  # fmt: skip
SHORT = (*NEEDS_OPTUNA, "curve_gp")
SHARES = (0.25, 0.5, 1.0)


def methods(*names: str) -> list[Any]:
    """Returns the parameters of these methods, some of which are Optuna's."""
    needs = pytest.mark.needs("optuna")
    return [pytest.param(name, marks=needs if name in NEEDS_OPTUNA else ()) for name in names]


@pytest.fixture
def peers() -> ModuleType:
    """The script as a module."""
    return benchmark("search.peers")


def table() -> TableObjective:
    """All 1024 candidates, three seeds, three points of a curve that ends at the label."""
    rows = np.indices((4,) * 5).reshape(5, -1).T.astype(np.int16)
    end = 60 + rows @ np.array([1.0, 2.0, 3.0, 0.5, -1.0])
    noise = np.random.default_rng(0).normal(scale=0.3, size=(len(rows), 3, 3))
    labels = end[:, None, None] - np.array([8.0, 3.0, 0.0]) + noise
    return TableObjective(SPACE, rows, labels, {"macs": 10.0 + rows.sum(1)})


def task(peers: ModuleType, budget: int, *limits: float, seed: int = 0) -> Any:
    bounds = [Limit({"macs": (-np.inf, limit)}) for limit in limits] or [Limit({})]
    return peers.Task(table(), bounds, budget, seed, SHARES)


@pytest.mark.parametrize("name", methods("random", "evolution", "local", "tpe_free", "asha",
                                         "hyperband", "gp_ei_48", "nars_gp", "nars_early",
                                         "nars_confirmed", "arch_only", "pbt", "curve_gp",
                                         "optuna_tpe_multivariate",
                                         "arch_then_recipe"))  # fmt: skip
def test_methods_keep_budget_and_limit_and_beat_bad_luck(peers: ModuleType, name: str) -> None:
    budget = 40 if name in SHORT else 110
    one = task(peers, budget, 17)
    peers.run(peers.METHODS[name], one)
    assert one.spent <= budget + 1e-6
    place, labels = one.answers()
    assert len(place) == len(set(place)) == len(labels) > 0
    inside = one.inside[0][place]
    assert inside.all()
    truth = one.table.truth()
    middle = np.median(truth[one.inside[0]])
    assert truth[place[int(np.argmax(labels))]] > middle


@pytest.mark.parametrize("name", methods("evolution", "optuna_nsga2", "gp_ei_12", "nars_gp"))
def test_one_budget_serves_several_limits(peers: ModuleType, name: str) -> None:
    many = task(peers, 120, 14, 17, 20)
    peers.run(peers.MANY[name], many)
    assert many.spent <= 120
    place = np.array(many.trained)
    assert all(inside[place].any() for inside in many.inside)


def test_part_of_a_training_costs_its_share_and_goes_on(peers: ModuleType) -> None:
    one = task(peers, 1)
    first = one.train_part(5, 0)
    assert one.spent == 0.25
    assert one.train_part(5, 0) == first
    assert one.trained == []
    one.train_part(5, 2)
    assert (one.spent, one.trained) == (1.0, [5])
    with pytest.raises(peers.SpentError):
        one.train(6)


def test_seeds_of_a_candidate_are_each_used_once(peers: ModuleType) -> None:
    one = task(peers, 5)
    one.train(5)
    one.train(6)
    one.train_again(5)
    one.train_again(5)
    place, labels = one.answers()
    assert place == [5]
    assert labels[0] == pytest.approx(one.table.truth()[5])


def test_arch_only_keeps_one_recipe_after_its_ten(peers: ModuleType) -> None:
    one = task(peers, 40)
    peers.run(peers.METHODS["arch_only"], one)
    recipes = one.rows[one.trained[10:]][:, [2, 3]]
    assert (recipes == recipes[0]).all()
    assert len(one.trained) == 40


def test_the_product_keeps_to_a_number_of_trainings_and_says_what_it_spent() -> None:
    product = benchmark("search.product")
    held = table()
    found = product.search(held, [Limit({"macs": (-np.inf, 17)})], 24, 0, shares=SHARES)
    assert 18 <= found.spent <= 24
    assert found.distinct <= 24
    truth, inside = held.truth(), held.known["macs"] <= 17
    assert inside[found.answers[0]]
    assert truth[found.answers[0]] > np.median(truth[inside])


def test_a_lead_has_the_interval_of_welch(tmp_path: Path) -> None:
    report = benchmark("search.budget_report")
    rng = np.random.default_rng(0)
    drawn = {"ours": rng.normal(1, 0.2, 8), "random": rng.normal(3, 0.5, 6)}
    lines = [
        {"table": "t", "problem": "U", "method": m, "budget": 24, "seed": n, "regret": float(x)}
        for m, values in drawn.items()
        for n, x in enumerate(values)
    ]
    gap, half = report.lead(lines, ("t", "U", "ours", 24), ("t", "U", "random", 24))
    found = ttest_ind(drawn["random"], drawn["ours"], equal_var=False).confidence_interval()
    assert (gap - half, gap + half) == pytest.approx((found.low, found.high))
    page = tmp_path / "page.md"
    page.write_text("<!-- budgets -->\n<!-- /budgets -->\n")
    report.write_report(tmp_path, lines, page)
    assert "| random | 1.00 (1) |" in page.read_text()
    text = (tmp_path / "budgets.md").read_text()
    assert "| ahead |" in text
    assert "| ours, `run(trainings=N)` | 0." in text
    assert "</svg>" in (tmp_path / "budgets.svg").read_text()
