"""Computes a Core ML program ("MIL") by torch, operator by operator, where there is no Core ML.

It is written after the operators' definitions in coremltools' documentation, and knows those of our
files only. What it computes is what the file says, not what Core ML makes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Inputs = Mapping[str, Any]


def compute(function: Any, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the only output of a function of a program.

    Args:
        function: `coremltools.converters.mil.mil.Function` with one input.
        batch: its input.

    Raises:
        ValueError: it has an operator that is not known here.
    """
    (name,) = function.inputs
    values: dict[str, Any] = {name: torch.from_numpy(batch)}
    for operator in function.operations:
        (output,) = operator.outputs
        if operator.op_type == "const":
            values[output.name] = _plain(output.val)
            continue
        run = _OPERATORS.get(operator.op_type)
        if run is None:
            raise ValueError(f"operator {operator.op_type} of {output.name} is not known here")
        found = run({k: values[v.name] for k, v in operator.inputs.items() if v is not None})
        if tuple(found.shape) != tuple(output.shape):
            raise ValueError(f"{output.name} has shape {tuple(found.shape)}, not {output.shape}")
        values[output.name] = found
    (output,) = function.outputs
    result: NDArray[np.float32] = values[output.name].numpy()
    return result


def _plain(value: Any) -> Any:
    """Returns a constant: a tensor of floats, or what Python has for it."""
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return torch.from_numpy(np.ascontiguousarray(value))
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _conv(given: Inputs) -> Tensor:
    x = given["x"]
    if given["pad_type"] == "custom":
        top, bottom, left, right = given["pad"]
        x = F.pad(x, (left, right, top, bottom))
    elif given["pad_type"] != "valid":
        raise ValueError(f"padding {given['pad_type']} of a convolution is not known here")
    return F.conv2d(
        x,
        given["weight"],
        given.get("bias"),
        stride=given["strides"],
        dilation=given["dilations"],
        groups=given["groups"],
    )


_OPERATORS: dict[str, Callable[[Inputs], Tensor]] = {
    "add": lambda g: g["x"] + g["y"],
    "conv": _conv,
    "linear": lambda g: F.linear(g["x"], g["weight"], g.get("bias")),
    "mul": lambda g: g["x"] * g["y"],
    "reduce_mean": lambda g: g["x"].mean(g["axes"], keepdim=g["keep_dims"]),
    "relu": lambda g: F.relu(g["x"]),
    "reshape": lambda g: g["x"].reshape(g["shape"]),
    "sigmoid_hard": lambda g: (g["alpha"] * g["x"] + g["beta"]).clamp(0, 1),
    "thresholded_relu": lambda g: torch.where(g["x"] >= g["alpha"], g["x"], 0.0),
}
