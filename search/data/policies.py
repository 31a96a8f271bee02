"""Augmentation policies for batches of small images: TrivialAugment and AutoAugment's for CIFAR-10.

Every operation is applied to all images that drew it at once, each with its own strength. Images
are (N, H, W, 3) uint8. Sources: the operations and their ranges are AutoAugment's (arXiv
1805.09501, tables 6 and 7), which TrivialAugment (arXiv 2103.10158, "wide" space) widens.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# Two operations, each with: whether it is applied, its sign; and one more that picks the policy.
NUM_POLICY_DRAWS = 6
_GREY = 128.0
_LUMA = (0.299, 0.587, 0.114)

# (operation, probability, strength 0..9 or None) twice: the 25 sub-policies for CIFAR-10.
Step = tuple[str, float, int | None]
CIFAR10_POLICY: tuple[tuple[Step, Step], ...] = (
    (("invert", 0.1, None), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.5, None), ("equalize", 0.9, None)),
    (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
    (("color", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, None), ("equalize", 0.5, None)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("color", 0.7, 7), ("translate_x", 0.5, 8)),
    (("equalize", 0.3, None), ("autocontrast", 0.4, None)),
    (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("color", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, None)),
    (("equalize", 0.2, None), ("autocontrast", 0.6, None)),
    (("equalize", 0.2, None), ("equalize", 0.6, None)),
    (("color", 0.9, 9), ("equalize", 0.6, None)),
    (("autocontrast", 0.8, None), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("color", 0.7, 0)),
    (("solarize", 0.4, 5), ("autocontrast", 0.9, None)),
    (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.9, None), ("solarize", 0.8, 3)),
    (("equalize", 0.8, None), ("invert", 0.1, None)),
    (("translate_y", 0.7, 9), ("autocontrast", 0.9, None)),
)
TRIVIAL_OPS = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
)
GEOMETRIC = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
# Strength at full: radians are made of degrees in `_affine`; pixels are of a side of 32.
_AUTO_FULL = {"shear": 0.3, "translate": 150 / 331 * 32, "rotate": 30.0, "enhance": 0.9}
_TRIVIAL_FULL = {"shear": 0.99, "translate": 32.0, "rotate": 135.0, "enhance": 0.99}


def trivial_augment(images: Tensor, u: Tensor) -> Tensor:
    """Returns each image after one operation of random strength.

    Args:
        images: (N, H, W, 3) uint8.
        u: (N, NUM_POLICY_DRAWS) in [0, 1).
    """
    picked = (u[:, 0] * len(TRIVIAL_OPS)).long()
    # 31 levels of strength, as in the paper.
    strength = (u[:, 1] * 31).floor() / 30
    negative = u[:, 2] < 0.5
    return _apply(images, TRIVIAL_OPS, picked, strength, negative, _TRIVIAL_FULL, bits=(8, 2))


def autoaugment_cifar10(images: Tensor, u: Tensor) -> Tensor:
    """Returns each image after one of the 25 sub-policies, two operations by chance.

    Args:
        images: (N, H, W, 3) uint8.
        u: (N, NUM_POLICY_DRAWS) in [0, 1).
    """
    names = ("identity", *sorted({step[0] for pair in CIFAR10_POLICY for step in pair}))
    policy = (u[:, 0] * len(CIFAR10_POLICY)).long()
    for turn in (0, 1):
        steps = [pair[turn] for pair in CIFAR10_POLICY]
        ops = torch.tensor([names.index(step[0]) for step in steps], device=u.device)[policy]
        chance = torch.tensor([step[1] for step in steps], device=u.device)[policy]
        level = torch.tensor([(step[2] or 0) / 9 for step in steps], device=u.device)[policy]
        picked = torch.where(u[:, 1 + turn] < chance, ops, 0)
        negative = u[:, 3 + turn] < 0.5
        images = _apply(images, names, picked, level, negative, _AUTO_FULL, bits=(8, 4))
    return images


def _apply(
    images: Tensor,
    names: tuple[str, ...],
    picked: Tensor,
    strength: Tensor,
    negative: Tensor,
    full: dict[str, float],
    *,
    bits: tuple[int, int],
) -> Tensor:
    """Returns the images, each after operation `names[picked]`.

    Args:
        images: (N, H, W, 3) uint8; not changed.
        names: of the operations.
        picked: (N,) index into `names`.
        strength: (N,) from 0 to 1.
        negative: (N,) whether the operation goes the other way, where it has two.
        full: what strength 1 means.
        bits: kept by posterize at strength 0 and at 1.
    """
    signed = torch.where(negative, -strength, strength)
    out = images.clone()
    moved = torch.zeros_like(picked, dtype=torch.bool)
    for number, name in enumerate(names):
        if name in GEOMETRIC:
            moved |= picked == number
            continue
        members = (picked == number).nonzero().flatten()
        if name == "identity" or not len(members):
            continue
        x, s, sign = images[members], strength[members], signed[members]
        if name == "posterize":
            kept = bits[0] - ((bits[0] - bits[1]) * s).round()
            out[members] = _posterize(x, kept)
        elif name == "solarize":
            threshold = 255.0 * (1 - s)
            out[members] = torch.where(x.float() >= _per_image(threshold), 255 - x, x)
        elif name in _ENHANCE:
            out[members] = _blend(_ENHANCE[name](x), x, 1 + full["enhance"] * sign)
        else:
            out[members] = _WHOLE[name](x)
    members = moved.nonzero().flatten()
    if len(members):
        matrices = _affine(names, picked[members], signed[members], full, images.shape[1])
        out[members] = _warp(images[members], matrices)
    return out


def _per_image(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _affine(
    names: tuple[str, ...], picked: Tensor, signed: Tensor, full: dict[str, float], side: int
) -> Tensor:
    """Returns (N, 2, 3) matrices from the output's to the input's coordinates, both -1..1."""
    matrices = torch.eye(2, 3, device=signed.device).repeat(len(picked), 1, 1)
    for number, name in enumerate(names):
        here = picked == number
        amount = signed[here]
        if name.startswith("shear"):
            row, column = (0, 1) if name == "shear_x" else (1, 0)
            matrices[here, row, column] = amount * full["shear"]
        elif name.startswith("translate"):
            # Whole pixels; a side is two units long.
            pixels = (amount * full["translate"] * side / 32).round()
            matrices[here, 0 if name == "translate_x" else 1, 2] = pixels * 2 / side
        elif name == "rotate":
            angle = amount * full["rotate"] * math.pi / 180
            cos, sin = angle.cos(), angle.sin()
            turned = torch.stack([torch.stack([cos, sin], 1), torch.stack([-sin, cos], 1)], 1)
            matrices[here, :, :2] = turned
    return matrices


def _warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Returns images read at the nearest pixel; what lies outside is grey."""
    x = images.permute(0, 3, 1, 2).float() - _GREY
    grid = F.affine_grid(matrices, list(x.shape), align_corners=False)
    warped = F.grid_sample(x, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return (warped + _GREY).to(torch.uint8).permute(0, 2, 3, 1)


def _blend(plain: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    """Returns plain + factor * (images - plain), cut to 0..255."""
    mixed = torch.lerp(plain.expand(images.shape), images.float(), _per_image(factor))
    return mixed.clamp_(0, 255).to(torch.uint8)


def _luma(images: Tensor) -> Tensor:
    weights = torch.tensor(_LUMA, device=images.device)
    return (images.float() @ weights).floor().unsqueeze(3)


def _smooth(images: Tensor) -> Tensor:
    """Returns images under a 3x3 filter with centre 5 and neighbours 1; the border is kept."""
    x = images.permute(0, 3, 1, 2).float()
    kernel = torch.ones(3, 1, 3, 3, device=x.device)
    kernel[:, :, 1, 1] = 5
    out = x.clone()
    out[:, :, 1:-1, 1:-1] = F.conv2d(x, kernel / 13, groups=3).round()
    return out.permute(0, 2, 3, 1)


def _posterize(images: Tensor, kept_bits: Tensor) -> Tensor:
    mask = 256 - torch.pow(2.0, 8 - kept_bits).to(torch.int16)
    return (images.to(torch.int16) & _per_image(mask)).to(torch.uint8)


def _autocontrast(images: Tensor) -> Tensor:
    """Returns each channel stretched to 0..255; a constant channel is kept."""
    x = images.float()
    low, high = x.amin((1, 2), keepdim=True), x.amax((1, 2), keepdim=True)
    stretched = (x - low) * (255.0 / (high - low).clamp_min(1))
    return torch.where(high > low, stretched, x).clamp_(0, 255).to(torch.uint8)


def _equalize(images: Tensor) -> Tensor:
    """Returns each channel with a flat histogram, by PIL's rule."""
    n, height, width, channels = images.shape
    flat = images.permute(0, 3, 1, 2).reshape(n * channels, height * width).long()
    counts = torch.zeros(n * channels, 256, dtype=torch.long, device=images.device)
    counts.scatter_add_(1, flat, torch.ones_like(flat))
    last = torch.where(counts > 0, torch.arange(256, device=images.device), -1).amax(1, True)
    step = (height * width - counts.gather(1, last)) // 255
    below = counts.cumsum(1) - counts
    table = ((below + step // 2) // step.clamp_min(1)).clamp_(0, 255)
    mapped = torch.where(step > 0, table.gather(1, flat), flat)
    mapped = mapped.to(torch.uint8).view(n, channels, height, width)
    return mapped.permute(0, 2, 3, 1)


# Enhancements blend with a plain version of the image; whole ones have no strength.
_ENHANCE: dict[str, Callable[[Tensor], Tensor]] = {
    "brightness": lambda x: torch.zeros_like(x, dtype=torch.float32),
    "color": _luma,
    "contrast": lambda x: (_luma(x).mean((1, 2, 3), keepdim=True) + 0.5).floor(),
    "sharpness": _smooth,
}
_WHOLE: dict[str, Callable[[Tensor], Tensor]] = {
    "invert": lambda x: 255 - x,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
}
