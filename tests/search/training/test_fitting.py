"""How a preset's batch and rate follow from the images and the weights."""

import dataclasses

import pytest

from fbnetv3.search.training.fitting import fitted
from fbnetv3.search.training.networks import Network, knows_classes
from fbnetv3.search.training.presets import get_recipe
from fbnetv3.search.training.recipe import Recipe

TUNE, SHORT = get_recipe("fine-tune"), get_recipe("short")


def tuned(
    num_images: int, recipe: Recipe = TUNE, *, knows: bool = False, given: str = ""
) -> Recipe:
    return fitted("fine-tune", recipe, num_images, knows_classes=knows, given=given.split())


@pytest.mark.parametrize(
    ("num_images", "batch"),
    [(3, 2), (16, 4), (43, 8), (90, 16), (252, 16), (432, 32), (600, 64), (100_000, 64)],
)
def test_a_fine_tunings_batch_is_an_eighth_of_the_images_or_16(num_images: int, batch: int) -> None:
    found = tuned(num_images)
    assert found == dataclasses.replace(TUNE, batch_size=batch)
    sgd = tuned(num_images, dataclasses.replace(TUNE, optimizer="sgd"))
    assert sgd.batch_size == batch
    assert sgd.lr == pytest.approx(10 * TUNE.lr * batch / 64)


@pytest.mark.parametrize(("num_images", "batch"), [(16, 2), (90, 8), (432, 32), (2000, 128)])
def test_a_training_from_scratch_keeps_its_own_rule(num_images: int, batch: int) -> None:
    found = fitted("short", SHORT, num_images, knows_classes=False)
    assert found.batch_size == batch
    assert found.lr == pytest.approx(SHORT.lr * batch / 128)


@pytest.mark.parametrize(("optimizer", "times"), [("adamw", 1), ("sgd", 10), ("rmsprop", 1)])
def test_weights_that_know_the_classes_learn_slower(optimizer: str, times: float) -> None:
    recipe = dataclasses.replace(TUNE, optimizer=optimizer)
    assert tuned(1000, recipe).lr == pytest.approx(TUNE.lr * times)
    assert tuned(1000, recipe, knows=True).lr == pytest.approx(TUNE.lr * times / 80)


def test_what_a_user_has_chosen_stays() -> None:
    own = dataclasses.replace(TUNE, lr=0.3, batch_size=48)
    found = tuned(100, own, knows=True, given="lr batch_size")
    assert (found.lr, found.batch_size) == (0.3, 48)
    assert (tuned(100, own, given="lr").lr, tuned(100, own, given="lr").batch_size) == (0.3, 12)
    assert fitted("short", own, 16, knows_classes=False, given=("lr",)).lr == 0.3


def test_a_network_knows_classes_of_the_same_names_in_the_same_order() -> None:
    network = Network(None, labels=(("cat", "n021"), ("dog", "n020")))  # type: ignore[arg-type]  # no model needed
    assert knows_classes(network, ("cat", "dog"))
    assert knows_classes(network, ("n021", "n020"))
    assert not knows_classes(network, ("dog", "cat"))
    assert not knows_classes(network, ("cat",))
    assert not knows_classes(network, ("0", "1"))
    assert not knows_classes(network._replace(labels=None), ("cat", "dog"))
