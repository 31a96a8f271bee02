"""torchvision's detection and segmentation models with FBNetV3 backbones.

    from fbnetv3.torchvision_backbone import faster_rcnn
    model = faster_rcnn("fbnetv3_e", num_classes=91, pretrained=True)

The models are torchvision's classes with a `trunk.Trunk` as backbone. Images are RGB in 0..1 as in
torchvision. The detectors normalise them with ImageNet's statistics; the segmentation models expect
normalised images. torchvision's feature pyramid takes its sizes from the finer map, so that every
model works with either padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteHead
from torchvision.models.segmentation import LRASPP, DeepLabV3
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7

from fbnetv3._internal.checks import whole_number
from fbnetv3.models.blocks import ConvBnAct, NormFactory
from fbnetv3.models.model import ACTS

from .detector_options import (
    DEFAULT,
    NORMS,
    Arguments,
    Model,
    Options,
    arguments,
    refusing_unknown,
)
from .trunk import ProposalHead, RegionHead, Trunk

__all__ = [
    "NORMS",
    "PYRAMID",
    "Options",
    "Pyramid",
    "Renamed",
    "SsdMaps",
    "deeplab",
    "faster_rcnn",
    "faster_rcnn_c4",
    "lraspp",
    "mask_rcnn",
    "retinanet",
    "ssdlite",
]

PYRAMID = ("res2", "res3", "res4", "res5")
ANCHOR_SIZES = (32, 64, 128, 256, 512)
ASPECT_RATIOS = (0.5, 1.0, 2.0)


class Renamed(nn.Module):
    """A backbone with its feature maps renamed as a torchvision model expects.

    Args:
        body: the backbone.
        names: names of its features, fine to coarse.
    """

    def __init__(self, body: Trunk, names: Sequence[str]) -> None:
        super().__init__()
        self.body = body
        self.names = list(names)
        self.out_channels = body.features[-1].channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Returns name -> map (N, C, H, W), fine to coarse."""
        # TorchScript compiles this, and `SsdMaps.forward`.
        found = list(self.body(x).values())
        maps: dict[str, Tensor] = {}
        for number, name in enumerate(self.names):
            maps[name] = found[number]
        return maps


class Pyramid(nn.Module):
    """A backbone with torchvision's feature pyramid: maps "0", "1", ... and extra levels.

    Args:
        body: the backbone; each of its features becomes a level.
        out_channels: channels of every level.
        extra: block that adds levels.
        norm: normalisation layer of the pyramid; default none.
    """

    def __init__(
        self,
        body: Trunk,
        *,
        out_channels: int = 256,
        extra: ExtraFPNBlock | None = None,
        norm: NormFactory | None = None,
    ) -> None:
        super().__init__()
        self.body = Renamed(body, [str(n) for n in range(len(body.features))])
        channels = [feature.channels for feature in body.features]
        self.fpn = FeaturePyramidNetwork(channels, out_channels, extra, norm)
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Returns name -> map (N, out_channels, H, W), fine to coarse."""
        levels: dict[str, Tensor] = self.fpn(self.body(x))
        return levels


class SsdMaps(nn.Module):
    """A backbone's two coarsest maps and four more of successively half the size, for SSDlite.

    Args:
        body: a backbone with two features.
        widths: channels of the additional maps.
    """

    def __init__(self, body: Trunk, widths: Sequence[int] = (512, 256, 256, 128)) -> None:
        super().__init__()
        self.body = body
        self.channels = [feature.channels for feature in body.features] + list(widths)
        inputs = self.channels[len(body.features) - 1 :]
        self.extra = nn.ModuleList(_halving(a, b) for a, b in pairwise(inputs))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Returns "0", "1", ... -> map, fine to coarse."""
        maps = list(self.body(x).values())
        for block in self.extra:
            maps.append(block(maps[-1]))
        named: dict[str, Tensor] = {}
        for number, level in enumerate(maps):
            named[str(number)] = level
        return named


@refusing_unknown(FasterRCNN)
def faster_rcnn(
    model: Model,
    *,
    num_classes: int,
    pretrained: bool = False,
    options: Options = DEFAULT,
    out_channels: int = 256,
    features: Sequence[str] = PYRAMID,
    **kwargs: Any,
) -> FasterRCNN:
    """Returns Faster R-CNN with a feature pyramid.

    Args:
        model: as in `fbnetv3.create`.
        num_classes: number of classes, including background.
        pretrained: load pretrained weights of the backbone; the heads are randomly initialised.
        options: how the backbone is built.
        out_channels: channels of the pyramid.
        features: feature maps that become levels. With fewer than four, every level has anchors of
            all sizes, as in torchvision's mobile detectors: `("res4", "res5")` costs a quarter.
        **kwargs: arguments of torchvision's `FasterRCNN`: `min_size`, `box_nms_thresh`, ...; fields
            of `options` such as `checkpoint` and `freeze_at`; and torchvision's words for them,
            `weights_backbone="DEFAULT"`, `trainable_backbone_layers` (5 trains everything) and
            `weights`, here the folder of a detector that `fbnetv3 detect train` wrote.

    With trained weights the stem, the rows up to stride 4 and all batch-norms are frozen unless
    told otherwise, as in torchvision: `trainable_backbone_layers=5, norm="BN"` trains everything.

    Raises:
        TypeError: an argument is unknown.
        ValueError: an argument is out of range, or the licence policy refuses the weights.
    """
    given = arguments(num_classes, pretrained, options, kwargs, freezes=True)
    pyramid = _pyramid(model, given, out_channels, LastLevelMaxPool(), features)
    if len(features) < len(PYRAMID) and "rpn_anchor_generator" not in given.rest:
        levels = len(features) + 1
        anchors = AnchorGenerator((ANCHOR_SIZES,) * levels, (ASPECT_RATIOS,) * levels)
        given.rest["rpn_anchor_generator"] = anchors
    return given.loaded(FasterRCNN(pyramid, given.num_classes, **given.rest))


@refusing_unknown(MaskRCNN)
def mask_rcnn(
    model: Model,
    *,
    num_classes: int,
    pretrained: bool = False,
    options: Options = DEFAULT,
    out_channels: int = 256,
    **kwargs: Any,
) -> MaskRCNN:
    """Returns Mask R-CNN with a feature pyramid; arguments as in `faster_rcnn`."""
    given = arguments(num_classes, pretrained, options, kwargs, freezes=True)
    pyramid = _pyramid(model, given, out_channels, LastLevelMaxPool())
    return given.loaded(MaskRCNN(pyramid, given.num_classes, **given.rest))


@refusing_unknown(RetinaNet)
def retinanet(
    model: Model,
    *,
    num_classes: int,
    pretrained: bool = False,
    options: Options = DEFAULT,
    out_channels: int = 256,
    **kwargs: Any,
) -> RetinaNet:
    """Returns RetinaNet on levels 3 to 7; arguments as in `faster_rcnn`.

    `num_classes` includes the background, as in torchvision.
    """
    given = arguments(num_classes, pretrained, options, kwargs, freezes=True)
    extra = LastLevelP6P7(out_channels, out_channels)
    pyramid = _pyramid(model, given, out_channels, extra, ("res3", "res4", "res5"))
    return given.loaded(RetinaNet(pyramid, given.num_classes, **given.rest))


@refusing_unknown(
    FasterRCNN,
    built=("rpn_anchor_generator", "rpn_head", "box_roi_pool", "box_head", "box_predictor"),
)
def faster_rcnn_c4(
    model: Model,
    *,
    num_classes: int,
    pretrained: bool = False,
    options: Options = DEFAULT,
    anchor_sizes: Sequence[int] = ANCHOR_SIZES,
    **kwargs: Any,
) -> FasterRCNN:
    """Returns Faster R-CNN on `res4` only, with the model's own rows as heads, as in the paper.

    The box head is MB6 and MB7 on regions of 6 x 6, the proposal head a copy of MB5's repeats.

    Args:
        model: as in `fbnetv3.create`.
        num_classes: number of classes, including background.
        pretrained: load pretrained weights, also into the rows of the heads.
        options: how backbone and heads are built.
        anchor_sizes: anchor sizes in pixels, each with three aspect ratios.
        **kwargs: arguments of torchvision's `FasterRCNN`.
    """
    given = arguments(num_classes, pretrained, options, kwargs)
    options = given.options
    # Three models, because the rows of the proposal head are a copy of the backbone's.
    trunk, box, proposals = (options.network(model, given.pretrained) for _ in range(3))
    backbone = Renamed(options.trunk(trunk, ["res4"]), ["0"])
    anchors = AnchorGenerator((tuple(anchor_sizes),), (ASPECT_RATIOS,))
    head = RegionHead(box, grad_checkpointing=options.grad_checkpointing)
    made = FasterRCNN(
        backbone,
        rpn_anchor_generator=anchors,
        rpn_head=ProposalHead(
            proposals,
            in_channels=backbone.out_channels,
            num_anchors=anchors.num_anchors_per_location()[0],
        ),
        box_roi_pool=MultiScaleRoIAlign(["0"], output_size=6, sampling_ratio=2),
        box_head=head,
        box_predictor=FastRCNNPredictor(head.tail.out_channels, given.num_classes),
        **given.rest,
    )
    return given.loaded(made)


@refusing_unknown(SSD, built=("anchor_generator", "head"))
def ssdlite(
    model: Model,
    *,
    num_classes: int,
    pretrained: bool = False,
    options: Options = DEFAULT,
    size: int = 320,
    **kwargs: Any,
) -> SSD:
    """Returns SSDlite on `res4`, `res5` and four smaller maps.

    Args:
        model: as in `fbnetv3.create`.
        num_classes: number of classes, including background.
        pretrained: load pretrained weights of the backbone.
        options: how the backbone is built.
        size: height and width in pixels that images are resized to.
        **kwargs: arguments of torchvision's `SSD`.
    """
    given = arguments(num_classes, pretrained, options, kwargs)
    size = whole_number("size", size, 1)
    network = given.options.network(model, given.pretrained)
    maps = SsdMaps(given.options.trunk(network, ["res4", "res5"]))
    anchors = DefaultBoxGenerator([[2, 3]] * len(maps.channels), min_ratio=0.2, max_ratio=0.95)
    head = SSDLiteHead(
        maps.channels, anchors.num_anchors_per_location(), given.num_classes, nn.BatchNorm2d
    )
    defaults = {
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "nms_thresh": 0.55,
    }
    rest = defaults | given.rest
    return given.loaded(SSD(maps, anchors, (size, size), given.num_classes, head=head, **rest))


@refusing_unknown(DeepLabV3, built=("classifier", "aux_classifier"))
def deeplab(
    model: Model,
    *,
    num_classes: int,
    pretrained: bool = False,
    options: Options = DEFAULT,
    output_stride: int = 16,
    aux: bool = False,
    **kwargs: Any,
) -> DeepLabV3:
    """Returns DeepLabV3 on the dilated last map.

    Args:
        model: as in `fbnetv3.create`.
        num_classes: number of classes, including background.
        pretrained: load pretrained weights of the backbone.
        options: how the backbone is built.
        output_stride: 8, 16 or 32; strides beyond it are replaced by dilation.
        aux: add an auxiliary classifier on `res4`, for training.
        **kwargs: fields of `options`, and torchvision's words for them, see `faster_rcnn`.
    """
    given = arguments(num_classes, pretrained, options, kwargs, detects=False)
    network = given.options.network(model, given.pretrained, output_stride)
    features = ["res4", "res5"] if aux else ["res5"]
    body = given.options.trunk(network, features, output_stride)
    backbone = Renamed(body, ["aux", "out"] if aux else ["out"])
    second = FCNHead(body.features[0].channels, given.num_classes) if aux else None
    head = DeepLabHead(backbone.out_channels, given.num_classes)
    return given.loaded(DeepLabV3(backbone, head, second))


@refusing_unknown(LRASPP, built=("low_channels", "high_channels"))
def lraspp(
    model: Model,
    *,
    num_classes: int,
    pretrained: bool = False,
    options: Options = DEFAULT,
    output_stride: int = 16,
    inter_channels: int = 128,
    **kwargs: Any,
) -> LRASPP:
    """Returns Lite R-ASPP on `res3` and the dilated last map; arguments as in `deeplab`."""
    given = arguments(num_classes, pretrained, options, kwargs, detects=False)
    network = given.options.network(model, given.pretrained, output_stride)
    body = given.options.trunk(network, ["res3", "res5"], output_stride)
    inter_channels = whole_number("inter_channels", inter_channels, 1)
    low, high = (feature.channels for feature in body.features)
    backbone = Renamed(body, ["low", "high"])
    return given.loaded(LRASPP(backbone, low, high, given.num_classes, inter_channels))


def _pyramid(
    model: Model,
    given: Arguments,
    out_channels: int,
    extra: ExtraFPNBlock,
    features: Sequence[str] = PYRAMID,
) -> Pyramid:
    out_channels = whole_number("out_channels", out_channels, 1)
    body = given.options.trunk(given.options.network(model, given.pretrained), features)
    return Pyramid(body, out_channels=out_channels, extra=extra)


def _halving(in_channels: int, out_channels: int) -> nn.Sequential:
    """Returns 1x1, depthwise 3x3 with stride 2, and 1x1, like the extra layers of SSDlite."""
    make = partial(ConvBnAct, bias=False, dilation=1, norm=nn.BatchNorm2d, act=ACTS["hard_swish"])
    mid = out_channels // 2
    return nn.Sequential(
        make(in_channels, mid, kernel=1, stride=1, padding=0, groups=1),
        make(mid, mid, kernel=3, stride=2, padding=1, groups=mid),
        make(mid, out_channels, kernel=1, stride=1, padding=0, groups=1),
    )
