"""A person's recipe as prior: how it is read, drawn around, and trained in every round."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from fbnetv3 import search
from fbnetv3.search.cli.app import app
from fbnetv3.search.nars.config import SearchConfig
from fbnetv3.search.nars.pool import pool_of
from fbnetv3.search.nars.prior import Prior, has, log_density, make_prior, pin, read_prior
from fbnetv3.search.nars.prior_pool import PriorPicks, share_of
from fbnetv3.search.nars.problem import Problem
from fbnetv3.search.space.gene import Gene
from fbnetv3.search.space.space import Matrix, Space
from fbnetv3.search.space.spaces import cifar_joint, recipe_only
from fbnetv3.search.storage.store import Store
from fbnetv3.search.training.presets import get_recipe
from tests.search.toy_functions import CALL, LIMITS, accuracy, cost

SPACE = Space(
    "priors",
    [
        Gene.grid("width", 4, 256, 4),
        Gene("act", ("relu", "gelu")),
        Gene.log("lr", 1e-4, 1e-1, recipe=True),
        Gene.grid("dropout", 0.0, 0.5, 0.05, recipe=True),
        Gene("ema", (True, False), group="recipe"),
    ],
)
# The best of 13 learning rates is 3.16e-3, and neither dropout nor EMA matters.
GOOD = {"lr": 3.16e-3, "dropout": 0.1, "ema": True}
BAD = {"lr": 1e-4, "dropout": 0.5, "ema": False}


def macs(rows: Matrix) -> dict[str, Any]:
    return {"macs": (4.0 * (rows[:, 0] + 1)) ** 2 * 1e5}


PROBLEM = Problem(SPACE, macs)


def noisy(params: dict[str, Any], *, seed: int, fidelity: float) -> float:
    """Trains: the toy accuracy with noise that repeats for the same parameters and seed."""
    text = json.dumps(params, sort_keys=True)
    noise = np.random.default_rng([seed, *text.encode()]).normal(0, 0.2)
    return float(accuracy(params) + noise)


def run(folder: Path, **changes: Any) -> search.Found:
    return search.run(SPACE, noisy, folder=folder, **{"cost": cost, **CALL, "pool": 600, **changes})


def recipe(trial: search.Finished | search.Best) -> dict[str, Any]:
    return {name: trial.params[name] for name in GOOD}


@pytest.mark.parametrize("preset", ["search", "cifar10"])
def test_a_preset_becomes_the_nearest_values_of_the_space(preset: str) -> None:
    space, whole = cifar_joint(), get_recipe(preset)
    found = read_prior(space, preset)
    assert found.prior.name == preset
    recipe_genes = {gene.name for gene in space.genes if gene.group == "recipe"}
    assert set(found.prior.values) == recipe_genes
    for name, value in found.prior.values.items():
        given = getattr(whole, name)
        others = space.gene(name).values
        if isinstance(given, float) and name != "weight_decay":
            assert abs(float(value) - given) <= min(abs(float(v) - given) for v in others) + 1e-3
        elif isinstance(given, str | bool):
            assert value == given
    # 7e-6 is nearer to 1e-5 by ratio, and by difference as well.
    assert found.prior.values["weight_decay"] == 1e-5
    assert "weight_decay 1e-05 for 7e-06" in str(found)
    assert "batch_size 128 (not 256)" in str(found)


def test_a_whole_recipe_and_some_genes_are_read_from_files(tmp_path: Path) -> None:
    whole, part = tmp_path / "mine.json", tmp_path / "part.json"
    whole.write_text(get_recipe("search").to_json())
    part.write_text(json.dumps({"lr": 0.02, "mixup": 0.2}))
    space = recipe_only()
    assert read_prior(space, str(whole)).prior.name == "mine"
    assert read_prior(space, str(whole)).prior.values["lr"] == 0.026
    assert read_prior(space, str(part)).prior == Prior("part", {"lr": 0.02, "mixup": 0.2})
    assert str(read_prior(space, str(part))) == ""


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lr": 5.0}, r"gene 'lr' cannot be 5.0; expected 0.0001 to 0.1"),
        ({"lr": "high"}, r"gene 'lr' cannot be 'high'; expected 0.0001 to 0.1"),
        ({"ema": 1}, r"gene 'ema' cannot be 1; expected one of True, False"),
        ({"rate": 0.1}, r"unknown gene 'rate'; expected some of lr, dropout, ema"),
        ({}, r"no gene of space 'priors'; expected some of lr, dropout, ema"),
        ([1], r"is \[1\]; expected an object of gene: value"),
        ({"schema": "other/1"}, r"schema is 'other/1'; expected 'fbnetv3-recipe/1'"),
    ],
)
def test_a_bad_prior_is_one_error_with_gene_value_and_what_is_allowed(
    fields: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        make_prior(SPACE, fields, name="mine")
    path, space = tmp_path / "mine.json", tmp_path / "space.json"
    path.write_text(json.dumps(fields))
    space.write_text(SPACE.to_json())
    table = tmp_path / "labels.csv"
    table.write_text("label\n1\n")
    arguments = ["run", str(tmp_path / "s"), "--space", str(space), "--table", str(table)]
    done = CliRunner().invoke(app, [*arguments, "--prior", str(path)])
    assert done.exit_code == 2
    assert not (tmp_path / "s").exists()


def test_a_prior_is_read_from_json_on_the_command_line() -> None:
    assert read_prior(SPACE, '{"dropout": 0.1}').prior == Prior("prior", {"dropout": 0.1})
    with pytest.raises(ValueError, match=r"gene 'lr' cannot be 5; expected 0.0001 to 0.1"):
        read_prior(SPACE, '{"lr": 5}')
    with pytest.raises(ValueError, match="the prior is not valid JSON"):
        read_prior(SPACE, "{lr}")


def test_a_name_that_is_neither_file_nor_preset_is_refused() -> None:
    with pytest.raises(ValueError, match=r"neither a file nor a preset; .* one of search"):
        read_prior(SPACE, "mine")
    with pytest.raises(FileNotFoundError, match="no prior at"):
        read_prior(SPACE, "mine.json")


def test_density_is_highest_at_the_prior_and_uniform_on_average() -> None:
    rows = SPACE.unique(SPACE.sample(20_000, np.random.default_rng(0)))
    prior = Prior("p", GOOD)
    ratio = log_density(SPACE, rows, prior)
    assert ratio.max() == ratio[has(SPACE, rows, prior)].min()
    # A likelihood ratio of two distributions has mean 1 under the one in the denominator.
    assert np.exp(ratio).mean() == pytest.approx(1, rel=0.05)


def test_pool_has_candidates_around_and_with_each_prior_within_the_limits() -> None:
    limits = ({"macs": (-np.inf, 4e8)}, {"macs": (6e8, 8e8)})
    plan = SearchConfig(
        pool=2000, limits=limits, trainings=24, priors=(Prior("a", GOOD), Prior("b", BAD))
    )
    pool = pool_of(PROBLEM, plan)
    plain = pool_of(PROBLEM, SearchConfig(**{**vars(plan), "priors": ()}))
    known = macs(pool)["macs"]
    assert ((known <= 4e8) | ((known >= 6e8) & (known <= 8e8))).all()
    assert len(SPACE.unique(pool)) == len(pool)
    for prior in plan.priors:
        exact = macs(pool[has(SPACE, pool, prior)])["macs"]
        assert (exact <= 4e8).any()
        assert (exact >= 6e8).any()
        near = [float((log_density(SPACE, rows, prior) > 0).mean()) for rows in (pool, plain)]
        assert near[0] > near[1]


def test_a_prior_that_no_candidate_within_the_limits_has_is_refused_before_the_start() -> None:
    plan = SearchConfig(
        pool=500, limits=({"macs": (-np.inf, 4e8)},), priors=(Prior("wide", {"width": 256}),)
    )
    with pytest.raises(ValueError, match=r"prior wide \(width=256\); .*widen the limits"):
        pool_of(PROBLEM, plan)


def test_share_around_priors_falls_with_labels_and_own_candidates_come_first() -> None:
    shares = [share_of(labels, 12) for labels in (0, 12, 36, 96)]
    assert shares == sorted(shares, reverse=True)
    assert shares[:2] == [0.5, 0.25]
    priors = (Prior("a", GOOD), Prior("b", BAD))
    pool = SPACE.unique(SPACE.sample(5000, np.random.default_rng(0)))
    picks = PriorPicks(SPACE, pool, priors)
    free = np.zeros(len(pool), np.bool_)
    for labels in (0, 12, 96):
        wishes = picks.wishes(1, 12, labels=labels, first=12, taken=free)
        for prior, wish in zip(priors, wishes[:2], strict=True):
            assert wish is not None
            assert (wish.mask == has(SPACE, pool, prior)).all()
        wished = sum(wish is not None for wish in wishes)
        assert len(wishes) == 12
        assert wished == max(2, round(12 * share_of(labels, 12)))
    # In small rounds priors take turns, with every fourth pick.
    for num, turns in ((1, (0, 4)), (2, (0, 2))):
        for prior, index in zip(priors, turns, strict=True):
            first, *_ = picks.wishes(index, num, labels=0, first=12, taken=free)
            assert first is not None
            assert (first.mask == has(SPACE, pool, prior)).all()
            rest = picks.wishes(index + 1, num, labels=1000, first=12, taken=free)
            assert rest == [None] * num
    assert PriorPicks(SPACE, pool, ()).wishes(1, 12, labels=0, first=12, taken=free) == []


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> search.Found:
    return run(tmp_path_factory.mktemp("priors") / "s", prior=GOOD, trainings=48)


def test_every_round_has_a_candidate_with_the_prior_and_the_last_stage_one_per_limit(
    found: search.Found,
) -> None:
    trials = found.trials
    assert len(trials) <= 48
    rounds = {trial.round for trial in trials if trial.kind in ("random", "bins")}
    # Rounds of two have one by turns.
    for index in list(rounds)[::2]:
        assert any(recipe(t) == GOOD for t in trials if t.round == index)
    with Store.read(found.folder) as store:
        answers = (store.stage("answers") or {})["answers"]
    for answer in answers:
        assert any(one["prior"] == "prior" for one in answer["contenders"])
    for text, most in zip(LIMITS, (4e8, 8e8), strict=True):
        own = [t for t in trials if recipe(t) == GOOD and t.costs["macs"] <= most]
        # It is a good network: the search's own winner is not far above it.
        assert max(t.value for t in own) > found.best[text].value - 1.5


def test_answers_and_report_say_whether_the_prior_won(found: search.Found) -> None:
    for best in found.best.values():
        assert best.prior == ("prior" if recipe(best) == GOOD else "")
    with Store.read(found.folder) as store:
        answers = (store.stage("answers") or {})["answers"]
    page = found.report().read_text()
    assert "best with the prior" in page
    assert "Effects of recipe genes" in page
    assert "Network alone" in page
    won = [one["contenders"][0]["prior"] for one in answers]
    assert page.count("searched</td>") == won.count("")
    assert page.count("prior prior</td>") == won.count("prior")


def test_the_same_call_resumes_and_another_prior_is_another_search(found: search.Found) -> None:
    def never(params: dict[str, Any], *, seed: int, fidelity: float) -> float:
        raise AssertionError("trained again")

    call: dict[str, Any] = {
        "cost": cost,
        **CALL,
        "pool": 600,
        "trainings": 48,
        "folder": found.folder,
    }
    assert search.run(SPACE, never, **call, prior=GOOD).best == found.best
    with pytest.raises(ValueError, match="other arguments: prior was"):
        search.run(SPACE, never, **call)
    with pytest.raises(ValueError, match="prior is 'search'; expected gene -> value"):
        search.run(SPACE, never, **call, prior="search")  # type: ignore[arg-type]  # a mistake
    with pytest.raises(ValueError, match=r"gene 'lr' cannot be 3; expected 0\.0001 to 0\.1"):
        search.run(SPACE, never, **call, prior={"lr": 3})


def test_a_search_with_a_prior_repeats_itself(found: search.Found, tmp_path: Path) -> None:
    moved = r"^prior: the nearest values of the space: lr 0\.00316\d* for 0\.003"
    with pytest.warns(UserWarning, match=moved) as said:
        again = run(tmp_path / "s", prior={**GOOD, "lr": 3e-3}, trainings=48)
    assert said[0].filename == __file__
    assert [t.params for t in found.trials] == [t.params for t in again.trials]
    plan = SearchConfig.from_dict(json.loads((tmp_path / "s/search.json").read_text())["plan"])
    assert plan.priors == (Prior("prior", GOOD),)
    assert SearchConfig.from_dict(plan.to_dict()) == plan


def test_a_failed_prior_candidate_is_replaced_by_another_network_with_the_prior(
    tmp_path: Path,
) -> None:
    tried: list[dict[str, Any]] = []

    def once(params: dict[str, Any], *, seed: int, fidelity: float) -> float:
        same = {name: params[name] for name in GOOD} == GOOD
        if same:
            tried.append(params)
            if len(tried) == 1:
                raise RuntimeError("a node died")
        return noisy(params, seed=seed, fidelity=fidelity)

    call: dict[str, Any] = {"cost": cost, **CALL, "pool": 600}
    found = search.run(SPACE, once, folder=tmp_path / "s", prior=GOOD, **call)
    first = [t for t in found.trials if t.round == 0]
    assert any(recipe(t) == GOOD for t in first)
    assert tried[0] not in [t.params for t in found.trials]


def test_pinned_candidates_are_canonical_and_keep_their_other_genes() -> None:
    rows = SPACE.sample(50, np.random.default_rng(1))
    pinned = pin(SPACE, rows, GOOD)
    assert has(SPACE, pinned, Prior("p", GOOD)).all()
    assert (pinned[:, :2] == rows[:, :2]).all()


def test_the_command_line_names_what_it_changes_and_keeps_the_prior(tmp_path: Path) -> None:
    space, table = tmp_path / "space.json", tmp_path / "labels.csv"
    small = Space("t", [Gene.grid("width", 1, 12), Gene.log("lr", 1e-3, 1e-1, 5, recipe=True)])
    space.write_text(small.to_json())
    lines = ["width,lr,label"]
    for width in range(1, 13):
        for lr in small.gene("lr").values:
            lines.append(f"{width},{lr},{50 + width - abs(np.log10(float(lr) / 1e-2))}")
    table.write_text("\n".join(lines) + "\n")
    prior = tmp_path / "mine.json"
    prior.write_text('{"lr": 0.011}')
    arguments = ["run", str(tmp_path / "s"), "--space", str(space), "--table", str(table)]
    options = ["--trainings", "16", "--predictor", "gp", "--top", "1", "--final-seeds", "1"]
    done = CliRunner().invoke(app, [*arguments, *options, "--prior", str(prior)])
    assert done.exit_code == 0, done.output
    assert "prior mine: the nearest values of the space: lr 0.01 for 0.011" in done.output
    assert "prior mine" in done.stdout.splitlines()[0]
