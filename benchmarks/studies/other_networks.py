"""torchvision's networks for 32 x 32 images, narrow enough to train in minutes on one core."""

from __future__ import annotations

from typing import Any

import torch
import torchvision
from fvcore.nn import FlopCountAnalysis
from torch import nn

NARROWER = 4


def narrow_network(
    name: str, num_classes: int, seed: int, *, narrower: int = NARROWER
) -> nn.Module:
    """Returns an untrained network of torchvision with a part of its channels.

    Its first layers keep more of a small image: ResNets and DenseNets begin with a convolution of
    3 x 3 and stride 1 before their pooling, AlexNet too, and its classifier sees one average per
    channel. Convolutions in groups keep the channels of a group and have fewer groups.

    Args:
        name: of `torchvision.models`.
        num_classes: of the logits.
        seed: of the weights, which are drawn as torchvision draws them for such a network.
        narrower: how many times fewer channels it has.
    """
    torch.manual_seed(seed)
    model: Any = torchvision.models.get_model(name, num_classes=num_classes)
    for parent in list(model.modules()):
        for child_name, child in list(parent.named_children()):
            setattr(parent, child_name, _narrow(child, num_classes, narrower))
    if name == "alexnet":
        model.features[0] = _first(model.features[0], bias=True)
        model.avgpool = nn.AdaptiveAvgPool2d(1)
        model.classifier[1] = nn.Linear(256 // narrower, 4096 // narrower)
    elif hasattr(model, "conv1"):
        model.conv1 = _first(model.conv1, bias=False)
    else:
        model.features.conv0 = _first(model.features.conv0, bias=False)
    for part in model.modules():
        if isinstance(part, nn.Conv2d) and name != "alexnet":
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
    made: nn.Module = model
    return made


def _narrow(layer: nn.Module, num_classes: int, by: int) -> nn.Module:
    if isinstance(layer, nn.Conv2d):
        return nn.Conv2d(
            layer.in_channels // (by if layer.in_channels > 3 else 1),
            layer.out_channels // by,
            layer.kernel_size[0],
            layer.stride[0],
            int(layer.padding[0]),
            groups=max(1, layer.groups // by),
            bias=layer.bias is not None,
        )
    if isinstance(layer, nn.BatchNorm2d):
        return nn.BatchNorm2d(layer.num_features // by)
    if isinstance(layer, nn.Linear):
        last = layer.out_features == num_classes
        outputs = num_classes if last else layer.out_features // by
        return nn.Linear(layer.in_features // by, outputs)
    return layer


def _first(layer: nn.Conv2d, bias: bool) -> nn.Conv2d:
    return nn.Conv2d(3, layer.out_channels, 3, padding=1, bias=bias)


def cost_of(model: nn.Module, side: int) -> dict[str, int]:
    """Returns multiply-adds as fvcore counts them, for a square input in pixels, and parameters."""
    counter = FlopCountAnalysis(model.eval(), torch.zeros(1, 3, side, side))
    counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return {
        "fvcore_macs": int(counter.total()),
        "params": sum(p.numel() for p in model.parameters()),
    }
