"""A network built around tensors that are there already: no random weights are drawn first.

The classifier and the stem are adapted where the caller wants other classes or channels than the
tensors have.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fbnetv3.arch.arch import Arch
from fbnetv3.checkpoints.checkpoint import load_strict
from fbnetv3.models.model import FBNetV3, build

logger = logging.getLogger("fbnetv3")

STEM, CLASSIFIER = "stem.conv.weight", "classifier"


def build_from_state(
    arch: Arch,
    state: Mapping[str, Tensor],
    *,
    source: str,
    num_classes: int | None = None,
    in_chans: int = 3,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **kwargs: Any,
) -> FBNetV3:
    """Returns the network of `arch` with the tensors of `state` in it.

    Args:
        arch: the table.
        state: name -> tensor in our layout, as `FBNetV3.state_dict` has them.
        source: where the tensors come from, for errors and the log.
        num_classes: logits; where it differs from the tensors' a fresh classifier is put in, and
            the log (`fbnetv3`, level INFO) says so. None keeps the tensors' own.
        in_chans: input channels; another number than the tensors' adapts the stem: the RGB filters
            summed for 1 channel, else repeated and scaled so that the response keeps its size.
        device: where the network goes.
        dtype: type of its parameters, float32 unless given.
        **kwargs: others of `FBNetV3`.

    Raises:
        ValueError: tensors are missing, left over, or of another shape.
    """
    stored = stored_classes(state)
    num_classes = stored if num_classes is None else num_classes
    target = device if device is not None else torch.get_default_device()
    # A norm or activation from outside may hold numbers that no file has: such a network is built
    # with all its numbers, where ours can stay without any until they are assigned.
    norm, act = kwargs.get("norm_layer"), kwargs.get("act_layer")
    foreign = norm is not None or not (act is None or isinstance(act, str))
    model = build(
        arch,
        device=target if foreign else "meta",
        num_classes=num_classes,
        in_chans=in_chans,
        **kwargs,
    )
    own = model.state_dict()
    tensors = {
        name: tensor.to(
            device=target, dtype=(dtype or torch.float32) if tensor.is_floating_point() else None
        )
        for name, tensor in state.items()
        # FrozenBatchNorm and the like keep no count.
        if name in own or not name.endswith("num_batches_tracked")
    }
    if num_classes != stored:
        _replace_classifier(tensors, model, stored, source)
    if STEM in tensors and tensors[STEM].shape[1] != in_chans:
        tensors[STEM] = adapt_stem(tensors[STEM], in_chans)
        logger.info("%s: stem adapted to %d input channels", source, in_chans)
    load_strict(model, tensors, assign=not foreign, source=source)
    return model.to(dtype=dtype) if dtype is not None else model


def stored_classes(state: Mapping[str, Tensor]) -> int:
    """Returns how many classes a classifier in our layout has, 0 where there is none."""
    bias = state.get(f"{CLASSIFIER}.bias")
    return 0 if bias is None else bias.numel()


def adapt_stem(weight: Tensor, in_chans: int) -> Tensor:
    """Returns a stem's filters (C, in_chans, 3, 3) made of (C, 3, 3, 3) for RGB.

    One channel gets the sum of the three, so that a grey image gives what it gave as RGB; more
    channels repeat them, scaled by 3 / in_chans, as timm does.
    """
    stored = weight.shape[1]
    if in_chans == 1:
        return weight.sum(1, keepdim=True)
    repeats = -(-in_chans // stored)
    return (weight.repeat(1, repeats, 1, 1)[:, :in_chans] * (stored / in_chans)).contiguous()


def _replace_classifier(
    tensors: dict[str, Tensor], model: FBNetV3, stored: int, source: str
) -> None:
    dropped = [name for name in tensors if name.startswith(f"{CLASSIFIER}.")]
    for name in dropped:
        del tensors[name]
    if model.num_classes:
        fresh = nn.Linear(model.head_hidden_size, model.num_classes)
        like = tensors[STEM]
        for name, value in fresh.state_dict().items():
            tensors[f"{CLASSIFIER}.{name}"] = value.to(device=like.device, dtype=like.dtype)
    logger.info(
        "%s: dropped %s for %d classes; the classifier for %d classes is %s",
        source,
        ", ".join(dropped) or "nothing",
        stored,
        model.num_classes,
        "fresh" if model.num_classes else "left out",
    )
