"""Stages 1 and 2: what is proposed, why, and that it repeats."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fbnetv3.search.execution.coordinator import Coordinator, Policy
from fbnetv3.search.execution.engine import InlineEngine
from fbnetv3.search.execution.spec import load_objective
from fbnetv3.search.nars.budget import planned
from fbnetv3.search.nars.config import SearchConfig
from fbnetv3.search.nars.early_stop import find_early_stop
from fbnetv3.search.nars.labels import PATIENCE, usable
from fbnetv3.search.nars.pool import check
from fbnetv3.search.nars.problem import Problem
from fbnetv3.search.nars.rounds import Optimizer
from fbnetv3.search.space.gene import Gene
from fbnetv3.search.space.space import Matrix, Space
from fbnetv3.search.storage.store import Store
from fbnetv3.search.storage.trials import Batch, Labels, Proposal
from tests.paths import TOY

SPACE = Space("toy", tuple(Gene(f"g{n}", tuple(range(4)), kind="ordered") for n in range(6)))
PLAN = SearchConfig(pool=300, batch=8, rounds=2, epochs=4, predictor="gp", target="raw")


def costs(rows: Matrix) -> dict[str, Any]:
    return {"macs": 100.0 + rows @ np.arange(1, 7)}


PROBLEM = Problem(SPACE, costs)


def toy(**arguments: Any) -> Any:
    return load_objective({"kind": "python", "target": TOY, "arguments": arguments})


def search(
    folder: Path,
    plan: SearchConfig = PLAN,
    problem: Problem = PROBLEM,
    prepare: Callable[[Store], object] = lambda _store: None,
    **arguments: Any,
) -> tuple[Store, Optimizer]:
    store = Store.create(folder, {"plan": plan.to_dict()})
    prepare(store)
    coordinator = Coordinator(store, InlineEngine(toy(**arguments)), Policy(max_attempts=1))
    optimizer = Optimizer(problem, plan, store, coordinator)
    optimizer.pretrain()
    optimizer.run()
    return store, optimizer


def proposed(store: Store) -> list[tuple[int, int, tuple[int, ...], int]]:
    return [(t.batch, t.slot, t.genes, t.epochs) for t in store.trials()]


def test_rounds_are_random_first_then_one_best_of_each_bin(tmp_path: Path) -> None:
    store, optimizer = search(tmp_path / "s")
    assert [batch.kind for batch in store.batches()] == ["random", "bins", "bins"]
    assert [len(store.trials(batch=n)) for n in range(3)] == [8, 8, 8]
    assert len({t.genes for t in store.trials()}) == 24
    edges = np.linspace(optimizer.pool.costs["macs"].min(), optimizer.pool.costs["macs"].max(), 9)
    for trial in store.trials(batch=1):
        found = np.clip(np.searchsorted(edges, trial.costs["macs"], "right") - 1, 0, 7)
        assert found == trial.slot or store.trials(batch=1)[trial.slot].slot != trial.slot
    store.close()


def test_search_finds_what_is_good(tmp_path: Path) -> None:
    store, _ = search(tmp_path / "s", noise=0.0)
    # 70 + 3 * (0.5 + 1 + 2 + 0.25 + 1.5 + 3) is the best there is at the last epoch, 94.75.
    best = max(store.trials(), key=lambda t: float(np.dot((0.5, 1, 2, 0.25, 1.5, 3), t.genes)))
    assert best.batch > 0
    assert np.dot((0.5, 1, 2, 0.25, 1.5, 3), best.genes) > 20
    store.close()


def test_same_seed_proposes_the_same_and_another_seed_something_else(tmp_path: Path) -> None:
    first, _ = search(tmp_path / "a")
    again, _ = search(tmp_path / "b")
    other, _ = search(tmp_path / "c", SearchConfig(**{**vars(PLAN), "seed": 1}))
    assert proposed(first) == proposed(again)
    assert proposed(first) != proposed(other)
    for store in (first, again, other):
        store.close()


def test_every_candidate_keeps_the_bounds(tmp_path: Path) -> None:
    plan = SearchConfig(**{**vars(PLAN), "within": {"macs": (110.0, 140.0)}})
    store, _ = search(tmp_path / "s", plan)
    assert all(110 <= t.costs["macs"] <= 140 for t in store.trials())
    store.close()


def test_nothing_is_trained_that_no_limit_allows(tmp_path: Path) -> None:
    limits = ({"macs": (-np.inf, 115.0)}, {"macs": (135.0, 140.0)})
    store, _ = search(tmp_path / "s", SearchConfig(**{**vars(PLAN), "limits": limits}))
    macs = [t.costs["macs"] for t in store.trials()]
    assert all(m <= 115 or 135 <= m <= 140 for m in macs)
    assert min(macs) <= 115 < max(macs)
    store.close()


def test_several_limits_take_turns_and_one_has_the_papers_bins_unless_told() -> None:
    limits = ({"macs": (-np.inf, 125.0)}, {"macs": (-np.inf, 140.0)})
    assert SearchConfig(limits=limits).bins == "limits"
    assert SearchConfig(limits=limits, bins="equal").bins == "equal"
    assert SearchConfig().bins == "equal"
    assert SearchConfig(trainings=48).bins == "limits"


def test_rounds_can_take_the_best_of_each_limit_in_turn(tmp_path: Path) -> None:
    limits = ({"macs": (-np.inf, 125.0)}, {"macs": (-np.inf, 140.0)})
    plan = SearchConfig(**{**vars(PLAN), "limits": limits, "bins": "limits"})
    store, optimizer = search(tmp_path / "s", plan)
    trials = store.trials(batch=2)
    assert [t.slot for t in trials] == [0, 1] * 4
    assert all(t.costs["macs"] <= (125, 140)[t.slot] for t in trials)
    # Nothing that was free within the first limit was both expected to be better and less known.
    trained = {t.genes for t in store.trials()}
    optimizer.fit(2)
    free = [n for n, row in enumerate(optimizer.pool.rows.tolist()) if tuple(row) not in trained]
    cheap = [n for n in free if optimizer.pool.costs["macs"][n] <= 125]
    rest = optimizer.predictor.predict(optimizer.pool.rows[cheap])
    chosen = [t for t in trials if t.slot == 0]
    found = optimizer.predictor.predict(np.array([t.genes for t in chosen], np.int16))
    assert [t.predicted for t in chosen] == pytest.approx(found.mean)
    assert not ((rest.mean > found.mean[0]) & (rest.std > found.std[0])).any()
    bad = ",".join(str(gene) for gene in trials[2].genes)
    store.close()
    other, _ = search(tmp_path / "t", plan, trouble={bad: "raise"})
    (replaced,) = [t for t in other.trials(batch=2) if t.genes not in {x.genes for x in trials}]
    assert replaced.slot == 0
    assert replaced.costs["macs"] <= 125
    other.close()


def test_limits_that_hardly_any_candidate_keeps_are_refused(tmp_path: Path) -> None:
    limits = ({"macs": (-np.inf, 101.0)},)
    with pytest.raises(ValueError, match=r"only 2 candidates .* fewer .*macs<=101"):
        search(tmp_path / "s", SearchConfig(**{**vars(PLAN), "limits": limits}))


def test_first_round_has_as_many_random_candidates_for_each_limit(tmp_path: Path) -> None:
    limits = ({"macs": (-np.inf, 108.0)}, {"macs": (150.0, np.inf)})
    store, _ = search(tmp_path / "s", SearchConfig(**{**vars(PLAN), "limits": limits}))
    first = store.trials(batch=0)
    assert [t.slot for t in first] == [0, 1] * 4
    assert all(t.costs["macs"] <= 108 if t.slot == 0 else t.costs["macs"] >= 150 for t in first)
    bad = ",".join(str(gene) for gene in first[2].genes)
    store.close()
    other, _ = search(
        tmp_path / "t", SearchConfig(**{**vars(PLAN), "limits": limits}), trouble={bad: "raise"}
    )
    (replaced,) = [t for t in other.trials(batch=0) if t.genes not in {x.genes for x in first}]
    assert replaced.slot == 0
    assert replaced.costs["macs"] <= 108
    other.close()


def test_failed_trial_is_replaced_from_its_bin_and_never_proposed_again(tmp_path: Path) -> None:
    plain, _ = search(tmp_path / "plain")
    bad = plain.trials(batch=1)[3]
    plain.close()
    name = ",".join(str(gene) for gene in bad.genes)
    store, _ = search(tmp_path / "s", trouble={name: "raise"})
    failed = store.trials("failed")
    assert [t.genes for t in failed] == [bad.genes]
    replacement = store.trials(batch=1)[-1]
    assert (replacement.state, replacement.slot) == ("done", bad.slot)
    assert replacement.genes != bad.genes
    assert len(store.trials("done", batch=1)) == 8
    assert [t.genes for t in store.trials(batch=2)].count(bad.genes) == 0
    store.close()


def test_diverged_training_counts_as_the_worst(tmp_path: Path) -> None:
    def labels(*values: float, shares: Sequence[float] = (1.0, 1.0, 1.0)) -> Labels:
        num = len(values)
        rows = np.zeros((num, 6), np.int16)
        return Labels(np.arange(num), rows, np.array(values), np.array(shares[:num]))

    nan = float("nan")
    assert usable(labels(50.0, nan, 40.0)).tolist() == [50.0, 40.0, 40.0]
    # Of its own length, where that has any.
    assert usable(labels(50.0, nan, 30.0, shares=(1.0, 1.0, 0.1))).tolist() == [50.0, 50.0, 30.0]
    assert usable(labels(50.0, nan, 30.0, shares=(0.5, 1.0, 0.1))).tolist() == [50.0, 30.0, 30.0]
    # The first few say nothing yet.
    assert usable(labels(nan, nan)).tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match=f"all {PATIENCE} labels are NaN"):
        usable(labels(*[nan] * PATIENCE, shares=[1.0] * PATIENCE))
    with pytest.raises(ValueError, match="lower the learning rates"):
        search(tmp_path / "s", trouble={"*": "nan"})


def test_imported_labels_are_learnt_from_and_not_proposed(tmp_path: Path) -> None:
    known = SPACE.sample(40, np.random.default_rng(5))

    def prepare(store: Store) -> None:
        rows = [tuple(row.tolist()) for row in known]
        proposals = [
            Proposal(row, {"macs": 1.0}, 4, -1, origin="x.csv", value=70.0 + 5 * row[0])
            for row in rows
        ]
        store.add_batch(Batch(0, "import", {}, ""), proposals)

    store, optimizer = search(tmp_path / "s", prepare=prepare)
    imported = {tuple(row.tolist()) for row in known}
    assert not imported & {t.genes for t in store.trials() if t.origin == "search"}
    assert len(optimizer.labels().values) == len(imported) + 24
    store.close()


def test_early_stop_shortens_later_rounds_and_labels_are_of_one_length(tmp_path: Path) -> None:
    plan = SearchConfig(**{**vars(PLAN), "batch": 40, "epochs": 30, "rounds": 1})
    store, optimizer = search(tmp_path / "s", plan)
    found = store.stage("early_stop")
    assert found is not None
    assert found["found"]
    assert 1 < found["epoch"] < 30
    assert {t.epochs for t in store.trials(batch=0)} == {30}
    assert {t.epochs for t in store.trials(batch=1)} == {found["epoch"]}
    first = store.trials()[0]
    assert optimizer.labels().values[0] == store.curve(first.seq)[found["epoch"] - 1]
    store.close()


def test_early_stop_is_the_first_epoch_from_which_the_ranking_stays() -> None:
    rng = np.random.default_rng(0)
    final = rng.normal(size=200)
    noise = np.array([3.0, 0.1, 3.0, 0.2, 0.1, 0.05, 0.0])
    curves = final[:, None] + noise * rng.normal(size=(200, 7))
    found = find_early_stop(curves, np.random.default_rng(1))
    assert (found.epoch, found.found) == (4, True)
    from scipy import stats

    for epoch, value in enumerate(found.correlation):
        expected = stats.spearmanr(curves[:, epoch], curves[:, -1]).statistic
        assert value == pytest.approx(expected, abs=1e-6)
    assert all(low <= mid for low, mid in zip(found.lower, found.correlation, strict=True))


def test_early_stop_needs_the_bootstrap_bound_too() -> None:
    rng = np.random.default_rng(3)
    final = np.arange(8.0)
    curves = np.stack([final + 0.8 * rng.normal(size=8), final], axis=1)
    found = find_early_stop(curves, np.random.default_rng(1))
    assert found.correlation[0] > 0.92
    assert found.lower[0] < 0.85
    assert (found.epoch, found.found) == (2, False)


def test_early_stop_ranks_diverged_trainings_last() -> None:
    curves = np.tile(np.arange(30.0)[:, None], (1, 4))
    curves[29, 2:] = np.nan
    found = find_early_stop(curves, np.random.default_rng(1))
    assert found.correlation[1] < found.correlation[2] == 1.0


def at_chance(rng: np.random.Generator) -> Any:
    """Networks that each guess one of ten classes: constant labels, of few values."""
    return np.repeat(rng.choice([9.5, 10.0, 10.5], size=(20, 1)), 6, axis=1)


def flat(rng: np.random.Generator) -> Any:
    return np.repeat(rng.normal(10, 0.5, size=(20, 1)), 6, axis=1)


def few(rng: np.random.Generator) -> Any:
    return np.sort(rng.normal(size=(6, 6)), axis=0)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (at_chance, "only 3 different labels"),
        (flat, "hardly change from the first epoch"),
        (few, "only 6 networks"),
    ],
)
def test_early_stop_needs_networks_that_have_learnt(make: Any, reason: str) -> None:
    curves = make(np.random.default_rng(0))
    found = find_early_stop(curves, np.random.default_rng(1))
    assert found.correlation[0] == 1.0
    assert (found.epoch, found.found) == (6, False)
    assert reason in found.reason


def test_early_stop_accepts_networks_that_are_done_before_the_end() -> None:
    rng = np.random.default_rng(0)
    curves = np.repeat(rng.normal(size=(20, 1)), 6, axis=1)
    curves[:, :2] = rng.normal(size=(20, 2))
    found = find_early_stop(curves, np.random.default_rng(1))
    assert (found.epoch, found.found, found.reason) == (3, True, "")


@pytest.mark.parametrize("shape", [(2, 5), (5,), (5, 0)])
def test_early_stop_of_too_few_numbers_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="networks >= 3"):
        find_early_stop(np.zeros(shape), np.random.default_rng(0))


def test_fewer_candidates_than_a_round_is_a_clear_error(tmp_path: Path) -> None:
    plan = SearchConfig(**{**vars(PLAN), "within": {"macs": (100.0, 101.0)}})
    with pytest.raises(ValueError, match="only 2 candidates are feasible, fewer than a round of 8"):
        search(tmp_path / "s", plan)


def test_bounds_without_candidates_are_a_clear_error(tmp_path: Path) -> None:
    plan = SearchConfig(**{**vars(PLAN), "within": {"macs": (1.0, 2.0)}})
    with pytest.raises(ValueError, match="feasible; widen the limits"):
        search(tmp_path / "s", plan)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch": 1}, "batch is 1; expected at least 2"),
        ({"bins": "round"}, "bins is 'round'"),
        ({"limits": ()}, "limits is empty"),
        ({"within": {"macs": (2.0, 1.0)}}, "lowest <= highest"),
        ({"speed": 9}, "unknown field 'speed'"),
    ],
)
def test_wrong_plan_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchConfig.from_dict(fields)


@pytest.mark.parametrize("trainings", [8, 24, 48, 50, 96, 240, 1000])
def test_rounds_adapt_to_the_budget(trainings: int) -> None:
    sizes = SearchConfig(trainings=trainings).sizes
    assert sum(sizes) == trainings
    assert sizes[0] <= trainings / 4
    assert max(sizes) <= 48
    assert len(sizes) >= 4


def test_budget_and_paper_give_the_same_kind_of_plan() -> None:
    assert SearchConfig().sizes == (48,) * 6
    plan = SearchConfig(trainings=48, batch=6)
    assert plan.sizes == (6, *(2,) * 21)
    assert plan.rounds == 21
    assert SearchConfig(trainings=48, parallel=6).sizes == (12, *(6,) * 6)
    assert planned(SearchConfig(cost=40, parallel=8)).batch == 8
    assert SearchConfig.from_dict(plan.to_dict()) == plan
    with pytest.raises(ValueError, match="trainings is 7; expected at least 8"):
        SearchConfig(trainings=7)


def test_a_budget_is_spent_in_rounds_that_serve_every_limit(tmp_path: Path) -> None:
    limits = tuple({"macs": (-np.inf, end)} for end in (115.0, 125.0, 135.0, 145.0))
    plan = SearchConfig(
        **{**vars(PLAN), "batch": 48, "trainings": 25, "limits": limits, "bins": "limits"}
    )
    store, _ = search(tmp_path / "s", plan)
    sizes = [len(store.trials(batch=n)) for n in range(len(store.batches()))]
    assert sizes == [6, *(2,) * 9, 1]
    slots = [t.slot for t in store.trials() if t.batch > 0]
    assert slots == [(6 + n) % 4 for n in range(19)]
    store.close()


def test_more_trainings_than_candidates_are_refused() -> None:
    with pytest.raises(ValueError, match="the pool has 100 candidates, fewer than the 120"):
        check(PROBLEM, SearchConfig(trainings=120, pool=100))


def test_plan_survives_json() -> None:
    plan = SearchConfig(limits=({"macs": (-np.inf, 5.0)}, {}), within={"params": (1.0, np.inf)})
    assert SearchConfig.from_dict(plan.to_dict()) == plan


def test_unknown_cost_to_bin_by_is_refused() -> None:
    with pytest.raises(ValueError, match="the known costs are macs"):
        check(PROBLEM, SearchConfig(**{**vars(PLAN), "bin_by": "speed"}))


def test_space_without_costs_is_searched_without_bins(tmp_path: Path) -> None:
    store, _ = search(tmp_path / "s", problem=Problem(SPACE, lambda _rows: {}))
    assert store.counts()["done"] == 24
    store.close()


def test_labels_of_the_predictors_quality_are_written_down(tmp_path: Path) -> None:
    store, _ = search(tmp_path / "s")
    found = store.stage("round_2")
    assert found is not None
    assert found["trials"] == 24
    assert -1 <= found["tau"] <= 1
    assert len(found["predicted"]) == len(found["truth"]) == 24
    importance = store.stage("importance")
    assert importance is not None
    assert max(importance["genes"], key=importance["genes"].get) == "g5"
    store.close()
