"""`fbnetv3-search`: journeys, exit codes, one clear line for every mistake."""

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import fbnetv3
from fbnetv3.arch.arch import Arch
from fbnetv3.arch.tables import ARCHS
from fbnetv3.search.cli.app import app
from fbnetv3.search.cost.latency_table import LatencyTable
from fbnetv3.search.nars.limit import parse_limit
from fbnetv3.search.space.gene import Gene
from fbnetv3.search.space.layout import Layout
from fbnetv3.search.space.space import Space
from fbnetv3.search.storage.store import Store
from fbnetv3.search.training.recipe import Recipe
from tests.search.killable import SPACE, TOY

SMALL = ["--pool", "200", "--batch", "6", "--rounds", "1", "--predictor", "gp", "--top", "2",
         "--final-seeds", "2", "--epochs", "3"]  # fmt: skip
WEIGHTS = np.array((0.5, 1.0, 2.0, 0.25, 1.5, 3.0))


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def space_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("space") / "space.json"
    path.write_text(SPACE.to_json())
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, space_file: Path) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "s"
    done = call("run", folder, "--space", space_file, "--objective", TOY,
                "--limit", "macs<=130", *SMALL, "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    (answer,) = json.loads(done.stdout)
    assert answer["contenders"][0]["costs"]["macs"] <= 130
    return folder


def test_finished_search_has_answers_and_a_report(finished: Path) -> None:
    assert (finished / "answers" / "0" / "candidate.json").exists()
    assert "All trials" in (finished / "report.html").read_text()


def test_status_says_how_far(finished: Path) -> None:
    shown = call("status", finished)
    assert shown.exit_code == 0
    assert "finished: 2 of 2 rounds" in shown.stdout
    found = json.loads(call("status", finished, "--json").stdout)
    with Store.read(finished) as store:
        assert found["trials"] == store.counts()
    assert found["best"][0]["limit"] == "macs<=130"


def test_resume_of_a_finished_search_gives_the_same_answer(finished: Path) -> None:
    before = (finished / "answers" / "0" / "candidate.json").read_bytes()
    assert call("resume", finished).exit_code == 0
    assert (finished / "answers" / "0" / "candidate.json").read_bytes() == before


def test_predict_gives_labels_and_costs(finished: Path, tmp_path: Path) -> None:
    path = tmp_path / "candidates.csv"
    path.write_text("g0,g1,g2,g3,g4,g5\n0,0,0,0,0,0\n3,3,3,3,3,3\n")
    done = call("predict", finished, path, "--json")
    low, high = json.loads(done.stdout)
    assert high["label"] > low["label"]
    assert (low["costs"]["macs"], high["costs"]["macs"]) == (100, 163)


def test_evolve_answers_new_limits_and_says_what_is_out_of_reach(finished: Path) -> None:
    done = call("evolve", finished, "--limit", "macs<=110", "--limit", "macs<=5", "--json")
    near, far = json.loads(done.stdout)
    assert all(one["costs"]["macs"] <= 110 for one in near["candidates"])
    assert far["candidates"] == []
    assert far["nearest"] == {"macs": 100}


def test_export_and_rebuild(finished: Path, tmp_path: Path) -> None:
    done = call("export", finished, "--csv", tmp_path / "x.csv", "--out", tmp_path / "answers")
    assert done.exit_code == 0
    assert (tmp_path / "answers" / "0" / "recipe.json").exists() is False
    assert (tmp_path / "answers" / "0" / "candidate.json").exists()
    with (tmp_path / "x.csv").open() as file:
        expected = [*(f"g{n}" for n in range(6)), "epochs", "seed", "fidelity", "label"]
        assert next(csv.reader(file)) == expected
    # A copy, as the other tests expect the database that the search left.
    copy = shutil.copytree(finished, tmp_path / "s")
    rebuilt = call("rebuild", copy)
    with Store.read(copy) as store:
        assert f"{sum(store.counts().values())} trials" in rebuilt.stdout


def test_bench_reads_a_table(tmp_path: Path, space_file: Path) -> None:
    table = tmp_path / "table.csv"
    rows = SPACE.unique(SPACE.sample(300, np.random.default_rng(0)))
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(f"g{n}" for n in range(6)), "cost:macs_paper", "label:0", "label:1"])
        for row in rows.tolist():
            label = 60 + float(np.dot(row, WEIGHTS))
            writer.writerow([*row, 100 + sum(row), label, label + 0.1])
    done = call("bench", "--table", table, "--space", space_file, "--seeds", 1, "--batch", 8,
                "--rounds", 1, "--predictor", "gp", "--limit", "macs<=110", "--json")  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    assert [row["trials"] for row in found["limits"][0]["regret"]][:2] == [8, 16]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["status", "nowhere"], 2, "holds no search"),
        (["run", "new", "--space", "no_such", "--objective", TOY], 2, "unknown space 'no_such'"),
        (["run", "new", "--space", "x.json", "--objective", TOY], 2, "no space at x.json"),
        (["run", "new", "--space", "SPACE"], 2, "no objective given"),
        (["run", "new", "--space", "SPACE", "--objective", TOY, "--table", "t.csv"], 2,
         "--table and --objective given"),
        (["run", "new", "--space", "SPACE", "--table", "t.csv"], 2, "no file"),
        (["run", "new", "--space", "SPACE", "--objective", TOY, "--limit", "macs<10"], 2,
         "expected macs<=500e6"),
        (["run", "new", "--space", "SPACE", "--objective", TOY, "--limit", "macs<=10"], 2,
         "the smallest is 100"),
        (["run", "new", "--space", "SPACE", "--objective", TOY, "--within",
          "macs>=100,macs<=100"], 2, "only 1 candidate is feasible, fewer than a round"),
        (["run", "new", "--space", "SPACE", "--objective", TOY, "--set", "sleep"], 2,
         "expected field=value"),
        (["export", "FINISHED"], 2, "nothing to export"),
        (["evolve", "FINISHED", "--limit", "speed<=1"], 2, "the known costs are macs"),
        (["evolve", "FINISHED", "--show", "0"], 2, "--show is 0; expected 1 or more"),
        (["run", "new", "--space", "SPACE", "--objective", TOY, "--limit", "macs<=150",
          "--limit", "macs<=150.0"], 2, "limits has one twice: 'macs<=150.0'"),
        (["run", "new", "--space", "SPACE", "--objective", TOY, "--rung", "nan"], 2,
         "rungs are nan; expected shares"),
        (["run", "new", "--space", "SPACE", "--objective", TOY, "--cost", "nan"], 2,
         "cost is nan; expected a number above 0"),
        (["predict", "FINISHED", "no.csv"], 2, "no candidates at no.csv"),
        (["evolve", "FINISHED", "--latency", "no.json"], 2, "no latency table at no.json"),
        (["space", "nowhere"], 2, "unknown space 'nowhere'"),
        (["latency-table", "t.json", "--space", "SPACE"], 2, "describes no network"),
    ],
)  # fmt: skip
def test_mistakes_end_with_one_clear_line(
    words: list[str],
    code: int,
    message: str,
    finished: Path,
    space_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"SPACE": space_file, "FINISHED": finished}
    done = call(*[places.get(word, word) for word in words])
    assert done.exit_code == code, done.output
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.output


def test_a_cost_is_planned_said_and_kept_to(tmp_path: Path, space_file: Path) -> None:
    words = ("--space", space_file, "--objective", TOY, "--pool", 200, "--predictor", "gp")
    done = call("run", tmp_path / "s", *words, "--epochs", 4, "--cost", 16, "--rung", 0.1)
    assert done.exit_code == 0, done.output
    assert (
        "plan for 16 full trainings, 15.6 of them used: 16 trainings of 1/10 of the final steps; "
        "7 rounds of 2 in full, 13 in all; 1 to retrain the best" in done.stderr
    )
    assert "round 0 of 7 (rung of 1/10)" in done.stderr
    with Store.read(tmp_path / "s") as store:
        assert sum(trial.fidelity for trial in store.trials()) <= 16
        assert {trial.epochs for trial in store.trials("done") if trial.fidelity < 1} == {1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cost", "16", "--time", "1h"], "cost is 16 and time_s 3600; expected one of them"),
        (["--cost", "16", "--trainings", "9"], "--trainings given with --cost or --time"),
        (["--time", "soon"], "time is 'soon'; expected a time above 0 such as 20m, 1h30m"),
        (["--rung", "2"], "rungs are 2; expected shares of the final training"),
        (["--policy", "early_stop", "--rung", "0.1"], "policy is 'early_stop' with rungs"),
        (["--policy", "rungs", "--rung-trainings", "1"], "rung_sizes are 1; expected a number"),
        (["--cost", "5"], "the budget is 5 full trainings; expected 10 or more"),
    ],
)
def test_budgets_that_make_no_sense_end_with_one_line(
    tmp_path: Path, space_file: Path, options: list[str], message: str
) -> None:
    done = call("run", tmp_path / "s", "--space", space_file, "--objective", TOY, *options)
    assert (done.exit_code, message in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "s").exists()


def test_empty_space_and_damaged_files_are_said(tmp_path: Path) -> None:
    empty = tmp_path / "empty.json"
    fields = SPACE.to_dict()
    empty.write_text(json.dumps({**fields, "genes": []}))
    done = call("run", tmp_path / "s", "--space", empty, "--objective", TOY)
    assert (done.exit_code, "is empty" in done.stderr) == (2, True)
    empty.write_text("{")
    done = call("run", tmp_path / "s", "--space", empty, "--objective", TOY)
    assert (done.exit_code, "not valid JSON" in done.stderr) == (2, True)


def test_failed_work_has_another_exit_code_than_a_wrong_command(
    tmp_path: Path, space_file: Path
) -> None:
    done = call("run", tmp_path / "s", "--space", space_file, "--objective", TOY, *SMALL,
                "--set", 'trouble={"*": "raise"}', "--attempts", 1)  # fmt: skip
    assert done.exit_code == 1
    assert "no such device" in done.stderr
    done = call("run", tmp_path / "t", "--space", space_file, "--objective", TOY, *SMALL,
                "--set", 'trouble={"*": "nan"}')  # fmt: skip
    assert done.exit_code == 2
    assert "all 12 labels are NaN" in done.stderr


def test_running_search_is_not_run_twice(finished: Path) -> None:
    with Store.open(finished):
        done = call("resume", finished)
        assert call("status", finished).exit_code == 0
    assert done.exit_code == 1
    assert "is in use by this process itself" in done.stderr


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What `run` would create, in place of creating it."""
    found: list[dict[str, Any]] = []

    def create(folder: Path, **fields: Any) -> None:
        found.append(fields)
        raise ValueError("stopped before the search")

    monkeypatch.setattr("fbnetv3.search.nars.run.create_search", create)
    return found


def test_the_preset_sets_the_constants_of_the_text(seen: list[dict[str, Any]]) -> None:
    call("run", "s", "--space", "paper_joint", "--data", "imagenet", "--preset", "paper")
    plan = seen[0]["config"]
    assert (plan.pool, plan.batch, plan.rounds, plan.epochs) == (20_000, 48, 5, 150)
    assert (plan.threshold, plan.early_stop, plan.predictor, plan.bins) == (
        0.92, True, "mlp", "equal")  # fmt: skip
    evolution = plan.evolution
    assert (evolution.first_best, evolution.first_random) == (50, 50)
    assert (evolution.children, evolution.keep) == (24, 40)
    assert [limit["macs_paper"][1] for limit in plan.limits] == [4.5e8, 5.5e8, 6.5e8, 7.5e8]
    assert plan.within == {"macs_paper": (4e8, 8e8)}
    assert {"num_classes": 200, "num_val": 10_000, "epochs": 150}.items() <= (
        seen[0]["objective"].items()
    )


def test_options_replace_those_of_the_preset(seen: list[dict[str, Any]]) -> None:
    call("run", "s", "--space", "paper_joint", "--data", "imagenet", "--preset", "paper",
         "--threshold", 0.8, "--population", 60, "--children", 6, "--keep", 20, "--batch", 12,
         "--limit", "macs<=5e8", "--epochs", 3, "--set", "num_val=5")  # fmt: skip
    plan = seen[0]["config"]
    assert (plan.threshold, plan.batch, plan.epochs, plan.rounds) == (0.8, 12, 3, 5)
    assert (plan.evolution.first_best, plan.children, plan.keep) == (30, 6, 20)
    assert [limit["macs_paper"][1] for limit in plan.limits] == [5e8]
    assert (seen[0]["objective"]["num_val"], seen[0]["objective"]["epochs"]) == (5, 3)


def test_recipes_are_searched_for_a_network_by_name(seen: list[dict[str, Any]]) -> None:
    call("run", "s", "--space", "recipe_only", "--data", "d", "--model", "timm:resnet10t")
    assert seen[0]["objective"]["model"] == "timm:resnet10t"
    assert seen[0]["space"].layout.arch is None
    call("run", "s", "--space", "recipe_only", "--data", "d", "--model", "fbnetv3_nano")
    assert seen[1]["space"].layout.network({}) == ARCHS["fbnetv3_nano"]
    wrong = call("run", "s", "--space", "recipe_only", "--objective", TOY, "--model", "fbnetv3_a")
    assert "--model is fbnetv3_a without --data" in wrong.stderr


@pytest.mark.parametrize(
    ("text", "bounds"),
    [
        ("", {}),
        ("macs<=5e8", {"macs": (-np.inf, 5e8)}),
        ("macs>=4e8, macs<=6e8,params<=7e6", {"macs": (4e8, 6e8), "params": (-np.inf, 7e6)}),
        (" 4e8 <= macs <= 6e8,", {"macs": (4e8, 6e8)}),
        ("macs<=5e8,macs<=6e8,macs>=1e8,macs>=2e8", {"macs": (2e8, 5e8)}),
    ],
)
def test_limits_are_read(text: str, bounds: dict[str, Any]) -> None:
    assert parse_limit(text) == bounds


def test_short_names_of_costs_are_the_papers() -> None:
    assert parse_limit("macs<=1", {"macs": "macs_paper"}) == {"macs_paper": (-np.inf, 1.0)}


def test_space_shows_ranges_confidence_and_how_many() -> None:
    done = call("space", "paper_joint")
    assert "mb7_channels" in done.stdout
    assert "# low: the recalled range ends at 224" in done.stdout
    assert "1.88e+25 distinct candidates" in done.stdout
    assert json.loads(call("space", "cifar_joint", "--json").stdout)["name"] == "cifar_joint"


@pytest.fixture(scope="module")
def timed_space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A space of a handful of operators, and its latency table beside it."""
    arch = {**ARCHS["fbnetv3_nano"].to_dict(), "resolution": 32, "stem_channels": "$stem"}
    rows = [{**row, "repeats": 1} for row in arch["rows"][:2]]
    rows[1] = {**rows[1], "channels": "$width", "repeats": "$repeats"}
    space = Space(
        "handful",
        (Gene("stem", (8, 16)), Gene("width", (16, 24, 32)), Gene("repeats", (1, 2, 3))),
        Layout(arch={**arch, "rows": rows}),
    )
    path = tmp_path_factory.mktemp("timed") / "handful.json"
    path.write_text(space.to_json())
    made = call("latency-table", path.with_name("latency.json"), "--space", path, "--networks", 12,
                "--seconds", 0.003, "--num-classes", 10)  # fmt: skip
    assert made.exit_code == 0, made.output
    assert "held out" in made.stdout
    return path


@pytest.fixture(scope="module")
def size_objective(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("objective") / "size.py"
    path.write_text(
        "class Size:\n    num_classes = 10\n"
        "    def evaluate(self, genes, *, seed, epochs):\n"
        "        yield from [50 + sum(genes)] * epochs\n"
    )
    return f"{path}:Size"


FEW = ["--pool", "18", "--batch", "4", "--predictor", "gp", "--top", "1", "--final-seeds", "1"]


def test_latency_is_a_cost_that_limits_can_name(
    timed_space: Path, size_objective: str, tmp_path: Path
) -> None:
    path = timed_space.with_name("latency.json")
    table = LatencyTable.from_json(path.read_bytes())
    space = Space.from_json(timed_space.read_bytes())
    every = space.unique(space.sample(500, np.random.default_rng(0)))
    times = table.cost(space, num_classes=10)(every)
    middle = float(np.median(times))
    assert table.error_pct is not None
    limit = middle * (1 + table.error_pct / 100) * 1.0001
    done = call("run", tmp_path / "s", "--space", timed_space, "--objective", size_objective,
                "--rounds", 1, "--limit", f"latency_ms<={limit}", "--latency", path, *FEW,
                "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    costs = json.loads(done.stdout)[0]["contenders"][0]["costs"]
    assert times.min() <= costs["latency_ms"] <= middle * 1.001
    assert "models that were held out" in done.stderr
    assert "macs_paper" in costs


def test_latency_can_be_asked_for_afterwards(
    timed_space: Path, size_objective: str, tmp_path: Path
) -> None:
    search, path = tmp_path / "s", timed_space.with_name("latency.json")
    done = call("run", search, "--space", timed_space, "--objective", size_objective, "--rounds", 0,
                *FEW)  # fmt: skip
    assert done.exit_code == 0, done.output
    ask = ["evolve", search, "--limit", "latency_ms<=-1000", "--json"]
    asked = call(*ask, "--latency", path)
    assert json.loads(asked.stdout)[0]["nearest"]["latency_ms"] > -1000
    assert call(*ask).exit_code == 2


def test_an_objective_is_made_once_here_and_once_by_each_worker(
    timed_space: Path, tmp_path: Path
) -> None:
    made = tmp_path / "made.txt"
    file = tmp_path / "size.py"
    file.write_text(
        "import os\n"
        "class Size:\n    num_classes = 10\n"
        "    def evaluate(self, genes, *, seed, epochs):\n"
        "        yield from [50 + sum(genes)] * epochs\n"
        "def make():\n"
        f"    with open({str(made)!r}, 'a') as file:\n"
        "        print(os.getpid(), file=file)\n"
        "    return Size()\n"
    )
    done = call("run", tmp_path / "s", "--space", timed_space, "--objective", f"{file}:make",
                "--rounds", 0, "--workers", 1, *FEW)  # fmt: skip
    assert done.exit_code == 0, done.output
    processes = made.read_text().split()
    assert processes.count(str(os.getpid())) == 1
    assert len(processes) == 2


def test_objective_file_that_is_no_python_is_said(timed_space: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("class\n")
    done = call("run", tmp_path / "s", "--space", timed_space, "--objective", f"{broken}:Size")
    assert done.exit_code == 2
    assert "broken.py" in done.output


@pytest.mark.slow
def test_trained_search_hands_out_networks_that_load(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, level in (("bright", 150), ("dark", 20)):
        (tmp_path / "data" / "train" / name).mkdir(parents=True)
        for number in range(40):
            pixels = rng.integers(level, level + 80, size=(32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / "train" / name / f"{number}.png")
    done = call("run", tmp_path / "s", "--space", "cifar_joint", "--data", tmp_path / "data",
                "--set", "epochs=1", "--set", "num_train=48", "--set", "num_val=20",
                "--set", 'recipe={"batch_size":8}', "--set", "device=cpu", "--pool", 50,
                "--batch", 2, "--rounds", 0, "--predictor", "gp", "--top", 1, "--final-seeds", 2,
                "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    labels = json.loads(done.stdout)[0]["contenders"][0]["labels"]
    assert len(labels) == 2
    out = tmp_path / "out"
    assert call("export", tmp_path / "s", "--out", out).exit_code == 0
    model = fbnetv3.create(f"local-dir:{out / '0' / 'network'}")
    arch = Arch.from_json((out / "0" / "architecture.json").read_bytes())
    assert model.arch == arch
    assert model.num_classes == 2
    recipe = Recipe.from_json((out / "0" / "recipe.json").read_bytes())
    assert (recipe.epochs, recipe.batch_size) == (1, 8)
