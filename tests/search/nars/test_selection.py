"""Batches: one best of each bin of cost."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fbnetv3.search.nars.acquisition import ExpectedImprovement, Optimism
from fbnetv3.search.nars.selection import next_best, select_batch, select_in_turn


def test_one_best_of_each_equal_bin() -> None:
    costs = np.array([0, 1, 2, 11, 12, 21, 29, 30.0])
    scores = np.array([5, 9, 1, 2, 3, 8, 7, 6.0])
    chosen = select_batch(scores, costs, num=3)
    assert chosen.indices.tolist() == [1, 4, 5]
    assert chosen.bins.tolist() == [0, 1, 2]
    assert chosen.edges.tolist() == [0, 10, 20, 30]


def test_empty_bin_goes_to_the_best_elsewhere() -> None:
    costs = np.array([0, 1, 2, 29, 30.0])
    scores = np.array([5, 9, 8, 1, 2.0])
    assert select_batch(scores, costs, num=3).indices.tolist() == [1, 2, 4]


def test_quantile_bins_hold_equally_many() -> None:
    costs = np.exp(np.random.default_rng(0).normal(size=1000))
    chosen = select_batch(np.zeros(1000), costs, num=10, bins="quantile")
    counts, _ = np.histogram(costs, chosen.edges)
    assert set(counts.tolist()) == {100}


def test_no_bins_takes_the_best() -> None:
    scores = np.random.default_rng(0).random(50)
    chosen = select_batch(scores, np.arange(50.0), num=7, bins="none")
    assert chosen.indices.tolist() == np.argsort(-scores)[:7].tolist()


@given(
    st.integers(0, 2**31),
    st.integers(1, 60),
    st.integers(1, 60),
    st.sampled_from(["equal", "quantile", "none"]),
)
@settings(max_examples=60, deadline=None)
def test_batch_is_distinct_free_and_as_large_as_can_be(
    seed: int, size: int, num: int, bins: str
) -> None:
    rng = np.random.default_rng(seed)
    scores, costs, taken = rng.random(size), rng.integers(0, 9, size), rng.random(size) < 0.4
    taken[0] = False
    chosen = select_batch(scores, costs, num=num, bins=bins, taken=taken)
    assert len(set(chosen.indices.tolist())) == len(chosen.indices) == min(num, (~taken).sum())
    assert not taken[chosen.indices].any()
    assert scores[chosen.indices].max() == scores[~taken].max()


def test_limits_bound_the_bins_and_the_choice() -> None:
    costs = np.arange(100.0)
    chosen = select_batch(costs, costs, num=4, limits=(20, 59))
    assert chosen.edges[[0, -1]].tolist() == [20, 59]
    assert costs[chosen.indices].min() >= 20
    assert costs[chosen.indices].max() == 59


def test_failed_candidate_is_replaced_from_its_bin() -> None:
    costs = np.array([0, 1, 2, 11, 12, 30.0])
    scores = np.array([5, 9, 1, 2, 3, 8.0])
    chosen = select_batch(scores, costs, num=3)
    taken = np.zeros(6, bool)
    taken[chosen.indices] = True
    assert next_best(chosen, 0, scores, costs, taken) == 0
    assert next_best(chosen, 2, scores, costs, taken) == 0  # the bin is used up
    with pytest.raises(ValueError, match="free to replace"):
        next_best(chosen, 0, scores, costs, np.ones(6, bool))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": [np.nan, 1]}, "NaN"),
        ({"costs": [1, 2, 3]}, "expected equal lengths"),
        ({"num": 0}, "num is 0"),
        ({"bins": "log"}, "'log'"),
        ({"taken": [True, True]}, "free"),
        ({"limits": (5, 9)}, "free"),
    ],
)
def test_impossible_batches_are_refused(change: dict, message: str) -> None:  # type: ignore[type-arg]
    fields = {"scores": [1, 2], "costs": [1, 2], "num": 2, **change}
    with pytest.raises(ValueError, match=message):
        select_batch(**fields)


def test_limits_take_turns_and_an_empty_one_gives_its_turn_away() -> None:
    inside = [[True, True, False, False], [False, False, False, False]]
    found = select_in_turn([1.0, 2.0, 3.0, 4.0], inside, num=3, taken=[False] * 4)
    assert found.indices.tolist() == [1, 3, 0]
    assert found.bins.tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match="is free"):
        select_in_turn([1.0], [[True]], num=1, taken=[True])
    with pytest.raises(ValueError, match="NaN"):
        select_in_turn([float("nan")], [[True]], num=1)


def test_optimism_is_exponential_with_mean_one_in_every_stretch() -> None:
    for start in (0, 37, 1000):
        drawn = np.sort([Optimism(np.zeros(1), np.ones(1), start).scores(n)[0] for n in range(200)])
        quantiles = -np.log(1 - (np.arange(200) + 0.5) / 200)
        assert drawn.mean() == pytest.approx(1, abs=0.05)
        assert np.abs(drawn - quantiles)[:180].max() < 0.1


def test_batch_has_the_best_expected_and_the_least_known_candidates() -> None:
    scores, std = np.array([5.0, 4.9, 4.8, 4.7, 2, 2]), np.array([0, 0, 0, 0, 0, 3.0])
    everywhere = np.ones((1, 6), bool)
    plain = select_in_turn(scores, everywhere, num=4)
    assert plain.indices.tolist() == [0, 1, 2, 3]
    bold = select_in_turn(scores, everywhere, num=4, acquisition=Optimism(scores, std))
    assert {0, 5} < set(bold.indices.tolist())
    binned = select_batch(
        scores, np.arange(6.0), num=4, bins="none", acquisition=Optimism(scores, std)
    )
    assert sorted(binned.indices.tolist()) == sorted(bold.indices.tolist())


def test_predictor_without_uncertainty_gives_the_best_expected() -> None:
    scores = np.random.default_rng(0).random(50)
    optimism = Optimism(scores, np.zeros(50))
    chosen = select_in_turn(scores, np.ones((1, 50)), num=7, acquisition=optimism)
    assert chosen.indices.tolist() == np.argsort(-scores)[:7].tolist()


def test_small_batches_serve_every_limit_by_and_by() -> None:
    found = select_in_turn(np.zeros(4), np.eye(4), num=2, first=3)
    assert found.bins.tolist() == [3, 0]
    assert found.indices.tolist() == [3, 0]


class Independent:
    """Distributions that know nothing of each other."""

    def __init__(self, mean: list[float], std: list[float]) -> None:
        self.mean, self.std = np.array(mean), np.array(std)

    def scaled(self, labels: Any) -> Any:
        return labels

    def add(self, index: int) -> None:
        self.std[index] = 1e-6


def test_expected_improvement_is_that_of_a_normal_distribution() -> None:
    draws = np.random.default_rng(0).normal(size=1_000_000)
    mean, std = [0.0, 1.0, -1.0], [1.0, 0.5, 2.0]
    found = ExpectedImprovement(Independent(mean, std), np.array([0.5])).scores(0, 0)
    sampled = [np.maximum(m + s * draws - 0.5, 0).mean() for m, s in zip(mean, std, strict=True)]
    assert np.exp(found) == pytest.approx(sampled, rel=0.01)


def test_hopeless_candidates_are_ranked_by_expected_improvement_too() -> None:
    steps = np.linspace(-30, -20, 1000)
    posterior = Independent(steps.tolist(), [1.0] * 1000)
    scores = ExpectedImprovement(posterior, np.zeros(1)).scores(0, 0)
    assert np.isfinite(scores).all()
    # d log EI / d mean is about the distance; there is no step where the formula changes.
    assert np.diff(scores) / np.diff(steps) == pytest.approx(-steps[1:], rel=0.02)


def test_picks_of_a_round_count_as_trained_and_each_limit_has_its_own_best() -> None:
    posterior = Independent([1.0, 0.9, 0.0, 0.0], [0.1, 0.1, 1.0, 0.01])
    inside = np.array([[True, True, True, True], [False, False, True, True]])
    improvement = ExpectedImprovement(posterior, np.array([1.0, -1.0]))
    found = select_in_turn(np.zeros(4), inside, num=4, acquisition=improvement)
    # The first is little known; then the one sure to improve on the worse best of limit 1.
    assert found.indices.tolist() == [2, 3, 0, 1]
    assert found.bins.tolist() == [0, 1, 0, 1]
