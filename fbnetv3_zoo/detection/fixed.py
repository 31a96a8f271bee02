"""SSDlite as a graph of fixed shapes, for ExecuTorch and LiteRT.

Their graphs begin with `torch.export`, which captures one path: torchvision's suppression chooses
its way by the number of boxes, so that it stays outside, see `outside`. Of the detectors only
SSDlite has no other step whose shapes depend on the image.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import clip_boxes_to_image

from fbnetv3.integrations.trunk import NETWORK_ID

from .outside import Outside

# Suffix -> the runtime's name for users.
FIXED = {".pte": "ExecuTorch", ".tflite": "LiteRT"}


def check_fixed(detector: str, path: Path) -> None:
    """Refuses a detector that cannot be a graph of fixed shapes.

    Args:
        detector: a name of `detectors.DETECTORS`.
        path: the file to write.

    Raises:
        ValueError: it cannot.
    """
    if path.suffix in FIXED and detector != "ssdlite":
        raise ValueError(
            f"output is {path}; {FIXED[path.suffix]}'s graphs have fixed shapes, and those of "
            f"{detector} depend on the image. Give a name that ends in .onnx or .xml, or train "
            "with --detector ssdlite"
        )


def outside_of(module: Any) -> Outside:
    """Returns the settings of what an SSDlite does outside its graph."""
    (size, _) = module.transform.fixed_size
    return Outside(
        size=size,
        score_threshold=module.score_thresh,
        nms_threshold=module.nms_thresh,
        num_candidates=module.topk_candidates,
        num_boxes=module.detections_per_img,
    )


class FixedGraph(nn.Module):
    """An SSDlite from a square of pixels to the boxes and probabilities of all its anchors.

    Args:
        module: torchvision's SSD, in evaluation mode.
    """

    anchors: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(module.backbone)
        for part in self.backbone.modules():
            if hasattr(part, NETWORK_ID):  # litert-torch has no uint8 constants
                delattr(part, NETWORK_ID)
        self.head, self.coder = module.head, module.box_coder
        self.size: tuple[int, int] = module.transform.fixed_size
        for name in ("mean", "std"):
            values = getattr(module.transform, f"image_{name}")
            self.register_buffer(name, torch.tensor(values).reshape(1, 3, 1, 1))
        image = torch.zeros(1, 3, *self.size)
        with torch.inference_mode():
            maps = list(self.backbone(image).values())
            (anchors,) = module.anchor_generator(ImageList(image, [self.size]), maps)
        self.register_buffer("anchors", anchors.clone())

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Returns boxes (A, 4) in pixels and probabilities (A, classes) of (1, 3, size, size)."""
        found = self.head(list(self.backbone((image - self.mean) / self.std).values()))
        boxes = self.coder.decode_single(found["bbox_regression"][0], self.anchors)
        return clip_boxes_to_image(boxes, self.size), found["cls_logits"][0].softmax(-1)
