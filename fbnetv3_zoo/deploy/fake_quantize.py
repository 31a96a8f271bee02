"""An ONNX graph as a torch module that rounds as its int8 form does, so that it can be trained.

Values are rounded where `qdq_graph` puts its quantizers, weights per channel and activations per
tensor, and gradients pass the rounding unchanged (Jacob et al. 2018, arXiv 1712.05877). The ranges
of activations are trained too, with the gradient of Learned Step Size Quantization (Esser et al.
2020, arXiv 1902.08153). Biases are not rounded: the file keeps them in 32 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Steps of uint8 activations, and the largest int8 weight.
_STEPS, _LARGEST = 255, 127
_LEAST_RANGE = 1e-6
_WEIGHTED = ("Conv", "Gemm")


class _Node(NamedTuple):
    operator: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, Any]


class TrainableGraph(nn.Module):
    """A float ONNX graph, or its int8 form as trained: images (N, C, H, W) to logits.

    Args:
        model: an `onnx.ModelProto` in float, of the operators of `_OPERATORS`.
        start: the tensor that images take the place of.
        ranges: tensor -> range, of the activations to round; without any nothing is rounded.
        gates: those whose range is not trained and which are divided by six, see `int8_swish`.

    Raises:
        ValueError: the graph has another operator.
    """

    def __init__(
        self,
        model: Any,
        start: str,
        ranges: Mapping[str, tuple[float, float]],
        gates: Collection[str] = (),
    ) -> None:
        super().__init__()
        import onnx

        constants = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
        self._nodes = _nodes_from(model, start)
        self._start, self._end = start, model.graph.output[0].name
        used = {name for node in self._nodes for name in node.inputs}
        self._names = [name for name in constants if name in used]
        self.constants = nn.ParameterList(
            nn.Parameter(torch.tensor(constants[name]), requires_grad=constants[name].size > 1)
            for name in self._names
        )
        self._rounded = {name: number for number, name in enumerate(ranges)}
        self._gates = frozenset(gates)
        self.ranges = nn.Parameter(torch.tensor(list(ranges.values())).view(-1, 2))

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits (N, num_classes)."""
        values = dict(zip(self._names, self.constants, strict=True))
        ranges = self.ranges.unbind()
        values[self._start] = self._round(self._start, x, ranges)
        for node in self._nodes:
            given = [values[name] for name in node.inputs]
            if node.operator in _WEIGHTED and self._rounded:
                given[1] = rounded_weight(given[1])
            value = _OPERATORS[node.operator](*given, **node.attributes)
            values[node.output] = self._round(node.output, value, ranges)
        return values[self._end]

    def _round(self, name: str, value: Tensor, ranges: Sequence[Tensor]) -> Tensor:
        number = self._rounded.get(name)
        if number is None:
            return value
        if name in self._gates:
            return rounded(value, ranges[number].detach()) / 6
        return rounded(value, ranges[number])

    def trained_constants(self) -> dict[str, Any]:
        """Returns the arrays of the graph's constants by name."""
        return {
            name: tensor.detach().cpu().contiguous().numpy()
            for name, tensor in zip(self._names, self.constants, strict=True)
        }

    def trained_ranges(self) -> dict[str, tuple[float, float]]:
        """Returns the ranges of the rounded tensors but gates; ends are multiples of the step."""
        scales, zeros = (t.detach().cpu().double() for t in scale_and_zero(self.ranges))
        ends = torch.stack((-zeros * scales, (_STEPS - zeros) * scales), 1).tolist()
        return {
            name: (ends[number][0], ends[number][1])
            for name, number in self._rounded.items()
            if name not in self._gates
        }


def scale_and_zero(ranges: Tensor) -> tuple[Tensor, Tensor]:
    """Returns step and zero point of ranges (..., 2), which are widened to include zero."""
    low, high = ranges[..., 0].clamp(max=0), ranges[..., 1].clamp(min=0)
    scale = (high - low).clamp(min=_LEAST_RANGE) / _STEPS
    return scale, (-low / scale).round().clamp(0, _STEPS)


def rounded(x: Tensor, ends: Tensor) -> Tensor:
    """Returns x rounded to 256 values of a range (2,), clipped to it; gradients reach both."""
    found: Tensor = _Rounded.apply(x, ends)
    return found


def rounded_weight(weight: Tensor) -> Tensor:
    """Returns a weight rounded to int8 steps of its own for each of its first axis's channels."""
    with torch.no_grad():
        largest = weight.detach().flatten(1).abs().amax(1).clamp(min=_LEAST_RANGE / 2)
        zeros = torch.zeros(len(weight), dtype=torch.int32, device=weight.device)
    return torch.fake_quantize_per_channel_affine(
        weight, largest / _LARGEST, zeros, 0, -_LARGEST, _LARGEST
    )


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ends: Tensor) -> Tensor:
        scale, zero = scale_and_zero(ends)
        # On a CPU five times as fast as torch's fake_quantize_per_tensor_affine and clamp.
        y = (x / scale).round_()
        torch.maximum(torch.minimum(y, _STEPS - zero, out=y), -zero, out=y).mul_(scale)
        ctx.save_for_backward(x, y, scale)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, y, scale = ctx.saved_tensors
        change = y - x
        # 1 where x was clipped, as only there it changed by more than half a step. In float: on a
        # CPU products with booleans take ten times as long.
        clipped = change.abs().sub_(0.501 * scale).sign_().clamp_(min=0).mul_(grads[0])
        inside = grads[0] - clipped
        if not ctx.needs_input_grad[1]:
            return inside, None
        # Inside, y - x grows with the step; what is clipped moves with its end.
        stretch = change.mul_(inside).sum() / (scale * _STEPS)
        both, difference = clipped.sum(), clipped.mul_(x.sign()).sum()
        low, high = (both - difference) / 2, (both + difference) / 2
        return inside, torch.stack((low - stretch, high + stretch))


def _nodes_from(model: Any, start: str) -> list[_Node]:
    """Returns the nodes that depend on a tensor."""
    import onnx

    known, found = {start}, []
    for node in model.graph.node:
        if not known & set(node.input):
            continue
        if node.op_type not in _OPERATORS:
            raise ValueError(
                f"the file has the operator {node.op_type} ({node.name}), which cannot be trained; "
                f"expected one of {', '.join(_OPERATORS)}. Quantize it without training"
            )
        values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        found.append(_Node(node.op_type, tuple(node.input), node.output[0], values))
        known |= set(node.output)
    return found


def _conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    group: int = 1,
    pads: Sequence[int] = (0, 0, 0, 0),
    strides: Sequence[int] = (1, 1),
    dilations: Sequence[int] = (1, 1),
    **_: Any,
) -> Tensor:
    top, left, bottom, right = pads
    if (top, left) != (bottom, right):
        x, top, left = F.pad(x, (left, right, top, bottom)), 0, 0
    # The bias apart, so that a training takes its own way for depthwise layers.
    within = bias if group == 1 else None
    y = F.conv2d(x, weight, within, tuple(strides), (top, left), tuple(dilations), group)
    return y if bias is None or group == 1 else y + bias.view(-1, 1, 1)


def _gemm(x: Tensor, weight: Tensor, bias: Tensor | None = None, **_: Any) -> Tensor:
    return F.linear(x, weight, bias)


def _hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    return (x * alpha + beta).clamp(0, 1)


_OPERATORS: dict[str, Callable[..., Tensor]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "Add": torch.add,
    "Mul": torch.mul,
    "GlobalAveragePool": lambda x: x.mean((2, 3), keepdim=True),
    "Flatten": lambda x, **_: x.flatten(1),
    "HardSwish": F.hardswish,
    "HardSigmoid": _hard_sigmoid,
    "Relu": F.relu,
    "Clip": torch.clamp,
    "Sigmoid": torch.sigmoid,
}
