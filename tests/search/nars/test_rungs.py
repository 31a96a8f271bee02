"""Searches with rungs: what is trained how long, and that lengths are never mixed up."""

from __future__ import annotations

import csv
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fbnetv3.search.execution.engine import InlineEngine, LocalEngine
from fbnetv3.search.execution.objective import TableObjective
from fbnetv3.search.execution.spec import load_objective
from fbnetv3.search.nars.config import SearchConfig
from fbnetv3.search.nars.export import import_labels, write_csv
from fbnetv3.search.nars.labels import compared
from fbnetv3.search.nars.prior import Prior
from fbnetv3.search.nars.problem import problem_of
from fbnetv3.search.nars.regret import bench_table
from fbnetv3.search.nars.run import create_search, run_search
from fbnetv3.search.nars.selection import shuffled_best
from fbnetv3.search.nars.status import status_of
from fbnetv3.search.report.page import write_report
from fbnetv3.search.storage.store import Store
from tests.search.killable import PLAN, SPACE, summary, toy
from tests.search.ray_nodes import ray_cluster

RUNGS = SearchConfig(
    **{
        **vars(PLAN),
        "rungs": (0.1, 0.5),
        "rung_sizes": (16, 8),
        "rounds": 2,
        "batch": 8,
        "policy": "rungs",
        "final_seeds": 1,
        "priors": (Prior("person", {"g4": 2, "g5": 1}),),
    }
)


def start(folder: Path, **arguments: Any) -> Store:
    return create_search(folder, space=SPACE, objective=toy(**arguments), config=RUNGS)


def carry_out(store: Store) -> None:
    run_search(store, InlineEngine(load_objective(store.settings["objective"])))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rungs") / "s"
    with start(folder) as store:
        carry_out(store)
    return folder


def test_rungs_come_first_and_the_rest_is_trained_in_full(finished: Path) -> None:
    with Store.read(finished) as store:
        batches = store.batches()
        found = [
            [(t.fidelity, t.epochs) for t in store.trials(batch=one.number)] for one in batches
        ]
        # Of four epochs a tenth is one, and a half two.
        assert found[:4] == [[(0.1, 1)] * 16, [(0.5, 2)] * 8, [(1.0, 4)] * 8, [(1.0, 4)] * 8]
        assert [one.kind for one in batches] == ["random", "bins", "bins", "bins", "final"]
        assert all(t.fidelity == 1 for t in store.trials(batch=4))
        # Trials of several lengths may be of one candidate, and are trials of their own.
        assert len({t.id for t in store.trials()}) == len(store.trials())
        assert status_of(store)["of_rounds"] == 4


def test_labels_of_rungs_are_no_labels_of_full_trainings(finished: Path, tmp_path: Path) -> None:
    with Store.read(finished) as store:
        full, every = store.labels(), store.labels(fidelity=None)
        assert set(full.fidelity.tolist()) == {1.0}
        assert set(every.fidelity.tolist()) == {0.1, 0.5, 1.0}
        assert len(store.labels(fidelity=0.1).values) == 16
        # Rungs lie far below in this problem.
        assert full.values.min() > store.labels(fidelity=0.1).values.max()
        best = [one["label"] for one in status_of(store)["best"]]
        answers = store.stage("answers")
        assert answers is not None
        assert best == [one["contenders"][0]["mean"] for one in answers["answers"]]
        rounds = [store.stage(f"round_{n}") or {} for n in range(4)]
        assert [one["fidelity"] for one in rounds] == [0.1, 0.5, 1.0, 1.0]
        assert [one["trials"] for one in rounds] == [16, 8, 8, 16]
        # With ten labels of the longest trainings, only these are predicted and judged.
        assert [len(one.get("truth", ())) for one in rounds] == [16, 0, 0, 16]
        write_report(store, tmp_path / "report.html")
    assert "4 of 4" in (tmp_path / "report.html").read_text()


def test_the_predictor_learns_from_all_rungs(finished: Path) -> None:
    with Store.read(finished) as store:
        problem = problem_of(store.settings)
        from fbnetv3.search.nars.run import open_predictor

        predictor = open_predictor(store, problem)
        held = store.labels()
    assert predictor.model.length is not None  # type: ignore[attr-defined]  # it is a gp
    error = predictor.predict(held.matrix).mean - held.values
    assert np.abs(error).mean() < 1.0


def test_labels_of_rungs_are_learnt_from_where_the_search_has_the_rung(
    finished: Path, tmp_path: Path
) -> None:
    path = tmp_path / "trials.csv"
    with Store.read(finished) as store:
        write_csv(store, SPACE, path)
        known = {(t.genes, t.fidelity) for t in store.trials()}
    fewer = SearchConfig(**{**vars(RUNGS), "rungs": (0.5,), "rung_sizes": (8,), "rung_epochs": ()})
    with create_search(
        tmp_path / "other", space=SPACE, objective=toy(early=0.5), config=fewer
    ) as store:
        found = import_labels(store, SPACE, problem_of(store.settings).costs, path, epochs=4)
        # The sixteen trainings of a tenth are of no length of this search.
        assert found.left_out == 16
        imported = {(t.genes, t.fidelity) for t in store.trials()}
        assert imported == {(genes, share) for genes, share in known if share >= 0.5}
        assert len(store.labels(fidelity=0.5).values) == 8
        carry_out(store)
        own = [t for t in store.trials() if t.origin == "search" and t.fidelity == 0.5]
        assert len(own) == 8
        # What is known at this length is not trained at it again.
        assert not {(t.genes, t.fidelity) for t in own} & imported
        assert store.stage("answers") is not None


def test_exports_say_the_fidelity_and_rungs_are_not_imported_as_full(
    finished: Path, tmp_path: Path
) -> None:
    path = tmp_path / "trials.csv"
    with Store.read(finished) as store:
        num = write_csv(store, SPACE, path)
        full = len(store.labels(4).values)
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == num
    assert {line["fidelity"] for line in lines} == {"0.1", "0.5", "1.0"}
    without = create_search(tmp_path / "other", space=SPACE, objective=toy(), config=PLAN)
    with without as store:
        problem = problem_of(store.settings)
        found = import_labels(store, SPACE, problem.costs, path, epochs=4)
        assert found.new == len({line.genes for line in store.trials()})
        assert found.left_out == 24
        assert found.taken >= full
        path.write_text(path.read_text().replace("1.0,", "0.1,"))
        with pytest.raises(ValueError, match="only labels of rungs"):
            import_labels(store, SPACE, problem.costs, path, epochs=4)
        path.write_text(path.read_text().replace(",0.1,", ",2,"))
        with pytest.raises(ValueError, match=r"line 2: fidelity is '2'; expected a share"):
            import_labels(store, SPACE, problem.costs, path, epochs=4)


def test_a_search_that_was_stopped_in_any_round_ends_the_same(
    finished: Path, tmp_path: Path
) -> None:
    with Store.read(finished) as store:
        expected = summary(store)

    class Stop(Exception):  # noqa: N818  # no error
        pass

    start(tmp_path / "s").close()
    for rounds in (1, 2, 3):

        def note(name: str, fields: Any, rounds: int = rounds) -> None:
            if name == "progress" and fields["done"] >= 5:
                with Store.read(tmp_path / "s") as store:
                    if len(store.batches()) == rounds:
                        raise Stop

        engine = InlineEngine(load_objective(toy()), tasks_per_poll=1)
        with Store.open(tmp_path / "s") as store, pytest.raises(Stop):
            run_search(store, engine, notify=note)
    Store.rebuild(tmp_path / "s").close()
    with Store.open(tmp_path / "s") as store:
        carry_out(store)
        assert summary(store) == expected


@pytest.mark.slow
def test_rungs_are_the_same_trials_in_worker_processes(finished: Path, tmp_path: Path) -> None:
    with Store.read(finished) as store:
        expected = summary(store)
    with start(tmp_path / "s") as store:
        engine = LocalEngine(toy(), tmp_path / "s", workers=2, threads=1)
        run_search(store, engine)
        engine.close()
        assert summary(store) == expected


@pytest.mark.slow
@pytest.mark.needs("ray")
def test_rungs_are_the_same_trials_on_ray(finished: Path, tmp_path: Path) -> None:
    from fbnetv3.search.execution.ray_engine import RayEngine

    with Store.read(finished) as store:
        expected = summary(store)
    with ray_cluster(num_cpus=2), start(tmp_path / "ray") as store:
        run_search(store, RayEngine(toy(), tmp_path / "ray"))
        assert summary(store) == expected


def test_a_failed_rung_is_replaced_and_not_trained_at_another_length(
    finished: Path, tmp_path: Path
) -> None:
    with Store.read(finished) as store:
        bad = store.trials(batch=0)[3]
    name = ",".join(map(str, bad.genes))
    with start(tmp_path / "s", trouble={name: "raise"}) as store:
        carry_out(store)
        assert [t.genes for t in store.trials("failed")] == [bad.genes]
        assert [t.genes for t in store.trials()].count(bad.genes) == 1
        assert len(store.trials("done", batch=0)) == 16


def test_a_trial_that_fails_after_a_resume_is_replaced_in_its_own_round(
    finished: Path, tmp_path: Path
) -> None:
    with Store.read(finished) as store:
        bad = store.trials(batch=2)[7]
    trouble = {",".join(map(str, bad.genes)): "raise"}
    shown = []

    class Stop(Exception):  # noqa: N818  # no error
        pass

    def stop(name: str, fields: Any) -> None:
        if name == "round":
            shown.append(fields["fidelity"])
            if fields["index"] == 2 and len(shown) == 3:
                raise Stop

    with start(tmp_path / "s", trouble=trouble) as store:
        objective = load_objective(store.settings["objective"])
        with pytest.raises(Stop):
            run_search(store, InlineEngine(objective), notify=stop)
        run_search(store, InlineEngine(objective), notify=stop)
        assert shown[:4] == [0.1, 0.5, 1.0, 1.0]
        assert bad.genes in [t.genes for t in store.trials("failed")]
        assert {t.fidelity for t in store.trials(batch=2)} == {1.0}
        assert len(store.trials("done", batch=2)) == 8


def test_an_objective_without_rungs_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "class Mine:\n    def evaluate(self, genes, *, seed, epochs):\n        yield 50.0\n"
    )
    spec = {"kind": "python", "target": f"{tmp_path / 'mine.py'}:Mine", "arguments": {}}
    with pytest.raises(ValueError, match="evaluate takes no fidelity"):
        create_search(tmp_path / "s", space=SPACE, objective=spec, config=RUNGS)
    assert not (tmp_path / "s").exists()


def test_rungs_of_a_table_are_the_first_parts_of_its_curves() -> None:
    rows = SPACE.unique(SPACE.sample(400, np.random.default_rng(0)))
    last = 50 + rows @ np.arange(1.0, 7.0)
    curves = last[:, None, None] * np.array([0.6, 0.7, 0.8, 0.9, 1.0])
    known = {"macs": 1.0 + rows.sum(1)}
    table = TableObjective(SPACE, rows, curves, known)
    assert (table.epochs_at(0.1), table.epochs_at(0.4)) == (1, 2)
    found = list(table.evaluate(rows[0].tolist(), seed=0, epochs=2, fidelity=0.4))
    assert found == pytest.approx([0.6 * last[0], 0.7 * last[0]])
    with pytest.raises(ValueError, match=r"of which a rung of 0\.9 would be all"):
        table.epochs_at(0.9)
    config = SearchConfig(cost=24, epochs=5, predictor="gp", pool=300, rungs=(0.1,), target="raw")
    found_regret = bench_table(table, config, seeds=1)["limits"][0]["regret"]
    assert found_regret[-1]["mean"] < 0.05 * np.ptp(last)
    # Before anything was trained in full there is no answer.
    assert found_regret[0]["answers"] == 0


def test_candidates_are_compared_at_the_longest_length_that_enough_have() -> None:
    def shares(**counts: int) -> Any:
        names = {"low": 0.1, "mid": 0.5, "full": 1.0}
        return np.concatenate([np.full(num, names[name]) for name, num in counts.items()])

    assert compared(shares(low=100, full=8)) == 1.0
    assert compared(shares(low=100, full=7)) == 0.1
    assert compared(shares(low=100, mid=20, full=1)) == 0.5
    assert compared(shares(low=2, full=1)) == 0.1
    assert compared(np.zeros(0)) == 1.0


def test_a_new_rung_begins_with_random_ones_of_the_best_of_each_limit() -> None:
    scores = np.arange(100.0)
    inside = np.stack([np.arange(100) < 40, np.ones(100, np.bool_)])
    drawn = shuffled_best(scores, inside, np.random.default_rng(0))
    order = np.argsort(-drawn)
    assert set(order[:35].tolist()) == {*range(30, 40), *range(75, 100)}
    other = np.argsort(-shuffled_best(scores, inside, np.random.default_rng(1)))
    assert order.tolist() != other.tolist()


def test_a_database_of_a_version_without_rungs_is_read_and_opened(
    finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "s"
    with start(folder) as store:
        carry_out(store)
        full = sum(trial.fidelity == 1 for trial in store.trials())
    database = sqlite3.connect(folder / "search.sqlite")
    database.execute("DELETE FROM metric WHERE trial IN (SELECT seq FROM trial WHERE fidelity<1)")
    database.execute("DELETE FROM trial WHERE fidelity<1")
    database.execute("ALTER TABLE trial DROP COLUMN fidelity")
    database.commit()
    database.close()
    for open_ in (Store.read, Store.open):
        with open_(folder) as store:
            labels = store.labels()
            assert len(labels.values) == len(store.trials()) == full > 16
            assert (labels.fidelity == 1).all()
            assert {t.fidelity for t in store.trials()} == {1.0}
