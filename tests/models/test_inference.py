"""The inference copy: equal logits, no batch-norm left, the model untouched."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from fbnetv3.arch.arch import Arch, Row
from fbnetv3.arch.tables import ARCHS
from fbnetv3.models.blocks import ConvBnAct
from fbnetv3.models.inference import fold_batch_norm, optimize
from fbnetv3.models.model import FBNetV3, build

Make = Callable[..., FBNetV3]
SMALL = {name: arch for name, arch in ARCHS.items() if name != "fbnetv3_20g"}
TINY = Arch(
    resolution=32,
    stem_channels=8,
    rows=(Row("MB1", (3, 3), (2, 2), 8, 1, 1, True),),
    head_expansion=2,
    head_channels=16,
)


def relative_error(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).abs().max() / expected.std())


@pytest.mark.parametrize("name", SMALL)
def test_every_network_keeps_its_logits(golden_network: Make, name: str) -> None:
    arch = SMALL[name]
    small = arch if arch.resolution == 32 else arch.small_image(64)
    model = golden_network(small)
    x = torch.randn(3, 3, small.resolution, small.resolution)
    with torch.inference_mode():
        assert relative_error(optimize(model)(x), model(x)) < 1e-4


def test_no_batch_norm_is_left_and_every_activation_is(golden_network: Make) -> None:
    model = golden_network(ARCHS["fbnetv3_nano"])
    folded = fold_batch_norm(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    count = {
        id(net): sum(isinstance(module, nn.Hardswish) for module in net.modules())
        for net in (model, folded)
    }
    assert count[id(model)] == count[id(folded)] > 0


def test_weights_are_channels_last_and_the_model_is_left_as_it_was(golden_network: Make) -> None:
    model = golden_network(ARCHS["fbnetv3_nano"]).train()
    before = copy.deepcopy(model.state_dict())
    fast = cast(FBNetV3, optimize(model))
    weight = fast.stem.conv.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not fast.training
    assert model.training
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_foreign_norm_stays() -> None:
    model = build(ARCHS["fbnetv3_nano"], norm_layer=lambda channels: nn.GroupNorm(1, channels))
    model.eval()
    fast = optimize(model)
    assert sum(isinstance(module, nn.GroupNorm) for module in fast.modules()) == sum(
        isinstance(module, ConvBnAct) for module in model.modules()
    )
    x = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert relative_error(fast(x), model(x)) < 1e-4


@pytest.mark.slow
def test_the_compiled_copy_is_equal_too(golden_network: Make) -> None:
    model = golden_network(TINY)
    x = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert relative_error(optimize(model, compile=True)(x), model(x)) < 1e-4


def test_another_kind_of_model_is_refused() -> None:
    with pytest.raises(ValueError, match="model is a Linear; expected an FBNetV3"):
        optimize(nn.Linear(2, 2))  # type: ignore[arg-type]
