"""The objective of a real search: labels are validation accuracies of trainings that repeat."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fbnetv3.search.execution.train_objective import TrainObjective
from fbnetv3.search.nars.config import SearchConfig
from fbnetv3.search.nars.run import with_rungs
from fbnetv3.search.space.space import Matrix
from fbnetv3.search.space.spaces import get_space
from fbnetv3.search.training.networks import open_network
from fbnetv3.search.training.recipe import LENGTH_FIELDS


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, bright and dark: learnable in a few steps."""
    folder = tmp_path_factory.mktemp("data") / "train"
    rng = np.random.default_rng(0)
    for name, level in (("bright", 150), ("dark", 20)):
        (folder / name).mkdir(parents=True)
        for number in range(40):
            pixels = rng.integers(level, level + 80, size=(32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder.parent


def candidate(**values: object) -> Matrix:
    space = get_space("cifar_joint")
    cheap = {gene.name: gene.values[0] for gene in space.genes}
    return space.from_values({**cheap, **values})


def objective(data: Path, **fields: object) -> TrainObjective:
    settings = {"epochs": 3, "num_train": 48, "num_val": 20, "device": "cpu",
                "recipe": {"batch_size": 8}, **fields}  # fmt: skip
    return TrainObjective("cifar_joint", str(data), **settings)  # type: ignore[arg-type]  # mixed


def labels(made: TrainObjective, row: Matrix, seed: int, epochs: int) -> list[float]:
    return list(made.evaluate(row.tolist(), seed=seed, epochs=epochs))


def test_labels_are_accuracies_that_repeat_with_their_seed(data: Path) -> None:
    row = candidate(optimizer="sgd", lr=0.03)
    first = labels(objective(data), row, 0, 3)
    assert len(first) == 3
    assert all(0 <= value <= 100 for value in first)
    assert labels(objective(data), row, 0, 3) == first
    assert labels(objective(data), row, 1, 3) != first


def test_shorter_training_is_the_first_part_of_the_longer(data: Path) -> None:
    row = candidate(optimizer="sgd", lr=0.03)
    assert labels(objective(data), row, 0, 2) == labels(objective(data), row, 0, 3)[:2]


def test_attempt_that_was_stopped_goes_on_from_its_checkpoint(data: Path, tmp_path: Path) -> None:
    row = candidate(optimizer="sgd", lr=0.03)
    expected = labels(objective(data), row, 0, 3)
    kept = objective(data, checkpoints=str(tmp_path))
    curve = iter(kept.evaluate(row.tolist(), seed=0, epochs=3))
    assert next(curve) == expected[0]
    list(curve)
    assert labels(kept, row, 0, 3) == expected


def test_weights_of_a_whole_training_are_there_with_its_last_label(
    data: Path, tmp_path: Path
) -> None:
    kept = objective(data, checkpoints=str(tmp_path))
    curve = iter(kept.evaluate(candidate(optimizer="sgd").tolist(), seed=0, epochs=3))
    for _ in range(2):
        next(curve)
        assert not list(tmp_path.rglob("model.safetensors"))
    next(curve)
    assert len(list(tmp_path.rglob("model.safetensors"))) == 1
    assert not list(tmp_path.rglob("checkpoints"))


def test_recipe_of_the_candidate_is_followed(data: Path) -> None:
    row = candidate(optimizer="rmsprop", lr=0.004, dropout=0.1)
    recipe = objective(data).recipe(row.tolist())
    assert (recipe.optimizer, recipe.lr, recipe.dropout) == ("rmsprop", 0.004, 0.1)
    assert (recipe.batch_size, recipe.epochs) == (8, 3)


def test_diverged_training_ends_with_nan(data: Path) -> None:
    wild = objective(data, recipe={"batch_size": 8, "lr": 100.0, "weight_decay": 1.0})
    curve = labels(wild, candidate(optimizer="sgd"), 0, 3)
    assert math.isnan(curve[-1])


def test_more_epochs_than_the_schedule_are_refused(data: Path) -> None:
    with pytest.raises(ValueError, match="expected 1 to 3, the schedule"):
        labels(objective(data), candidate(), 0, 4)


def test_missing_data_are_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no data folder"):
        objective(tmp_path / "nowhere")


def test_classes_are_drawn_by_the_split_seed(data: Path, tmp_path: Path) -> None:
    for name in ("bright", "dark"):
        shutil.copytree(data / "train" / name, tmp_path / "train" / name)
    shutil.copytree(data / "train" / "dark", tmp_path / "train" / "night")
    made = objective(tmp_path, num_classes=2, num_train=None)
    assert made.num_classes == 2
    assert len(labels(made, candidate(), 0, 1)) == 1
    with pytest.raises(ValueError, match=r"num_classes is 4; expected 2 to 3"):
        objective(tmp_path, num_classes=4)


def test_class_folders_without_parts_are_searched_on_as_they_are(data: Path) -> None:
    small = {"batch_size": 8}
    made = TrainObjective("cifar_joint", str(data / "train"), epochs=1, recipe=small)
    whole = TrainObjective("cifar_joint", str(data), epochs=1, recipe=small)
    assert len(made._val) == len(whole._val) == (len(made._train) + len(made._val)) // 5
    assert len(made._train) == len(whole._train)
    assert made.num_classes == whole.num_classes


def test_an_epoch_of_one_step_is_said_before_any_trial(data: Path) -> None:
    with pytest.warns(UserWarning, match=r"48 images is 1 step of 32.*\{\"batch_size\": 6\}"):
        objective(data, recipe={"batch_size": 32})


def test_a_batch_that_the_images_do_not_fill_is_said_before_any_trial(
    data: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r'64 images .* batch of 128; .*recipe={"batch_size": 8}'):
        TrainObjective("cifar_joint", str(data), epochs=1)
    space = get_space("cifar_joint").to_dict()
    space["layout"]["recipe"]["batch_size"] = "$batch"
    space["genes"].append({"name": "batch", "values": [16, 256], "group": "recipe"})
    path = tmp_path / "space.json"
    path.write_text(json.dumps(space))
    with pytest.raises(ValueError, match="batch of 256"):
        TrainObjective(str(path), str(data), epochs=1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_size": None}, "recipe: batch_size is None; expected a whole number"),
        ({"batch_size": "abc"}, "recipe: batch_size is 'abc'; expected a whole number"),
        ({"batch_size": 0}, "recipe: batch_size is 0; expected a whole number"),
        ({"nope": 1}, "recipe has unknown field 'nope'"),
    ],
)
def test_a_wrong_recipe_is_said_before_any_trial(
    data: Path, fields: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        objective(data, recipe=fields)


def test_the_batch_that_is_proposed_can_be_halved_for_mixup(data: Path) -> None:
    with pytest.raises(ValueError, match=r'has 40 images .*recipe={"batch_size": 4}'):
        TrainObjective("cifar_joint", str(data), epochs=1, num_train=40)


@pytest.mark.parametrize(
    ("model", "gone"),
    [
        ("timm:resnet10t", set()),
        ("torchvision:shufflenet_v2_x0_5", {"dropout", "drop_path"}),
        ("fbnetv3_nano", set()),
    ],
)
def test_recipes_are_searched_for_any_network(
    model: str, gone: set[str], data: Path, tmp_path: Path
) -> None:
    small = {"batch_size": 8, "resolution": 32}
    made = TrainObjective("recipe_only", str(data), epochs=1, num_train=16, num_val=20,
                          device="cpu", recipe=small, model=model,
                          checkpoints=str(tmp_path))  # fmt: skip
    every = {gene.name for gene in get_space("recipe_only").genes}
    assert {gene.name for gene in made.space.genes} == every - gone
    row = [0] * len(made.space.genes)
    recipe = made.recipe(row)
    assert (recipe.dropout, recipe.drop_path) == ((0.0, 0.0) if gone else (0.01, 0.01))
    first = labels(made, np.array(row, np.int16), 0, 1)
    assert 0 <= first[0] <= 100
    [weights] = tmp_path.rglob("model.safetensors")
    network = open_network(f"local-dir:{weights.parent}", pretrained=True)
    network.model.eval()
    assert network.model(torch.zeros(1, 3, 32, 32)).shape == (1, 2)


def test_a_model_beside_a_space_of_networks_is_refused(data: Path) -> None:
    with pytest.raises(ValueError, match=r"searches the network .* expected a space of recipes"):
        TrainObjective("cifar_joint", str(data), epochs=1, model="timm:resnet10t")
    with pytest.raises(ValueError, match="timm cannot make 'no_such_net'"):
        TrainObjective("recipe_only", str(data), epochs=1, model="timm:no_such_net")


def test_a_rung_is_a_share_of_the_final_steps_with_a_complete_schedule(
    data: Path, tmp_path: Path
) -> None:
    made = objective(data, epochs=4, checkpoints=str(tmp_path))
    # A half of four epochs of 48 images, and of one epoch with a third of them.
    assert made.epochs_at(0.5) == 2
    assert made.epochs_at(1 / 12) == 1
    with pytest.raises(
        ValueError, match=r"a rung of 0\.01 trains on 2 images, less than one batch"
    ):
        made.epochs_at(0.01)
    row = candidate(optimizer="sgd", lr=0.03).tolist()
    rung = list(made.evaluate(row, seed=0, epochs=2, fidelity=0.5))
    assert len(rung) == 2
    assert list(made.evaluate(row, seed=0, epochs=2, fidelity=0.5)) == rung
    # It is no cut-off: it is what a final training of two epochs would be.
    assert rung != labels(made, candidate(optimizer="sgd", lr=0.03), 0, 2)
    short = made.recipe(row).lengthened(2)
    same = objective(data, epochs=2, recipe={
        "batch_size": 8, **{name: getattr(short, name) for name in LENGTH_FIELDS}
    })  # fmt: skip
    assert labels(same, candidate(optimizer="sgd", lr=0.03), 0, 2) == rung
    # No weights of a rung are kept, nor any that a full training could go on from.
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="epochs is 3; expected 1 to 2, the schedule"):
        list(made.evaluate(row, seed=0, epochs=3, fidelity=0.5))


@pytest.mark.parametrize(("epochs", "parts"), [(4, 4), (256, 12), (10_000, 32)])
def test_a_rung_of_few_steps_is_longer_if_none_is_asked_for(
    data: Path, epochs: int, parts: int
) -> None:
    made = objective(data, epochs=epochs)  # 6 steps of 8 images in each
    config = SearchConfig(cost=200)
    assert with_rungs(config, made).rungs == (1 / parts,)
    asked = with_rungs(dataclasses.replace(config, rungs=(1 / 32,)), objective(data, epochs=32))
    assert asked.rungs == (1 / 32,)


def test_a_rung_of_a_schedule_that_falls_once_an_epoch_has_several(data: Path) -> None:
    stepped = {"batch_size": 2, "schedule": "exponential", "decay_per_epoch": 0.9}
    made = objective(data, epochs=10, recipe=stepped)
    assert made.epochs_at(0.1) == 4
    assert made.epochs_at(0.9) == 9
    assert len(list(made.evaluate(candidate().tolist(), seed=0, epochs=4, fidelity=0.1))) == 4


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("timm:vit_tiny_patch16_224", "cannot take images of 32 x 32 pixels"),
        ("torchvision:fasterrcnn_resnet50_fpn", "torchvision has no classifier"),
    ],
)
def test_a_network_that_cannot_be_trained_is_refused_before_any_trial(
    data: Path, model: str, message: str
) -> None:
    recipe = {"resolution": 32, "batch_size": 8}
    with pytest.raises(ValueError, match=message):
        TrainObjective("recipe_only", str(data), epochs=1, model=model, recipe=recipe)
