"""What a GPU can do at most, and what a model demands of it: the floors under a latency."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.latency.networks import count_macs
from fbnetv3.measure.latency import Contestant, measure

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


@dataclass(frozen=True)
class Ceilings:
    """Best rates seen on a device.

    Attributes:
        tflops: 10^12 operations per second (a multiply-add is two) of a square matrix product, by
            precision; float32 in TF32 where the device has it.
        copy_gbytes: 10^9 bytes per second of a large copy, read and written ones together.
    """

    tflops: dict[str, float]
    copy_gbytes: float


@dataclass(frozen=True)
class Demand:
    """What one image asks of a device.

    Attributes:
        macs: multiply-adds of convolutions and matrix products.
        weights: parameters of the convolutions and linear layers, read once per batch.
        activations: numbers that the convolutions and linear layers read as input or write as
            output, each layer's own, per image.
    """

    macs: int
    weights: int
    activations: int


def use_settings() -> dict[str, bool]:
    """Allows TF32; returns the settings, for the record.

    cuDNN chooses an algorithm without trying them: to prepare one takes it about 30 ms on an H100,
    so that to try ten for each layer of each model would take hours.
    """
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    return {
        "cuda.matmul.allow_tf32": torch.backends.cuda.matmul.allow_tf32,
        "cudnn.allow_tf32": torch.backends.cudnn.allow_tf32,
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
    }


def describe_card() -> dict[str, Any]:
    """Returns the GPU's name, size, driver and libraries; nothing where there is none."""
    if not torch.cuda.is_available():
        return {}
    properties: Any = torch.cuda.get_device_properties(0)
    cudnn: Any = torch.backends.cudnn  # torch types neither
    found = {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "processors": properties.multi_processor_count,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
        "cudnn": cudnn.version(),
    }
    if shutil.which("nvidia-smi"):
        fields = ("driver_version", "power.limit", "clocks.max.sm", "clocks.max.mem")
        done = subprocess.run(
            ["nvidia-smi", "--id=0", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=False,
        )
        values = [value.strip() for value in done.stdout.split(",")]
        if len(values) == len(fields):
            found |= dict(zip(fields, values, strict=True))
    return found


def measure_ceilings(device: str, *, size: int = 8192, num_bytes: int = 2**30) -> Ceilings:
    """Returns the rates of the fastest of some runs of each.

    Args:
        device: "cuda", or "cpu" for a dry run.
        size: rows and columns of the matrices.
        num_bytes: of the copied block; far more than any cache holds.
    """
    cuda = device != "cpu"
    contestants = []
    for precision, dtype in _DTYPES.items():
        # Normal numbers: multiplying zeros takes less power and runs at higher clocks.
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        contestants.append(Contestant(precision, partial(torch.mm, a, b, out=out), cuda=cuda))
    source = torch.zeros(num_bytes // 4, device=device)
    target = torch.empty_like(source)
    contestants.append(Contestant("copy", lambda: target.copy_(source), cuda=cuda))
    found = measure(contestants, min_runs=20, max_seconds=2.0, max_warmup_seconds=0.5)
    *products, copy = found
    return Ceilings(
        {one.name: 2 * size**3 / one.min_ms / 1e9 for one in products},
        2 * num_bytes / copy.min_ms / 1e6,
    )


def demand_of(module: nn.Module, side: int) -> Demand:
    """Returns what one image of a resolution demands, counted with hooks in a run on one image.

    Normalization, activations, pooling, gates and residual additions count nothing: a good backend
    computes them while it writes an output or reads an input.
    """
    moved = weights = 0

    def count(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal moved, weights
        moved += int(inputs[0].numel()) + int(output.numel())
        weights += sum(parameter.numel() for parameter in layer.parameters())

    x = torch.zeros(1, 3, side, side, device=next(module.parameters()).device)
    hooks = [
        layer.register_forward_hook(count)
        for layer in module.modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    try:
        with torch.no_grad():
            module(x)
    finally:
        for hook in hooks:
            hook.remove()
    return Demand(count_macs(module, side), weights, moved)


def floors(
    demand: Demand, ceilings: Ceilings, *, batch: int, precision: str, median_ms: float
) -> dict[str, float]:
    """Returns the least time for a batch by arithmetic and by memory traffic, and the shares.

    A share is the floor over the measured time: 1 is as fast as the card can be. What stays in the
    cache need not be read from memory, so that the share of bandwidth may exceed 1 at small
    batches.

    Args:
        demand: of one image.
        ceilings: of the card.
        batch: number of images.
        precision: of weights and activations.
        median_ms: what was measured.
    """
    arithmetic = 2 * demand.macs * batch / ceilings.tflops[precision] / 1e9
    num_bytes = _BYTES[precision] * (demand.weights + batch * demand.activations)
    bandwidth = num_bytes / ceilings.copy_gbytes / 1e6
    return {
        "arithmetic_floor_ms": arithmetic,
        "arithmetic_share": arithmetic / median_ms,
        "bandwidth_floor_ms": bandwidth,
        "bandwidth_share": bandwidth / median_ms,
    }
