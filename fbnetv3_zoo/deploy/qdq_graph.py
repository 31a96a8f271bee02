"""An int8 form of an ONNX graph, in onnxruntime's QDQ format.

Weights are int8 per channel, activations uint8. Which nodes, and with which ranges, is decided by
`qdq` for classifiers and by `detection.quantize` for detectors.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np


def quantized_graph(
    model: Any,
    ranges: Mapping[str, tuple[float, float]],
    operators: Collection[str],
    *,
    only: Collection[str] = (),
    without: Collection[str] = (),
) -> Any:
    """Returns the int8 form of a graph.

    Args:
        model: an `onnx.ModelProto` in float; it is changed.
        ranges: tensor -> the smallest and the largest value that it keeps.
        operators: types of the operators to quantize.
        only: names of the nodes to quantize; default: all.
        without: names of nodes that stay in float.

    Raises:
        ImportError: onnxruntime's tools for quantization are not installed.
    """
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    edges = {
        name: tuple(np.array(edge, np.float32) for edge in pair) for name, pair in ranges.items()
    }
    quantizer = QDQQuantizer(
        model,
        True,  # weights per channel
        False,  # eight-bit weights, not seven-bit
        QuantType.QInt8,
        QuantType.QUInt8,
        TensorsData(CalibrationMethod.MinMax, edges),
        list(only),
        list(without),
        list(operators),
        {"MinimumRealRange": 1e-6},
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    return quantizer.model.model


def quantized_tensors(model: Any) -> list[str]:
    """Returns the names, in the float graph, of the activations that an int8 graph quantizes."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [
        # The graph's output keeps its name in front of nothing but the last DequantizeLinear.
        node.input[0].removesuffix("_QuantizeLinear_Input")
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] not in constants
    ]
