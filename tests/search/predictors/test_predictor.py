"""Predictors: one suite for all kinds, figures against scipy, the process against theory."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from scipy.optimize import approx_fprime
from scipy.stats import kendalltau, multivariate_normal, spearmanr

from fbnetv3.search.cost.cost import costs
from fbnetv3.search.predictors.auto import AutoPredictor
from fbnetv3.search.predictors.gp import GpModel, GpPredictor, NegativeLogPosterior, _kernel
from fbnetv3.search.predictors.mlp import MlpPredictor
from fbnetv3.search.predictors.protocol import Predictor, fit_to
from fbnetv3.search.predictors.quality import cross_validate, quality, spearman, tau
from fbnetv3.search.predictors.registry import (
    ALIASES,
    PREDICTORS,
    load_predictor,
    make_predictor,
    save_predictor,
)
from fbnetv3.search.predictors.targets import Scale, check_percent
from fbnetv3.search.space.gene import Gene
from fbnetv3.search.space.space import Floats, Matrix, Space
from fbnetv3.search.space.spaces import get_space
from tests.search.nearest import Nearest

KINDS = (*PREDICTORS, Nearest.kind)
SPACE = Space(
    name="toy",
    genes=(
        *(Gene(f"op{n}", ("a", "b", "c")) for n in range(4)),
        Gene.grid("width", 1, 8),
        Gene("lr", (0.1, 0.01, 0.001), kind="ordered", group="recipe"),
    ),
)


def accuracy(rows: Matrix) -> Floats:
    """Is between 60 and 95, with an interaction of architecture and recipe."""
    table = np.random.default_rng(0).normal(size=(4, 3))
    total = sum(table[n, rows[:, n]] for n in range(4)) + 0.2 * rows[:, 4]
    recipe = np.where(rows[:, 0] == 1, rows[:, 5], 2 - rows[:, 5])
    return np.asarray(95 - np.exp(1.5 - 0.4 * total - 0.5 * recipe))


def toy_costs(rows: Matrix) -> dict[str, Floats]:
    return {"macs": 1.0 + rows[:, :4].sum(1) * (1 + rows[:, 4]), "params": 2.0 + rows[:, 4]}


TRAIN = SPACE.unique(SPACE.sample(64, np.random.default_rng(1)))
TEST = SPACE.sample(300, np.random.default_rng(2))


@pytest.fixture(autouse=True)
def _one_more_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PREDICTORS, Nearest.kind, Nearest)


@pytest.mark.parametrize("kind", KINDS)
def test_order_of_unseen_candidates_is_learnt(kind: str) -> None:
    predictor = make_predictor(kind, SPACE, seed=0, costs=toy_costs)
    predictor.fit(TRAIN, accuracy(TRAIN))
    found = predictor.predict(TEST)
    assert tau(found.mean, accuracy(TEST)) > (0.4 if kind == Nearest.kind else 0.7)
    assert found.mean.shape == found.std.shape == (300,)
    assert (found.std >= 0).all()
    assert found.mean.max() < 100


@pytest.mark.parametrize("kind", KINDS)
def test_fit_repeats_with_a_seed_and_forgets_earlier_labels(kind: str) -> None:
    fresh, used = (make_predictor(kind, SPACE, seed=3) for _ in range(2))
    used.fit(TRAIN[:40], 60 + accuracy(TRAIN[:40]) / 10)
    for predictor in (fresh, used):
        predictor.fit(TRAIN[40:60], accuracy(TRAIN[40:60]))
    assert np.array_equal(fresh.predict(TEST).mean, used.predict(TEST).mean)


def test_a_fit_takes_one_thread_and_gives_back_what_there_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = set()
    loss = torch.nn.functional.huber_loss

    def watched(*args: Any, **kwargs: Any) -> torch.Tensor:
        seen.add(torch.get_num_threads())
        return loss(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "huber_loss", watched)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        make_predictor("mlp", SPACE, seed=0).fit(TRAIN, accuracy(TRAIN))
        assert (seen, torch.get_num_threads()) == ({1}, 2)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("kind", ["mlp", "mlp_ensemble"])
def test_seeds_differ(kind: str) -> None:
    found = []
    for seed in (0, 1):
        predictor = make_predictor(kind, SPACE, seed=seed)
        predictor.fit(TRAIN[:30], accuracy(TRAIN[:30]))
        found.append(predictor.predict(TEST).mean)
    assert not np.allclose(found[0], found[1])


@pytest.mark.parametrize("kind", KINDS)
def test_file_gives_the_same_predictions(kind: str, tmp_path: Path) -> None:
    predictor = make_predictor(kind, SPACE, seed=0, costs=toy_costs)
    taught = predictor.pretrain(TEST, toy_costs(TEST))
    assert predictor.pretrained == (taught is not None)
    predictor.fit(TRAIN, accuracy(TRAIN))
    path = tmp_path / "predictor.safetensors"
    save_predictor(predictor, path)
    again = load_predictor(path, costs=toy_costs)
    assert np.allclose(again.predict(TEST).mean, predictor.predict(TEST).mean, atol=1e-6)
    assert np.allclose(again.predict(TEST).std, predictor.predict(TEST).std, atol=1e-6)
    assert again.kind == predictor.chosen.kind
    assert again.pretrained == predictor.chosen.pretrained
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("kind", KINDS)
def test_what_pretraining_taught_is_stored_before_there_are_labels(
    kind: str, tmp_path: Path
) -> None:
    first, again = (make_predictor(kind, SPACE, seed=0, costs=toy_costs) for _ in range(2))
    if first.pretrain(TEST, toy_costs(TEST)) is None:
        assert not first.pretrained
        return
    path = tmp_path / "pretrained.safetensors"
    save_predictor(first, path)
    again.restore(*load_predictor(path).state())
    assert again.pretrained
    for predictor in (first, again):
        predictor.fit(TRAIN, accuracy(TRAIN))
    assert np.array_equal(first.predict(TEST).mean, again.predict(TEST).mean)


@pytest.mark.parametrize("kind", KINDS)
def test_impossible_labels_are_refused(kind: str) -> None:
    predictor = make_predictor(kind, SPACE, target="log_error")
    with pytest.raises(ValueError, match="no labels yet"):
        predictor.predict(TEST)
    for labels, message in (
        ([np.nan, 80.0], "1 labels are NaN"),
        ([80.0], "two or more"),
        *(() if kind == "mlp" else (([80.0, 101.0], "in percent"),)),
    ):
        with pytest.raises(ValueError, match=message):
            predictor.fit(TRAIN[: len(labels)], np.array(labels))
    with pytest.raises(ValueError, match="unknown predictor"):
        make_predictor("forest", SPACE)


def test_raw_target_takes_any_label() -> None:
    for kind in ("mlp_ensemble", "gp"):
        predictor = make_predictor(kind, SPACE, target="raw")
        predictor.fit(TRAIN, -accuracy(TRAIN) * 7)
        assert tau(predictor.predict(TEST).mean, -accuracy(TEST)) > 0.65


def test_scale_is_inverted() -> None:
    labels = np.array([50.0, 80, 90, 95])
    for target in ("raw", "log_error"):
        scale = Scale(target)
        standard = scale.learn(labels)
        assert standard.mean() == pytest.approx(0)
        assert standard.std() == pytest.approx(1)
        assert scale.invert(standard, np.zeros(4)).mean == pytest.approx(labels)


def test_encoder_learns_costs_of_the_paper_space() -> None:
    space = get_space("paper_joint")
    pool = space.pool(4000, seed=0)
    found = costs(space, pool)
    known = {"macs": found.macs_paper, "params": found.params}
    predictor = MlpPredictor(space, members=1, seed=0)
    pretraining = predictor.pretrain(pool, known)
    assert min(pretraining.r2.values()) > 0.97
    for name in known:
        truth = pretraining.truth[name]
        error = truth - pretraining.predicted[name]
        share = 1 - (error**2).sum() / ((truth - truth.mean()) ** 2).sum()
        assert pretraining.r2[name] == pytest.approx(share, abs=1e-3)
        assert len(error) == 800


def test_pretraining_helps_where_cost_tells_accuracy() -> None:
    pool = SPACE.unique(SPACE.sample(3000, np.random.default_rng(5)))
    label = 50 + 20 * np.log(toy_costs(pool)["macs"]) / np.log(80)
    taus = {True: [], False: []}  # type: dict[bool, list[float]]
    for seed in range(3):
        rows = np.random.default_rng(seed).permutation(len(pool))[:12]
        for pretrained, found in taus.items():
            predictor = MlpPredictor(SPACE, members=1, seed=seed)
            if pretrained:
                predictor.pretrain(pool, toy_costs(pool))
            predictor.fit(pool[rows], label[rows])
            found.append(tau(predictor.predict(pool).mean, label))
    assert np.mean(taus[True]) > np.mean(taus[False]) + 0.05


def test_auto_takes_the_kind_that_ranks_better() -> None:
    labels = accuracy(TRAIN)
    auto = AutoPredictor(SPACE, seed=0)
    auto.fit(TRAIN, labels)
    taus = {
        kind: cross_validate(make_predictor(kind, SPACE), TRAIN, labels).tau
        for kind in ("mlp_ensemble", "gp")
    }
    assert auto.kind == max(taus, key=lambda kind: taus[kind])


def test_figures_equal_scipy() -> None:
    rng = np.random.default_rng(0)
    for size in (2, 9, 200):
        a, b = rng.integers(0, 50, size), rng.normal(size=size)
        b = b + 0.05 * a
        if len(set(a.tolist())) > 1:
            assert tau(a, b) == pytest.approx(kendalltau(a, b)[0])
            assert spearman(a, b) == pytest.approx(spearmanr(a, b)[0])
    assert tau([1, 1, 1], [1, 2, 3]) == spearman([1, 1, 1], [1, 2, 3]) == 0
    found = quality(np.array([1.0, 2, 4, 3]), np.array([1.0, 2, 3, 4]))
    assert found.mse == 0.5
    assert found.tau == pytest.approx(2 / 3)
    assert found.tau_better_half == -1


def test_cross_validation_never_shows_a_label_that_it_asks_for() -> None:
    seen: list[set[int]] = []

    class Spy(GpPredictor):
        fit_held_out = Predictor.fit_held_out  # a GP's own fits another object

        def fit(self, rows: Matrix, labels: Floats) -> None:
            seen.append(set(labels.astype(int).tolist()))
            super().fit(rows, labels)

    found = cross_validate(Spy(SPACE, target="raw"), TRAIN[:50], np.arange(50.0))
    # Five folds, and all labels at last.
    assert [len(held) for held in seen] == [40] * 5 + [50]
    assert set.intersection(*seen) == set()
    assert len(found.predicted) == 50
    with pytest.raises(ValueError, match="at least 10"):
        cross_validate(GpPredictor(SPACE), TRAIN[:9], np.arange(9.0))


@pytest.mark.parametrize("rungs", [False, True])
def test_gp_posterior_narrows_as_if_picks_had_been_trained(rungs: bool) -> None:
    predictor = GpPredictor(SPACE, target="raw", costs=toy_costs)
    labels = np.random.default_rng(0).normal(size=30)
    shares = np.where(np.arange(30) < 20, 0.1, 1.0) if rungs else np.ones(30)
    fit_to(predictor, TRAIN[:30], labels, shares)
    posterior, model = predictor.posterior(TEST), predictor.model
    mean, std = model.predict(TEST)
    assert posterior.mean == pytest.approx(mean)
    assert posterior.std == pytest.approx(std, abs=1e-6)
    assert predictor.predict(TEST).mean.argmax() == mean.argmax()
    longest = shares == 1
    own = (labels[longest] - labels[longest].mean()) / labels[longest].std()
    scaled = posterior.scaled(labels[longest])
    assert np.argsort(scaled).tolist() == np.argsort(own).tolist()
    assert (scaled.mean(), scaled.std()) == pytest.approx((0, 1))

    for pick in (3, 8):
        posterior.add(pick)
    # The textbook's posterior with two rows more, for the same hyperparameters.
    length = np.zeros(32) if model.length is None else np.append(model.length, [0.0, 0.0])
    rows = np.concatenate([model.rows, TEST[[3, 8]]])
    base = model.inputs.gaps(rows, rows, model.rows)
    cross = model.inputs.gaps(TEST, rows, model.rows)
    if rungs:
        base = np.concatenate([base, (length[:, None] - length)[None] ** 2])
        cross = np.concatenate([cross, np.broadcast_to(length**2, cross.shape[1:])[None]])
    factor, noise = np.ones(32), np.full(32, np.exp(model.theta[-1]))
    if rungs:
        factor[length < 0], noise[length < 0] = np.exp(model.shorter)
    noisy = factor[:, None] * _kernel(base, model.theta) * factor + np.diag(noise + 1e-8)
    found = _kernel(cross, model.theta) * factor
    prior = np.exp(model.theta[-3]) + np.exp(model.theta[-2])
    variance = prior - np.einsum("pn,np->p", found, np.linalg.solve(noisy, found.T))
    assert posterior.std**2 == pytest.approx(variance, abs=1e-6)
    assert posterior.mean == pytest.approx(mean)


def test_gp_posterior_equals_the_textbook_and_its_gradient_finite_differences() -> None:
    model = GpModel(SPACE, toy_costs)
    rows, y = TRAIN[:30], np.random.default_rng(0).normal(size=30)
    model.fit(rows, y)
    kernel = _kernel(model.inputs.gaps(rows, rows, rows), model.theta)
    cross = _kernel(model.inputs.gaps(TEST, rows, rows), model.theta)
    noisy = kernel + (np.exp(model.theta[-1]) + 1e-8) * np.eye(30)
    mean, std = model.predict(TEST)
    assert mean == pytest.approx(cross @ np.linalg.solve(noisy, y), abs=1e-8)
    prior = np.exp(model.theta[-3]) + np.exp(model.theta[-2])
    variance = prior - np.einsum("pn,np->p", cross, np.linalg.solve(noisy, cross.T))
    assert std**2 == pytest.approx(variance, abs=1e-8)
    assert np.linalg.eigvalsh(kernel).min() > -1e-9

    point = np.random.default_rng(1).normal(size=len(model.theta)) * 0.3 - 1
    loss = NegativeLogPosterior(model.inputs.gaps(rows, rows, rows), y, np.zeros_like(point))
    slope = approx_fprime(point, lambda t: loss(t)[0], 1e-6)
    assert loss(point)[1] == pytest.approx(slope, abs=1e-3)
    noisy = _kernel(model.inputs.gaps(rows, rows, rows), point) + np.exp(point[-1]) * np.eye(30)
    normal = multivariate_normal(np.zeros(30), noisy + 1e-8 * np.eye(30)).logpdf(y)
    constant = 15 * np.log(2 * np.pi) - 0.5 * (point**2).sum() / 1.5**2
    assert loss(point)[0] == pytest.approx(-normal - constant)


def test_the_gradient_of_the_hyperparameters_of_short_trainings_is_right() -> None:
    inputs = GpModel(SPACE, toy_costs).inputs
    y, length = np.random.default_rng(0).normal(size=30), np.repeat([-1.0, -0.5, 0.0], 10)
    gaps = inputs.gaps(TRAIN[:30], TRAIN[:30], TRAIN[:30])
    gaps = np.concatenate([gaps, (length[:, None] - length)[None] ** 2])
    point = np.random.default_rng(1).normal(size=len(gaps) + 5) * 0.3 - 1
    loss = NegativeLogPosterior(gaps, y, np.zeros_like(point), length)
    slope = approx_fprime(point, lambda t: loss(t)[0], 1e-6)
    assert loss(point)[1] == pytest.approx(slope, abs=1e-3)
    factor, noise = np.ones(30), np.full(30, np.exp(point[-3]))
    factor[:20], noise[:20] = np.exp(point[-2:])
    kernel = factor[:, None] * _kernel(gaps, point[:-2]) * factor + np.diag(noise + 1e-8)
    constant = 15 * np.log(2 * np.pi) - 0.5 * (point**2).sum() / 1.5**2
    normal = multivariate_normal(np.zeros(30), kernel).logpdf(y)
    assert loss(point)[0] == pytest.approx(-normal - constant)


# A recipe whose best rate depends on the optimizer, and thirty genes that hardly matter.
WIDE = Space(
    "wide",
    (
        Gene("lr", tuple(range(16)), kind="ordered"),
        Gene("optimizer", ("sgd", "adam", "rmsprop")),
        *(Gene(f"op{n}", ("a", "b", "c")) for n in range(30)),
    ),
)


def wide_label(rows: Matrix) -> Floats:
    best = np.array([3, 8, 12])[rows[:, 1]]
    weights = np.random.default_rng(0).normal(size=30) * 0.1
    return np.asarray(-(np.minimum(np.abs(rows[:, 0] - best), 4) ** 2) / 3 + rows[:, 2:] @ weights)


def test_gp_finds_the_two_genes_of_many_that_matter_together() -> None:
    rng = np.random.default_rng(0)
    rows, held = WIDE.sample(60, rng), WIDE.sample(300, np.random.default_rng(9))
    predictor = GpPredictor(WIDE, target="raw")
    predictor.fit(rows, wide_label(rows) + 0.3 * rng.normal(size=60))
    # From the prior alone it was 0.05.
    assert tau(predictor.predict(held).mean, wide_label(held)) > 0.5


def test_trainings_too_short_to_learn_anything_do_not_drown_the_full_ones() -> None:
    rng = np.random.default_rng(0)
    rows, held = WIDE.sample(200, rng), WIDE.sample(300, np.random.default_rng(9))
    shares = np.where(np.arange(200) < 140, 1 / 32, 1.0)
    labels = np.where(shares < 1, 10 + rng.normal(size=200), 60 + wide_label(rows))
    predictor = GpPredictor(WIDE, target="raw")
    predictor.fit_rungs(rows, labels, shares)
    # With one factor and one noise for all it was 0.0.
    assert tau(predictor.predict(held).mean, wide_label(held)) > 0.5


@pytest.mark.parametrize("kind", ["choice", "ordered"])
@pytest.mark.parametrize("num", [2, 4, 5, 9])
def test_gp_learns_a_gene_with_any_number_of_values(kind: Any, num: int) -> None:
    space = Space("one", (Gene("op", tuple(range(num)), kind=kind), Gene.grid("width", 1, 3)))
    rows = space.unique(space.sample(200, np.random.default_rng(0)))
    labels = np.random.default_rng(1).permutation(num)[rows[:, 0]].astype(float)
    predictor = GpPredictor(space, target="raw")
    predictor.fit(rows, labels)
    assert np.rint(predictor.predict(rows).mean).tolist() == labels.tolist()


def test_a_gp_of_other_inputs_is_refused() -> None:
    predictor = GpPredictor(SPACE, target="raw", costs=toy_costs)
    predictor.fit(TRAIN, accuracy(TRAIN))
    with pytest.raises(ValueError, match="has 9 inputs; expected 7"):
        GpPredictor(SPACE, target="raw").restore(*predictor.state())


@pytest.mark.parametrize("kind", ["gp", "mlp_ensemble", "nearest"])
@pytest.mark.parametrize("rungs", [False, True])
def test_held_out_predictions_are_those_of_fits_without_them(kind: str, rungs: bool) -> None:
    labels, fold = accuracy(TRAIN), np.arange(len(TRAIN)) % 6 - 1
    shares = np.where(rungs & (fold < 0), 0.25, 1.0)
    predictor = make_predictor(kind, SPACE, costs=toy_costs)
    found = predictor.fit_held_out(TRAIN, labels, shares, fold)
    assert np.array_equal(np.isnan(found), fold < 0)
    least = 0.05 if kind == Nearest.kind else 0.4
    assert tau(found[fold >= 0], labels[fold >= 0]) > least
    # The labels that are held out do not matter to their own predictions.
    other = np.where(fold == 2, labels.min(), labels)
    again = make_predictor(kind, SPACE, costs=toy_costs)
    same = again.fit_held_out(TRAIN, other, shares, fold)[fold == 2]
    assert same == pytest.approx(found[fold == 2], abs=0.5 if kind == "gp" else 1e-3)
    # All labels are fitted at last.
    whole = make_predictor(kind, SPACE, costs=toy_costs)
    whole.fit_rungs(TRAIN, labels, shares) if rungs else whole.fit(TRAIN, labels)
    assert tau(predictor.predict(TEST).mean, whole.predict(TEST).mean) > 0.7


def test_members_of_an_ensemble_are_trained_as_if_alone() -> None:
    ensemble = MlpPredictor(SPACE, members=5, seed=0)
    ensemble.fit(TRAIN, accuracy(TRAIN))
    members = ensemble.model.predict(TEST)
    assert members.shape == (5, 300)
    truth = accuracy(TEST)
    assert min(tau(member, truth) for member in members) > 0.6
    assert len({round(float(member[0]), 6) for member in members}) == 5


def test_broken_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no predictor"):
        load_predictor(tmp_path / "absent")
    path = tmp_path / "broken"
    path.write_bytes(json.dumps({"a": 1}).encode() * 4)
    with pytest.raises(ValueError, match="not a safetensors"):
        load_predictor(path)


@pytest.mark.parametrize("name", ["paper", "nars", "gp"])
def test_names_and_files_of_the_first_version_are_read(name: str, tmp_path: Path) -> None:
    predictor = make_predictor(name, SPACE, target="raw", costs=toy_costs)
    assert predictor.kind == ALIASES.get(name, name)
    predictor.fit(TRAIN, accuracy(TRAIN))
    arrays, settings = predictor.state()
    if "lower" in arrays:
        arrays["inverse"] = np.linalg.inv(arrays.pop("lower"))
    about = {
        "schema": "fbnetv3-predictor/1",
        "kind": name,
        "scale": json.dumps(settings.pop("scale")),
        "settings": json.dumps(settings),
        "space": SPACE.to_json(),
    }
    path = tmp_path / "old.safetensors"
    save_file({key: np.ascontiguousarray(value) for key, value in arrays.items()}, path, about)
    again = load_predictor(path, costs=toy_costs)
    assert again.kind == predictor.kind
    assert np.array_equal(again.predict(TEST).mean, predictor.predict(TEST).mean)
    assert again.predict(TEST).std == pytest.approx(predictor.predict(TEST).std)


def test_a_predictor_that_lacks_a_method_cannot_be_made() -> None:
    class Half(Predictor):
        kind = "half"

        def fit(self, rows: Matrix, labels: Floats) -> None: ...

    with pytest.raises(TypeError, match="predict"):
        Half()  # type: ignore[abstract]  # what the test is about


@pytest.mark.parametrize("kind", ["mlp_ensemble", "gp", "auto"])
def test_fractions_in_place_of_percent_are_refused_with_the_fix(kind: str) -> None:
    rows = SPACE.unique(SPACE.sample(40, np.random.default_rng(0)))[:12]
    with pytest.raises(ValueError, match=r"labels are between 0 and 1.*multiply them by 100"):
        make_predictor(kind, SPACE).fit(rows, accuracy(rows) / 100)


def test_bad_percents_and_raw_labels_are_no_fractions() -> None:
    check_percent(np.array([0.5, 0.7, 3.0]), "log_error")
    check_percent(np.array([0.5, np.nan, 0.7]), "log_error")
    check_percent(np.zeros(9), "log_error")
    check_percent(np.array([0.5, 0.6, 0.7]), "raw")


@pytest.mark.parametrize("kind", ["gp", "mlp_ensemble", "auto"])
def test_short_trainings_help_to_rank_long_ones(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    rows = SPACE.unique(SPACE.sample(300, rng))[:94]
    shares = np.where(np.arange(94) < 80, 1 / 32, 1.0)
    long = accuracy(rows)
    # Short trainings are worse, and rank alike but for one gene.
    labels = np.where(shares < 1, 0.7 * long - 2.0 * (rows[:, 3] == 2), long)
    labels += rng.normal(0, 0.3, 94)
    alone, both = (make_predictor(kind, SPACE) for _ in range(2))
    alone.fit(rows[80:], labels[80:])
    plain = alone.predict(TEST).mean
    both.fit_rungs(rows, labels, shares)
    found = both.predict(TEST).mean
    assert tau(found, accuracy(TEST)) > tau(plain, accuracy(TEST)) + 0.03
    # In the unit of the long ones, where 0.7 of it would be 25 points away.
    assert np.abs(found - accuracy(TEST)).mean() < 6
    save_predictor(both, tmp_path / "p.safetensors")
    again = load_predictor(tmp_path / "p.safetensors")
    assert np.allclose(again.predict(TEST).mean, found)
    # Labels of one length are then fitted as ever.
    both.fit(rows[80:], labels[80:])
    assert both.predict(TEST).mean.tolist() == plain.tolist()


def test_a_predictor_without_rungs_learns_from_the_longest_trainings() -> None:
    predictor = Nearest(SPACE, target="raw", seed=0, costs=None)
    shares = np.where(np.arange(len(TRAIN)) % 2, 1.0, 0.1)
    predictor.fit_rungs(TRAIN, accuracy(TRAIN), shares)
    found = predictor.predict(TEST).mean
    predictor.fit(TRAIN[1::2], accuracy(TRAIN)[1::2])
    assert found.tolist() == predictor.predict(TEST).mean.tolist()


def test_cross_validation_judges_the_longest_trainings_and_knows_the_others() -> None:
    predictor = GpPredictor(SPACE)
    shares = np.where(np.arange(len(TRAIN)) < 44, 0.1, 1.0)
    labels = accuracy(TRAIN) * np.where(shares < 1, 0.7, 1.0)
    found = cross_validate(predictor, TRAIN, labels, shares=shares)
    assert len(found.predicted) == len(TRAIN) - 44
    alone = cross_validate(predictor, TRAIN[44:], labels[44:])
    assert found.tau > alone.tau
    with pytest.raises(ValueError, match="9 labels; expected at least 10"):
        cross_validate(predictor, TRAIN[:53], labels[:53], shares=shares[:53])


@pytest.mark.parametrize("target", ["raw", "log_error"])
def test_warped_targets_keep_ranks_and_are_converted_back(target: str) -> None:
    labels = np.array([90.0, 91.0, 92.0, 93.0, 94.0, 10.0, 0.1, 89.0])
    scale = Scale(target, warped=True)
    targets = scale.learn(labels)
    assert tau(targets, labels) == pytest.approx(1)
    assert targets.mean() == pytest.approx(0, abs=1e-9)
    plain = Scale(target).learn(labels)
    # The worst are a smaller part of the range than they were.
    assert np.ptp(targets[:5]) > 1.5 * np.ptp(plain[:5])
    again = Scale.from_dict(json.loads(json.dumps(scale.to_dict())))
    found = again.invert(targets, np.full(8, 1e-6))
    assert found.mean == pytest.approx(labels)
    # The standard deviation is that of a small step.
    step = again.invert(targets + 1e-6, np.zeros(8)).mean - found.mean
    assert found.std == pytest.approx(step, rel=1e-3)


def test_labels_of_which_most_are_equal_can_be_warped() -> None:
    scale = Scale("raw", warped=True)
    targets = scale.learn(np.array([1.0, 1.0, 1.0, 1.0, 0.0]))
    assert np.isfinite(targets).all()
    assert scale.invert(targets, np.ones(5)).mean == pytest.approx([1.0, 1.0, 1.0, 1.0, 0.0])
