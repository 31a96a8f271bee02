"""Class activation maps: which parts of an image speak for a class (Grad-CAM).

Selvaraju et al. 2017, Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization. The map is that of the last stage whose output has at least 7 x 7 positions, since the
last one of a network for small images has too few to show anything.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fbnetv3.images.preprocess import Preprocess

from .model import FBNetV3

_MIN_POSITIONS = 7
_MOST_OPAQUE = 0.75


def activation_map(model: FBNetV3, x: Tensor, index: int) -> Tensor:
    """Returns how much each position speaks for a class, (h, w) from 0 to 1; all 0 if none does.

    The model's gradients and its mode are left as they were.

    Args:
        model: any FBNetV3.
        x: one preprocessed image, (1, 3, H, W).
        index: the class's index among the logits.

    Raises:
        ValueError: the shape is another, or there is no such class.
    """
    if x.ndim != 4 or len(x) != 1:
        raise ValueError(f"x has shape {tuple(x.shape)}; expected one image, (1, 3, H, W)")
    if not 0 <= index < model.num_classes:
        raise ValueError(f"index is {index}; expected 0 to {model.num_classes - 1}")
    was_training = model.training
    model.eval()
    try:
        with torch.enable_grad():
            maps = [model.stem(x.detach().requires_grad_())]
            for stage in model.stages:
                maps.append(stage(maps[-1]))
            maps.append(model.head.expand(maps[-1]))
            fine = [found for found in maps if min(found.shape[2:]) >= _MIN_POSITIONS]
            chosen = (fine or maps)[-1]
            logit = model.forward_head(maps[-1])[0, index]
            (gradient,) = torch.autograd.grad(logit, chosen)
    finally:
        model.train(was_training)
    weights = gradient.mean((2, 3), keepdim=True)
    heat: Tensor = (weights * chosen.detach()).sum(1)[0].clamp_min(0)
    return heat / heat.max().clamp_min(torch.finfo(heat.dtype).tiny)


def overlaid(image: Image.Image, heat: NDArray[np.floating], preprocess: Preprocess) -> Any:
    """Returns (photo, photo under the map), the part of the photo that the model saw.

    Args:
        image: the photo, RGB.
        heat: (h, w) from 0 to 1, of `activation_map`.
        preprocess: the model's.
    """
    from matplotlib import colormaps

    seen = _seen(image, preprocess)
    wide = Image.fromarray((255 * heat).astype(np.uint8)).resize(
        seen.size, Image.Resampling.BICUBIC
    )
    strength = np.asarray(wide, np.float32)[..., None] / 255
    colours = colormaps["inferno"](strength[..., 0])[..., :3] * 255
    mixed = np.asarray(seen, np.float32) * (1 - _MOST_OPAQUE * strength)
    mixed += _MOST_OPAQUE * strength * colours
    return seen, Image.fromarray(mixed.clip(0, 255).astype(np.uint8))


def _seen(image: Image.Image, preprocess: Preprocess) -> Image.Image:
    """Returns the photo's middle that the model's crop covers, in the photo's own resolution."""
    if preprocess.crop > preprocess.resize:  # with a border around the photo
        return Image.fromarray(preprocess.pixels(image))
    side = min(image.size) * preprocess.crop / preprocess.resize
    left, top = ((length - side) / 2 for length in image.size)
    box = (round(left), round(top), round(left + side), round(top + side))
    return image.crop(box)
