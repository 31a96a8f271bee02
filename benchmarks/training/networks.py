"""Small networks for 32 x 32 images, which train in minutes on one core."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from fbnetv3.arch.arch import Arch
from fbnetv3.arch.tables import ARCHS
from fbnetv3.models.model import build
from fbnetv3.search.data.datasets import cifar_arch
from fbnetv3.search.training.recipe import Recipe


def networks() -> dict[str, Arch]:
    """Returns the two networks, for 32 x 32 images."""
    nano = cifar_arch(ARCHS["fbnetv3_nano"])
    large = dataclasses.replace(
        nano, rows=tuple(dataclasses.replace(row, repeats=1) for row in nano.rows)
    )
    rows = tuple(dataclasses.replace(row, channels=row.channels // 2) for row in large.rows)
    small = dataclasses.replace(
        large,
        rows=rows,
        stem_channels=large.stem_channels // 2,
        head_channels=large.head_channels // 2,
    )
    return {"large": large, "small": small}


def fresh(arch: Arch, recipe: Recipe, num_classes: int, seed: int) -> nn.Module:
    """Returns an untrained network with the recipe's dropout and stochastic depth."""
    torch.manual_seed(seed)
    return build(
        arch,
        num_classes=num_classes,
        drop_rate=recipe.dropout,
        drop_path_rate=recipe.drop_path,
    )
