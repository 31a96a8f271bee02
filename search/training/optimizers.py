"""Optimisers of recipes, and their state as named tensors that keep every bit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .recipe import Recipe

# RMSProp's own constants are not in the paper; these are customary with its TensorFlow form.
RMS_ALPHA, RMS_EPS = 0.9, 1e-3
ADAM_BETA2 = 0.999


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Returns the recipe's optimiser; weight decay leaves batch-norm and biases alone."""
    from timm.optim._param_groups import param_groups_layer_decay, param_groups_weight_decay
    from timm.optim.rmsprop_tf import RMSpropTF

    if recipe.layer_decay < 1:
        groups = param_groups_layer_decay(
            model, recipe.weight_decay, layer_decay=recipe.layer_decay
        )
    else:
        groups = param_groups_weight_decay(model, recipe.weight_decay)
    # Kernels for many tensors at once, of the kind that takes the learning rate as a tensor.
    at_once = True if has_kernels_for_many(model) else None
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            groups,
            lr=recipe.lr_at(0.0),
            momentum=recipe.momentum,
            nesterov=recipe.momentum > 0,
            fused=at_once,
        )
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(
            groups,
            lr=recipe.lr,
            betas=(recipe.momentum, ADAM_BETA2),
            fused=at_once,
            # Counts its steps on the device, as a graph has to.
            capturable=next(model.parameters()).is_cuda,
        )
    made: torch.optim.Optimizer = RMSpropTF(
        groups,
        lr=recipe.lr,
        alpha=RMS_ALPHA,
        eps=RMS_EPS,
        momentum=recipe.momentum,
        foreach=at_once,
    )
    return made


def has_kernels_for_many(model: nn.Module) -> bool:
    """Returns whether a model's device updates many tensors in one launch."""
    return next(model.parameters()).is_cuda


def set_lr(optimizer: torch.optim.Optimizer, lr: float | Tensor) -> None:
    """Gives every group of parameters the learning rate, times its layer's scale if it has one."""
    scaled = {1.0: lr}
    for group in optimizer.param_groups:
        scale = group.get("lr_scale", 1.0)
        if scale not in scaled:
            scaled[scale] = lr * scale
        group["lr"] = scaled[scale]


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Returns the state as tensors called by the parameter's number and the state's name."""
    return {
        f"{index}.{name}": tensor
        for index, state in optimizer.state_dict()["state"].items()
        for name, tensor in state.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Puts back what `optimizer_tensors` returned."""
    content = optimizer.state_dict()
    params = [p for group in optimizer.param_groups for p in group["params"]]
    content["state"] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        like = params[int(index)]
        # In the parameter's memory layout, so that updates take the same path as before.
        value = torch.empty_like(like).copy_(tensor) if tensor.shape == like.shape else tensor
        content["state"].setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(content)
