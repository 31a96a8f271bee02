"""A faster copy of a model for inference in torch: batch-norm folded, channels-last, compiled.

The copy computes the same function and can no longer be trained. `export` starts from the same
folding. The edge of this file: it changes how a network is computed, never in which precision.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .blocks import ConvBnAct
from .model import FBNetV3


def fold_batch_norm(model: FBNetV3) -> FBNetV3:
    """Returns a copy in evaluation mode whose convolutions hold their batch-norms' numbers.

    Only `nn.BatchNorm2d` and its subclasses that have running statistics are folded; any other
    norm layer stays as it is. The sums are done in float64, so that folding itself costs no
    accuracy.
    """
    folded = copy.deepcopy(model).eval().requires_grad_(False)
    for block in folded.modules():
        if not isinstance(block, ConvBnAct):
            continue
        norm = block.bn
        if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None:
            dtype = block.conv.weight.dtype
            block.conv = fuse_conv_bn_eval(block.conv.double(), norm.double()).to(dtype)
            block.bn = nn.Identity()
    return folded


def optimize(model: FBNetV3, *, channels_last: bool = True, compile: bool = False) -> nn.Module:
    """Returns a copy of `model` that gives the same logits faster; the model is left as it is.

    The logits agree to 1e-4 of their spread. On a CPU most of the gain at large batches comes from
    the memory layout, which the copy's weights carry: inputs are converted by the first layer.

    Args:
        model: on any device, in any mode; the copy is in evaluation mode.
        channels_last: store convolution weights channels-last.
        compile: let `torch.compile` compile it, which takes tens of seconds at the first call of
            each input shape.

    Raises:
        ValueError: the model is not one of ours.
    """
    if not isinstance(model, FBNetV3):
        raise ValueError(
            f"model is a {type(model).__name__}; expected an FBNetV3, see fbnetv3.create()"
        )
    fast: nn.Module = fold_batch_norm(model)
    if channels_last:
        fast = fast.to(memory_format=torch.channels_last)
    # A compiled module is a module, though typed as a function.
    return torch.compile(fast) if compile else fast  # type: ignore[return-value]
