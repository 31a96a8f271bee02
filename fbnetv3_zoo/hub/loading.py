"""Builds a model from existing tensors, without initialising random weights first.

Classifier and stem are adapted if the numbers of classes or input channels differ.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fbnetv3.arch.arch import Arch
from fbnetv3.checkpoints.checkpoint import load_strict
from fbnetv3.checkpoints.convert import Dialect, to_fbnetv3
from fbnetv3.models.model import ACTS, FBNetV3, build

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
    """Returns the model of `arch` with the tensors of `state`.

    Args:
        arch: the architecture.
        state: name -> tensor in our layout, as in `FBNetV3.state_dict`.
        source: where the tensors come from, for error messages and the log.
        num_classes: number of classes; None keeps the classifier of `state`. A different number
            gets a newly initialised classifier, which is logged (`fbnetv3`, level INFO).
        in_chans: input channels. If `state` has a different number, the stem's RGB filters are
            summed for 1 channel, else repeated and scaled to keep the magnitude of the response.
        device: device of the parameters.
        dtype: floating-point type of the parameters, default float32.
        **kwargs: other arguments of `FBNetV3`.

    Raises:
        ValueError: tensors are missing, unexpected, or of a different shape.
    """
    stored = stored_classes(state)
    num_classes = stored if num_classes is None else num_classes
    target = device if device is not None else torch.get_default_device()
    # A custom norm or activation may have values that are not in `state`, so the model is allocated
    # and initialised. Otherwise it stays on the meta device until the tensors are assigned.
    norm, act = kwargs.get("norm_layer"), kwargs.get("act_layer")
    custom = norm is not None or not (act is None or (isinstance(act, str) and act in ACTS))
    model = build(
        arch,
        device=target if custom else "meta",
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
        # FrozenBatchNorm and similar layers have no such buffer.
        if name in own or not name.endswith("num_batches_tracked")
    }
    if num_classes != stored:
        _replace_classifier(tensors, model, stored, source)
    if STEM in tensors and tensors[STEM].shape[1] != in_chans:
        tensors[STEM] = adapt_stem(tensors[STEM], in_chans)
        logger.info("%s: stem adapted to %d input channels", source, in_chans)
    load_strict(model, tensors, assign=not custom, source=source)
    return model.to(dtype=dtype) if dtype is not None else model


def fitting(
    tensors: Mapping[str, Tensor], dialect: Dialect, archs: Mapping[str, Arch]
) -> list[str]:
    """Returns which architectures have tensors of these names and shapes.

    Args:
        tensors: name -> tensor.
        dialect: the layout of the names.
        archs: name -> architecture, of which to choose.
    """
    found = []
    for name, arch in archs.items():
        try:
            state = to_fbnetv3(tensors, arch, dialect)
        except ValueError:
            continue
        own = build(arch, device="meta", num_classes=stored_classes(state)).state_dict()
        if _shapes(own) == _shapes(state):
            found.append(name)
    return found


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: t.shape for name, t in state.items() if not name.endswith("num_batches_tracked")}


def stored_classes(state: Mapping[str, Tensor]) -> int:
    """Returns the number of classes of a state dict in our layout, 0 without a classifier."""
    bias = state.get(f"{CLASSIFIER}.bias")
    return 0 if bias is None else bias.numel()


def adapt_stem(weight: Tensor, in_chans: int) -> Tensor:
    """Returns stem filters (C, in_chans, 3, 3) made from those for RGB, (C, 3, 3, 3).

    For one channel the RGB filters are summed, so that a grey image gives the same output as in
    RGB; for more channels they are repeated and scaled by 3 / in_chans, as in timm.
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
        classifier = nn.Linear(model.head_hidden_size, model.num_classes)
        like = tensors[STEM]
        for name, value in classifier.state_dict().items():
            tensors[f"{CLASSIFIER}.{name}"] = value.to(device=like.device, dtype=like.dtype)
    logger.info(
        "%s: dropped %s for %d classes; the classifier for %d classes is %s",
        source,
        ", ".join(dropped) or "nothing",
        stored,
        model.num_classes,
        "new" if model.num_classes else "left out",
    )
