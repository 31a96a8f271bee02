"""Class activation maps, compared with the definition by finite differences."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from fbnetv3.images.preprocess import Preprocess
from fbnetv3.models.explain import activation_map, overlaid
from fbnetv3.models.model import FBNetV3


@torch.no_grad()
def test_the_map_weighs_channels_by_what_raising_them_does_to_the_logit(
    small_model: FBNetV3,
) -> None:
    model = small_model.double()
    try:
        x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).double()
        found = activation_map(model, x, 3)
        parts = [model.stem, *model.stages, model.head.expand]
        maps = [x]
        for part in parts:
            maps.append(part(maps[-1]))
        number = max(n for n, m in enumerate(maps) if min(m.shape[2:]) >= 7)
        chosen = maps[number]

        def logit(features: torch.Tensor) -> torch.Tensor:
            for part in parts[number:]:
                features = part(features)
            return model.forward_head(features)[0, 3]

        step = 1e-6
        raised = torch.eye(chosen.shape[1], dtype=x.dtype)[:, None, :, None, None] * step
        slopes = torch.stack(
            [(logit(chosen + up) - logit(chosen - up)) / 2 / step for up in raised]
        )
        expected = (slopes[None, :, None, None] * chosen).sum(1)[0].clamp_min(0)
        assert expected.max() > 0
        torch.testing.assert_close(found, expected / expected.max(), rtol=1e-4, atol=1e-5)
    finally:
        small_model.float()


def test_the_model_is_left_as_it_was(small_model: FBNetV3) -> None:
    assert not small_model.training
    activation_map(small_model, torch.zeros(1, 3, 32, 32), 0)
    assert not small_model.training
    assert all(parameter.grad is None for parameter in small_model.parameters())
    assert all(parameter.requires_grad for parameter in small_model.parameters())


@pytest.mark.parametrize(("shape", "index"), [((2, 3, 32, 32), 0), ((1, 3, 32, 32), 10)])
def test_wrong_arguments_are_refused(
    small_model: FBNetV3, shape: tuple[int, ...], index: int
) -> None:
    with pytest.raises(ValueError, match="expected"):
        activation_map(small_model, torch.zeros(shape), index)


def test_the_picture_is_the_part_that_the_model_saw(small_preprocess: Preprocess) -> None:
    photo = Image.new("RGB", (360, 180), "white")
    photo.paste("red", (100, 10, 260, 170))
    heat = torch.zeros(4, 4)
    seen, mixed = overlaid(photo, heat.numpy(), small_preprocess)
    # The middle 32 of 36 pixels of the short side: 160 of 180 of the photo's.
    assert seen.size == mixed.size == (160, 160)
    assert seen.getcolors() == [(160 * 160, (255, 0, 0))]
    assert mixed.getcolors() == seen.getcolors()
