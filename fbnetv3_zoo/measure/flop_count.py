"""Multiply-adds of a built network through fvcore, by layer, with the convention named.

`counts.count` gives the same totals in closed form, at once and without torch.
"""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fbnetv3.arch.arch import Arch
from fbnetv3.models.model import FBNetV3, build

# What fvcore counts as zero here and would warn of; nothing that multiplies a weight is among them.
_UNCOUNTED = frozenset(
    f"aten::{name}"
    for name in (
        "add",
        "add_",
        "adaptive_max_pool2d",
        "clamp_",
        "gelu",
        "hardsigmoid",
        "hardswish",
        "hardswish_",
        "hardtanh_",
        "mul",
        "relu_",
        "silu_",
    )
)


@dataclass(frozen=True)
class LayerFlops:
    """One module that holds weights or pools.

    Attributes:
        name: of the module.
        kind: of the module, such as "Conv2d".
        macs: multiply-adds for one image, batch-norm as fvcore has it.
        params: trainable numbers.
        output: shape of one image's output, without the batch.
    """

    name: str
    kind: str
    macs: int
    params: int
    output: tuple[int, ...]


@dataclass(frozen=True)
class Flops:
    """What a network costs for one image; the paper calls multiply-adds FLOPs.

    Attributes:
        resolution: side of the input in pixels.
        macs_paper: convolutions, classifier, pooling (and the official classifier's second pool,
            which our modules leave out), the published convention.
        macs_fvcore: fvcore's total, which adds two for each batch-norm output element.
        params: every trainable number.
        weight_params: weights of convolutions and classifier alone, the published convention.
        by_operator: fvcore's counts.
        layers: the table by module.
    """

    resolution: int
    macs_paper: int
    macs_fvcore: int
    params: int
    weight_params: int
    by_operator: dict[str, int]
    layers: tuple[LayerFlops, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON types."""
        return asdict(self)


def flops(model: nn.Module | Arch | str, resolution: int | None = None) -> Flops:
    """Returns the cost of one image through a network.

    Args:
        model: a built model (it is run once, in its own device and dtype), a table, or a name as
            `create` takes it, with the classes of the weights that it names.
        resolution: side of the square input in pixels; the network's own unless given.

    Raises:
        ValueError: the name is unknown, a foreign model comes without `resolution`, or the input
            is too small for the network.
        ImportError: fvcore is not installed.
    """
    module = _module_of(model)
    side = _side(module, resolution)
    like = next(module.parameters())
    channels = int(getattr(module, "in_chans", 3))
    x = torch.zeros(1, channels, side, side, device=like.device, dtype=like.dtype)
    modes = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        with torch.no_grad():
            shapes = _output_shapes(module, x)
            by_operator, by_module = _analyse(module, x)
    finally:
        for part, training in modes:
            part.training = training
    total = sum(by_operator.values())
    second_pool = 0
    if isinstance(module, FBNetV3) and module.num_classes:
        second_pool = module.head_hidden_size
    return Flops(
        resolution=side,
        macs_paper=total - by_operator.get("batch_norm", 0) + second_pool,
        macs_fvcore=total,
        params=sum(p.numel() for p in module.parameters()),
        weight_params=sum(
            layer.weight.numel()
            for layer in module.modules()
            if isinstance(layer, nn.Conv2d | nn.Linear)
        ),
        by_operator=by_operator,
        layers=tuple(
            LayerFlops(
                name=name,
                kind=type(layer).__name__,
                macs=by_module[name],
                params=sum(p.numel() for p in layer.parameters()),
                output=shapes[name],
            )
            for name, layer in module.named_modules()
            if name in shapes
        ),
    )


def _output_shapes(module: nn.Module, x: Tensor) -> dict[str, tuple[int, ...]]:
    """Returns the shape of one image's output of every layer that is counted, by name."""
    shapes: dict[str, tuple[int, ...]] = {}
    hooks = [
        layer.register_forward_hook(
            lambda _m, _i, out, name=name: shapes.__setitem__(name, tuple(out.shape[1:]))
        )
        for name, layer in module.named_modules()
        if _is_counted(layer)
    ]
    try:
        module(x)
    finally:
        for hook in hooks:
            hook.remove()
    return shapes


def _analyse(module: nn.Module, x: Tensor) -> tuple[dict[str, int], dict[str, int]]:
    """Returns fvcore's counts by operator and by module name."""
    with warnings.catch_warnings():
        # fvcore compiles a loss function with TorchScript as it is imported, which torch deplores.
        warnings.simplefilter("ignore")
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(module, x)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        analysis.tracer_warnings("none")
        by_operator = {name: int(n) for name, n in analysis.by_operator().items()}
        by_module = {name: int(n) for name, n in analysis.by_module().items()}
        unsupported = sorted(set(analysis.unsupported_ops()) - _UNCOUNTED)
    if isinstance(module, FBNetV3) and unsupported:
        raise ValueError(
            f"fvcore cannot count {', '.join(unsupported)}; the total would be too low. Count the "
            "network with its own activations, or add a handler to fvcore"
        )
    return by_operator, by_module


def _module_of(model: nn.Module | Arch | str) -> nn.Module:
    if isinstance(model, str):
        from fbnetv3.hub.create import create

        return create(model)
    return build(model) if isinstance(model, Arch) else model


def _side(module: nn.Module, resolution: int | None) -> int:
    if isinstance(module, FBNetV3):
        side = module.arch.resolution if resolution is None else resolution
        module.feature_info.size_at(side, side)
        return side
    if resolution is None:
        raise ValueError(f"resolution is None; {type(module).__name__} needs one, such as 224")
    return resolution


def _is_counted(layer: nn.Module) -> bool:
    return isinstance(
        layer,
        nn.Conv2d | nn.Linear | nn.BatchNorm2d | nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d,
    )
