"""Classes with unequal numbers of images."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from fbnetv3.search.data.image_set import ImageSet
from fbnetv3.search.training.balance import balanced_order, balancing_weights
from fbnetv3.search.training.train import train
from tests.search.tiny import tiny_images, tiny_model, tiny_recipe, tiny_run


def unequal() -> ImageSet:
    """Returns 96 images of three of four classes: 80, 12 and 4."""
    labels = torch.tensor([0] * 80 + [2] * 12 + [3] * 4)
    return dataclasses.replace(tiny_images(96), labels=labels)


def test_weights_are_inverse_to_the_numbers_and_one_on_average() -> None:
    images = unequal()
    weights = balancing_weights(images)
    assert weights.tolist() == pytest.approx([96 / 240, 0, 96 / 36, 96 / 12])
    assert float(weights[images.labels].mean()) == pytest.approx(1)


def test_the_sampler_draws_every_class_equally_often_and_repeats() -> None:
    images = unequal()
    orders = [balanced_order(images, torch.Generator().manual_seed(seed)) for seed in range(200)]
    counts = torch.cat([images.labels[order] for order in orders]).bincount(minlength=4)
    # Binomial with n = 19,200 and p = 1/3: six standard deviations are 392.
    assert counts[1] == 0
    assert all(abs(int(count) - 6400) < 392 for count in counts[[0, 2, 3]])
    assert len(set(torch.cat(orders).tolist())) == 96
    assert torch.equal(orders[0], balanced_order(images, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("balance", ["sampler", "loss"])
def test_a_balanced_training_takes_less_for_the_most_frequent_class(balance: str) -> None:
    pixels = torch.full((96, 16, 16, 3), 100, dtype=torch.uint8)
    images = dataclasses.replace(unequal(), pixels=pixels)

    def share(balance: str) -> float:
        """Of the frequent class in what is answered where nothing tells the classes apart."""
        recipe = tiny_recipe(
            optimizer="sgd", lr=0.01, epochs=6, balance=balance, mixup=0.0, augment="none"
        )
        model = train(tiny_model(), images, images, tiny_run(recipe=recipe)).model
        with torch.no_grad():
            return float(model(torch.zeros(1, 3, 16, 16)).softmax(1)[0, 0])

    assert share(balance) < 0.6 < share("none")
