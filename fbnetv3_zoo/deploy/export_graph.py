"""The module that is exported, and the reference logits that the file is compared with."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fbnetv3.images.preprocess import Preprocess
from fbnetv3.models.inference import fold_batch_norm
from fbnetv3.models.model import FBNetV3

from .artefact import Artefact

# Of the logits' size; rounding errors of float32 have less effect.
_NO_EFFECT = 1e-7


@dataclass(frozen=True)
class Reference:
    """The model as functions from arrays in the file's input layout to logits.

    Attributes:
        logits: computes in float32.
        exact_logits: computes in float64.
    """

    logits: Callable[[NDArray[Any]], NDArray[Any]]
    exact_logits: Callable[[NDArray[Any]], NDArray[Any]]


def reference_of(model: FBNetV3, artefact: Artefact) -> Reference:
    """Returns the reference of a model: a copy on the CPU in evaluation mode."""
    reference = copy.deepcopy(model).cpu().float().eval()

    def run(batch: NDArray[Any], dtype: torch.dtype) -> NDArray[Any]:
        x = torch.from_numpy(batch)
        if artefact.in_graph:
            # In the order of `Preprocess`, not of the graph, so that the comparison covers it.
            mean, std = _mean_and_std(artefact.preprocess)
            x = (x.permute(0, 3, 1, 2).contiguous().to(dtype) / 255 - mean) / std
        with torch.inference_mode():
            logits: Tensor = reference.to(dtype)(x.to(dtype))
        return logits.numpy()

    return Reference(
        lambda batch: run(batch, torch.float32), lambda batch: run(batch, torch.float64)
    )


def untested_weights(model: FBNetV3, resolution: int) -> list[str]:
    """Returns the names of the weights that the logits of noise do not depend on.

    A file may have any numbers in their place and pass a comparison of logits.
    """
    copied = copy.deepcopy(model).cpu().float().eval().requires_grad_(True)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, model.in_chans, resolution, resolution, generator=generator)
    weights = {name: p for name, p in copied.named_parameters() if p.dim() > 1}
    with torch.enable_grad():
        logits = copied(noise)
        loss = (logits * torch.randn(logits.shape, generator=generator)).sum()
        grads = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    size = float(logits.detach().norm())
    return [
        name
        for (name, weight), grad in zip(weights.items(), grads, strict=True)
        if grad is None or float(grad.norm() * weight.detach().norm()) <= _NO_EFFECT * size
    ]


def scaled_copy(model: FBNetV3, resolution: int) -> FBNetV3:
    """Returns a copy of a model with random batch-norm scales, so that every layer counts.

    The statistics of its batch-norms are those of noise, so that no layer's output vanishes.
    """
    scaled = copy.deepcopy(model).cpu().float()
    generator = torch.Generator().manual_seed(0)
    norms = [m for m in scaled.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    with torch.no_grad():
        for norm in norms:
            if norm.affine:
                norm.weight.copy_(torch.rand(norm.weight.shape, generator=generator) + 0.5)
            norm.reset_running_stats()
            norm.momentum = None  # one batch gives all statistics
        noise = torch.randn(4, model.in_chans, resolution, resolution, generator=generator)
        scaled.eval()
        for norm in norms:
            norm.train()
        scaled(noise)
    return scaled.eval()


class _MeanPool(nn.Module):
    """Global average pooling; `AdaptiveAvgPool2d` may be exported with shape arithmetic."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns (N, C, 1, 1) of (N, C, H, W)."""
        return x.mean((2, 3), keepdim=True)


class _ExportModule(nn.Module):
    """The computation of the file: the model, with casts and normalisation if requested."""

    def __init__(self, model: FBNetV3, artefact: Artefact) -> None:
        super().__init__()
        self.model = model
        self.in_graph = artefact.in_graph
        self.half_inside = artefact.precision == "fp16"
        mean, std = _mean_and_std(artefact.preprocess)
        self.shift = nn.Buffer(mean * 255)
        self.scale = nn.Buffer(1 / (std * 255))

    def forward(self, x: Tensor) -> Tensor:
        """Returns float32 logits (N, num_classes)."""
        if self.in_graph:
            # In float32 even if the rest is fp16: 255 steps need 8 of its 11 bits.
            x = (x.permute(0, 3, 1, 2).float() - self.shift) * self.scale
        if self.half_inside:
            return self.model(x.half()).float()  # type: ignore[no-any-return]
        return self.model(x)  # type: ignore[no-any-return]


def inference_graph(model: FBNetV3, artefact: Artefact) -> nn.Module:
    """Returns the module to export, with folded batch-norm, on the CPU."""
    folded = fold_batch_norm(model).cpu().float()
    folded = folded.to(memory_format=torch.contiguous_format)
    for module in folded.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.AdaptiveAvgPool2d):
                setattr(module, name, _MeanPool())
        # The exporter decomposes and recomposes in-place activations, five times slower.
        if getattr(module, "inplace", False):
            setattr(module, "inplace", False)  # noqa: B010  # no attribute of nn.Module
    if artefact.precision == "fp16":
        folded = folded.half()
    return _ExportModule(folded, artefact).eval()


def _mean_and_std(preprocess: Preprocess) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocess.mean, preprocess.std))
    return mean, std
