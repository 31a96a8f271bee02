"""What an exported file says about a model: its table, preprocessing, labels, licence, origin."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import nn

from fbnetv3._version import __version__
from fbnetv3.arch.counts import count
from fbnetv3.hub.pretrained_cfg import class_names_of, preprocess_of, weights_of
from fbnetv3.images.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from fbnetv3.models.model import FBNetV3

from .artefact import Artefact


def describe(
    model: FBNetV3,
    *,
    preprocess: Preprocess | None = None,
    class_names: Sequence[str] | None = None,
    precision: str = "fp32",
    in_graph: bool = False,
    opset: int | None = None,
) -> Artefact:
    """Returns what an exported file says about a model, before it has been compared.

    Args:
        model: its `pretrained_cfg` names the weights.
        preprocess: in place of the model's own.
        class_names: in place of those of the weights.
        precision: of the file.
        in_graph: whether the graph normalises.
        opset: of the file, where it is ONNX.

    Raises:
        ValueError: `class_names` are not as many as the model has classes.
    """
    import onnx
    import onnxscript

    weights = weights_of(model)
    if class_names is None:
        class_names = class_names_of(model)
    elif len(class_names) != model.num_classes:
        raise ValueError(
            f"{len(class_names)} class_names for {model.num_classes} classes; give one a class"
        )
    preprocess = preprocess or preprocess_of(model) or _usual_preprocess(model)
    counts = count(
        model.arch,
        preprocess.crop,
        num_classes=model.num_classes,
        in_chans=model.in_chans,
    )
    name = str(model.pretrained_cfg.get("architecture", "fbnetv3"))
    return Artefact(
        name=weights.name if weights else name,
        arch=model.arch,
        preprocess=preprocess,
        in_graph=in_graph,
        class_names=tuple(class_names),
        weights_tag=weights.tag if weights else "",
        weights_sha256=getattr(weights and weights.source, "sha256", None) or tensors_sha256(model),
        license=weights.license if weights else "",
        source_url=weights.origin if weights else "",
        macs_paper=counts.macs_paper,
        params=sum(parameter.numel() for parameter in model.parameters()),
        precision=precision,
        exported_with={
            "fbnetv3": __version__,
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "onnxscript": onnxscript.__version__,
            **({"opset": str(opset)} if opset else {}),
        },
    )


def tensors_sha256(model: nn.Module) -> str:
    """Returns the SHA-256 of a model's tensors: names, shapes and bytes, sorted by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _usual_preprocess(model: FBNetV3) -> Preprocess:
    # Nobody has chosen; timm's usual share is cut off, and nothing of a thumbnail.
    side = model.arch.resolution
    resize = side if side < 64 else math.floor(side / 0.95)
    return Preprocess(
        resize=resize,
        crop=side,
        interpolation="bilinear",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
