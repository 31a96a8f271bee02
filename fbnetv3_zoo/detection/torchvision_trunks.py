"""torchvision's own backbones in its detectors, to compare ours with and to train in the same way.

`torchvision:mobilenet_v3_large` makes torchvision's mobile detectors as they are; the names of its
ResNets (`torchvision:resnet50`, `torchvision:resnet101`, ...) make Faster R-CNN and RetinaNet.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torchvision import models
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

TORCHVISION = "torchvision:"
_MOBILE = "mobilenet_v3_large"
# What torchvision itself trains of its mobile trunk; the names of the others say "of five".
_MOBILE_LAYERS = 6


def known_trunks(detector: str) -> tuple[str, ...]:
    """Returns the names of torchvision's backbones that a detector of ours can have, if any."""
    if detector == "faster_rcnn_320_lite":
        return ()
    if detector == "ssdlite":
        return (_MOBILE,)
    patterns = ("resnet*", "resnext*", "wide_resnet*")
    resnets = tuple(models.list_models(module=models, include=patterns))
    return resnets if detector == "retinanet" else (_MOBILE, *resnets)


def with_torchvision_trunk(
    detector: str,
    name: str,
    *,
    num_classes: int,
    size: int,
    arguments: Mapping[str, Any],
    pretrained: bool,
    trainable_layers: int,
) -> nn.Module:
    """Returns a detector of torchvision on one of its own backbones.

    Args:
        detector: a name of `detectors.DETECTORS`.
        name: of the backbone, with the prefix.
        num_classes: number of classes, including background.
        size: of images in pixels.
        arguments: of the detector's class, as for ours.
        pretrained: load torchvision's ImageNet weights, which it downloads.
        trainable_layers: of the backbone from the end, 0 to 5; with fewer than 5 a ResNet's
            batch-norms are frozen.

    Raises:
        ValueError: torchvision has no such backbone, or not for this detector.
        FileNotFoundError: the weights cannot be downloaded.
    """
    plain = name.removeprefix(TORCHVISION)
    known = known_trunks(detector)
    if not known:
        raise ValueError(
            f"{detector} is for our backbones, not {name!r}; give another --detector, such as "
            "faster_rcnn_320"
        )
    if plain not in known:
        raise ValueError(
            f"{detector} has no backbone {name!r}; expected "
            f"{' or '.join(TORCHVISION + one for one in known)}"
        )
    try:
        if plain == _MOBILE:
            layers = trainable_layers + 1 if trainable_layers == 5 else trainable_layers
            return _mobile(detector, num_classes, size, arguments, pretrained, layers)
        return _resnet(detector, plain, num_classes, arguments, pretrained, trainable_layers)
    except OSError as error:
        raise FileNotFoundError(
            f"cannot download torchvision's weights of {plain}: {error}; give --from-scratch, or "
            "connect to the network"
        ) from error


def _mobile(
    detector: str,
    num_classes: int,
    size: int,
    arguments: Mapping[str, Any],
    pretrained: bool,
    layers: int,
) -> nn.Module:
    given: dict[str, Any] = {
        "weights": None,
        "weights_backbone": "DEFAULT" if pretrained else None,
        "num_classes": num_classes,
    }
    if pretrained:  # torchvision warns where there is nothing to freeze
        given["trainable_backbone_layers"] = layers
    if detector == "ssdlite":
        made: nn.Module = detection.ssdlite320_mobilenet_v3_large(**given)
        old: Any = made.transform
        made.transform = GeneralizedRCNNTransform(
            size, size, old.image_mean, old.image_std, size_divisible=1, fixed_size=(size, size)
        )
        return made
    make = (
        detection.fasterrcnn_mobilenet_v3_large_320_fpn
        if detector == "faster_rcnn_320"
        else detection.fasterrcnn_mobilenet_v3_large_fpn
    )
    rest = {key: value for key, value in arguments.items() if key != "features"}
    found: nn.Module = make(**given, **rest)
    return found


def _resnet(
    detector: str,
    name: str,
    num_classes: int,
    arguments: Mapping[str, Any],
    pretrained: bool,
    layers: int,
) -> nn.Module:
    weights = models.get_model_weights(name).DEFAULT if pretrained else None
    given: dict[str, Any] = {
        "backbone_name": name,
        "weights": weights,
        "norm_layer": nn.BatchNorm2d if layers == 5 else FrozenBatchNorm2d,
        "trainable_layers": layers,
    }
    rest = {key: value for key, value in arguments.items() if key != "features"}
    if detector == "retinanet":
        trunk = resnet_fpn_backbone(
            **given, returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256)
        )
        one_stage: nn.Module = detection.RetinaNet(trunk, num_classes, **rest)
        return one_stage
    two_stages: nn.Module = detection.FasterRCNN(resnet_fpn_backbone(**given), num_classes, **rest)
    return two_stages
