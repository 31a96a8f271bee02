"""The fixed words of exporting, quantising and measuring; nothing slow is imported for them."""

from __future__ import annotations

from typing import Literal

# Which sides of an exported file's input are free.
Dynamic = Literal["batch", "batch+size"]
# Of an exported file's weights and arithmetic.
Precision = Literal["fp32", "fp16"]
# How an activation's range is taken: extremes over all images; mean over images of each one's
# extremes; central share of all values; the range with the least squared error of 256 steps.
CalibrationMethod = Literal["minmax", "mean_minmax", "percentile_99.99", "percentile_99.9", "mse"]
# How torch runs a module.
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
