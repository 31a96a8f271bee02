"""The network on a GPU: logits and gradients are those of the CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fbnetv3.arch.tables import ARCHS
from fbnetv3.models.inference import optimize
from fbnetv3.models.model import FBNetV3, build

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("exact_float32")]

Make = Callable[..., FBNetV3]
LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])


def images(number: int = 2, side: int = 224) -> Tensor:
    return torch.randn(number, 3, side, side, generator=torch.Generator().manual_seed(0))


def on_gpu(model: FBNetV3, layout: torch.memory_format) -> FBNetV3:
    """Returns a copy."""
    moved: FBNetV3 = copy.deepcopy(model).to(device="cuda", memory_format=layout)  # type: ignore[call-overload]
    return moved


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.cpu() - expected).norm() / expected.norm())


@LAYOUTS
def test_logits_are_those_of_the_cpu(golden_network: Make, layout: torch.memory_format) -> None:
    model = golden_network(ARCHS["fbnetv3_a"])
    x = images()
    with torch.inference_mode():
        expected = model(x)
        found = on_gpu(model, layout)(x.to("cuda", memory_format=layout))
    assert (found.cpu() - expected).abs().max() < 1e-3


@LAYOUTS
def test_fresh_weights_give_the_gradients_of_the_cpu(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    model = build(ARCHS["fbnetv3_a"].small_image(64), num_classes=10).train()
    moved = on_gpu(model, layout)
    x = images(8, 64)
    for network, batch in ((model, x), (moved, x.to("cuda", memory_format=layout))):
        network(batch).square().mean().backward()
    gradients = {name: p.grad for name, p in moved.named_parameters() if p.grad is not None}
    assert gradients
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and parameter.grad.norm() > 1e-4:
            assert relative_error(gradients[name], parameter.grad) < 1e-2, name
    statistics = dict(moved.named_buffers())
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(statistics[name].cpu(), buffer, rtol=1e-3, atol=1e-4, msg=name)


def test_the_inference_copy_keeps_the_logits(small_model: FBNetV3) -> None:
    x = images(3, 32)
    with torch.inference_mode():
        expected = small_model(x)
        found = optimize(on_gpu(small_model, torch.contiguous_format))(x.cuda())
    assert (found.cpu() - expected).abs().max() / expected.std() < 1e-3


def test_bfloat16_is_close(golden_network: Make) -> None:
    model = golden_network(ARCHS["fbnetv3_a"])
    x = images()
    with torch.inference_mode():
        expected = model(x)
        with torch.autocast("cuda", torch.bfloat16):
            found = on_gpu(model, torch.channels_last)(x.to("cuda"))
    assert relative_error(found.float(), expected) < 0.1
