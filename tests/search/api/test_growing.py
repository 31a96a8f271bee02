"""A search with a larger budget than it began with goes on from all that it has trained."""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fbnetv3 import search
from fbnetv3.search.cli.app import app
from fbnetv3.search.storage.store import Store
from tests.search.toy_functions import CALL, SPACE, STUDY, TRAININGS, accuracy, cost, summary

MORE = 36


class Counted:
    """The toy function; knows how often each candidate was trained with each seed."""

    def __init__(self, most: int = 1000) -> None:
        self.made: list[tuple[Any, ...]] = []
        self._most = most

    def __call__(self, params: dict[str, Any], *, seed: int, fidelity: float) -> float:
        if len(self.made) == self._most:
            raise KeyboardInterrupt
        self.made.append((*params.values(), seed, fidelity))
        return accuracy(params, seed) * (0.5 + 0.5 * fidelity)


def run(folder: Path, function: Counted, **changes: Any) -> search.Found:
    call = {"pool": 500, **CALL, **changes}
    if not {"budget", "time"}.isdisjoint(changes):
        del call["trainings"]
    return search.run(SPACE, function, folder=folder, cost=cost, **call)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that ended."""
    return run(tmp_path_factory.mktemp("runs") / "s", Counted()).folder


@pytest.fixture
def folder(begun: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(begun, tmp_path / "s"))


def test_a_finished_search_trains_only_what_is_new(folder: Path) -> None:
    before = search.Found(folder)
    former, best = summary(before), before.best
    function = Counted()
    found = run(folder, function, trainings=MORE)
    assert found.finished
    trials = found.trials
    assert len(former) < TRAININGS + 1
    assert [row[:4] for row in summary(found)[: len(former)]] == [row[:4] for row in former]
    assert len(function.made) == len(trials) - len(former)
    assert MORE - 6 <= len(trials) <= MORE
    assert len(set(function.made)) == len(function.made)
    kinds = [trial.kind for trial in trials]
    assert kinds.count("earlier") == sum(row[4] == "final" for row in former)
    for limit, one in best.items():
        assert found.best[limit].value >= one.value - 0.02  # of seeds, which differ by 0.01
    assert "retrained" in Path(found.report(folder.parent / "r.html")).read_text()
    again = Counted()
    assert summary(run(folder, again, trainings=MORE)) == summary(found)
    assert not again.made


def test_it_may_grow_again_and_be_rebuilt(folder: Path) -> None:
    run(folder, Counted(), trainings=MORE)
    found = run(folder, Counted(), trainings=50)
    assert 44 <= len(found.trials) <= 50
    known, best = summary(found), found.best
    (folder / "search.sqlite").unlink()
    assert CliRunner().invoke(app, ["rebuild", str(folder)]).exit_code == 0
    assert summary(search.Found(folder)) == known
    assert search.Found(folder).best == best


@pytest.mark.parametrize("stopped", [2, 20])
def test_a_search_that_was_stopped_grows_as_well(tmp_path: Path, stopped: int) -> None:
    first = Counted(stopped)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "s", first)
    second = Counted()
    found = run(tmp_path / "s", second, trainings=MORE)
    assert found.finished
    assert MORE - 6 <= len(found.trials) <= MORE
    assert len({*first.made, *second.made}) == len(first.made) + len(second.made)


def test_stopped_while_it_makes_its_new_trainings_it_ends_as_undisturbed(
    folder: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    whole = run(folder, Counted(), trainings=MORE)
    for most in (1, 4):
        with pytest.raises(KeyboardInterrupt):
            run(other, Counted(most), trainings=MORE)
    assert summary(run(other, Counted(), trainings=MORE)) == summary(whole)
    assert search.Found(other).best == whole.best


def test_asking_and_telling_grows_to_the_same_trials(folder: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    whole = run(folder, Counted(), trainings=MORE)
    with search.Study(
        SPACE, folder=other, cost=cost, **{**STUDY, "trainings": MORE, "pool": 500}
    ) as study:
        assert not study.finished
        while not study.finished:
            for trial in study.ask(4):
                study.tell(trial, accuracy(dict(trial.params), trial.seed))
        assert summary(study.found) == summary(whole)


def _stop() -> None:
    raise KeyboardInterrupt


def test_killed_while_it_grows_it_is_the_search_of_before(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = search.Found(folder).best
    with monkeypatch.context() as patch:
        patch.setattr(Store, "replace_settings", lambda *_: _stop())
        with pytest.raises(KeyboardInterrupt):
            run(folder, Counted(), trainings=MORE)
    function = Counted()
    assert run(folder, function).best == best
    assert not function.made
    assert len(run(folder, Counted(), trainings=MORE).trials) > TRAININGS


def test_a_budget_with_rungs_grows_in_full_trainings(tmp_path: Path) -> None:
    budget = {"budget": 20, "rungs": [0.05]}
    first, second = Counted(), Counted()
    num = len(run(tmp_path / "s", first, **budget).trials)
    found = run(tmp_path / "s", second, **{**budget, "budget": 30})
    assert found.finished
    assert all(made[-1] == 1 for made in second.made)
    spent = sum(made[-1] for made in (*first.made, *second.made))
    assert 24 <= spent <= 30
    assert num < len(found.trials)
    settings = (tmp_path / "s" / "search.json").read_bytes()
    with pytest.raises(ValueError, match="budget was 30, now inf; repeat its call"):
        run(tmp_path / "s", Counted(), **{**budget, "budget": math.inf})
    for amount in ("5", "30", "inf", "nan"):
        done = CliRunner().invoke(app, ["resume", str(tmp_path / "s"), "--cost", amount])
        assert done.exit_code == 2
        assert f"--cost is {amount}; expected a number above the 30 full trainings" in done.output
    assert (tmp_path / "s" / "search.json").read_bytes() == settings
    assert search.Found(tmp_path / "s").finished


def test_a_time_grows(tmp_path: Path) -> None:
    space = search.Space("large", [search.Gene(name, tuple(range(30))) for name in "abc"])
    left = [1000]

    def train(params: dict[str, Any], *, seed: int, fidelity: float) -> float:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        time.sleep(0.03 * fidelity)
        return float(sum(params.values()))

    call: dict[str, Any] = {"folder": tmp_path / "s", "target": "raw", "quiet": True, "pool": 2000}
    num = len(search.run(space, train, time=3, **call).trials)
    # Much longer, and stopped at its first new training: how many a second allows is no matter.
    left[0] = 1
    with pytest.raises(KeyboardInterrupt):
        search.run(space, train, time="60s", **call)
    settings, clock = (
        json.loads((tmp_path / "s" / name).read_text()) for name in ("search.json", "budget.json")
    )
    assert settings["plan"]["time_s"] == clock["plan"]["time_s"] == 60
    assert settings["call"]["time"] == "60s"
    found = search.Found(tmp_path / "s")
    assert not found.finished
    assert len(found.trials) == num + 1


def test_a_space_that_was_trained_whole_has_nothing_to_grow_by(tmp_path: Path) -> None:
    space = search.Space("s", [search.Gene("x", tuple(range(12)))])

    def train(params: dict[str, Any], *, seed: int, fidelity: float) -> float:
        return float(params["x"])

    call: dict[str, Any] = {"folder": tmp_path / "s", "target": "raw", "quiet": True}
    num = len(search.run(space, train, trainings=10, **call).trials)
    found = search.run(space, train, trainings=40, **call)
    assert {trial.params["x"] for trial in found.trials} == set(range(12))
    assert num < len(found.trials) <= 40
    assert found.best[""].params == {"x": 11}
    with pytest.raises(ValueError, match="trainings is 60, which leaves no further round"):
        search.run(space, train, trainings=60, **call)
    assert search.Found(tmp_path / "s").finished


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainings": 20}, "trainings was 24, now 20"),
        ({"trainings": MORE, "seed": 1}, "seed was 0, now 1"),
        ({"budget": 50}, "trainings was 24, now None"),
        ({"trainings": 2_000_000}, "at most 1,000,000"),
    ],
)
def test_what_it_cannot_grow_to_is_refused_and_changes_nothing(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    best = search.Found(folder).best
    settings = (folder / "search.json").read_bytes()
    with pytest.raises(ValueError, match=message):
        run(folder, Counted(), **changes)
    assert (folder / "search.json").read_bytes() == settings
    assert search.Found(folder).finished
    assert search.Found(folder).best == best


def test_the_command_grows_a_search_by_rounds(tmp_path: Path) -> None:
    lines = ["x,y,label", *(f"{x},{y},{50 + x - (y - 4) ** 2}" for x in range(9) for y in range(9))]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    (tmp_path / "space.json").write_text(
        search.Space("s", [search.Gene(n, tuple(range(9))) for n in "xy"]).to_json()
    )
    folder = str(tmp_path / "s")
    words = ["--space", str(tmp_path / "space.json"), "--table", str(tmp_path / "t.csv")]
    words += ["--batch", "8", "--rounds", "1", "--predictor", "gp", "--top", "2"]

    def invoke(*words: str) -> Any:
        return CliRunner().invoke(app, [*words])

    done = invoke("run", folder, *words)
    assert done.exit_code == 0, done.output
    num = len(search.Found(folder).trials)
    refused = invoke("resume", folder, "--cost", "50")
    assert refused.exit_code == 2
    assert "--cost given; the search" in refused.output
    assert "a number of trainings, which may grow" in refused.output
    both = invoke("resume", folder, "--cost", "50", "--trainings", "50")
    assert "--trainings and --cost given; expected one" in both.output
    done = invoke("resume", folder, "--trainings", "40")
    assert done.exit_code == 0, done.output
    trials = search.Found(folder).trials
    assert sum(trial.kind in ("random", "bins") for trial in trials) == 40
    assert len(trials) > num
    assert search.Found(folder).best[""].params == {"x": 8, "y": 4}
    assert {"earlier", "final"} <= {trial.kind for trial in trials}
