"""What an image goes through before a network, as a record that travels with the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """Resize, centre crop, scale to 0..1, normalise: an RGB image to (3, crop, crop) float32.

    Attributes:
        resize: pixels of the shorter side after resizing.
        crop: side in pixels of the square cut from the middle.
        interpolation: of the resizing.
        antialias: whether shrinking averages over all pixels, as PIL does.
        mean: per channel, red first, on the scale 0..1.
        std: per channel.
    """

    resize: int
    crop: int
    interpolation: Literal["nearest", "bilinear", "bicubic"]
    antialias: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
