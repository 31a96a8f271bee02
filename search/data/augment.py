"""Augmentation of a batch of small images at once, as a pure function of images and uniforms.

Each image is changed according to its row of `u`, uniform numbers from [0, 1): equal rows give
equal images, whichever process has them, which is what exact resume and data-parallel
training rest on. Images are (N, H, W, 3) uint8 throughout.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .policies import NUM_POLICY_DRAWS, autoaugment_cifar10, trivial_augment

# Columns of `u`: flip, shift down, shift right, hole's row, hole's column, then the policy's.
_FLIP, _DOWN, _RIGHT, _HOLE_ROW, _HOLE_COL, _POLICY = range(6)
NUM_DRAWS = _POLICY + NUM_POLICY_DRAWS
_GREY = 128


def augment(images: Tensor, u: Tensor, kind: str) -> Tensor:
    """Returns the augmented images, (N, H, W, 3) uint8.

    Args:
        images: (N, H, W, 3) uint8.
        u: (N, NUM_DRAWS) float32 in [0, 1), on the same device.
        kind: one of `recipe.AUGMENTS`.
    """
    if kind == "none":
        return images
    images = _flip_and_shift(images, u, shift=kind != "flip")
    if kind == "trivial":
        return trivial_augment(images, u[:, _POLICY:])
    if kind == "autoaugment":
        images = autoaugment_cifar10(images, u[:, _POLICY:])
    return _cutout(images, u) if kind in ("cutout", "autoaugment") else images


def _flip_and_shift(images: Tensor, u: Tensor, *, shift: bool) -> Tensor:
    """Returns images mirrored by chance and, with `shift`, moved, the border reflected."""
    n, height, width, _ = images.shape
    rows = torch.arange(height, device=images.device).expand(n, height)
    cols = torch.arange(width, device=images.device).expand(n, width)
    cols = torch.where(u[:, _FLIP, None] < 0.5, cols.flip(1), cols)
    if shift:
        reach = max(1, height // 8)
        rows = _reflected(rows + _whole(u[:, _DOWN, None], reach), height)
        cols = _reflected(cols + _whole(u[:, _RIGHT, None], reach), width)
    first = torch.arange(n, device=images.device).view(n, 1, 1)

    return images[first, rows.unsqueeze(2), cols.unsqueeze(1)]


def _whole(u: Tensor, reach: int) -> Tensor:
    """Returns whole numbers from -reach to reach, equally likely."""
    return (u * (2 * reach + 1)).long() - reach


def _reflected(index: Tensor, size: int) -> Tensor:
    index = index.abs()
    return torch.where(index >= size, 2 * (size - 1) - index, index)


def _cutout(images: Tensor, u: Tensor) -> Tensor:
    """Returns images with a grey square of half the side, its centre anywhere in the image."""
    _, height, width, _ = images.shape
    half = height // 4

    def covered(center: Tensor, size: int) -> Tensor:
        distance = torch.arange(size, device=images.device) - (center * size).long().unsqueeze(1)
        return (distance >= -half) & (distance < half)

    hole = covered(u[:, _HOLE_ROW], height).unsqueeze(2) & covered(
        u[:, _HOLE_COL], width
    ).unsqueeze(1)
    return images.masked_fill(hole.unsqueeze(3), _GREY)
