"""Makes the metadata of an exported file from a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.metadata import version

import torch

from fbnetv3._version import __version__
from fbnetv3.arch.counts import count
from fbnetv3.hub.cached_weights import tensors_sha256
from fbnetv3.hub.license_policy import stated_anew
from fbnetv3.hub.pretrained_cfg import (
    class_names_of,
    confidence_of,
    license_of,
    name_of,
    preprocess_of,
    thresholds_of,
    weights_of,
)
from fbnetv3.images.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from fbnetv3.models.model import FBNetV3

from .artefact import FEATURES, MULTI_LABEL, SINGLE_LABEL, Artefact

# Of a file that takes one size only; many more need more memory than machines have.
_MAX_BATCH_SIZE = 4096


def describe(
    model: FBNetV3,
    *,
    preprocess: Preprocess | None = None,
    class_names: Sequence[str] | None = None,
    precision: str = "fp32",
    in_graph: bool = False,
    opset: int | None = None,
    batch_size: int | None = None,
    license: str | None = None,
    tools: Sequence[str] = ("onnx", "onnxscript"),
) -> Artefact:
    """Returns the metadata of an exported file, without parity.

    Args:
        model: a model whose `pretrained_cfg` names the weights.
        preprocess: preprocessing; default: the model's.
        class_names: class names; default: those of the weights.
        precision: precision of the file.
        in_graph: whether the graph normalises.
        opset: ONNX opset of the file, if it is ONNX.
        batch_size: the only batch size that the file takes; None for any.
        license: SPDX name of the licence of your own weights; default: that of the model's.
        tools: distributions beside torch that write the file, whose versions are stated.

    Raises:
        ValueError: the batch size is out of range, or the number of `class_names` is not that of
            the model's classes.
    """
    if batch_size is not None and (
        isinstance(batch_size, bool) or not 1 <= batch_size <= _MAX_BATCH_SIZE
    ):
        raise ValueError(
            f"batch_size is {batch_size!r}; expected a whole number from 1 to {_MAX_BATCH_SIZE}"
        )
    weights, thresholds = weights_of(model), thresholds_of(model)
    if class_names is None:
        class_names = class_names_of(model)
    elif len(class_names) != model.num_classes:
        raise ValueError(
            f"{len(class_names)} class_names for {model.num_classes} classes; give one per class"
        )
    preprocess = preprocess or preprocess_for(model)
    counts = count(
        model.arch,
        preprocess.crop,
        num_classes=model.num_classes,
        in_chans=model.in_chans,
    )
    return Artefact(
        name=name_of(model),
        arch=model.arch,
        preprocess=preprocess,
        in_graph=in_graph,
        class_names=tuple(class_names),
        weights_tag=weights.tag if weights else "",
        weights_sha256=getattr(weights and weights.source, "sha256", None)
        or tensors_sha256(model.state_dict()),
        license=stated_anew(license, known=license_of(model)),
        source_url=weights.origin if weights else str(model.pretrained_cfg.get("origin_url") or ""),
        macs_paper=counts.macs_paper,
        params=sum(parameter.numel() for parameter in model.parameters()),
        precision=precision,
        num_classes=model.num_classes,
        batch_size=batch_size,
        exported_with={
            "fbnetv3": __version__,
            "torch": torch.__version__,
            **{tool: version(tool) for tool in tools},
            **({"opset": str(opset)} if opset else {}),
        },
        task=MULTI_LABEL if thresholds else SINGLE_LABEL if model.num_classes else FEATURES,
        thresholds=thresholds or (),
        confidence=confidence_of(model),
    )


def preprocess_for(model: FBNetV3, image_size: int | None = None) -> Preprocess:
    """Returns the preprocessing of a model: that of its weights, else the usual one.

    Args:
        model: the model.
        image_size: edge length of the input in pixels; default: that of the weights.

    Raises:
        ValueError: the size is out of range.
    """
    preprocess = preprocess_of(model) or _default_preprocess(model)
    return preprocess if image_size is None else preprocess.at(image_size)


def _default_preprocess(model: FBNetV3) -> Preprocess:
    # timm's usual crop_pct of 0.95, except for thumbnails.
    resolution = model.arch.resolution
    resize = resolution if resolution < 64 else math.floor(resolution / 0.95)
    return Preprocess(
        resize=resize,
        crop=resolution,
        interpolation="bilinear",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
