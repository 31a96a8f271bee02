"""The quick weight gradient of depthwise convolutions equals torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fbnetv3.arch.tables import ARCHS
from fbnetv3.models.model import build
from fbnetv3.search.training.depthwise import QuickDepthwise, helps


@pytest.mark.parametrize("own_gradient", [False, True])
@pytest.mark.parametrize("side", [1, 2, 3, 4, 7, 12])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_results_and_gradients_are_torchs(
    kernel: int, stride: int, side: int, own_gradient: bool
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 6, kernel, stride, kernel // 2, groups=6, bias=False)
    x = torch.randn(3, 6, side, side).to(memory_format=torch.channels_last).requires_grad_()
    grads: list[tuple[torch.Tensor, ...]] = []
    for quick in (False, True):
        with QuickDepthwise(own_gradient=own_gradient) if quick else torch.enable_grad():
            y = conv(x)
        x.grad = conv.weight.grad = None
        (y * torch.arange(y.numel()).view_as(y).cos()).sum().backward()
        assert x.grad is not None
        assert conv.weight.grad is not None
        grads.append((y.detach(), x.grad, conv.weight.grad))
    for theirs, ours in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_slow_layers_of_a_network_take_the_quick_way() -> None:
    model = build(ARCHS["fbnetv3_nano"].small_image(), num_classes=10)
    images = torch.randn(2, 3, 32, 32)
    with QuickDepthwise(own_gradient=True):
        found = _names_of_graph(model(images).sum())
    assert "_DepthwiseBackward" in found
    assert "_DepthwiseBackward" not in _names_of_graph(model(images).sum())


def test_other_convolutions_are_left_alone() -> None:
    x = torch.randn(2, 6, 4, 4)
    with QuickDepthwise(own_gradient=True):
        for conv in (
            nn.Conv2d(6, 6, 5, 1, 2, groups=6),
            nn.Conv2d(6, 6, 5, 1, 4, dilation=2, groups=6, bias=False),
            nn.Conv2d(6, 12, 5, 1, 2, groups=6, bias=False),
            nn.Conv2d(6, 6, 5, 1, 2, groups=3, bias=False),
            nn.Conv2d(6, 6, 3, 1, 1, groups=6, bias=False),
        ):
            out = conv(x)
            assert "_Depthwise" not in type(out.grad_fn).__name__


@pytest.mark.parametrize(("side", "kernel"), [(1, 1), (2, 3), (3, 5), (4, 5)])
def test_a_filter_is_cut_to_what_can_meet_a_pixel(side: int, kernel: int) -> None:
    conv = nn.Conv2d(6, 6, 5, 1, 2, groups=6, bias=False)
    x = torch.randn(2, 6, side, side)
    with QuickDepthwise(own_gradient=False):
        y = conv(x)
    assert torch.equal(y, conv(x))
    assert y.grad_fn is not None
    saved: torch.Tensor = y.grad_fn._saved_weight
    assert saved.shape == (6, 1, kernel, kernel)


def test_the_own_gradient_is_for_processors_that_need_it() -> None:
    expected = torch.backends.cpu.get_cpu_capability() == "AVX2"
    assert helps(torch.device("cpu")) == expected
    assert not helps(torch.device("cuda"))


def _names_of_graph(loss: torch.Tensor) -> set[str]:
    names, todo = set(), [loss.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in names:
            names.add(node)
            todo += [parent for parent, _ in node.next_functions]
    return {type(node).__name__ for node in names}
