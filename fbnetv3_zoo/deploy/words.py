"""The option values of export, quantization and latency, without slow imports."""

from __future__ import annotations

from typing import Literal

# Dynamic axes of an exported file's input.
Dynamic = Literal["batch", "batch+size"]
# Precision of an exported file's weights and arithmetic.
Precision = Literal["fp32", "fp16"]
# How the range of an activation is set: extremes over all images; mean over images of the extremes
# of each; central share of all values; the range with the least squared error of 256 steps.
CalibrationMethod = Literal["minmax", "mean_minmax", "percentile_99.99", "percentile_99.9", "mse"]
# Ways of running a torch module.
TorchBackend = Literal[
    "torch",
    "torch-channels-last",
    "torch-optimized",
    "torch-bf16",
    "torch-fp16",
    "torch-compile",
    "torch-compile-bf16",
    "torch-cuda-graph",
    "torch-cuda-graph-bf16",
    "torch-compile-cuda-graph-bf16",
]
