"""Depthwise convolutions of training, faster where a library is slow and with the same sums.

A filter that reaches beyond every pixel of its map is cut down to what can meet one: a 5x5 filter
on a map of 2 pixels to 3x3, in which the other cells only ever meet padding. On an H100 cuDNN
gave such a layer a kernel launch for each channel, and six of them took 71 % of the kernel time
of a step of FBNetV3-A at 32 pixels; on a CPU with AVX-512 the layers take half the time, on maps
of 1 pixel a fortieth.

On a CPU without AVX-512, oneDNN has no fast weight gradient for 5x5 filters and for maps smaller
than the filter: such layers are 7 % of FBNetV3-A's multiply-adds and took half of a training step
at 32 pixels. Both ways here give the same sums in another order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

# Maps of at most so many pixels a side are summed filter cell by filter cell.
_SMALL_MAP = 2


class QuickDepthwise(TorchFunctionMode):
    """While active, `conv2d` of a depthwise layer takes the ways of this module.

    Args:
        own_gradient: whether layers whose weight gradient is slow on a CPU get the one from here.
    """

    def __init__(self, *, own_gradient: bool) -> None:
        super().__init__()
        self._own_gradient = own_gradient

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Calls `func`, or the depthwise convolution of this module in its place."""
        if func is F.conv2d and not kwargs and len(args) == 7:
            x, weight, bias, stride, padding, dilation, groups = args
            plain = bias is None and dilation == (1, 1)
            if plain and _is_depthwise(x, weight, stride, padding, groups):
                weight = _within_reach(weight, x.shape[2])
                half = weight.shape[2] // 2
                if self._own_gradient and _is_slow(x, weight, stride[0]):
                    return _Depthwise.apply(x, weight, stride[0], half)
                return func(x, weight, None, stride, (half, half), dilation, groups)
        return func(*args, **(kwargs or {}))


def helps(device: torch.device) -> bool:
    """Returns whether torch's own gradient is slow here. By the machine, so that runs repeat."""
    return device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"


def _is_depthwise(
    x: Tensor, weight: Tensor, stride: Sequence[int], padding: Any, groups: int
) -> bool:
    """Returns whether a layer is depthwise, square, and padded by half of its filter."""
    kernel = weight.shape[2]
    return (
        1 < groups == weight.shape[0] == x.shape[1]
        and kernel % 2 == 1
        and weight.shape[3] == kernel
        and stride[0] == stride[1]
        and padding == (kernel // 2, kernel // 2)
        and x.shape[2] == x.shape[3]
    )


def _within_reach(weight: Tensor, side: int) -> Tensor:
    """Returns the cells of filters (C, 1, k, k) that can meet a pixel of a map of this side."""
    cut = (weight.shape[2] - (2 * side - 1)) // 2
    return weight if cut <= 0 else weight[:, :, cut:-cut, cut:-cut]


def _is_slow(x: Tensor, weight: Tensor, stride: int) -> bool:
    kernel = weight.shape[2]
    slow = x.shape[2] < kernel or (kernel > 3 and stride == 1)
    return slow and weight.requires_grad and x.dtype == torch.float32


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, None, stride, padding, 1, x.shape[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        s, p = ctx.stride, ctx.padding
        grad_x, _, _ = torch.ops.aten.convolution_backward(
            grads[0], x, weight, None, [s, s], [p, p], [1, 1], False, [0, 0], x.shape[1],
            [ctx.needs_input_grad[0], False, False],
        )  # fmt: skip
        small = grads[0].shape[2] <= _SMALL_MAP
        sums = _by_cell if small else _as_convolution
        return grad_x, sums(x, grads[0], weight.shape[2], s, p), None, None


def _by_cell(x: Tensor, grad: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """Returns (C, 1, kernel, kernel), each cell one product of shifted maps."""
    side = grad.shape[2]
    rows = F.pad(x, (padding,) * 4).permute(0, 2, 3, 1)
    grad = grad.permute(0, 2, 3, 1)
    reach = stride * (side - 1) + 1
    cells = [
        (rows[:, i : i + reach : stride, j : j + reach : stride] * grad).sum((0, 1, 2))
        for i in range(kernel)
        for j in range(kernel)
    ]
    return torch.stack(cells, 1).view(-1, 1, kernel, kernel)


def _as_convolution(x: Tensor, grad: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """Returns (C, 1, kernel, kernel): every image's maps, convolved with their gradients."""
    num, channels, side, _ = x.shape
    filters = grad.reshape(num * channels, 1, *grad.shape[2:])
    maps = x.reshape(1, num * channels, side, side)
    out = F.conv2d(maps, filters, None, 1, padding, stride, num * channels)
    return out[:, :, :kernel, :kernel].reshape(num, channels, 1, kernel, kernel).sum(0)
