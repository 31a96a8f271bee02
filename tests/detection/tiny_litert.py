"""The committed `tiny.tflite`: its detector, and how it is written again.

    python -m tests.detection.tiny_litert

in an environment with litert-torch, which the project's own cannot have.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteHead

from fbnetv3.detection.detectors import BuiltDetector, DetectorConfig
from fbnetv3.integrations.detector_options import Options
from fbnetv3.integrations.torchvision_backbone import SsdMaps
from tests.conftest import golden_weights
from tests.deploy.tiny_litert import ARCH

TINY = Path(__file__).with_name("tiny.tflite")
SIZE, NAMES = 32, ("box", "disc")


def tiny() -> BuiltDetector:
    """Returns an SSDlite of a few channels, with fixed weights."""
    network = golden_weights(ARCH, num_classes=0)
    maps = SsdMaps(Options().trunk(network, ["res1", "res2"]), widths=(16, 8))
    anchors = DefaultBoxGenerator([[2]] * 4, min_ratio=0.2, max_ratio=0.9)
    classes = len(NAMES) + 1
    per_place = anchors.num_anchors_per_location()
    head = SSDLiteHead(maps.channels, per_place, classes, nn.BatchNorm2d)
    module = SSD(maps, anchors, (SIZE, SIZE), classes, head=head, score_thresh=0.3)
    generator = torch.Generator().manual_seed(0)
    for name, tensor in module.named_parameters():
        if not name.startswith("backbone.body") and tensor.ndim > 1:
            tensor.data.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
    config = DetectorConfig(detector="ssdlite", arch=ARCH, class_names=NAMES, size=SIZE)
    return BuiltDetector(module.eval(), config)


if __name__ == "__main__":
    from fbnetv3.detection.export import export_detector

    print(export_detector(tiny(), TINY))
