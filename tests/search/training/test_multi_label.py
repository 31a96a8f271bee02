"""Training with several labels per image: what it learns, keeps and measures."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fbnetv3.checkpoints.checkpoint import read_tensors
from fbnetv3.deploy.classify import Classifier
from fbnetv3.hub.create import create
from fbnetv3.hub.pretrained import from_pretrained, save_pretrained
from fbnetv3.hub.pretrained_cfg import thresholds_of
from fbnetv3.search.data.image_set import ImageSet
from fbnetv3.search.data.splitting import split_by_class
from fbnetv3.search.training.balance import balanced_order, positive_weights
from fbnetv3.search.training.batches import Batch
from fbnetv3.search.training.evaluate import evaluate
from fbnetv3.search.training.evaluate_multi_label import evaluate_multi_label
from fbnetv3.search.training.mixup import mixed
from fbnetv3.search.training.multi_label import multi_label_loss
from fbnetv3.search.training.networks import Network, open_network
from fbnetv3.search.training.train import Trained, train
from tests.search.tiny import plain_recipe, tiny_images, tiny_model, tiny_multi_label, tiny_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trained]:
    """A finished run in which the network learns its four classes."""
    folder = tmp_path_factory.mktemp("several")
    trained = train(
        tiny_model(),
        tiny_multi_label(192),
        tiny_multi_label(48, seed=1),
        tiny_run(folder, dataclasses.replace(plain_recipe(4), lr=0.2), keep_best=True),
    )
    return folder, trained


def test_it_learns_each_class_by_itself(run: tuple[Path, Trained]) -> None:
    _, trained = run
    last = trained.curve[-1]
    assert last.top1_pct is None
    assert last.ema_map_pct is not None
    assert last.ema_map_pct > 90 > (trained.curve[0].map_pct or 0)
    assert trained.accuracy_pct == last.ema_map_pct
    assert "mAP" in last.line()
    assert "macro F1" in last.line()


def test_thresholds_are_chosen_on_validation_and_stay_with_the_weights(
    run: tuple[Path, Trained],
) -> None:
    folder, trained = run
    model = create(f"local-dir:{folder}", pretrained=True)
    thresholds = thresholds_of(model)
    assert thresholds is not None
    assert thresholds == thresholds_of(from_pretrained(folder))
    val = tiny_multi_label(48, seed=1)
    assert val.pixels is not None
    classifier = Classifier(f"local-dir:{folder}")
    found = classifier(val.pixels.numpy())
    predicted = torch.zeros(48, 4, dtype=torch.bool)
    for row, prediction in enumerate(found):
        predicted[row, list(prediction.indices)] = True
    # F1 by its definition, from the classifier's answers.
    hits = (predicted & val.labels).sum(0)
    f1 = 200 * hits / (predicted.sum(0) + val.labels.sum(0))
    assert float(f1.mean()) == pytest.approx(trained.curve[-1].macro_f1_pct, abs=1e-3)
    rows = list(csv.DictReader((folder / "classes.csv").open()))
    assert [row["class"] for row in rows] == list(val.classes)
    assert [int(row["images"]) for row in rows] == val.labels.sum(0).tolist()
    assert [float(row["threshold"]) for row in rows] == pytest.approx(thresholds, rel=1e-3)
    assert [float(row["f1_pct"]) for row in rows] == pytest.approx(f1.tolist(), rel=1e-3)


def test_evaluation_matches_classes_by_name_and_uses_the_thresholds(
    run: tuple[Path, Trained],
) -> None:
    folder, trained = run
    network = open_network(f"local-dir:{folder}", pretrained=True)
    val = tiny_multi_label(48, seed=1)
    found = evaluate_multi_label(network, val)
    assert found.mean_average_precision == pytest.approx(trained.accuracy_pct, abs=1e-3)
    assert found.macro_f1 == pytest.approx(trained.curve[-1].macro_f1_pct, abs=1e-3)
    order = [2, 0, 3]
    fewer = dataclasses.replace(
        val, classes=tuple(val.classes[n] for n in order), labels=val.labels[:, order]
    )
    some = evaluate_multi_label(network, fewer)
    assert some.matched_by == "name"
    assert [one.name for one in some.classes] == ["class2", "class0", "class3"]
    by_name = {one.name: one for one in found.classes}
    assert all(one == by_name[one.name] for one in some.classes)
    json.dumps(some.to_dict())


def test_each_kind_of_data_needs_its_kind_of_network(run: tuple[Path, Trained]) -> None:
    network = open_network(f"local-dir:{run[0]}", pretrained=True)
    with pytest.raises(ValueError, match=r"tiny has one label per image.*expected a CSV"):
        evaluate_multi_label(network, tiny_images(8))
    with pytest.raises(ValueError, match="several has several labels per image"):
        evaluate(Network(tiny_model()), tiny_multi_label(8))
    with pytest.raises(ValueError, match="several labels per image and tiny has one"):
        train(tiny_model(), tiny_multi_label(), tiny_images(), tiny_run(recipe=plain_recipe(1)))
    none = dataclasses.replace(tiny_multi_label(8), labels=torch.zeros(8, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="no image of several has a label"):
        train(tiny_model(), tiny_multi_label(), none, tiny_run(recipe=plain_recipe(1)))


def test_a_network_with_another_head_or_saved_again_has_the_thresholds_that_fit(
    run: tuple[Path, Trained], tmp_path: Path
) -> None:
    folder, _ = run
    assert thresholds_of(create(f"local-dir:{folder}", pretrained=True, num_classes=7)) is None
    model = create(f"local-dir:{folder}", pretrained=True)
    save_pretrained(model, tmp_path / "again")
    assert thresholds_of(from_pretrained(tmp_path / "again")) == thresholds_of(model)
    save_pretrained(model, tmp_path / "one", thresholds=())
    assert thresholds_of(from_pretrained(tmp_path / "one")) is None
    config = json.loads((folder / "config.json").read_text())
    # timm's record of weights would refuse a field that it does not know.
    assert "thresholds" not in config["pretrained_cfg"]
    with pytest.raises(ValueError, match="1 thresholds for 4 classes"):
        save_pretrained(model, tmp_path / "wrong", thresholds=[0.5])


def test_a_run_that_was_stopped_ends_with_the_same_bytes(tmp_path: Path) -> None:
    from fbnetv3.search.training.stopping import Stopped, StopRequest

    images, val = tiny_multi_label(), tiny_multi_label(24, seed=1)
    # Mixup, label smoothing, augmentation, dropout; weights by class.
    config = tiny_run(tmp_path / "whole")
    recipe = dataclasses.replace(config.recipe, balance="loss", epochs=3)
    whole, cut = (
        dataclasses.replace(config, folder=tmp_path / name, recipe=recipe, keep_best=True)
        for name in ("whole", "cut")
    )
    rates: dict[str, Any] = {"drop_rate": recipe.dropout, "drop_path_rate": recipe.drop_path}
    train(tiny_model(**rates), images, val, whole)
    stop = StopRequest()

    def after(epoch: int, step: int, _steps: int) -> None:
        if (epoch, step) == (2, 3):
            stop._received = 15

    with pytest.raises(Stopped):
        train(tiny_model(**rates), images, val, cut, on_step=after, stop=stop)
    train(tiny_model(**rates), images, val, cut)
    for name in ("model.safetensors", "config.json", "classes.csv", "best/config.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()
    # Complete, it only writes its results again.
    (tmp_path / "cut" / "config.json").unlink()
    train(tiny_model(**rates), images, val, cut)
    assert thresholds_of(from_pretrained(tmp_path / "cut")) is not None


def test_the_loss_is_that_of_its_definition() -> None:
    logits = torch.tensor([[2.0, -1.0], [0.5, 3.0]])
    targets = torch.tensor([[True, False], [False, True]])
    found = multi_label_loss(
        logits, targets, label_smoothing=0.1, positive_weights=torch.tensor([3.0, 1.0])
    )
    total = 0.0
    for row, column in np.ndindex(2, 2):
        p = 1 / (1 + np.exp(-float(logits[row, column])))
        t = 0.95 if targets[row, column] else 0.05
        weight = 3.0 if column == 0 else 1.0
        total -= weight * t * np.log(p) + (1 - t) * np.log(1 - p)
    assert float(found) == pytest.approx(total / 4, rel=1e-5)
    plain = multi_label_loss(logits, targets, label_smoothing=0.0, positive_weights=None)
    assert float(plain) == pytest.approx(
        float(F.binary_cross_entropy(logits.sigmoid(), targets.float()))
    )


def rare_set() -> ImageSet:
    """A hundred images: class 0 in all, class 1 in four of them, ten without pixels' meaning."""
    labels = torch.zeros(100, 2, dtype=torch.bool)
    labels[:90, 0] = True
    labels[:4, 1] = True
    pixels = torch.zeros(100, 8, 8, 3, dtype=torch.uint8)
    return ImageSet(name="rare", classes=("a", "b"), labels=labels, pixels=pixels)


def test_balance_goes_by_the_rarest_class_and_by_negatives_per_positive() -> None:
    images = rare_set()
    assert positive_weights(images).tolist() == pytest.approx([10 / 90, 96 / 4])
    drawn = torch.cat(
        [balanced_order(images, torch.Generator().manual_seed(n)) for n in range(200)]
    )
    shares = drawn.bincount(minlength=100).double() / len(drawn)
    # Weights 25 for the four images of b, 100/90 for those of a alone, 1 without a label.
    weights = torch.tensor([25.0] * 4 + [100 / 90] * 86 + [1.0] * 10, dtype=torch.float64)
    expected = weights / weights.sum()
    assert float(shares[:4].sum()) == pytest.approx(float(expected[:4].sum()), abs=0.01)
    assert float(shares[90:].sum()) == pytest.approx(float(expected[90:].sum()), abs=0.01)


def test_mixed_images_have_both_labels_by_their_shares() -> None:
    labels = torch.tensor([[True, False], [True, True]])
    batch = Batch(torch.ones(2, 3, 4, 4), labels, torch.arange(2))
    images, targets = mixed(batch, 0.7, 0.1, 2)
    assert torch.allclose(targets, torch.tensor([[1.0, 0.3], [1.0, 0.7]]))
    assert torch.allclose(images, torch.ones(()))


def test_a_split_gives_each_class_its_share_and_rare_ones_an_image() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.rand(1000, 6, generator=generator) < torch.tensor(
        [0.5, 0.3, 0.2, 0.05, 0.004, 0.0]
    )
    images = ImageSet(
        name="x",
        classes=tuple("abcdef"),
        labels=labels,
        pixels=torch.arange(1000).view(-1, 1, 1, 1).expand(-1, 1, 1, 3).to(torch.uint8),
    )
    rest, held = split_by_class(images, share=0.1, seed=0)
    assert len(rest) + len(held) == 1000
    assert 80 <= len(held) <= 120
    for total, num in zip(images.counts, held.counts, strict=True):
        assert abs(num - 0.1 * total) <= max(2, 0.03 * total)
        assert (num > 0) == (total >= 2)
    again = split_by_class(images, share=0.1, seed=0)[1]
    other = split_by_class(images, share=0.1, seed=1)[1]
    assert torch.equal(held.labels, again.labels)
    assert not torch.equal(held.labels, other.labels[: len(held)])


def test_runs_of_other_libraries_networks_keep_their_thresholds(tmp_path: Path) -> None:
    from fbnetv3.search.training.foreign import open_foreign, write_record

    name = "timm:test_resnet.r160_in1k"
    model, _, _ = open_foreign(name, 4, False, dropout=0.0, drop_path=0.0)
    write_record(tmp_path, name)
    config = tiny_run(tmp_path, plain_recipe(1))
    preprocess = dataclasses.replace(config.preprocess, resize=32, crop=32)
    train(
        model,
        tiny_multi_label(),
        tiny_multi_label(24, seed=1),
        dataclasses.replace(config, preprocess=preprocess),
    )
    network = open_network(f"local-dir:{tmp_path}", pretrained=True)
    assert network.thresholds is not None
    assert len(network.thresholds) == 4
    assert set(read_tensors(tmp_path / "model.safetensors")) == set(network.model.state_dict())
