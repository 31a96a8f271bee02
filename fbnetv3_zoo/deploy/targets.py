"""Which operators of an exported file the execution providers of other devices support.

Coverage comes from the operator lists of onnxruntime and, for TensorRT, from the list below;
nothing is run on a provider. What can run a file on this machine is in `runtimes`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TARGETS = ("nnapi", "coreml-neuralnetwork", "coreml-mlprogram", "tensorrt")
# Operators of our files in onnx-tensorrt's list of supported operators (TensorRT 10).
_TENSORRT = frozenset(
    [
        "Add",
        "Cast",
        "Conv",
        "DequantizeLinear",
        "Flatten",
        "Gemm",
        "GlobalAveragePool",
        "HardSigmoid",
        "HardSwish",
        "Mul",
        "QuantizeLinear",
        "Relu",
        "Sub",
        "Transpose",
    ]
)


@dataclass(frozen=True)
class Coverage:
    """The part of a graph that a provider supports.

    Attributes:
        target: the provider.
        num_nodes: number of nodes in the graph.
        num_taken: number of supported nodes.
        num_partitions: number of partitions that they form; each boundary costs a copy.
        left: unsupported operators.
        verdict: "yes" for one partition with all nodes, "maybe" for a few large ones, else "no".
        notes: what has to be done first.
    """

    target: str
    num_nodes: int
    num_taken: int
    num_partitions: int
    left: tuple[str, ...]
    verdict: str
    notes: tuple[str, ...] = ()


def check_targets(path: str | Path) -> list[Coverage]:
    """Returns the coverage of an ONNX file by each of `TARGETS`.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not ONNX.
    """
    import onnx
    from onnxruntime.tools.mobile_helpers import usability_checker as checker

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; make one with `fbnetv3 export`")
    try:
        model = onnx.shape_inference.infer_shapes(onnx.load(path))
    # protobuf's exception has no public name.
    except Exception as error:
        raise ValueError(f"{path} is not an ONNX file: {error}") from error
    logging.getLogger("default").setLevel(logging.ERROR)
    fixed = all(
        dim.dim_value for value in model.graph.input for dim in value.type.tensor_type.shape.dim
    )
    mobile = {
        # A mobile session fixes the sizes, so that dynamic axes do not count here.
        "nnapi": checker.check_nnapi_partitions(model, False),
        "coreml-neuralnetwork": checker.check_coreml_partitions(
            model, False, "coreml_supported_neuralnetwork_ops.md"
        ),
        "coreml-mlprogram": checker.check_coreml_partitions(
            model, False, "coreml_supported_mlprogram_ops.md"
        ),
    }
    notes = () if fixed else ("fix the input's shape: export with dynamic=None",)
    found = [
        Coverage(
            target=target,
            num_nodes=info.num_nodes,
            num_taken=info.num_supported_nodes,
            num_partitions=info.num_partitions,
            left=tuple(sorted(name.split(":")[-1] for name in info.unsupported_ops)),
            verdict=info.suitability().name.lower(),
            notes=notes,
        )
        for target, info in mobile.items()
    ]
    return [*found, _tensorrt(model)]


def _tensorrt(model: Any) -> Coverage:
    """Returns TensorRT's coverage; it builds an engine only if it supports every node."""
    import onnx

    nodes = model.graph.node
    left = tuple(sorted({node.op_type for node in nodes} - _TENSORRT))
    notes = []
    zero_points = {node.input[2] for node in nodes if node.op_type == "QuantizeLinear"}
    for tensor in model.graph.initializer:
        if tensor.name in zero_points and onnx.numpy_helper.to_array(tensor).any():
            notes.append("TensorRT's int8 is symmetric: quantize with its own tool instead")
            break
    if any(dim.dim_param for dim in model.graph.input[0].type.tensor_type.shape.dim):
        notes.append("give an optimization profile for the dynamic axes")
    verdict = "no" if left or any("int8" in note for note in notes) else "yes"
    return Coverage(
        target="tensorrt",
        num_nodes=len(nodes),
        num_taken=sum(node.op_type in _TENSORRT for node in nodes),
        num_partitions=1 if verdict == "yes" else 0,
        left=left,
        verdict=verdict,
        notes=tuple(notes),
    )
