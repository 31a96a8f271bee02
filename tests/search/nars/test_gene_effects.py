"""What labels say about each recipe gene: effects with intervals, and what follows from them."""

from pathlib import Path

import numpy as np
import pytest

from fbnetv3.search.nars.gene_effects import gene_effects, unresolved
from fbnetv3.search.nars.held import held_genes
from fbnetv3.search.nars.prior import Prior
from fbnetv3.search.predictors.gp import GpPredictor
from fbnetv3.search.predictors.protocol import Prediction
from fbnetv3.search.predictors.quality import cross_validate
from fbnetv3.search.space.gene import Gene
from fbnetv3.search.space.space import Floats, Matrix, Space
from fbnetv3.search.storage.store import Store

SPACE = Space(
    "effects",
    [
        Gene.grid("width", 1, 16),
        Gene("kernel", (3, 5)),
        Gene.log("lr", 1e-4, 1e-1, recipe=True),
        Gene.grid("mixup", 0.0, 0.4, 0.1, recipe=True),
        Gene.grid("dropout", 0.0, 0.4, 0.1, recipe=True),
        Gene("optimizer", ("sgd", "rmsprop", "adamw"), group="recipe"),
    ],
)


def sample(
    num: int, seed: int, *, network: float = 0.5, recipe: float = 1.0
) -> tuple[Matrix, Floats]:
    """Returns candidates and labels: a peak over lr, harmful mixup, dropout without effect."""
    rng = np.random.default_rng(seed)
    rows = SPACE.sample(num, rng)
    own = -0.3 * (rows[:, 2] - 6) ** 2 - 0.75 * rows[:, 3] + 2.0 * (rows[:, 5] == 2)
    labels = 70 + network * rows[:, 0] + recipe * own + rng.normal(0, 1, num)
    return rows, np.asarray(labels)


def costs(rows: Matrix) -> dict[str, Floats]:
    return {"macs": np.asarray((1.0 + rows[:, 0]) ** 2, np.float64)}


def test_effects_have_their_size_and_what_has_none_is_not_resolved() -> None:
    rows, labels = sample(200, seed=0)
    found = gene_effects(SPACE, rows, labels, costs(rows))
    assert list(found) == ["lr", "mixup", "dropout", "optimizer"]
    truth = {"lr": 0.3 * 36, "mixup": 3.0, "optimizer": 2.0}
    for gene, effect in truth.items():
        assert found[gene]["resolved"]
        assert abs(found[gene]["effect"] - effect) < found[gene]["half"]
    assert not found["dropout"]["resolved"]
    # The best learning rate is in the middle of its range, where a straight line would be flat.
    assert found["lr"]["high"] == pytest.approx(SPACE.gene("lr").values[6], rel=1.0)
    assert (found["mixup"]["low"], found["mixup"]["high"]) == (0.4, 0.0)
    assert found["optimizer"]["high"] == "adamw"


def test_intervals_keep_their_level_although_the_contrast_is_chosen_by_the_labels() -> None:
    wrong = 0
    for seed in range(100):
        rows, labels = sample(60, seed, recipe=0.0)
        found = gene_effects(SPACE, rows, labels, costs(rows))
        wrong += sum(one["resolved"] for one in found.values())
    # 400 genes without an effect: 5 % of them are resolved at most, give or take.
    assert wrong <= 0.05 * 400 + 2 * np.sqrt(400 * 0.05 * 0.95)


def test_failed_trainings_do_not_hide_effects_and_few_labels_give_none() -> None:
    rows, labels = sample(200, seed=1)
    labels[::40] = 0.0
    assert gene_effects(SPACE, rows, labels, costs(rows))["mixup"]["resolved"]
    assert gene_effects(SPACE, rows[:8], labels[:8], costs(rows[:8])) == {}
    same = rows.copy()
    same[:, 3] = 0
    assert "mixup" not in gene_effects(SPACE, same, labels, costs(same))


def test_unresolved_genes_of_the_last_round_get_the_first_prior_that_has_them(
    tmp_path: Path,
) -> None:
    with Store.create(tmp_path / "s", {}) as store:
        assert unresolved(store) == []
        for index in (2, 10):
            effects = {"lr": {"resolved": True}, "dropout": {"resolved": index == 2}}
            store.set_stage(
                f"round_{index}", {"effects": {**effects, "mixup": {"resolved": False}}}
            )
        assert unresolved(store) == ["dropout", "mixup"]
    priors = (Prior("a", {"lr": 1e-2, "dropout": 0.1}), Prior("b", {"dropout": 0.2, "mixup": 0.3}))
    assert held_genes(priors, ["dropout", "mixup"]) == {"dropout": 0.1, "mixup": 0.3}


@pytest.mark.parametrize(("network", "recipe"), [(0.0, 1.0), (1.0, 0.0)])
def test_rank_of_each_part_shows_what_a_predictor_has_learned(
    network: float, recipe: float
) -> None:
    rows, labels = sample(60, seed=2, network=network, recipe=recipe)
    genes = np.array([gene.group == "recipe" for gene in SPACE.genes])
    found = cross_validate(
        GpPredictor(SPACE, target="raw"), rows, labels, parts={"network": ~genes, "recipe": genes}
    )
    learned, other = ("recipe", "network") if recipe else ("network", "recipe")
    assert found.tau > 0.5
    assert found.tau_alone[learned] > 0.5
    assert found.tau_alone[other] < 0.25


class OfATable(GpPredictor):
    """Knows the candidates of a table only, as a predictor on costs that were looked up does."""

    table: frozenset[bytes] = frozenset()

    def predict(self, rows: Matrix) -> Prediction:
        found = super().predict(rows)
        known = [row.tobytes() in self.table for row in np.asarray(rows, np.int64)]
        return Prediction(np.where(known, found.mean, np.nan), found.std)


@pytest.mark.filterwarnings("error")
def test_a_part_without_any_known_pair_has_no_rank() -> None:
    rows, labels = sample(20, seed=2)
    predictor = OfATable(SPACE, target="raw")
    predictor.table = frozenset(row.tobytes() for row in np.asarray(rows, np.int64))
    genes = np.array([gene.group == "recipe" for gene in SPACE.genes])
    found = cross_validate(predictor, rows, labels, parts={"network": ~genes, "recipe": genes})
    assert np.isfinite(found.tau)
    assert found.tau_alone == {"network": 0.0, "recipe": 0.0}
