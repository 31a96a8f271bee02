"""Hard-swish and hard-sigmoid in integers: the numbers of the float functions, within a step."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from fbnetv3.deploy.int8_swish import rescale, split_activations

LOW, HIGH = -5.0, 7.0
X = np.linspace(LOW, HIGH, 997, dtype=np.float32).reshape(1, -1)


def one_operator(kind: str, slope: float = 1 / 6) -> onnx.ModelProto:
    value = onnx.helper.make_tensor_value_info
    shape, real = list(X.shape), onnx.TensorProto.FLOAT
    nodes = [
        onnx.helper.make_node("Mul", ["input", "one"], ["x"], name="in"),
        onnx.helper.make_node(kind, ["x"], ["y"], name="act"),
        onnx.helper.make_node("Mul", ["y", "one"], ["out"], name="out"),
    ]
    if kind == "HardSigmoid":
        for name, number in (("alpha", slope), ("beta", 0.5)):
            nodes[1].attribute.append(onnx.helper.make_attribute(name, number))
    graph = onnx.helper.make_graph(
        nodes,
        "one",
        [value("input", real, shape)],
        [value("out", real, shape)],
        [onnx.numpy_helper.from_array(np.ones(1, np.float32), "one")],
        value_info=[value(name, real, shape) for name in ("x", "y")],
    )
    opset = [onnx.helper.make_opsetid("", 18)]
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)


@pytest.mark.parametrize("kind", ["HardSwish", "HardSigmoid"])
def test_the_integers_are_the_function_within_a_step(kind: str) -> None:
    gate = np.clip(X.astype(np.float64) / 6 + 0.5, 0, 1)
    expected = X * gate if kind == "HardSwish" else gate
    model = one_operator(kind)
    gates = split_activations(model)
    assert list(gates.values()) == [(0.0, 6.0)]
    edges = {"input": (LOW, HIGH), "x": (LOW, HIGH), "one": (0.0, 1.0)}
    edges |= {"y": (-0.375, HIGH), "out": (float(expected.min()), float(expected.max()))}
    ranges = {
        name: tuple(np.array(v, np.float32) for v in pair) for name, pair in (edges | gates).items()
    }
    tensors = TensorsData(CalibrationMethod.MinMax, ranges)
    quantizer = QDQQuantizer(
        model, True, False, QuantType.QInt8, QuantType.QUInt8, tensors, [], [], ["Add", "Mul"], {}
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    rescale(quantizer.model.model, gates)
    content = quantizer.model.model.SerializeToString()
    (got,) = ort.InferenceSession(content, providers=["CPUExecutionProvider"]).run(
        None, {"input": X}
    )
    # Half a step each of x, its copy, the gate and the results.
    step = (HIGH - LOW) / 255
    bound = (
        1.5 * step + HIGH * 0.5 / 255 + 2 * step if kind == "HardSwish" else 1.5 / 255 + step / 6
    )
    assert np.abs(got - expected).max() < bound
    assert np.corrcoef(got.ravel(), expected.ravel())[0, 1] > 0.9998


def test_a_gate_that_stayed_in_float_is_an_error() -> None:
    model = one_operator("HardSwish")
    gates = split_activations(model)
    with pytest.raises(RuntimeError, match="act/gate was not quantized"):
        rescale(model, gates)


def test_a_hard_sigmoid_of_another_slope_is_left_alone() -> None:
    model = one_operator("HardSigmoid", slope=0.2)
    assert split_activations(model) == {}
    assert [node.op_type for node in model.graph.node] == ["Mul", "HardSigmoid", "Mul"]
