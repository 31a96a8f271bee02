"""What users of other libraries give to a search, and what befalls its folder."""

from __future__ import annotations

import csv
import json
import math
import os
import pickle
import sqlite3
from collections.abc import Generator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from fbnetv3 import search
from fbnetv3._internal.errors import StoreError, TrialError
from fbnetv3.search.cli.app import app
from fbnetv3.search.execution.function_objective import FunctionObjective
from fbnetv3.search.execution.objective import load_table
from fbnetv3.search.execution.peer_names import Params
from fbnetv3.search.nars.export import read_labels, to_optuna, write_csv
from fbnetv3.search.predictors.registry import make_predictor
from tests.search.toy_functions import CALL, SPACE, STUDY, accuracy, cost, summary, train


def run(folder: str | Path, function: Any = train, **changes: Any) -> search.Found:
    return search.run(
        SPACE, function, folder=folder, **{"cost": cost, "pool": 300, **CALL, **changes}
    )


def label(value: object, target: str = "log_error") -> float:
    """Returns what a search makes of a value that a training returns."""
    objective = FunctionObjective(SPACE, lambda params, *, seed, fidelity: value, target=target)
    [found] = objective.evaluate([0, 0, 0], seed=0, epochs=1)
    return found


def test_a_tuple_is_not_taken_for_the_values_of_epochs() -> None:
    with pytest.raises(ValueError, match=r"returned \(91.5, 0.3\); expected one number"):
        label((91.5, 0.3))
    assert label([70.0, 91.5]) == 91.5


def test_a_training_that_yields_and_returns_has_what_it_returns() -> None:
    def train(epochs: list[float], last: float | None) -> Generator[float, None, float | None]:
        yield from epochs
        return last

    assert label(train([70.0, 80.0], 91.5)) == 91.5
    assert label(train([70.0, 80.0], None)) == 80.0
    assert label(train([], 91.5)) == 91.5


def test_percent_may_be_rounded_but_not_more() -> None:
    assert label(np.float32(100) * (1 + np.finfo(np.float32).eps)) == 100.0
    assert label(-1e-9) == 0.0
    with pytest.raises(ValueError, match=r"gave 100\.01; expected an accuracy in percent"):
        label(100.01)


@pytest.mark.parametrize("target", ["log_error", "raw"])
def test_minus_infinity_is_a_training_that_diverged(target: str) -> None:
    assert math.isnan(label(-math.inf, target))


def test_params_are_a_dict_and_say_so() -> None:
    with pytest.raises(AttributeError, match=r"params is a dict; use params\['lr'\]"):
        _ = Params({"lr": 0.1}).lr
    assert not hasattr(Params({"lr": 0.1}), "width")


@pytest.mark.parametrize("values", [{"relu", "gelu"}, {"relu": 1, "gelu": 2}])
def test_values_without_an_order_are_refused(values: Any) -> None:
    with pytest.raises(ValueError, match=r"gene 'act': values is .*; expected them in an order"):
        search.Gene("act", values)


def test_a_condition_may_be_lists_of_numbers_of_numpy() -> None:
    when: Any = ["n", [np.int64(2)]]
    gene = search.Gene("m", (1, 2), when=when)
    assert gene == search.Gene("m", (1, 2), when=("n", (2,)))
    assert search.Gene.from_dict(json.loads(json.dumps(gene.to_dict()))) == gene
    wrong: Any = ("n", 2)
    with pytest.raises(ValueError, match=r"expected \(gene, values\), such as"):
        search.Gene("m", (1, 2), when=wrong)


def test_a_number_of_values_that_is_no_whole_number_is_refused() -> None:
    number: Any = 2.5
    with pytest.raises(ValueError, match=r"num is 2\.5; expected 2 to "):
        search.Gene.log("lr", 1e-4, 1e-1, number)
    number = np.int64(4)
    assert search.Gene.log("lr", 1e-4, 1e-1, number) == search.Gene.log("lr", 1e-4, 1e-1, 4)


def test_limits_may_come_from_a_generator(tmp_path: Path) -> None:
    limits = ["macs<=4e8", "macs<=8e8"]
    assert list(run(tmp_path / "s", limits=(text for text in limits)).best) == limits


def test_budgets_may_be_numbers_of_numpy(tmp_path: Path) -> None:
    for name, value in (
        ("budget", np.int64(30)),
        ("budget", np.float32(40)),
        ("time", np.int64(600)),
        ("time", np.timedelta64(20, "m")),
    ):
        with search.Study(
            SPACE, folder=tmp_path / name, cost=cost, **{**STUDY, "trainings": None, name: value}
        ):
            pass


@pytest.mark.parametrize("folder", [None, "", b"s"])
def test_a_folder_has_a_name(folder: Any) -> None:
    with pytest.raises(ValueError, match=r"folder is .*; expected a folder, such as 'runs/s'"):
        run(folder)
    with pytest.raises(ValueError, match=r"folder is .*; expected a folder, such as 'runs/s'"):
        search.Study(SPACE, folder=folder, **{**STUDY, "limits": None})


def test_a_folder_is_whatever_names_a_path(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    with os.scandir(tmp_path) as entries:
        [entry] = entries
    with search.Study(SPACE, folder=entry, **{**STUDY, "limits": None}):
        assert (tmp_path / "s" / "search.json").is_file()


def test_a_limit_is_the_same_however_it_is_spelled(tmp_path: Path) -> None:
    found = run(tmp_path / "s", limits=["macs<=4e8", "macs>=1e8,params<=2e4"])
    for again in (
        ["macs<=400e6", "params <= 2e4, macs >= 100e6"],
        ["params<=20000,macs>=1e8", "macs <= 4e8,macs<=5e8"],
    ):
        same = run(tmp_path / "s", limits=again)
        assert summary(same) == summary(found)
        assert [same.best[limit].costs for limit in sorted(again)] == [
            one.costs for one in found.best.values()
        ]
    with pytest.raises(ValueError, match="other arguments: limits was"):
        run(tmp_path / "s", limits="macs<=4e8")
    with pytest.raises(KeyError, match="no best for limit 'macs<=3e8'; the limits are"):
        found.best["macs<=3e8"]


def test_a_time_is_the_same_however_it_is_spelled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = search.Space("small", [search.Gene("x", tuple(range(12)))])

    def rank(params: dict[str, Any], *, seed: int, fidelity: float) -> float:
        return float(params["x"])

    def again(time: Any) -> int:
        return len(search.run(space, rank, time=time, folder=tmp_path / "s", target="raw").trials)

    num = again("60s")
    assert "all 12 candidates are trained before the time is up" in capsys.readouterr().err
    assert [again(time) for time in (60, "1m", timedelta(minutes=1), 60.0)] == [num] * 4
    assert not capsys.readouterr().err
    assert again("2m") >= num
    assert "more time has no more to choose from\n" in capsys.readouterr().err


def test_a_trial_may_fail_with_the_exception_that_was_caught(tmp_path: Path) -> None:
    with search.Study(SPACE, folder=tmp_path / "s", cost=cost, **STUDY) as study:
        first, second = study.ask(2)
        study.fail(first, RuntimeError("CUDA out of memory"))
        wrong: Any = 7
        with pytest.raises(ValueError, match="reason is 7; expected a text, or an exception"):
            study.fail(second, wrong)
        study.tell(second, 80.0)
        assert not study.finished
    with search.Store.read(tmp_path / "s") as store:
        reasons = [trial.reason for trial in store.trials("failed")]
    assert reasons == ["RuntimeError: CUDA out of memory"]


def test_a_folder_may_be_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert run("~/runs").folder == tmp_path / "runs"
    assert search.Found("~/runs").finished
    assert not (tmp_path / "~").exists()


def test_a_search_killed_while_its_database_was_made_is_resumed_by_the_same_call(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "s"

    def stop(params: dict[str, Any], *, seed: int, fidelity: float) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(folder, stop)
    # As a kill leaves it: settings, and a database without tables.
    for path in [*folder.glob("batches/*"), *folder.glob("search.sqlite*")]:
        path.unlink()
    empty_database(folder)
    with pytest.raises(FileNotFoundError, match="stopped before its first round; resume it"):
        search.Found(folder)
    assert summary(run(folder)) == summary(run(tmp_path / "undisturbed"))


def test_a_folder_that_this_process_has_open_is_said(tmp_path: Path) -> None:
    """As where a notebook's cell is run again."""
    with (
        search.Study(SPACE, folder=tmp_path / "s", cost=cost, **STUDY),
        pytest.raises(StoreError, match=r"in use by this process itself, .* close the study"),
    ):
        search.Study(SPACE, folder=tmp_path / "s", cost=cost, **STUDY)


def test_trials_go_to_other_processes_and_the_study_does_not(tmp_path: Path) -> None:
    with search.Study(SPACE, folder=tmp_path / "s", cost=cost, **STUDY) as study:
        trials = study.ask(2)
        assert {pickle.loads(pickle.dumps(trial)): trial.number for trial in trials} == {
            trials[0]: 1,
            trials[1]: 2,
        }
        with pytest.raises(TypeError, match="a study stays in its process; send the trials"):
            pickle.dumps(study)


def test_a_forked_process_cannot_tell_a_study(tmp_path: Path) -> None:
    with search.Study(SPACE, folder=tmp_path / "s", cost=cost, **STUDY) as study:
        [trial] = study.ask()
        ours, theirs = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                study.tell(trial, 50.0)
            except RuntimeError as error:
                os.write(theirs, str(error).encode())
            os._exit(0)
        os.waitpid(pid, 0)
        os.close(theirs)
        with os.fdopen(ours) as said:
            assert f"forked process, and the study is in process {os.getpid()}" in said.read()
        assert study.trials == []


def test_an_emptied_database_is_not_taken_for_a_new_search(tmp_path: Path) -> None:
    before = summary(run(tmp_path / "s"))
    for path in (tmp_path / "s").glob("search.sqlite*"):
        path.unlink()
    empty_database(tmp_path / "s")
    with pytest.raises(StoreError, match="sqlite is empty, but its rounds exist; rebuild it with"):
        run(tmp_path / "s")
    assert CliRunner().invoke(app, ["rebuild", str(tmp_path / "s")]).exit_code == 0
    assert summary(run(tmp_path / "s")) == before


def empty_database(folder: Path) -> None:
    database = sqlite3.connect(folder / "search.sqlite")
    database.execute("PRAGMA journal_mode=WAL")
    database.close()


def test_genes_may_be_called_as_the_columns_of_labels(tmp_path: Path) -> None:
    space = search.Space(
        "s", [search.Gene.grid("epochs", 1, 6, 1), search.Gene("label", ("a", "b", "c"))]
    )

    def objective(params: dict[str, Any], *, seed: int, fidelity: float) -> float:
        return 50.0 + float(params["epochs"])

    found = search.run(
        space, objective, folder=tmp_path / "s", trainings=10, predictor="gp", pool=300, quiet=True
    )
    path = tmp_path / "t.csv"
    with search.Store.read(tmp_path / "s") as store:
        write_csv(store, space, path)
    rows = list(csv.DictReader(path.open(encoding="utf-8")))
    assert [int(row["gene:epochs"]) for row in rows] == [t.params["epochs"] for t in found.trials]
    read = [space.values(one.genes) for one in read_labels(space, path)]
    assert read == [trial.params for trial in found.trials]
    assert [one.epochs for one in read_labels(space, path)] == [1] * len(rows)
    (tmp_path / "space.json").write_text(space.to_json())
    table = load_table(tmp_path / "space.json", path)
    assert {tuple(space.values(row).items()) for row in table.rows} == {
        tuple(trial.params.items()) for trial in found.trials
    }


@pytest.fixture
def _as_a_program_left_torch() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.set_grad_enabled(False)
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_grad_enabled(True)


def predicted() -> list[float]:
    rows = SPACE.sample(24, np.random.default_rng(0))
    predictor = make_predictor("mlp", SPACE, target="log_error", seed=0)
    predictor.pretrain(rows, {"macs": rows[:, 0].astype(float)})
    predictor.fit(rows, np.array([accuracy(SPACE.values(row)) for row in rows]))
    return [float(value) for value in predictor.predict(rows).mean]


def test_a_predictor_is_the_same_whatever_a_training_has_set_in_torch(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fbnetv3.search.predictors.mlp._PRETRAIN_STEPS", 20)
    expected = predicted()
    request.getfixturevalue("_as_a_program_left_torch")
    assert predicted() == expected
    # What the program has set is as it was.
    assert torch.get_default_dtype() == torch.float64
    assert not torch.is_grad_enabled()


def test_a_search_can_be_asked_without_its_train_function(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    run(folder, lambda params, *, seed, fidelity: accuracy(params, seed))
    done = CliRunner().invoke(app, ["evolve", str(folder), "--limit", "macs<=2e8", "--json"])
    assert done.exit_code == 0, done.output
    [answer] = json.loads(done.output)
    assert answer["candidates"][0]["costs"]["macs"] <= 2e8
    refused = CliRunner().invoke(app, ["resume", str(folder)])
    assert "cannot import its functions" in refused.output


def test_a_search_whose_cost_is_elsewhere_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    run(folder, cost=lambda params: {"macs": params["width"] * 1e6})
    done = CliRunner().invoke(app, ["evolve", str(folder)])
    assert done.exit_code == 2
    assert "cannot import its cost function" in " ".join(done.output.split())


def test_a_search_does_not_shrink(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    run(folder)
    done = CliRunner().invoke(app, ["resume", str(folder), "--trainings", "3"])
    assert done.exit_code == 2
    assert "--trainings is 3; expected more than the 24 that the search" in done.output


def test_a_stopped_search_runs_nothing(tmp_path: Path) -> None:
    def stop(params: dict[str, Any], *, seed: int, fidelity: float) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "s", stop)
    done = CliRunner().invoke(app, ["status", str(tmp_path / "s"), "--json"])
    found = json.loads(done.output)
    assert found["state"] == "stopped"
    assert found["trials"]["leased"] == 0
    assert found["trials"]["queued"] > 0


@pytest.mark.needs("optuna")
@pytest.mark.parametrize("url", ["study.db", "sqlite:////no/such/folder/study.db"])
def test_a_storage_that_optuna_cannot_open_is_said(tmp_path: Path, url: str) -> None:
    run(tmp_path / "s")
    with (
        search.Store.read(tmp_path / "s") as store,
        pytest.raises(ValueError, match=r"Optuna cannot open the storage .*sqlite:///study.db"),
    ):
        to_optuna(store, SPACE, url)


def test_a_kind_of_candidates_that_always_fails_is_avoided_by_nan(tmp_path: Path) -> None:
    def fails(params: dict[str, Any], *, seed: int, fidelity: float) -> float:
        if params["width"] > 160:
            raise MemoryError("too large")
        return accuracy(params, seed)

    def diverges(params: dict[str, Any], *, seed: int, fidelity: float) -> float:
        return math.nan if params["width"] > 160 else accuracy(params, seed)

    with pytest.raises(TrialError, match=r"10 trials failed .* 0 succeeded.*give NaN as their val"):
        run(tmp_path / "a", fails, limits=None)
    found = run(tmp_path / "b", diverges, limits=None)
    assert 128 <= found.best[""].params["width"] <= 160


def test_a_candidate_that_fails_does_not_end_a_search_by_time(tmp_path: Path) -> None:
    made: list[int] = []

    def first_fails(params: dict[str, Any], *, seed: int, fidelity: float) -> float:
        if fidelity == 1:
            made.append(params["width"])
            if params["width"] == made[0]:
                raise MemoryError
        return accuracy(params, seed)

    found = run(tmp_path / "s", first_fails, trainings=None, time=3, limits=None)
    assert made[1] < made[0]
    assert found.finished


def test_a_search_by_time_goes_on_once_its_function_is_mended(tmp_path: Path) -> None:
    def broken(params: dict[str, Any], *, seed: int, fidelity: float) -> float:
        if fidelity == 1:
            raise RuntimeError("not yet")
        return accuracy(params, seed)

    def mended(params: dict[str, Any], *, seed: int, fidelity: float) -> float:
        return accuracy(params, seed)

    call = {"trainings": None, "time": 3, "limits": None}
    with pytest.raises(TrialError, match="not yet"):
        run(tmp_path / "s", broken, **call)
    assert run(tmp_path / "s", mended, **call).finished


def test_paths_may_be_texts(tmp_path: Path) -> None:
    run(tmp_path / "s")
    folder, out = str(tmp_path / "s"), str(tmp_path / "out")
    search.Store.open(folder).close()
    with search.Store.rebuild(folder) as store:
        assert store.folder == tmp_path / "s"
    with search.Store.read(folder) as store:
        assert search.write_csv(store, SPACE, f"{out}.csv") == store.counts()["done"]
        search.write_report(store, f"{out}.html")
        with pytest.raises(ValueError, match=r"out\.pdf: the report is HTML; give a name that"):
            search.write_report(store, f"{out}.pdf")
        assert all(path.is_file() for path in search.copy_answers(store, SPACE, out))
    made = FunctionObjective(SPACE, train, cost)
    predictor = search.load_predictor(f"{folder}/predictor.safetensors", costs=made.costs)
    search.save_predictor(predictor, f"{out}.safetensors")
    with search.Store.open(folder) as store:
        assert made.costs is not None
        imported = search.import_labels(store, SPACE, made.costs, f"{out}.csv", epochs=1)
    assert imported.taken == len(search.Found(folder).trials) - imported.new
    (tmp_path / "space.json").write_text(json.dumps({"space": SPACE.to_dict(), "target": "raw"}))
    table = search.load_table(str(tmp_path / "space.json"), f"{out}.csv")
    assert table.space == SPACE


def test_a_finished_search_is_asked_for_limits_in_any_form(tmp_path: Path) -> None:
    run(tmp_path / "s")
    problem = search.problem_of(
        {"space": SPACE.to_dict(), "num_classes": 10}, FunctionObjective(SPACE, train, cost)
    )
    with search.Store.read(tmp_path / "s") as store:
        predictor = search.open_predictor(store, problem)
        bounds = {"macs": (-math.inf, 4e8)}
        found = search.evolve_for(
            store, problem, predictor, ["macs<=400e6", search.Limit(bounds), bounds]
        )
        best = [one.rows[0].tolist() for one in found]
        assert best[0] == best[1] == best[2]
        for wrong, said in (
            ({"macs": (None, 4e8)}, r"limit on 'macs' is \(None, 400000000.0\); expected"),
            ({"macs": 4e8}, "limit on 'macs' is 400000000.0; expected"),
            (4e8, "limit 400000000.0 is not understood"),
            ("flops<=4e8", "limit on 'flops'; the known costs are macs, params"),
        ):
            with pytest.raises(ValueError, match=said):
                search.evolve_for(store, problem, predictor, [wrong])  # type: ignore[list-item]
        with pytest.raises(ValueError, match="expected a list of limits"):
            search.evolve_for(store, problem, predictor, "macs<=4e8")


def test_labels_in_columns_of_other_names_are_told_how_to_be_named(tmp_path: Path) -> None:
    path = tmp_path / "frame.csv"
    path.write_text("number,value,params_width,params_act,params_lr\n0,80,64,relu,0.001\n")
    with pytest.raises(ValueError, match="names of the genes, such as 'width', and 'label', as"):
        read_labels(SPACE, path)


def test_finish_says_what_a_search_without_networks_has(tmp_path: Path) -> None:
    run(tmp_path / "s")
    done = CliRunner().invoke(app, ["finish", str(tmp_path / "s")])
    assert done.exit_code == 2
    assert "no networks of its own to train, only values of width, act, lr" in done.stderr
    assert f"fbnetv3-search export {tmp_path / 's'} --out DIR" in done.stderr
    assert "--data" not in done.stderr


def test_results_of_two_searches_are_not_mixed(tmp_path: Path) -> None:
    run(tmp_path / "a")
    run(tmp_path / "b", limits="macs<=4e8", seed=1)

    def export(name: str) -> Result:
        return CliRunner().invoke(
            app, ["export", str(tmp_path / name), "--out", str(tmp_path / "out")]
        )

    assert [export("a").exit_code, export("a").exit_code] == [0, 0]
    files = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.json")}
    done = export("b")
    assert (done.exit_code, "has a result of another search" in done.stderr) == (2, True)
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.json")} == files
