"""FBNetV3 for Detectron2: backbone, feature pyramid, C4 box head, proposal head.

    import fbnetv3.detectron2_config as zoo
    cfg = zoo.get_config("faster_rcnn_fbnetv3_a_c4")     # or add_fbnetv3_config(cfg) and your own
    model = detectron2.modeling.build_model(cfg)

Importing this module registers the builders `build_fbnetv3_backbone`, `build_fbnetv3_fpn_backbone`,
`build_fbnetv3_retinanet_fpn_backbone`, `build_fbnetv3_box_head` and `build_fbnetv3_rpn_head`; they
read `cfg.MODEL.FBNETV3`. The classes take plain keyword arguments and work with LazyConfig.

Detectron2 is not a dependency, as it has no release on PyPI: a checkout of its repository on the
Python path is enough (with setuptools below 82). The layers come from `trunk`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from fbnetv3._internal.optional import missing
from fbnetv3.images.preprocess import IMAGENET_MEAN, IMAGENET_STD
from fbnetv3.models.model import FBNetV3

from .trunk import ProposalHead, RegionHead, Tail, Trunk, load_network

try:
    from detectron2.layers import FrozenBatchNorm2d, ShapeSpec, get_norm
    from detectron2.modeling import (
        BACKBONE_REGISTRY,
        FPN,
        ROI_BOX_HEAD_REGISTRY,
        RPN_HEAD_REGISTRY,
        Backbone,
        build_anchor_generator,
    )
    from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
except ImportError as error:
    raise missing("detectron2", error) from error

__all__ = [
    "NORMS",
    "FBNetV3Backbone",
    "FBNetV3BoxHead",
    "FBNetV3FPN",
    "FBNetV3RPNHead",
    "FBNetV3Res5",
    "build_fbnetv3_backbone",
    "build_fbnetv3_box_head",
    "build_fbnetv3_fpn_backbone",
    "build_fbnetv3_retinanet_fpn_backbone",
    "build_fbnetv3_rpn_head",
    "check_pixels",
]

logger = logging.getLogger("fbnetv3")

NORMS = ("BN", "SyncBN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N", "FrozenBN")
# Detectron2 passes images in 0..255.
PIXEL_MEAN = [255 * value for value in IMAGENET_MEAN]
PIXEL_STD = [255 * value for value in IMAGENET_STD]


class FBNetV3Backbone(Backbone):  # type: ignore[misc]  # detectron2 has no types
    """The backbone without a pyramid: images (N, C, H, W) to name -> feature map.

    With padding "faithful", the maps of A, B, C, E and F are smaller than H / stride, and only
    `FBNetV3FPN` can combine them.

    Args:
        arch: name, `name.tag`, path of an architecture's JSON, or an `Arch` (which a LazyConfig
            cannot hold), as in `fbnetv3.create`.
        out_features: `res1` to `res5`, or d2go's `trunk0` to `trunk4`.
        norm: one of `NORMS`; activations are separate modules and are kept.
        padding: "same" or "faithful", see `trunk.load_network`.
        freeze_at: 0 to 5, see `trunk.Trunk`.
        pretrained: load the pretrained weights of the name.
        checkpoint: file of a classification model's weights to load instead.
        license: "commercial" refuses weights that forbid commercial use.
        in_channels: channels of the images.
        drop_path_rate: stochastic depth rate, increasing up to the last row.
        output_stride: 8, 16 or 32; strides beyond it are replaced by dilation.
        grad_checkpointing: recompute rows in the backward pass, to save memory.

    Raises:
        ValueError: an argument is out of range, or weights do not fit.
    """

    def __init__(
        self,
        *,
        arch: Any = "fbnetv3_a",
        out_features: Sequence[str] = ("res4",),
        norm: str = "BN",
        padding: str = "same",
        freeze_at: int = 0,
        pretrained: bool = False,
        checkpoint: str = "",
        license: str = "",
        in_channels: int = 3,
        drop_path_rate: float = 0.0,
        output_stride: int = 32,
        grad_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        network = _network(
            arch,
            norm,
            padding=padding,
            pretrained=pretrained,
            checkpoint=checkpoint or None,
            license=license or None,
            in_chans=in_channels,
            drop_path_rate=drop_path_rate,
            output_stride=output_stride,
        )
        self.pixel_mean, self.pixel_std = _statistics(network)
        self.trunk = Trunk(
            network,
            list(out_features),
            output_stride=output_stride,
            freeze_at=freeze_at,
            freeze_norms=FrozenBatchNorm2d.convert_frozen_batchnorm,
            grad_checkpointing=grad_checkpointing,
        )
        self._out_features = [feature.name for feature in self.trunk.features]
        self._out_feature_channels = {f.name: f.channels for f in self.trunk.features}
        self._out_feature_strides = {f.name: f.stride for f in self.trunk.features}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Returns name -> map, fine to coarse."""
        maps: dict[str, Tensor] = self.trunk(x)
        return maps


class FBNetV3FPN(FPN):  # type: ignore[misc]  # detectron2 has no types
    """Detectron2's feature pyramid, for maps of any size.

    The coarser map is upsampled to the size of the finer one, where Detectron2 always doubles it.
    So it works at every input size without padding the image, and with published paddings, which
    give maps such as 64, 32, 15, 7. Where sizes double exactly it computes the same as Detectron2's
    FPN, and the tensor names are the same.
    """

    @property
    def size_divisibility(self) -> int:
        """0, as any input size works."""
        return 0

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Returns "p<level>" -> map, fine to coarse."""
        maps = self.bottom_up(x)
        outputs: list[Tensor] = []
        coarser: Tensor | None = None
        for name, lateral, output in zip(
            reversed(self.in_features), self.lateral_convs, self.output_convs, strict=True
        ):
            level: Tensor = lateral(maps[name])
            if coarser is not None:
                level = level + F.interpolate(coarser, size=level.shape[-2:], mode="nearest")
                level = level / 2 if self._fuse_type == "avg" else level
            coarser = level
            outputs.insert(0, output(level))
        if self.top_block is not None:
            found = {**dict(zip(self._out_features, outputs, strict=False)), **maps}
            outputs.extend(self.top_block(found[self.top_block.in_feature]))
        return dict(zip(self._out_features, outputs, strict=True))


class FBNetV3BoxHead(RegionHead):
    """The model's own rows after a feature, average-pooled: the box head of `StandardROIHeads`.

    Args:
        arch: as in `FBNetV3Backbone`; must be the same.
        in_feature: the feature that regions are extracted from, `res4` or `trunk3`.
        grad_checkpointing: recompute rows in the backward pass, to save memory.
        **kwargs: `norm`, `padding`, `pretrained`, `checkpoint`, `license` of `FBNetV3Backbone`.
    """

    def __init__(
        self,
        *,
        arch: Any = "fbnetv3_a",
        in_feature: str = "res4",
        grad_checkpointing: bool = False,
        **kwargs: Any,
    ) -> None:
        network = _head_network(arch, **kwargs)
        super().__init__(network, behind=in_feature, grad_checkpointing=grad_checkpointing)

    @property
    def output_shape(self) -> Any:
        """Detectron2's `ShapeSpec` of the output."""
        return ShapeSpec(channels=self.tail.out_channels)


class FBNetV3Res5(nn.Module):
    """The same rows without the pooling, as `res5` of Detectron2's `Res5ROIHeads`.

    Args: those of `FBNetV3BoxHead`.
    """

    def __init__(
        self,
        *,
        arch: Any = "fbnetv3_a",
        in_feature: str = "res4",
        grad_checkpointing: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        network = _head_network(arch, **kwargs)
        self.tail = Tail(network, behind=in_feature, grad_checkpointing=grad_checkpointing)
        self.out_channels = self.tail.out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Returns a map (N, C', H / 2, W / 2)."""
        x = self.tail(x)
        return x


class FBNetV3RPNHead(ProposalHead):
    """Region proposals from a copy of the repeated blocks of the row that outputs `in_feature`.

    Args:
        arch: as in `FBNetV3Backbone`; must be the same.
        in_channels: channels of the maps, those of `in_feature`.
        num_anchors: anchors per position.
        box_dim: numbers per box.
        in_feature: `res4` or `trunk3`.
        **kwargs: `norm`, `padding`, `pretrained`, `checkpoint`, `license` of `FBNetV3Backbone`.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_anchors: int,
        box_dim: int = 4,
        arch: Any = "fbnetv3_a",
        in_feature: str = "res4",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            _head_network(arch, **kwargs),
            in_channels=in_channels,
            num_anchors=num_anchors,
            box_dim=box_dim,
            feature=in_feature,
        )


def build_fbnetv3_backbone(cfg: Any, input_shape: Any) -> FBNetV3Backbone:
    """Returns the backbone of `cfg.MODEL.FBNETV3`, after checking image format and statistics."""
    own = cfg.MODEL.FBNETV3
    backbone = FBNetV3Backbone(
        **_part_arguments(cfg),
        out_features=own.OUT_FEATURES,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        in_channels=input_shape.channels,
        drop_path_rate=own.DROP_PATH_RATE,
        output_stride=own.OUTPUT_STRIDE,
    )
    if own.CHECK_PIXELS and input_shape.channels == 3:
        check_pixels(
            cfg.INPUT.FORMAT,
            cfg.MODEL.PIXEL_MEAN,
            cfg.MODEL.PIXEL_STD,
            mean=backbone.pixel_mean,
            std=backbone.pixel_std,
        )
    if cfg.MODEL.BACKBONE.FREEZE_AT and not (own.PRETRAINED or own.CHECKPOINT or cfg.MODEL.WEIGHTS):
        logger.warning(
            "MODEL.BACKBONE.FREEZE_AT is %d without weights, so untrained layers would be frozen; "
            "set MODEL.WEIGHTS = 'fbnetv3://NAME' or FREEZE_AT = 0",
            cfg.MODEL.BACKBONE.FREEZE_AT,
        )
    return backbone


def build_fbnetv3_fpn_backbone(cfg: Any, input_shape: Any) -> FBNetV3FPN:
    """Returns the backbone with a pyramid p2 to p6, for Faster and Mask R-CNN."""
    return _pyramid(cfg, build_fbnetv3_backbone(cfg, input_shape), LastLevelMaxPool())


def build_fbnetv3_retinanet_fpn_backbone(cfg: Any, input_shape: Any) -> FBNetV3FPN:
    """Returns the backbone with a pyramid p3 to p7, for RetinaNet; p6 and p7 use the last map."""
    trunk = build_fbnetv3_backbone(cfg, input_shape)
    last = cfg.MODEL.FPN.IN_FEATURES[-1]
    channels = trunk.output_shape()[last].channels
    top = LastLevelP6P7(channels, cfg.MODEL.FPN.OUT_CHANNELS, in_feature=last)
    return _pyramid(cfg, trunk, top)


def build_fbnetv3_box_head(cfg: Any, input_shape: Any) -> FBNetV3BoxHead:
    """Returns the C4 box head, for `StandardROIHeads` on one feature of the backbone."""
    (feature,) = cfg.MODEL.ROI_HEADS.IN_FEATURES
    head = FBNetV3BoxHead(**_part_arguments(cfg), in_feature=feature)
    if input_shape.channels != head.tail.in_channels:
        raise ValueError(
            f"the box head gets {input_shape.channels} channels; {cfg.MODEL.FBNETV3.ARCH} has "
            f"{head.tail.in_channels} at {feature!r}. Use it without a feature pyramid"
        )
    return head


def build_fbnetv3_rpn_head(cfg: Any, input_shape: Sequence[Any]) -> FBNetV3RPNHead:
    """Returns the C4 proposal head, for RPN on one feature of the backbone."""
    (feature,) = cfg.MODEL.RPN.IN_FEATURES
    (shape,) = input_shape
    anchors = build_anchor_generator(cfg, input_shape)
    arguments = _part_arguments(cfg)
    del arguments["grad_checkpointing"]
    return FBNetV3RPNHead(
        in_channels=shape.channels,
        num_anchors=anchors.num_anchors[0],
        box_dim=anchors.box_dim,
        in_feature=feature,
        **arguments,
    )


for _builder in (
    build_fbnetv3_backbone,
    build_fbnetv3_fpn_backbone,
    build_fbnetv3_retinanet_fpn_backbone,
):
    BACKBONE_REGISTRY.register(_builder)
ROI_BOX_HEAD_REGISTRY.register(build_fbnetv3_box_head)
RPN_HEAD_REGISTRY.register(build_fbnetv3_rpn_head)


def check_pixels(
    input_format: str,
    pixel_mean: Sequence[float],
    pixel_std: Sequence[float],
    *,
    mean: Sequence[float] = PIXEL_MEAN,
    std: Sequence[float] = PIXEL_STD,
) -> None:
    """Checks that images have the format and statistics that the weights were trained with.

    Args:
        input_format: Detectron2's `INPUT.FORMAT`.
        pixel_mean: Detectron2's `MODEL.PIXEL_MEAN`, for values 0..255.
        pixel_std: Detectron2's `MODEL.PIXEL_STD`.
        mean: mean that the weights expect.
        std: standard deviation that the weights expect.

    Raises:
        ValueError: they differ, as Detectron2's defaults (BGR, std 1) do.
    """
    close = all(
        len(given) == len(wanted)
        and all(abs(a - b) < 0.5 for a, b in zip(given, wanted, strict=True))
        for given, wanted in ((pixel_mean, mean), (pixel_std, std))
    )
    if input_format != "RGB" or not close:
        shown = [[round(value, 3) for value in values] for values in (mean, std)]
        raise ValueError(
            f"INPUT.FORMAT is {input_format!r}, MODEL.PIXEL_MEAN {list(pixel_mean)}, PIXEL_STD "
            f"{list(pixel_std)}; the weights expect 'RGB', {shown[0]}, {shown[1]}. Call "
            "add_fbnetv3_config(cfg), or set MODEL.FBNETV3.CHECK_PIXELS to False for your own "
            "weights"
        )


def _network(arch: Any, norm: str, **kwargs: Any) -> FBNetV3:
    if norm not in NORMS:
        raise ValueError(f"norm is {norm!r}; expected one of {', '.join(NORMS)}")
    norm_layer = None if norm == "BN" else partial(get_norm, norm)
    return load_network(arch, norm_layer=norm_layer, **kwargs)


def _head_network(
    arch: Any,
    *,
    norm: str = "BN",
    padding: str = "same",
    pretrained: bool = False,
    checkpoint: str = "",
    license: str = "",
) -> FBNetV3:
    return _network(
        arch,
        norm,
        padding=padding,
        pretrained=pretrained,
        checkpoint=checkpoint or None,
        license=license or None,
    )


def _part_arguments(cfg: Any) -> dict[str, Any]:
    own = cfg.MODEL.FBNETV3
    return {
        "arch": own.ARCH,
        "norm": own.NORM,
        "padding": own.PADDING,
        "pretrained": own.PRETRAINED,
        "checkpoint": own.CHECKPOINT,
        "license": own.LICENSE,
        "grad_checkpointing": own.GRAD_CHECKPOINTING,
    }


def _pyramid(cfg: Any, trunk: FBNetV3Backbone, top_block: nn.Module) -> FBNetV3FPN:
    return FBNetV3FPN(
        bottom_up=trunk,
        in_features=list(cfg.MODEL.FPN.IN_FEATURES),
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top_block,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


def _statistics(network: FBNetV3) -> tuple[list[float], list[float]]:
    cfg = network.pretrained_cfg
    mean, std = cfg.get("mean", IMAGENET_MEAN), cfg.get("std", IMAGENET_STD)
    return [255 * value for value in mean], [255 * value for value in std]
