"""Detectron2 configurations: the keys of `cfg.MODEL.FBNETV3`, and ready-to-use detectors.

    cfg = get_config("faster_rcnn_fbnetv3_e_c4")

`CONFIGS` holds flat keys: the differences to Detectron2's defaults after `add_fbnetv3_config`.
Sources: the paper (arXiv 2006.02049) for training on COCO (3x schedule, synchronised batch-norm,
learning rate 0.16, EMA decay 0.9998, cosine after warm-up) and its appendix A.6 for RetinaNet;
d2go's published configurations for what the paper leaves open (32 images per step, pooled regions
of 6 x 6, 128 channels in the pyramid). The accuracies of these configurations were not measured.

Four choices are our interpretation:

* 3x is 270 000 steps of 16 images in Detectron2, so 135 000 of 32.
* "NMS reduced to 75", see `NMS_READINGS`.
* The shorter side of the C4 input, 432 pixels, which the paper does not give. With 75 regions and
  3 : 4 images of this size, A needs 18.0 % fewer MACs than EfficientNet-B0 by our count; the paper
  says 18.3 % (`benchmarks/detection/cost.py`). Larger images with more regions, or smaller images
  with fewer, would give the same share.
* A is the classification model A, which has weights. The paper's share is that of a narrower A that
  d2go publishes for its detectors, in a form without hard-swish.
"""

from __future__ import annotations

from typing import Any

from fbnetv3.hub.registry import list_weights
from fbnetv3.hub.weights import WEIGHTS, Weights

from . import detectron2_backbone, detectron2_weights

__all__ = [
    "CONFIGS",
    "NMS_READINGS",
    "PAPER_NMS",
    "add_fbnetv3_config",
    "get_config",
]

# What the paper's "NMS reduced to 75" may mean. We use "proposals", the number of regions kept by
# the NMS of the proposals: 75 is a count; the box head runs once per region, so that reducing this
# count saves time; and d2go's own C4 detector reduces the same count, to 30. The others are the
# overlap (Detectron2 uses 0.7 for proposals) and the number of boxes kept per image (100).
NMS_READINGS: dict[str, dict[str, Any]] = {
    "proposals": {"MODEL.RPN.POST_NMS_TOPK_TEST": 75},
    "threshold": {"MODEL.RPN.NMS_THRESH": 0.75},
    "detections": {"TEST.DETECTIONS_PER_IMAGE": 75},
    "default": {},
}
PAPER_NMS = "proposals"

_PAPER_TRAINING: dict[str, Any] = {
    "MODEL.FBNETV3.NORM": "SyncBN",
    "MODEL.FBNETV3.EMA_DECAY": 0.9998,
    "SOLVER.IMS_PER_BATCH": 32,
    "SOLVER.BASE_LR": 0.16,
    "SOLVER.MAX_ITER": 135000,
    "SOLVER.LR_SCHEDULER_NAME": "WarmupCosineLR",
    # The cosine starts where the warm-up ends.
    "SOLVER.RESCALE_INTERVAL": True,
    "DATASETS.TRAIN": ("coco_2017_train",),
    "DATASETS.TEST": ("coco_2017_val",),
}
_C4: dict[str, Any] = {
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.BACKBONE.NAME": "build_fbnetv3_backbone",
    "MODEL.FBNETV3.OUT_FEATURES": ["res4"],
    "MODEL.RPN.IN_FEATURES": ["res4"],
    "MODEL.RPN.HEAD_NAME": "build_fbnetv3_rpn_head",
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000,
    "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
    "MODEL.ROI_HEADS.IN_FEATURES": ["res4"],
    "MODEL.ROI_BOX_HEAD.NAME": "build_fbnetv3_box_head",
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 6,
    "INPUT.MIN_SIZE_TRAIN": (432,),
    "INPUT.MAX_SIZE_TRAIN": 720,
    "INPUT.MIN_SIZE_TEST": 432,
    "INPUT.MAX_SIZE_TEST": 720,
}
_FPN: dict[str, Any] = {
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.BACKBONE.NAME": "build_fbnetv3_fpn_backbone",
    "MODEL.FBNETV3.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.FPN.OUT_CHANNELS": 128,
    "MODEL.FPN.NORM": "SyncBN",
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
    "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
    "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
    "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
    "INPUT.MIN_SIZE_TRAIN": (640, 672, 704, 736, 768, 800),
}
_MASK: dict[str, Any] = {
    "MODEL.MASK_ON": True,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 4,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 128,
}
_RETINANET: dict[str, Any] = {
    "MODEL.META_ARCHITECTURE": "RetinaNet",
    "MODEL.BACKBONE.NAME": "build_fbnetv3_retinanet_fpn_backbone",
    "MODEL.FBNETV3.OUT_FEATURES": ["res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES": ["res3", "res4", "res5"],
    "MODEL.ANCHOR_GENERATOR.SIZES": [
        [size * 2 ** (step / 3) for step in range(3)] for size in (32, 64, 128, 256, 512)
    ],
    "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA": 0.0,
    "INPUT.MIN_SIZE_TRAIN": (640, 672, 704, 736, 768, 800),
    # Appendix A.6 adds only EMA and the cosine schedule to Detectron2's RetinaNet.
    "MODEL.FBNETV3.NORM": "SyncBN",
    "MODEL.FBNETV3.EMA_DECAY": 0.9998,
    "SOLVER.IMS_PER_BATCH": 16,
    "SOLVER.BASE_LR": 0.01,
    "SOLVER.MAX_ITER": 270000,
    "SOLVER.LR_SCHEDULER_NAME": "WarmupCosineLR",
    "SOLVER.RESCALE_INTERVAL": True,
    "DATASETS.TRAIN": ("coco_2017_train",),
    "DATASETS.TEST": ("coco_2017_val",),
}
# Detectron2's own ResNets and their settings: BGR without a standard deviation, and with the first
# two stages and all batch-norms frozen. Only EMA and the cosine differ from its RetinaNet.
_RETINANET_RESNET: dict[str, Any] = {
    **{key: value for key, value in _RETINANET.items() if not key.startswith("MODEL.FBNETV3")},
    "MODEL.FBNETV3.EMA_DECAY": 0.9998,
    "MODEL.BACKBONE.NAME": "build_retinanet_resnet_fpn_backbone",
    "MODEL.BACKBONE.FREEZE_AT": 2,
    "MODEL.RESNETS.OUT_FEATURES": ["res3", "res4", "res5"],
    "MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675],
    "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
    "INPUT.FORMAT": "BGR",
}


def _resnet(depth: int) -> dict[str, Any]:
    weights = f"detectron2://ImageNetPretrained/MSRA/R-{depth}.pkl"
    return {"MODEL.RESNETS.DEPTH": depth, "MODEL.WEIGHTS": weights}


def _model(name: str) -> dict[str, Any]:
    return {"MODEL.FBNETV3.ARCH": name, "MODEL.WEIGHTS": f"fbnetv3://{name}.meta_in1k"}


CONFIGS: dict[str, dict[str, Any]] = {
    "faster_rcnn_fbnetv3_a_c4": {**_C4, **_PAPER_TRAINING, **_model("fbnetv3_a")},
    "faster_rcnn_fbnetv3_b_c4": {**_C4, **_PAPER_TRAINING, **_model("fbnetv3_b")},
    "faster_rcnn_fbnetv3_d_c4": {**_C4, **_PAPER_TRAINING, **_model("fbnetv3_d")},
    "faster_rcnn_fbnetv3_e_c4": {**_C4, **_PAPER_TRAINING, **_model("fbnetv3_e")},
    "faster_rcnn_fbnetv3_g_fpn": {**_FPN, **_PAPER_TRAINING, **_model("fbnetv3_g")},
    "mask_rcnn_fbnetv3_g_fpn": {**_FPN, **_MASK, **_PAPER_TRAINING, **_model("fbnetv3_g")},
    "retinanet_fbnetv3_g_fpn": {**_RETINANET, **_model("fbnetv3_g")},
    "retinanet_resnet50_fpn": {**_RETINANET_RESNET, **_resnet(50)},
    "retinanet_resnet101_fpn": {**_RETINANET_RESNET, **_resnet(101)},
}


def add_fbnetv3_config(cfg: Any) -> None:
    """Adds `MODEL.FBNETV3` to a Detectron2 configuration, and sets what the weights need.

    Images become RGB with ImageNet's statistics, and no layer is frozen (Detectron2's defaults are
    BGR with a standard deviation of 1, and FREEZE_AT 2). Call it before `merge_from_file`.

    Keys of `MODEL.FBNETV3`: ARCH (name or path of a JSON file), OUT_FEATURES, NORM, PADDING
    ("same", "faithful"), PRETRAINED (load ARCH's weights when the model is built; MODEL.WEIGHTS =
    "fbnetv3://NAME" loads them when training starts), CHECKPOINT (file of a classification model),
    LICENSE, DROP_PATH_RATE, OUTPUT_STRIDE, GRAD_CHECKPOINTING, CHECK_PIXELS, EMA_DECAY (0 for no
    EMA; read by `detectron2_hooks.Trainer`).
    """
    from detectron2.config import CfgNode

    cfg.MODEL.FBNETV3 = CfgNode(
        {
            "ARCH": "fbnetv3_a",
            "OUT_FEATURES": ["res4"],
            "NORM": "BN",
            "PADDING": "same",
            "PRETRAINED": False,
            "CHECKPOINT": "",
            "LICENSE": "",
            "DROP_PATH_RATE": 0.0,
            "OUTPUT_STRIDE": 32,
            "GRAD_CHECKPOINTING": False,
            "CHECK_PIXELS": True,
            "EMA_DECAY": 0.0,
        }
    )
    cfg.INPUT.FORMAT = "RGB"
    cfg.MODEL.PIXEL_MEAN = list(detectron2_backbone.PIXEL_MEAN)
    cfg.MODEL.PIXEL_STD = list(detectron2_backbone.PIXEL_STD)
    cfg.MODEL.BACKBONE.FREEZE_AT = 0


def get_config(name: str, *, nms: str = PAPER_NMS, license: str | None = None) -> Any:
    """Returns one of `CONFIGS` as a Detectron2 `CfgNode`.

    Args:
        name: a key of `CONFIGS`.
        nms: a key of `NMS_READINGS`, for the C4 detectors; others use Detectron2's defaults.
        license: "commercial" starts from weights that allow commercial use: timm's, of B, D and G.
            None starts from the official ones, which are for non-commercial use only.

    Raises:
        ValueError: `name` or `nms` is unknown, or no weights of the model have such a license.
    """
    from detectron2.config import get_cfg

    for value, known in ((name, CONFIGS), (nms, NMS_READINGS)):
        if value not in known:
            raise ValueError(f"unknown configuration {value!r}; expected one of {', '.join(known)}")
    cfg = get_cfg()
    add_fbnetv3_config(cfg)
    settings = CONFIGS[name] | (NMS_READINGS[nms] if name.endswith("_c4") else {})
    if license is not None:
        settings |= _licensed(name, license)
    cfg.merge_from_list([part for item in settings.items() for part in item])
    return cfg


def _licensed(name: str, license: str) -> dict[str, Any]:
    """Returns the settings of a configuration's most accurate weights with a license."""
    found = {
        other: _weights(settings["MODEL.FBNETV3.ARCH"], license)
        for other, settings in CONFIGS.items()
        if "MODEL.FBNETV3.ARCH" in settings
    }
    if name not in found:
        raise ValueError(
            f"license is {license!r}; {name} starts from Detectron2's own weights, whose license "
            "is not known here: set cfg.MODEL.WEIGHTS"
        )
    best = max(found[name], key=lambda weights: weights.top1_pct, default=None)
    if best is None:
        others = ", ".join(other for other in found if found[other])
        raise ValueError(
            f"license is {license!r}, which no weights of {name} have; expected "
            + (f"another configuration: {others}" if others else "'commercial'")
        )
    return {"MODEL.WEIGHTS": f"fbnetv3://{best.name}"}


def _weights(model: str, license: str) -> list[Weights]:
    names = list_weights(f"{model}.*", license=license)
    return [WEIGHTS[name] for name in names if WEIGHTS[name].labels == "imagenet1k"]


# Importing these registers the builders and the scheme "fbnetv3://".
__all__ = [
    "CONFIGS",
    "NMS_READINGS",
    "PAPER_NMS",
    "add_fbnetv3_config",
    "detectron2_weights",
    "get_config",
]
