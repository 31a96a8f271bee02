"""The optimiser of a detector's training, with lower rates for the backbone's first layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torchvision.models._utils import IntermediateLayerGetter

from fbnetv3.integrations.trunk import Trunk

from .recipe import DetectionRecipe

_MOMENTUM = 0.9


def make_optimizer(model: nn.Module, recipe: DetectionRecipe) -> torch.optim.Optimizer:
    """Returns the recipe's optimiser; norms and biases do not decay."""
    depth_of = {
        id(parameter): depth
        for depth, part in enumerate(reversed(trunk_parts(model)), start=1)
        for parameter in part.parameters()
    }
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        depth = 0 if recipe.layer_decay == 1 else depth_of.get(id(parameter), 0)
        decays = parameter.ndim > 1
        group = {
            "params": [],
            "weight_decay": recipe.weight_decay if decays else 0.0,
            "lr_scale": recipe.layer_decay**depth,
        }
        groups.setdefault((depth, not decays), group)["params"].append(parameter)
    ordered = [groups[key] for key in sorted(groups)]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(ordered, lr=recipe.lr, momentum=_MOMENTUM)
    return torch.optim.AdamW(ordered, lr=recipe.lr)


def trunk_parts(model: nn.Module) -> list[nn.Module]:
    """Returns the layers of a detector's backbone, from the image on."""
    for module in model.modules():
        if isinstance(module, Trunk):
            return [module.stem, *module.stages]
        if isinstance(module, IntermediateLayerGetter):
            return list(module.children())
    # torchvision's SSDlite: two sequences of blocks, and the additional maps beside them.
    features = model.get_submodule("backbone.features")
    return [block for sequence in features.children() for block in sequence.children()]
