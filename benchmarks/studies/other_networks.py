"""torchvision's networks for 32 x 32 images, narrow enough to train in minutes on one core."""

from __future__ import annotations

from typing import Any

import torch
import torchvision
from torch import nn

NARROWER = 4


def narrow_network(name: str, num_classes: int, seed: int) -> nn.Module:
    """Returns an untrained network of torchvision with a quarter of its channels.

    Its first layers keep more of a small image: ResNets and DenseNets begin with a convolution of
    3 x 3 and stride 1 before their pooling, AlexNet too, and its classifier sees one average per
    channel. Convolutions in groups keep the channels of a group and have fewer groups.

    Args:
        name: of `torchvision.models`.
        num_classes: of the logits.
        seed: of the weights, which are drawn as torchvision draws them for such a network.
    """
    torch.manual_seed(seed)
    model: Any = torchvision.models.get_model(name, num_classes=num_classes)
    for parent in list(model.modules()):
        for child_name, child in list(parent.named_children()):
            setattr(parent, child_name, _narrow(child, num_classes))
    if name == "alexnet":
        model.features[0] = _first(model.features[0], bias=True)
        model.avgpool = nn.AdaptiveAvgPool2d(1)
        model.classifier[1] = nn.Linear(256 // NARROWER, 4096 // NARROWER)
    elif hasattr(model, "conv1"):
        model.conv1 = _first(model.conv1, bias=False)
    else:
        model.features.conv0 = _first(model.features.conv0, bias=False)
    for part in model.modules():
        if isinstance(part, nn.Conv2d) and name != "alexnet":
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
    made: nn.Module = model
    return made


def _narrow(layer: nn.Module, num_classes: int) -> nn.Module:
    if isinstance(layer, nn.Conv2d):
        if layer.in_channels > 3:
            return _conv(layer, layer.in_channels // NARROWER)
        return _conv(layer, layer.in_channels)
    if isinstance(layer, nn.BatchNorm2d):
        return nn.BatchNorm2d(layer.num_features // NARROWER)
    if isinstance(layer, nn.Linear):
        last = layer.out_features == num_classes
        outputs = num_classes if last else layer.out_features // NARROWER
        return nn.Linear(layer.in_features // NARROWER, outputs)
    return layer


def _conv(layer: nn.Conv2d, in_channels: int) -> nn.Conv2d:
    side, stride, padding = layer.kernel_size[0], layer.stride[0], layer.padding[0]
    return nn.Conv2d(
        in_channels,
        layer.out_channels // NARROWER,
        side,
        stride,
        int(padding),
        groups=max(1, layer.groups // NARROWER),
        bias=layer.bias is not None,
    )


def _first(layer: nn.Conv2d, bias: bool) -> nn.Conv2d:
    return nn.Conv2d(3, layer.out_channels, 3, padding=1, bias=bias)
