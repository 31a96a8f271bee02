"""The real search's other arms: limits and budget hold, finished trainings are not run again."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fbnetv3.arch.counts import count
from fbnetv3.search.execution.objective import load_table
from tests.modules import benchmark


@pytest.fixture
def nars() -> ModuleType:
    """The script as a module."""
    return benchmark("studies.nars_cifar")


class Counted:
    """Stands for the training: an accuracy that falls with every gene's index, and a count."""

    def __init__(self) -> None:
        self.count = 0

    def evaluate(self, row: Sequence[int], *, seed: int, epochs: int) -> Iterator[float]:
        self.count += 1
        for epoch in range(epochs):
            yield 60 - 0.1 * sum(row) + 0.01 * seed + epoch


def trainings(nars: ModuleType, folder: Path) -> tuple[Counted, Any]:
    made = Counted()
    return made, nars.Recorded(nars.JOINT, folder / "lines.jsonl", "arm", lambda: made)


@pytest.mark.parametrize("name", ["random_arm", "evolution_arm"])
def test_arms_spend_the_budget_once_and_answer_within_limits(
    nars: ModuleType, name: str, tmp_path: Path
) -> None:
    arm = getattr(nars, name)
    made, first = trainings(nars, tmp_path)
    rows = arm(first, 0)
    assert made.count == len({nars.JOINT.digest(row) for row in rows}) == nars.BUDGET
    labels = [first.label(row) for row in rows]
    answers = nars.confirm(first, rows, labels)
    for limit, macs in nars.LIMITS.items():
        assert len(answers[limit]) == nars.TOP
        assert all(one["macs"] <= macs and len(one["labels"]) == 3 for one in answers[limit])
        means = [np.mean(one["labels"]) for one in answers[limit]]
        assert means == sorted(means, reverse=True)
    again, second = trainings(nars, tmp_path)
    assert np.array_equal(arm(second, 0), rows)
    assert nars.confirm(second, rows, labels) == answers
    assert again.count == 0


def test_a_network_with_the_hand_recipe_is_one_of_the_joint_space(
    nars: ModuleType, tmp_path: Path
) -> None:
    made = Counted()
    space = nars.arch_only()
    row = np.zeros(len(space.genes), np.int16)
    first = nars.Recorded(space, tmp_path / "lines.jsonl", "arch_only", lambda: made)
    label = first.label(row)
    other, joint = trainings(nars, tmp_path)
    same = nars.JOINT.from_values({**space.values(row), **nars.HAND_RECIPE})
    assert joint.label(same) == label
    assert (made.count, other.count) == (1, 0)


def test_a_training_is_kept_when_its_last_label_is_taken_and_no_more_is_asked(
    nars: ModuleType, tmp_path: Path
) -> None:
    # As the search's worker does.
    made, first = trainings(nars, tmp_path)
    row = nars.JOINT.sample(1, np.random.default_rng(0))[0].tolist()
    wanted = first.evaluate(row, seed=0, epochs=first.epochs)
    labels = [next(wanted) for _ in range(first.epochs)]
    wanted.close()
    _, second = trainings(nars, tmp_path)
    assert list(second.evaluate(row, seed=0, epochs=first.epochs)) == labels
    assert made.count == 1


def test_a_shortened_training_is_run_again_at_full_length(nars: ModuleType, tmp_path: Path) -> None:
    made, list_ = trainings(nars, tmp_path)
    row = nars.JOINT.sample(1, np.random.default_rng(0))[0]
    short = list(list_.evaluate(row.tolist(), seed=0, epochs=2))
    assert list(list_.evaluate(row.tolist(), seed=0, epochs=2)) == short
    assert made.count == 1
    list_.label(row)
    assert made.count == 2


def test_evolution_ends_above_luck(nars: ModuleType, tmp_path: Path) -> None:
    best = []
    for name, arm in (("random", nars.random_arm), ("evolution", nars.evolution_arm)):
        (tmp_path / name).mkdir()
        _, list_ = trainings(nars, tmp_path / name)
        best.append(max(list_.label(row) for row in arm(list_, 1)))
    assert best[1] > best[0]


@pytest.mark.parametrize("limit", ["s", "m", "l"])
def test_the_hand_reference_comes_near_its_limit(nars: ModuleType, limit: str) -> None:
    macs = count(nars.scaled_a(nars.LIMITS[limit]), 32, num_classes=10).macs_paper
    assert 0.9 * nars.LIMITS[limit] < macs <= nars.LIMITS[limit]


def test_spaces_without_recipe_or_network_hold_the_rest_of_the_joint_space(
    nars: ModuleType,
) -> None:
    arch = nars.arch_only()
    row = np.zeros(len(arch.genes), np.int16)
    assert arch.recipe(row) == nars.JOINT.layout.settings(nars.HAND_RECIPE)
    recipe = nars.recipe_only("m")
    assert len(arch.genes) + len(recipe.genes) == len(nars.JOINT.genes)


def test_all_trainings_become_a_table_that_loads(
    nars: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, list_ = trainings(nars, tmp_path)
    rows = nars.JOINT.sample(4, np.random.default_rng(0))
    for row in rows:
        list_.label(row)
    list_.label(rows[0], 1)
    monkeypatch.setattr(nars, "DATA", tmp_path / "data")
    monkeypatch.setattr(nars, "LINES", tmp_path / "lines.jsonl")
    nars.write_tables()
    data = tmp_path / "data"
    table = load_table(data / "nars_cifar_space.json", data / "nars_cifar.csv")
    assert table.labels.shape == (4, 2, nars.PROXY["epochs"])
    place = table.find(rows)
    assert (place >= 0).all()
    assert table.labels[place[0], 1, -1] == list_.label(rows[0], 1)
    assert np.isnan(table.labels[place[1], 1]).all()


def test_exchanged_recipes_leave_the_network_as_it_is(nars: ModuleType) -> None:
    exchange = benchmark("studies.nars_cifar_exchange")
    one, two = nars.JOINT.sample(2, np.random.default_rng(1))
    made = exchange.crossed(nars.JOINT.values(one), nars.JOINT.values(two))
    assert nars.JOINT.decode(made)[0] == nars.JOINT.decode(one)[0]
    assert nars.JOINT.recipe(made) == nars.JOINT.recipe(two) != nars.JOINT.recipe(one)
    labels = {(n, r): [60.0 + (n != r), 62.0 + (n != r)] for n in "sml" for r in "sml"}
    assert exchange.report(labels).count("62.00 (+1.00 +- 0.00)") == 6


def test_the_committed_tables_are_what_the_lines_make(
    nars: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed = nars.DATA
    monkeypatch.setattr(nars, "DATA", tmp_path)
    nars.write_tables()
    made = sorted(path.name for path in tmp_path.iterdir())
    assert made == sorted(
        path.name for path in committed.iterdir() if path.suffix in (".csv", ".json")
    )
    for name in made:
        assert (tmp_path / name).read_bytes() == (committed / name).read_bytes(), (
            f"{name}: run: python -m benchmarks.studies.nars_cifar table"
        )


def test_the_committed_table_gives_labels_and_costs_of_the_joint_space(nars: ModuleType) -> None:
    table = load_table(nars.DATA / "nars_cifar_space.json", nars.DATA / "nars_cifar.csv")
    assert table.epochs == nars.PROXY["epochs"]
    answer = json.loads((nars.RESULTS / "search.json").read_text())["arms"]["nars"]["answers"]["m"]
    row = np.array(answer[0]["genes"], np.int16)
    place = table.find(row[None])[0]
    assert table.labels[place, : nars.SEEDS, -1].tolist() == answer[0]["labels"]
    assert table.costs(row[None])["macs_paper"] == nars.macs_of(row[None]) == answer[0]["macs"]


def test_a_weight_decay_found_with_few_steps_is_scaled_down_for_many(nars: ModuleType) -> None:
    retrain = benchmark("studies.nars_cifar_retrain")
    fields = nars.JOINT.layout.settings(nars.HAND_RECIPE)
    same, scaled = (
        retrain.recipe_of(fields, 8, searched) for searched in (None, {**nars.PROXY, "epochs": 4})
    )
    # 4 epochs of 4,000 images, against 8 of 50,000.
    assert scaled.weight_decay == pytest.approx(same.weight_decay * 16 / 400)
    assert dataclasses.replace(scaled, weight_decay=same.weight_decay) == same


def test_effects_of_genes_are_found_where_they_are_and_not_where_they_are_not() -> None:
    genes = benchmark("studies.nars_cifar_genes")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(300):
        mixup = float(rng.choice([0, 0.2, 0.4]))
        values = {
            "optimizer": str(rng.choice(["sgd", "rmsprop"])),
            "lr": float(rng.choice([0.01, 0.1])),
            "weight_decay": float(rng.choice([1e-6, 1e-3])),
            "dropout": float(rng.choice([0, 0.3])),
            "drop_path": float(rng.choice([0, 0.2])),
            "mixup": mixup,
            "ema": bool(rng.integers(2)),
            "mb1_channels": int(rng.choice([8, 16])),
            "mb1_repeats": int(rng.choice([1, 2])),
        }
        label = 50 - 7.5 * mixup + 20 * (values["lr"] == 0.01) + rng.normal()
        rows.append({"values": values, "curve": [0.0, label], "digest": str(number)})
    found = genes.effects(rows)
    effect, half = found["mixup"]
    assert abs(effect + 3) < half < 0.6
    for name in ("weight_decay", "dropout", "drop_path", "ema"):
        effect, half = found[name]
        assert abs(effect) < 2 * half


def test_features_of_networks_are_those_of_their_blocks(nars: ModuleType) -> None:
    predictor = benchmark("studies.nars_cifar_networks")
    rows = nars.JOINT.sample(20, np.random.default_rng(0))
    found = predictor.known_features(rows)
    for number, row in enumerate(rows):
        arch = nars.JOINT.decode(row)[0]
        assert found["macs_paper"][number] == count(arch, num_classes=10).macs_paper
        assert found["depth"][number] == sum(one.repeats for one in arch.rows)
        stages = sum(found[f"macs_{one.name}"][number] for one in arch.rows)
        # The rest is stem, head and squeeze-and-excite.
        assert 0.5 < stages / found["macs_paper"][number] < 1
        # The last row's input has a step of 8 pixels: three strides of 2, the stem's included.
        last = arch.rows[-1]
        kernels = (last.kernel[0] - 1) * 8 + (last.repeats - 1) * (last.kernel[1] - 1) * 16
        assert found["receptive_field"][number] > kernels


def test_predictors_are_rated_on_networks_that_they_have_not_seen() -> None:
    predictor = benchmark("studies.nars_cifar_networks")
    rng = np.random.default_rng(0)
    rows = predictor.JOINT.sample(60, rng)
    noise = rng.normal(size=60)
    # Labels that are only noise cannot be ranked; labels that follow the widths can.
    blind = predictor.held_out(rows, 50 + noise, predictor.known_costs, 0)
    macs = np.log(predictor.known_costs(rows)["macs_paper"])
    macs = macs - macs.mean()
    seen = predictor.held_out(rows, 50 + 10 * macs + noise, predictor.known_costs, 0)
    assert abs(np.corrcoef(blind, noise)[0, 1]) < 0.4
    assert np.corrcoef(seen, macs)[0, 1] > 0.8
