"""Parts of a network that are not trained."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from fbnetv3.search.training.freezing import frozen_parts, parts_of
from fbnetv3.search.training.train import train
from tests.search.tiny import tiny_images, tiny_model, tiny_recipe, tiny_run


def test_the_parts_are_stem_stages_head_and_classifier() -> None:
    model = tiny_model()
    assert parts_of(model) == [model.stem, *model.stages, model.head, model.classifier]
    assert frozen_parts(model, "backbone") == [model.stem, *model.stages, model.head]


@pytest.mark.parametrize("freeze", [2, "backbone"])
def test_frozen_parts_keep_weights_and_statistics_and_the_others_learn(freeze: int | str) -> None:
    model = tiny_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run = tiny_run(recipe=tiny_recipe(freeze=freeze, epochs=2))
    result = train(model, tiny_images(), tiny_images(seed=1), run)
    kept = ("stem.", "stages.0.") if freeze == 2 else ("stem.", "stages.", "head.")
    assert result.ema is not None
    for trained in (result.model, result.ema):
        state = trained.state_dict()
        changed = {name for name in state if not torch.equal(state[name], before[name])}
        assert not [name for name in changed if name.startswith(kept)]
        assert "classifier.weight" in changed
        assert any(name.startswith("stages.1.") for name in changed) == (freeze == 2)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_at_least_one_part_is_left_to_train() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4, 2))
    assert len(parts_of(model)) == 2
    assert frozen_parts(model, 1) == [model[0]]
    with pytest.raises(ValueError, match="freeze is 2; expected less than 2"):
        frozen_parts(model, 2)


def test_a_frozen_run_is_another_than_a_free_one() -> None:
    recipe = tiny_recipe()
    assert dataclasses.replace(recipe, freeze=1).sha256 != recipe.sha256
