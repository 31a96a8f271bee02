"""Where else an exported network can run: which parts of it a provider takes, and ExecuTorch.

Coverage is read off the operators with the tables that come with onnxruntime and, for TensorRT, the
list below; it says what a provider would take, nothing was run on one. The edge of this file:
OpenVINO has its own, `openvino_model`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fbnetv3._internal.files import replacing
from fbnetv3._internal.optional import missing
from fbnetv3.images.preprocess import Preprocess
from fbnetv3.models.model import FBNetV3

from .describe import describe
from .export_graph import inference_graph, reference_of
from .parity import TOLERANCE, Parity, compare, inputs_for

TARGETS = ("nnapi", "coreml-neuralnetwork", "coreml-mlprogram", "tensorrt")
# Of those that our files can have; onnx-tensorrt's table of supported operators (TensorRT 10).
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
    """What one provider would take of a graph.

    Attributes:
        target: the provider.
        num_nodes: operators in the graph.
        num_taken: of those, taken.
        num_partitions: pieces that they form; every border is a copy and a hand-over.
        left: operators that it does not know.
        verdict: "yes" for one piece with everything, "maybe" for few large ones, else "no".
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
    """Returns what each of `TARGETS` would take of an ONNX file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not ONNX.
    """
    import onnx
    from onnxruntime.tools.mobile_helpers import usability_checker as checker

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; make one with `fbnetv3 export`")
    try:
        model = onnx.shape_inference.infer_shapes(onnx.load(path))
    # protobuf's error has no public home.
    except Exception as error:
        raise ValueError(f"{path} is not an ONNX file: {error}") from error
    logging.getLogger("default").setLevel(logging.ERROR)
    fixed = all(
        dim.dim_value for value in model.graph.input for dim in value.type.tensor_type.shape.dim
    )
    mobile = {
        # Sizes are fixed when a mobile session is made, so that free ones do not count here.
        "nnapi": checker.check_nnapi_partitions(model, False),
        "coreml-neuralnetwork": checker.check_coreml_partitions(
            model, False, "coreml_supported_neuralnetwork_ops.md"
        ),
        "coreml-mlprogram": checker.check_coreml_partitions(
            model, False, "coreml_supported_mlprogram_ops.md"
        ),
    }
    notes = () if fixed else ("fix the input's size: export with dynamic=None",)
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
    """TensorRT builds an engine of everything or of nothing, unless a fallback is set up."""
    import onnx

    nodes = model.graph.node
    left = tuple(sorted({node.op_type for node in nodes} - _TENSORRT))
    notes = []
    zero_points = {node.input[2] for node in nodes if node.op_type == "QuantizeLinear"}
    for tensor in model.graph.initializer:
        if tensor.name in zero_points and onnx.numpy_helper.to_array(tensor).any():
            notes.append("its int8 is symmetric: quantise with TensorRT's own tool instead")
            break
    if any(dim.dim_param for dim in model.graph.input[0].type.tensor_type.shape.dim):
        notes.append("give an optimisation profile for the free sides")
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


def to_executorch(
    model: FBNetV3, path: str | Path, *, preprocess: Preprocess | None = None
) -> Parity:
    """Writes a model as an ExecuTorch program (`.pte`) for XNNPACK, compared with the model.

    The program takes one image, float32 (1, C, H, W), and gives float32 logits (1, num_classes).

    Args:
        model: of any mode; left as it is.
        path: the file to write.
        preprocess: what images go through; it sets the input's size. The model's own unless given.

    Raises:
        ValueError: the program gives other logits, or the path is wrong: nothing is written then.
        ImportError: ExecuTorch is missing.
    """
    try:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower
    except ImportError as error:
        raise missing("executorch", error) from error
    artefact = describe(model, preprocess=preprocess)
    side = artefact.preprocess.crop
    with replacing(Path(path)) as part:
        example = (torch.zeros(1, model.in_chans, side, side),)
        program = torch.export.export(inference_graph(model, artefact), example)
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        part.write_bytes(lowered.to_executorch().buffer)
        reference = reference_of(model, artefact)
        return compare(
            executorch_runner(part),
            reference.logits,
            inputs_for(artefact, in_chans=model.in_chans, batch_sizes=(1,), free_size=False),
            tolerance=TOLERANCE["fp32"],
            exact=reference.exact_logits,
        )


def executorch_runner(path: str | Path) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Returns a function that runs an ExecuTorch program on a batch of one.

    Raises:
        ImportError: ExecuTorch is missing.
    """
    try:
        from executorch.runtime import Runtime
    except ImportError as error:
        raise missing("executorch", error) from error
    program = Runtime.get().load_program(Path(path).read_bytes())
    method = program.load_method("forward")

    def run(batch: NDArray[Any], _program: Any = program) -> NDArray[Any]:
        # The program must outlive its method; what it returns is its own memory.
        return np.array(method.execute([torch.from_numpy(batch)])[0].numpy())

    return run
