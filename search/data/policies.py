"""Augmentation policies for batches of small images: TrivialAugment and AutoAugment's for CIFAR-10.

Every operation is applied to all images that drew it at once, each with its own strength. Images
are (N, H, W, 3) uint8. Sources: the operations and their ranges are AutoAugment's (arXiv
1805.09501, tables 6 and 7), which TrivialAugment (arXiv 2103.10158, "wide" space) widens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .constants import constant

# Two operations, each with: whether it is applied, its sign; and one more that picks the policy.
NUM_POLICY_DRAWS = 6
_GREY = 128.0
_LUMA = (0.299, 0.587, 0.114)
_SMOOTHING = (1.0, 1.0, 1.0, 1.0, 5.0, 1.0, 1.0, 1.0, 1.0)

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
        ops = constant(tuple(names.index(step[0]) for step in steps), u.device)[policy]
        chance = constant(tuple(step[1] for step in steps), u.device)[policy]
        level = constant(tuple((step[2] or 0) / 9 for step in steps), u.device)[policy]
        picked = torch.where(u[:, 1 + turn] < chance, ops, 0)
        negative = u[:, 3 + turn] < 0.5
        images = _apply(images, names, picked, level, negative, _AUTO_FULL, bits=(8, 4))
    return images


class _Drawn(NamedTuple):
    """What each of n images drew, all (n,).

    Attributes:
        picked: number of its operation.
        strength: from 0 to 1.
        signed: the same, below 0 where an operation of two directions goes the other way.
    """

    picked: Tensor
    strength: Tensor
    signed: Tensor


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
    drawn = _Drawn(picked, strength, torch.where(negative, -strength, strength))
    changes = _changes(names, full, bits)
    moves = [number for number, name in enumerate(names) if name in GEOMETRIC]
    masks = {name: picked == names.index(name) for name in names if name in changes}
    if moves:
        masks["move"] = torch.stack([picked == number for number in moves]).any(0)
    x = images.float()
    out = x.clone()
    for name, mask in masks.items():
        if waits_for(images):
            # All images are changed and some kept: to choose first would wait for the device.
            out = torch.where(_per_image(mask), changes[name](x, drawn), out)
            continue
        members = mask.nonzero().flatten()
        if len(members):
            some = _Drawn(*(values[members] for values in drawn))
            out[members] = changes[name](x[members], some)
    return out.to(torch.uint8)


def waits_for(images: Tensor) -> bool:
    """Returns whether Python has to wait for the device before it knows what a tensor holds."""
    return images.device.type != "cpu"


def _changes(
    names: tuple[str, ...], full: dict[str, float], bits: tuple[int, int]
) -> dict[str, Callable[[Tensor, _Drawn], Tensor]]:
    """Returns each operation: float32 images and what they drew to float32 images, whole numbers.

    "move" is any of the geometric operations.
    """

    def enhancing(plain: Callable[[Tensor], Tensor]) -> Callable[[Tensor, _Drawn], Tensor]:
        return lambda x, drawn: _blend(plain(x), x, 1 + full["enhance"] * drawn.signed)

    def posterize(x: Tensor, drawn: _Drawn) -> Tensor:
        return _posterize(x, bits[0] - ((bits[0] - bits[1]) * drawn.strength).round())

    def solarize(x: Tensor, drawn: _Drawn) -> Tensor:
        return torch.where(x >= _per_image(255.0 * (1 - drawn.strength)), 255 - x, x)

    def move(x: Tensor, drawn: _Drawn) -> Tensor:
        return _warp(x, _affine(names, drawn, full, x.shape[1]))

    return {
        "posterize": posterize,
        "solarize": solarize,
        "invert": lambda x, _: 255 - x,
        "autocontrast": lambda x, _: _autocontrast(x),
        "equalize": lambda x, _: _equalize(x),
        "move": move,
        **{name: enhancing(plain) for name, plain in _ENHANCE.items()},
    }


def _per_image(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _affine(names: tuple[str, ...], drawn: _Drawn, full: dict[str, float], side: int) -> Tensor:
    """Returns (N, 2, 3) matrices from the output's to the input's coordinates, both -1..1."""
    is_move = constant(tuple(float(a == b) for a in names for b in GEOMETRIC), drawn.signed.device)
    amounts = is_move.view(-1, len(GEOMETRIC))[drawn.picked] * drawn.signed.unsqueeze(1)
    shears = amounts[:, 0:2] * full["shear"]
    # Whole pixels; a side is two units long.
    shifts = (amounts[:, 2:4] * (full["translate"] * side / 32)).round_() * (2 / side)
    angle = amounts[:, 4] * (full["rotate"] * math.pi / 180)
    cos, sin = angle.cos(), angle.sin()
    across = [cos, sin + shears[:, 0], shifts[:, 0]]
    down = [shears[:, 1] - sin, cos, shifts[:, 1]]
    return torch.stack([torch.stack(across, 1), torch.stack(down, 1)], 1)


def _warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Returns images read at the nearest pixel; what lies outside is grey."""
    x = images.permute(0, 3, 1, 2) - _GREY
    grid = F.affine_grid(matrices, list(x.shape), align_corners=False)
    warped = F.grid_sample(x, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return (warped + _GREY).permute(0, 2, 3, 1)


def _blend(plain: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    """Returns plain + factor * (images - plain), cut to 0..255."""
    return torch.lerp(plain, images, _per_image(factor)).clamp_(0, 255).floor_()


def _luma(images: Tensor) -> Tensor:
    return (images @ constant(_LUMA, images.device)).floor_().unsqueeze(3)


def _smooth(images: Tensor) -> Tensor:
    """Returns images under a 3x3 filter with centre 5 and neighbours 1; the border is kept."""
    x = images.permute(0, 3, 1, 2)
    kernel = constant(_SMOOTHING, x.device).view(1, 1, 3, 3).expand(3, 1, 3, 3)
    out = x.clone()
    out[:, :, 1:-1, 1:-1] = F.conv2d(x, kernel, groups=3).div_(13).round_()
    return out.permute(0, 2, 3, 1)


def _posterize(images: Tensor, kept_bits: Tensor) -> Tensor:
    step = _per_image(torch.exp2(8 - kept_bits))
    return (images / step).floor_() * step


def _autocontrast(images: Tensor) -> Tensor:
    """Returns each channel stretched to 0..255; a constant channel is kept."""
    low, high = images.amin((1, 2), keepdim=True), images.amax((1, 2), keepdim=True)
    stretched = (images - low) * (255.0 / (high - low).clamp_min(1))
    return torch.where(high > low, stretched, images).clamp_(0, 255).floor_()


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
    return mapped.view(n, channels, height, width).permute(0, 2, 3, 1).to(images.dtype)


# Enhancements blend with a plain version of the image.
_ENHANCE: dict[str, Callable[[Tensor], Tensor]] = {
    "brightness": torch.zeros_like,
    "color": _luma,
    "contrast": lambda x: (_luma(x).mean((1, 2, 3), keepdim=True) + 0.5).floor(),
    "sharpness": _smooth,
}
