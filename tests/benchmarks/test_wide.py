"""The functions that wide spaces are measured on, and the rule that peers look at them under."""

from types import ModuleType

import numpy as np
import pytest

from tests.modules import benchmark


@pytest.fixture(scope="module")
def truths() -> ModuleType:
    return benchmark("search.wide_truths")


@pytest.fixture(scope="module")
def wide() -> ModuleType:
    return benchmark("search.wide")


@pytest.mark.parametrize("family", ["mlp8", "choice24"])
def test_no_candidate_is_better_than_the_best_and_seeds_draw_functions(
    truths: ModuleType, family: str
) -> None:
    made, other = truths.wide(family, 0), truths.wide(family, 1)
    rows = made.space.sample(3000, np.random.default_rng(0))
    accuracy = made.truth(rows)
    assert accuracy.min() >= truths.CHANCE
    assert accuracy.max() < made.best <= truths.TOP
    assert not np.allclose(accuracy, other.truth(rows))
    labels = made.label(rows[:500], 0)
    np.testing.assert_array_equal(labels, truths.wide(family, 0).label(rows[:500], 0))
    noise = labels - accuracy[:500]
    assert noise.std() == pytest.approx(truths.NOISE, rel=0.15)
    assert abs(noise.mean()) < 0.05


def test_a_table_takes_what_a_peer_makes_and_knows_whether_it_is_within_the_limit(
    truths: ModuleType, wide: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wide, "POOL", 500)
    made = truths.wide("limited32", 0)
    table = wide.OpenTable(made, 0)
    rows = made.space.sample(50, np.random.default_rng(5))
    index = table.find(rows)
    np.testing.assert_array_equal(table.find(rows[::-1]), index[::-1])
    np.testing.assert_array_equal(table.rows[index], rows)
    costs = made.costs(rows)["macs"]
    np.testing.assert_array_equal(table.known["macs"][index], costs)
    np.testing.assert_array_equal(table.inside[index], costs <= made.limit["macs"][1])
    assert 0.2 < table.inside[: wide.POOL].mean() < 0.4
    assert not table.inside[index.max() + 1 :].any()


def test_a_peers_answer_is_within_the_limit_and_lacks_something(
    wide: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wide, "POOL", 500)
    lines = list(wide.run_job(wide.Job("limited32", "evolution", (12, 24), 0)))
    assert [line["budget"] for line in lines] == [12, 24]
    assert lines[0]["regret"] >= 0 < lines[1]["regret"]
