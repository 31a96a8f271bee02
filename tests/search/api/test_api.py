"""The search from Python: one call, or asked and told; stopped, resumed, and used wrongly."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from fbnetv3 import search
from fbnetv3._internal.errors import StoreError, TrialError
from fbnetv3.search.cli.app import app
from fbnetv3.search.execution.function_objective import FunctionObjective, address
from fbnetv3.search.execution.peer_names import Params
from fbnetv3.search.execution.spec import load_objective
from fbnetv3.search.nars.budget import divide
from fbnetv3.search.nars.spending import Spending
from tests.search.killing import children
from tests.search.toy_functions import (
    CALL,
    LIMITS,
    SPACE,
    STUDY,
    TRAININGS,
    accuracy,
    best_width,
    cost,
    summary,
    train,
)

PROGRAM = Path(__file__).parents[1] / "toy_functions.py"


def run(folder: Path, function: Any = train, **changes: Any) -> search.Found:
    return search.run(SPACE, function, folder=folder, **{"cost": cost, **CALL, **changes})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> search.Found:
    return run(tmp_path_factory.mktemp("runs") / "s")


def test_the_best_within_each_limit_is_found_within_the_budget(undisturbed: search.Found) -> None:
    assert undisturbed.finished
    assert list(undisturbed.best) == LIMITS
    for text, macs in zip(LIMITS, (4e8, 8e8), strict=True):
        best = undisturbed.best[text]
        assert best.costs["macs"] <= macs
        ideal = accuracy({"width": best_width(macs), "act": "gelu", "lr": 3.16e-3})
        assert ideal - 1.5 < best.value <= ideal + 0.02
        assert best.value == pytest.approx(
            sum(best.values) / len(best.values)
        )  # the mean over seeds
        assert best.params == {k: best.params[k] for k in ("width", "act", "lr")}
    trials = undisturbed.trials
    assert TRAININGS - 6 <= len(trials) <= TRAININGS
    assert [t.number for t in trials] == list(range(1, len(trials) + 1))
    # Of three values yielded, the last counts.
    assert all(t.value == accuracy(dict(t.params), t.seed) for t in trials)
    assert sum(t.kind == "random" for t in trials) <= TRAININGS / 4


def test_the_same_call_returns_the_results_of_a_finished_search_without_training(
    undisturbed: search.Found,
) -> None:
    def never(params: dict[str, Any], *, seed: int, fidelity: float) -> float:
        raise AssertionError("trained again")

    again = run(undisturbed.folder, never)
    assert again.best == undisturbed.best
    assert search.Found(str(undisturbed.folder)).best == undisturbed.best


@pytest.mark.parametrize("workers", [1, 2])
def test_a_lambda_gives_the_same_trials_here_and_in_forked_processes(
    undisturbed: search.Found, tmp_path: Path, workers: int
) -> None:
    pids = tmp_path / "pids"

    def note() -> int:
        with pids.open("a") as file:
            return file.write(f"{os.getpid()}\n")

    found = run(
        tmp_path / "s",
        lambda params, *, seed, fidelity: accuracy(params, seed) + 0 * note(),
        workers=workers,
    )
    assert summary(found) == summary(undisturbed)
    used = {int(line) for line in pids.read_text().split()}
    assert len(used) == workers
    assert (os.getpid() in used) == (workers == 1)


def test_importable_functions_run_in_new_interpreters(
    undisturbed: search.Found, tmp_path: Path
) -> None:
    found = run(tmp_path / "s", workers=2)
    assert summary(found) == summary(undisturbed)
    settings = json.loads((tmp_path / "s" / "search.json").read_text())
    assert settings["objective"]["train"] == "tests.search.toy_functions:train"
    owners = {path.name for path in (tmp_path / "s" / "workers").iterdir()}
    assert owners == {"0.log", "1.log"}


def test_a_forked_worker_uses_torch_after_this_process_used_its_threads(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        images, weights = torch.ones(8, 16, 32, 32), torch.ones(16, 16, 3, 3)
        torch.nn.functional.conv2d(images, weights)

        def trained(params: dict[str, Any], *, seed: int, fidelity: float) -> float:
            total = torch.nn.functional.conv2d(images, weights).sum().item()
            return accuracy(params, seed) + (0 if total > 0 else math.nan)

        assert run(tmp_path / "s", trained, workers=2, trainings=10).finished
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "workers"), [(signal.SIGKILL, 2), (signal.SIGINT, 2), (signal.SIGINT, 1)]
)
def test_a_stopped_program_resumes_with_the_same_trials(
    undisturbed: search.Found, tmp_path: Path, number: signal.Signals, workers: int
) -> None:
    folder = tmp_path / "s"
    program = [sys.executable, str(PROGRAM), str(folder), str(workers)]
    process = subprocess.Popen([*program, "0.3"], stderr=subprocess.PIPE, text=True)
    while not list(folder.glob("trials/*/1/epoch_1.json")):
        assert process.poll() is None
        time.sleep(0.05)
    pids = children(process.pid)
    assert len(pids) == (workers if workers > 1 else 0)
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode != 0
    if number == signal.SIGINT:
        assert "KeyboardInterrupt" in errors
        assert f"the same call resumes the search in {folder}" in errors
    for _ in range(100):  # workers end by themselves once their pipe does
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            break
        time.sleep(0.05)
    else:
        raise AssertionError(f"workers of a stopped program live: {pids}")
    done = len(search.Found(folder).trials)
    assert done < TRAININGS / 2
    assert not search.Found(folder).finished
    subprocess.run([*program, "0"], check=True, stdout=subprocess.DEVNULL)
    assert summary(search.Found(folder)) == summary(undisturbed)


def test_asking_and_telling_gives_the_trials_of_run_also_when_stopped_and_out_of_order(
    undisturbed: search.Found, tmp_path: Path
) -> None:
    told = 0
    for stop in (3, 7, 100):
        with search.Study(SPACE, folder=tmp_path / "s", cost=cost, **STUDY) as study:
            while told < stop and not study.finished:
                # The last one asked is told first; where this stops, some are never told.
                for trial in study.ask(3)[::-1][: stop - told]:
                    assert trial.fidelity == 1.0
                    study.tell(trial, accuracy(dict(trial.params), trial.seed))
                    told += 1
    assert study.found.finished
    assert summary(study.found) == summary(undisturbed)
    assert study.best == undisturbed.best
    assert told == len(undisturbed.trials)


def test_trials_of_rungs_are_the_same_in_one_process_in_several_and_asked_for(
    tmp_path: Path,
) -> None:
    call = {name: value for name, value in CALL.items() if name != "trainings"} | {"budget": 24}
    call["prior"] = {"lr": 1e-2}
    here, there = (
        search.run(
            SPACE, train, folder=tmp_path / f"{n}", cost=cost, workers=n, **call, rungs=[0.05, 0.1]
        )
        for n in (1, 2)
    )
    assert summary(there) == summary(here)
    assert there.best == here.best
    shares = [trial.fidelity for trial in here.trials]
    assert shares == sorted(shares)
    assert set(shares) == {0.05, 0.1, 1.0}
    assert 0.8 * 24 < sum(shares) <= 24
    # Values of rungs, here a share of the others, are nobody's best.
    assert all(t.value == accuracy(dict(t.params), t.seed) * t.fidelity for t in here.trials)
    assert all(best.value > 60 for best in here.best.values())
    del call["quiet"]
    told = 0
    for stop in (30, 41, 1000):
        with search.Study(
            SPACE, folder=tmp_path / "s", cost=cost, **call, rungs=[0.05, 0.1]
        ) as study:
            while told < stop and not study.finished:
                for trial in study.ask(9)[::-1][: stop - told]:
                    value = accuracy(dict(trial.params), trial.seed) * trial.fidelity
                    study.tell(trial, value)
                    told += 1
    assert summary(study.found) == summary(here)
    assert study.best == here.best


def test_a_time_is_kept_by_measuring_first_and_the_call_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Stop(Exception):  # noqa: N818  # no error
        pass

    done: list[search.Finished] = []

    def note(trial: search.Finished) -> None:
        done.append(trial)
        if len(done) == 20:
            raise Stop

    def slow(params: dict[str, Any], *, seed: int, fidelity: float) -> float:
        time.sleep(0.2 * fidelity)
        return accuracy(params, seed) * (1 if fidelity == 1 else 0.8)

    call = {name: value for name, value in CALL.items() if name != "trainings"}
    call |= {"folder": tmp_path / "s", "cost": cost, "time": "20s", "quiet": False}
    with pytest.raises(Stop):
        search.run(SPACE, slow, on_trial=note, **call)
    plan = json.loads((tmp_path / "s" / "budget.json").read_text())["plan"]
    found = search.run(SPACE, slow, **call)
    assert found.finished
    spent = json.loads((tmp_path / "s" / "budget.json").read_text())
    assert spent["plan"] == plan
    kinds = [trial.kind for trial in found.trials]
    # One of each length, one before them, and ten more of the rung, to see whether it shows any
    # differences.
    assert kinds.count("measure") == 13
    assert {trial.fidelity for trial in found.trials} == {1 / 32, 1.0}
    printed = capsys.readouterr().err
    assert "measuring how long trainings take: in full and 1/32 of it" in printed
    assert "plan for 20 s, of which trainings take " in printed
    with pytest.raises(ValueError, match="time was '20s', now '15s'"):
        search.run(SPACE, slow, **{**call, "time": "15s"})


def test_rounds_have_work_for_all_workers(tmp_path: Path) -> None:
    call = {**STUDY, "folder": tmp_path / "s", "cost": cost, "trainings": 32}
    with search.Study(SPACE, **call, workers=5) as study:
        sizes = []
        for _ in range(3):
            trials = study.ask(100)
            sizes.append(len(trials))
            for trial in trials:
                study.tell(trial, accuracy(dict(trial.params), trial.seed))
    assert sizes == [7, 5, 5]
    # The rounds are those of the first call, whoever goes on with it.
    with search.Study(SPACE, **call) as study:
        assert len(study.ask(100)) == 5


def test_a_study_plans_its_time_from_what_told_trainings_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(
        "fbnetv3.search.nars.run.Spending", functools.partial(Spending, clock=lambda: now)
    )
    monkeypatch.setattr(
        "fbnetv3.search.storage.store.time",
        SimpleNamespace(time=lambda: 0.0, monotonic=lambda: now),
    )
    call = {name: value for name, value in STUDY.items() if name != "trainings"}
    call |= {"folder": tmp_path / "s", "cost": cost, "time": "20m", "rungs": [0.1]}
    told = 0
    for stop in (10, 1000):
        with search.Study(SPACE, **call, workers=2) as study:
            while told < stop and not study.finished:
                trials = study.ask(5)
                assert 1 <= len(trials) <= 2
                # Two at a time, of 60 s each in full.
                now += 60 * trials[0].fidelity
                for trial in trials:
                    value = accuracy(dict(trial.params), trial.seed) * trial.fidelity
                    study.tell(trial, value)
                    told += 1
    assert study.found.finished
    spent = json.loads((tmp_path / "s" / "budget.json").read_text())
    assert dict(spent["seconds"]) == pytest.approx({0.1: 6.0, 1.0: 60.0})
    assert 0.85 * 1200 < now - 1000 <= 1.05 * 1200
    # Twice a warm-up, a rung and a full one, and eight more of the rung.
    assert [one.kind for one in study.trials][:15] == ["measure"] * 14 + ["random"]


def test_a_study_hands_out_a_round_then_waits_and_shows_the_best_so_far(tmp_path: Path) -> None:
    with search.Study(SPACE, folder=tmp_path / "s", cost=cost, **STUDY) as study:
        assert study.best == {}
        with pytest.raises(ValueError, match="num is 0; expected a whole number from 1"):
            study.ask(0)
        trials = study.ask(100)
        assert [t.number for t in trials] == [1, 2, 3, 4, 5]
        assert study.ask() == []
        for trial in trials:
            study.tell(trial.number, accuracy(dict(trial.params)))
        [following] = study.ask()
        assert following.number == 6
        inside = [t for t in trials if cost(dict(t.params))["macs"] <= 8e8]
        assert inside
        best = max(inside, key=lambda t: accuracy(dict(t.params)))
        assert study.best["macs<=8e8"].params == best.params
        with pytest.raises(StoreError, match="is in use by this process itself"):
            run(tmp_path / "s")
    with pytest.raises(ValueError, match="the study is closed"):
        study.ask()


def test_a_trial_is_told_once_and_in_percent_and_a_failed_one_is_replaced(tmp_path: Path) -> None:
    with search.Study(SPACE, folder=tmp_path / "s", cost=cost, **STUDY) as study:
        first, second, *others = study.ask(100)
        with pytest.raises(ValueError, match="trial 1 gave 120; expected an accuracy in percent"):
            study.tell(first, 120.0)
        study.tell(first, 80.0)
        with pytest.raises(ValueError, match="trial 1 is not open; expected one"):
            study.tell(first, 81.0)
        with pytest.raises(ValueError, match="trial 99 is not open"):
            study.tell(99, 81.0)
        with pytest.raises(ValueError, match=r"trial is {.*}; expected one that was asked for"):
            study.tell(second.params, 81.0)  # type: ignore[arg-type]
        study.fail(second, "the node died")
        [replacement] = study.ask(100)
        assert replacement.number > others[-1].number
        assert replacement.params != second.params
        study.tell(replacement, math.nan)
        values = [(t.number, t.value) for t in study.found.trials]
        assert values[0] == (1, 80.0)
        assert math.isnan(values[1][1])
    with search.Store.read(tmp_path / "s") as store:
        assert [t.reason for t in store.trials("failed")] == ["the node died"]


def test_callbacks_get_every_trial_and_round_once_also_over_a_stop(
    undisturbed: search.Found, tmp_path: Path
) -> None:
    trials: list[search.Finished] = []
    rounds: list[search.FinishedRound] = []

    def stop(trial: search.Finished) -> None:
        trials.append(trial)
        if len(trials) == 6:
            raise RuntimeError("enough for today")

    with pytest.raises(RuntimeError, match="enough for today"):
        run(tmp_path / "s", on_trial=stop, on_round=rounds.append)
    assert len(rounds) == 1
    found = run(tmp_path / "s", on_trial=trials.append, on_round=rounds.append)
    assert summary(found) == summary(undisturbed)
    assert trials == found.trials
    assert [one.index for one in rounds] == list(range(10))
    assert [one.trainings for one in rounds] == [5, 7, 9, 11, 13, 15, 17, 19, 21, 22]
    assert rounds[0].best == max(t.value for t in trials[:5])
    assert rounds[0].tau is None
    assert rounds[-1].tau is not None


def test_the_report_and_the_front_show_a_search_from_python(
    undisturbed: search.Found, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="it is a folder; give a file name in it"):
        undisturbed.report(tmp_path)
    text = undisturbed.report(tmp_path / "r.html").read_text()
    assert "Space mlp" in text
    assert "width=" in text
    figure = undisturbed.plot_front()
    figure.savefig(tmp_path / "front.png")
    [axes] = figure.axes
    assert axes.get_xlabel() == "macs"
    dots, front, *stars = axes.lines
    assert len(dots.get_xdata()) == len(undisturbed.trials)  # type: ignore[arg-type]
    best = max(t.value for t in undisturbed.trials)
    assert max(front.get_ydata()) == best  # type: ignore[arg-type,type-var]
    assert len(stars) == len(LIMITS)
    assert undisturbed.plot_front("params").axes[0].get_xlabel() == "params"
    with pytest.raises(ValueError, match="cost is 'flops'; the known costs are macs, params"):
        undisturbed.plot_front("flops")


@pytest.mark.needs("pandas")
def test_the_frame_has_every_trial_its_genes_and_its_costs(undisturbed: search.Found) -> None:
    frame = undisturbed.trials_dataframe()
    trials = undisturbed.trials
    assert list(frame["number"]) == [t.number for t in trials]
    assert list(frame["value"]) == [t.value for t in trials]
    assert list(frame["params_width"]) == [t.params["width"] for t in trials]
    assert list(frame["costs_macs"]) == [t.costs["macs"] for t in trials]
    assert set(frame["state"]) == {"done"}
    assert list(frame["kind"]) == [t.kind for t in trials]
    assert {"random", "bins"} <= set(frame["kind"])
    assert frame["predicted"].isna().sum() >= 4  # of the random round


def test_without_pandas_there_is_no_frame_but_words(
    undisturbed: search.Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"this needs pandas.*pip install pandas"):
        undisturbed.trials_dataframe()


def test_a_diverged_training_and_one_that_raises_do_not_end_a_search(tmp_path: Path) -> None:
    broken = (16, 32, 80, 112)

    def trained(params: dict[str, Any], *, seed: int, fidelity: float) -> Iterator[float]:
        if params["act"] == "relu" and params["width"] in broken:
            raise RuntimeError("out of memory")
        yield accuracy(params, seed)
        if params["lr"] > 0.05:
            yield math.nan
            raise AssertionError("asked for more after NaN")

    found = run(tmp_path / "s", trained)
    assert found.finished
    for one in found.trials:
        assert not (one.params["act"] == "relu" and one.params["width"] in broken)
        assert math.isnan(one.value) == (one.params["lr"] > 0.05)
    with search.Store.read(tmp_path / "s") as store:
        failed = store.trials("failed")
    assert failed
    assert {one.failures for one in failed} == {1}


def test_a_final_training_that_crashes_leaves_the_search_its_answer(tmp_path: Path) -> None:
    crashed: list[dict[str, Any]] = []

    def trained(params: dict[str, Any], *, seed: int, fidelity: float) -> float:
        # Only final trainings have another seed than the first one.
        if seed and not crashed:
            crashed.append(params)
        if seed and params == crashed[0]:
            raise RuntimeError("out of memory")
        return accuracy(params, seed)

    found = run(tmp_path / "s", trained, limits=LIMITS[:1], trainings=40)
    assert found.finished
    assert crashed
    assert all(dict(one.params) != crashed[0] for one in found.best.values() if one)


def counted(give: Callable[[], Any]) -> tuple[Any, list[int]]:
    """Returns a function to train with that gives one thing, and the list of its calls."""
    calls: list[int] = []

    def trained(params: dict[str, Any], *, seed: int, fidelity: float) -> Any:
        calls.append(seed)
        return give()

    return trained, calls


@pytest.mark.parametrize(
    ("give", "message"),
    [
        (lambda: iter(()), r"train\(\{.*\}\) yielded nothing; expected a number after every epoch"),
        (lambda: [], "yielded nothing"),
        (lambda: None, "returned nothing; expected a number, higher is better"),
        (lambda: "95 %", "gave '95 %'; expected a number"),
        (lambda: 9500.0, "gave 9500; expected an accuracy in percent, 0 to 100; .*target='raw'"),
        (lambda: -0.1, "gave -0.1; expected an accuracy in percent"),
    ],
)
def test_a_value_that_no_search_can_use_ends_it_at_once(
    tmp_path: Path, give: Callable[[], Any], message: str
) -> None:
    trained, calls = counted(give)
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "s", trained)
    assert len(calls) == 1


def test_a_forked_worker_reports_a_value_that_no_search_can_use(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gave 9500; expected an accuracy in percent"):
        run(tmp_path / "s", lambda params, *, seed, fidelity: 9500.0, workers=2)


def test_fractions_are_not_taken_for_percent_unless_they_are_said_to_be_raw(
    tmp_path: Path,
) -> None:
    def fraction(params: dict[str, Any], *, seed: int, fidelity: float) -> float:
        return accuracy(params, seed) / 100

    with pytest.raises(ValueError, match=r"labels are between 0 and 1.* in percent"):
        run(tmp_path / "s", fraction)
    assert len(search.Found(tmp_path / "s").trials) == 3
    found = run(tmp_path / "raw", fraction, target="raw")
    assert found.best["macs<=8e8"].value < 1


def test_told_fractions_are_refused_too(tmp_path: Path) -> None:
    with search.Study(SPACE, folder=tmp_path / "s", cost=cost, **STUDY) as study:
        told = 0

        def tell_all() -> None:
            nonlocal told
            while trials := study.ask(4):
                for trial in trials:
                    study.tell(trial, 0.8)
                    told += 1

        with pytest.raises(ValueError, match="labels are between 0 and 1"):
            tell_all()
        assert 3 <= told <= 4


@pytest.mark.parametrize(
    "value", [80, np.array([80.0]), torch.tensor([80.0], requires_grad=True), np.float32(80)]
)
@pytest.mark.filterwarnings("error")
def test_one_number_of_any_library_is_a_value(value: Any) -> None:
    objective = FunctionObjective(SPACE, lambda params, *, seed, fidelity: value)
    assert list(objective.evaluate([0, 0, 0], seed=0, epochs=1)) == [80.0]


def test_a_training_may_change_its_folder_and_exit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()

    def script(params: dict[str, Any], *, seed: int, fidelity: float) -> float:
        os.chdir(tmp_path / "elsewhere")
        if params["act"] == "relu":
            sys.exit("not today")
        return accuracy(params, seed)

    counts = {"trainings": np.int64(10), "seed": np.int64(0), "workers": np.int64(1)}
    found = run(Path("s"), script, **counts)
    assert found.finished
    assert found.folder == tmp_path / "s"
    assert {one.params["act"] for one in found.trials} == {"gelu"}
    with search.Store.read(tmp_path / "s") as store:
        assert {one.reason for one in store.trials("failed")} == {"SystemExit: not today"}


def test_a_search_stopped_while_it_was_made_is_resumed_by_the_same_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(folder: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(search.Store, "open", staticmethod(stop))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "s")
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["search.json"]
    assert run(tmp_path / "s", trainings=TRAININGS, predictor="gp").finished


def test_a_module_that_starts_a_search_when_a_worker_imports_it_is_told_how_not_to(
    tmp_path: Path,
) -> None:
    source = tmp_path / "unguarded.py"
    source.write_text(
        "from fbnetv3 import search\n"
        "space = search.Space('x', [search.Gene('width', tuple(range(40)))])\n"
        "def train(params, *, seed, fidelity): return params['width']\n"
        "search.run(space, train, folder='s', trainings=10)\n"
    )
    spec = {"kind": "function", "space": SPACE.to_dict(), "target": "raw", "cost": None}
    with pytest.raises(ValueError, match=r"unguarded.py starts a search .*__name__ == .__main__"):
        load_objective({**spec, "train": f"{source}:train"})


def test_a_cost_function_that_raises_says_for_which_candidate(tmp_path: Path) -> None:
    with pytest.raises(KeyError) as raised:
        run(tmp_path / "s", cost=lambda params: {"macs": params["depth"]})
    [note] = raised.value.__notes__
    assert note.startswith("in cost({'width': ")


def test_a_space_with_too_few_candidates_or_a_file_for_a_folder_is_refused(tmp_path: Path) -> None:
    few = search.Space("few", [search.Gene("width", (1, 2, 3, 4, 5))])
    call: dict[str, Any] = {"limits": (), "trainings": 24, "predictor": "gp", "quiet": True}
    with pytest.raises(ValueError, match=r"only 5 candidates; expected 8 or more .* each") as error:
        search.run(few, train, folder=tmp_path / "s", **call)
    assert error.value.__context__ is None
    with pytest.raises(ValueError, match=r"space is \['width'\]; expected a Space"):
        search.run(["width"], train, folder=tmp_path / "s", **call)  # type: ignore[arg-type]
    (tmp_path / "s").write_text("my thesis")
    with pytest.raises(ValueError, match="s is a file; expected a folder"):
        run(tmp_path / "s")
    assert (tmp_path / "s").read_text() == "my thesis"


def test_trainings_that_all_raise_end_the_search_with_the_first_reason(tmp_path: Path) -> None:
    def broken(params: dict[str, Any], *, seed: int, fidelity: float) -> float:
        return float(params["depth"])

    with pytest.raises(TrialError, match="KeyError: 'depth'"):
        run(tmp_path / "s", broken)


def needs_more(params: dict[str, Any], epochs: int, *, seed: int, fidelity: float) -> float:
    return 0.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"limits": ["macs<4e8"]}, "limit 'macs<4e8' is not understood; expected macs<=500e6"),
        ({"limits": "macs"}, "limit 'macs' is not understood"),
        ({"limits": [""]}, "expected texts such as 'macs<=4e8'"),
        ({"limits": ["macs<=4e8", "macs<=4e8"]}, "limits has one twice"),
        ({"limits": ["flops<=4e8"]}, "the known costs are macs, params"),
        ({"limits": ["macs<=1"]}, "no candidate has macs of 1 or less; the smallest is"),
        ({"limits": {"macs": 4e8}}, "expected texts such as 'macs<=4e8'"),
        ({"limits": [{"macs": 4e8}]}, "expected texts such as 'macs<=4e8'"),
        ({"limits": 4e8}, "limits is 400000000.0; expected texts such as"),
        ({"limits": ["macs<=4e8", "macs<=400e6"]}, "limits has one twice: 'macs<=400e6'"),
        ({"cost": None}, "the known costs are none; give a function that returns"),
        ({"trainings": 9}, "trainings is 9; expected 10 or more, to search within 2 limits"),
        ({"trainings": "24"}, "trainings is '24'; expected a whole number from 1"),
        ({"seed": 1.5}, "seed is 1.5; expected a whole number from 0"),
        ({"seed": 2**70}, "seed is 1180591620717411303424; expected at most 4294967295"),
        ({"pool": None}, "pool is None; expected a whole number from 2"),
        ({"workers": "2"}, "workers is '2'; expected a whole number from 1"),
        ({"trainings": None, "budget": 40, "rungs": 0.1}, "rungs is 0.1; expected shares"),
        ({"trainings": None, "budget": 40, "rungs": [math.nan]}, "rungs are nan; expected shares"),
        ({"trainings": None, "budget": math.inf}, "budget is inf; expected a number of full"),
        ({"target": "minimize"}, "to minimize, give raw and the negative value"),
        ({"function": asyncio.sleep}, "train is an async function; expected one that returns"),
        ({"workers": 0}, "workers is 0; expected a whole number from 1"),
        ({"predictor": "forest"}, "forest"),
        ({"target": "percent"}, "target is 'percent'; expected one of raw, log_error"),
        ({"function": lambda params: 1.0}, r"called as train\(params, seed=..., fidelity=...\)"),
        ({"trainings": None}, "nothing given; expected one of trainings, budget"),
        ({"budget": 40}, "trainings and budget given; expected one of"),
        ({"trainings": None, "budget": -1}, "budget is -1; expected a number of full trainings"),
        ({"trainings": None, "budget": 9}, "the budget is 9 full trainings; expected 11 or more"),
        (
            {"trainings": None, "time": "soon"},
            "time is 'soon'; expected a time above 0 such as 20m",
        ),
        ({"trainings": None, "budget": 40, "rungs": [0.5, 0.1]}, "rungs are 0.5, 0.1; expected"),
        ({"rungs": [0.1]}, "rungs given with trainings; expected budget"),
        ({"function": needs_more}, "missing a required argument: 'epochs'"),
        ({"function": "mine.py:train"}, "train is 'mine.py:train'; expected a function"),
        ({"cost": lambda: {}}, r"called as cost\(params\)"),
        ({"cost": lambda params: 4e8}, r"gave 400000000.0; expected name -> finite number"),
        ({"cost": lambda params: {"macs": math.nan}}, "expected name -> finite number"),
        (
            {"cost": lambda params: {params["act"]: 1.0}, "limits": ()},
            "expected the same names in the same order",
        ),
    ],
)
def test_a_wrong_argument_is_refused_before_there_is_a_folder(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "s", **changes)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainings": 20}, "trainings was 24, now 20; repeat its call to resume it, with a bu"),
        ({"seed": 1}, "seed was 0, now 1"),
        ({"limits": LIMITS[:1]}, "limits was"),
        ({"target": "raw"}, "target was 'log_error', now 'raw'"),
    ],
)
def test_another_search_in_the_folder_is_not_touched(
    undisturbed: search.Found, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(undisturbed.folder, **changes)


def test_a_folder_of_the_command_or_of_another_space_is_not_touched(
    undisturbed: search.Found, tmp_path: Path
) -> None:
    other = search.Space("other", [search.Gene.grid("width", 1, 64)])
    with pytest.raises(ValueError, match="has a search with another space; repeat its call"):
        search.run(other, train, folder=undisturbed.folder, **{**CALL, "limits": ()})
    search.Store.create(tmp_path / "s", {"space": SPACE.to_dict()}).close()
    with pytest.raises(ValueError, match="was not started from Python; resume it with fbnetv3-se"):
        run(tmp_path / "s")


def test_processes_are_not_forked_once_cuda_is_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(ValueError, match=r"has used CUDA.* move the functions to a module"):
        run(tmp_path / "s", lambda params, *, seed, fidelity: 50.0, workers=2)


def test_a_search_without_limits_and_costs_has_one_best(tmp_path: Path) -> None:
    found = run(tmp_path / "s", cost=None, limits=(), trainings=12)
    assert list(found.best) == [""]
    with pytest.raises(ValueError, match="the search has no costs; expected one that was started"):
        found.plot_front()


@pytest.mark.parametrize(("costs", "known"), [
    (None, "none"), (lambda params: {"flops": 1.0}, "flops"),
])  # fmt: skip
def test_a_search_that_is_resumed_without_its_costs_says_so(
    tmp_path: Path, costs: Any, known: str
) -> None:
    with search.Study(SPACE, folder=tmp_path / "s", cost=cost, **STUDY):
        pass
    message = rf"s has limits on 'macs', now the costs are {known}; give the cost function that"
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "s", cost=costs)


def test_the_exact_costs_of_a_space_of_networks_need_no_function(tmp_path: Path) -> None:
    space = search.cifar_joint()
    found = search.run(
        space,
        lambda params, *, seed, fidelity: 50 + params["mb3_channels"],
        folder=tmp_path / "s",
        limits=["macs<=3e6"],
        trainings=10,
        predictor="gp",
        pool=500,
        quiet=True,
    )
    best = found.best["macs<=3e6"]
    assert best.costs["macs_paper"] <= 3e6
    assert (tmp_path / "s" / "answers" / "0" / "architecture.json").is_file()


def test_a_search_shows_its_progress_unless_it_is_to_be_quiet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "a", trainings=10)
    assert capsys.readouterr() == ("", "")
    run(tmp_path / "b", trainings=10, quiet=False)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "stage 3: found the best candidates for each limit" in shown.err
    assert (
        "plan: 4 rounds of 2 in full, 8 in all; 2 to retrain the best (1 candidate per limit, "
        "1 seed each)" in shown.err
    )


def command(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(words))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def stopped(folder: Path, function: Any) -> None:
    """Leaves a search after its first trials."""

    def stop(trial: search.Finished) -> None:
        if trial.number == 2:
            raise RuntimeError

    with contextlib.suppress(RuntimeError):
        run(folder, function, on_trial=stop)


def test_the_commands_resume_importable_functions_and_report_any(
    undisturbed: search.Found, tmp_path: Path
) -> None:
    folder = tmp_path / "s"
    stopped(folder, train)
    code, text = command("status", str(folder))
    assert code == 0
    assert "stopped: 1 of 10 rounds, 2 done" in text
    assert command("report", str(folder), "--out", str(tmp_path / "r.html"))[0] == 0
    assert command("resume", str(folder))[0] == 0
    assert summary(search.Found(folder)) == summary(undisturbed)
    assert command("evolve", str(folder), "--limit", "macs<=2e8")[0] == 0


def test_the_commands_say_how_to_resume_functions_that_they_cannot_import(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    stopped(folder, lambda params, *, seed, fidelity: accuracy(params, seed))
    assert command("status", str(folder))[0] == 0
    assert command("report", str(folder))[0] == 0
    code, text = command("resume", str(folder))
    assert code != 0
    assert "continue it with the same call of search.run" in " ".join(text.split())
    assert (folder / "report.html").is_file()


def test_a_function_has_an_address_if_another_process_can_import_it() -> None:
    assert address(train) == "tests.search.toy_functions:train"
    assert address(lambda params: 0) == ""
    assert address(run) != ""
    assert address(search.Space.sample) == ""  # a method is not found by its name
    own = train

    def inner() -> None:
        own({}, seed=0, fidelity=1.0)

    assert address(inner) == ""


@pytest.mark.parametrize("num_limits", [1, 2, 5])
@pytest.mark.parametrize("trainings", [13, 16, 24, 48, 96, 240, 1000])
def test_a_budget_is_spent_mostly_on_rounds(trainings: int, num_limits: int) -> None:
    rounds, top, seeds = divide(trainings, num_limits)
    last = num_limits * top * seeds
    assert rounds + last == trainings
    assert last <= max(trainings / 10, num_limits)
    assert (top, seeds) == (5, 3) or num_limits * (top * seeds + 4) > trainings / 10
    # More seeds of a single candidate would decide nothing.
    assert top > 1 or seeds == 1


def test_a_budget_too_small_to_choose_is_refused() -> None:
    assert divide(9, 1) == (8, 1, 1)
    with pytest.raises(ValueError, match="trainings is 9; expected 10 or more"):
        divide(9, 2)


def test_names_of_optuna_lead_to_those_of_a_study(undisturbed: search.Found) -> None:
    asked = search.Asked(1, {"lr": 0.1}, 0)
    for owner, name, meant in (
        (undisturbed, "best_params", r"use best\[LIMIT\], with .params"),
        (undisturbed, "best_value", r"use best\[LIMIT\]"),
        (undisturbed, "optimize", r"use search.run\(space, train"),
        (undisturbed, "enqueue_trial", r"use prior="),
        (asked, "suggest_float", "use params, which has the value of each gene"),
    ):
        with pytest.raises(AttributeError, match=f"no attribute '{name}'; {meant}"):
            getattr(owner, name)
    with pytest.raises(AttributeError, match=r"no attribute 'params'; use best\['macs<=4e8'\].pa"):
        undisturbed.best.params  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(KeyError, match="no best for limit 'macs<=1'; the limits are 'macs<=4e8', "):
        undisturbed.best["macs<=1"]
    with pytest.raises(AttributeError, match=r"no attribute 'create_study'; use run\(space"):
        search.create_study  # noqa: B018
    with pytest.raises(TypeError, match="no argument 'n_trials'; use trainings=N"):
        search.run(SPACE, train, folder="s", n_trials=9)  # type: ignore[call-arg]
    with pytest.raises(AttributeError, match=r"'suggest_float'; use params\[GENE\]"):
        Params(lr=0.1).suggest_float("lr", 0, 1)
    with pytest.raises(AttributeError, match=r"^Found has no attribute 'foo'$"):
        undisturbed.foo  # noqa: B018  # it is the access that raises
    assert not hasattr(search.Study, "best_params")
    assert copy.copy(asked) == pickle.loads(pickle.dumps(asked)) == asked


def test_a_start_that_diverges_is_no_end_of_a_search(tmp_path: Path) -> None:
    seen: list[float] = []

    def diverges_at_first(params: dict[str, Any], *, seed: int, fidelity: float) -> float:
        seen.append(params["lr"])
        return math.nan if len(seen) <= 3 else accuracy(params)

    rounds: list[search.FinishedRound] = []
    call: dict[str, Any] = {"trainings": 12, "predictor": "gp", "quiet": True}
    found = search.run(
        SPACE, diverges_at_first, folder=tmp_path / "s", on_round=rounds.append, **call
    )
    assert math.isnan(rounds[0].best)
    assert found.best[""].value == max(one.value for one in found.trials if one.value > 0)

    def diverges(params: dict[str, Any], *, seed: int, fidelity: float) -> float:
        return math.nan

    for trainings, num in ((9, 8), (16, 11)):
        folder, call["trainings"] = tmp_path / str(trainings), trainings
        with pytest.raises(ValueError, match=f"all {num} labels are NaN"):
            search.run(SPACE, diverges, folder=folder, **call)


def test_a_space_smaller_than_the_budget_is_trained_whole_and_its_best_again(
    tmp_path: Path,
) -> None:
    space = search.Space("ten", [search.Gene("a", (1, 2)), search.Gene.grid("b", 1, 5)])

    def fails_at_3(params: dict[str, Any], *, seed: int, fidelity: float) -> float:
        if params["b"] == 3:
            raise RuntimeError("no memory")
        return float(50 + params["a"] * params["b"]) + 0.01 * seed

    found = search.run(
        space, fails_at_3, folder=tmp_path / "s", trainings=48, predictor="gp", quiet=True
    )
    rounds = [(one.params["a"], one.params["b"]) for one in found.trials if one.kind != "final"]
    assert sorted(rounds) == [(a, b) for a in (1, 2) for b in (1, 2, 4, 5)]
    assert found.best[""].params == {"a": 2, "b": 5}
    assert len(found.best[""].values) == 3
    assert divide(48, 1, candidates=10) == (10, 5, 3)


def test_a_loss_beyond_all_numbers_has_diverged(tmp_path: Path) -> None:
    def loss(params: dict[str, Any], *, seed: int, fidelity: float) -> float:
        return -1.7e308 if params["lr"] > 0.03 else accuracy(params) - 100

    found = search.run(
        SPACE, loss, folder=tmp_path, trainings=12, predictor="gp", target="raw", quiet=True
    )
    assert found.best[""].value > -20


def test_amounts_that_are_mistakes_are_refused(tmp_path: Path) -> None:
    for fields, message in (
        ({"trainings": 10**12}, "trainings is 1e.12; expected at most 1,000,000"),
        ({"budget": 1e300}, "1e.300 full trainings; expected at most 1,000,000"),
        ({"trainings": 12, "on_trial": 3}, "on_trial is 3; expected a function"),
        ({"trainings": 12, "prior": {"nope": 1}}, "^prior: unknown gene 'nope'"),
    ):
        call: dict[str, Any] = fields
        with pytest.raises(ValueError, match=message):
            search.run(SPACE, train, folder=tmp_path / "s", **call)
