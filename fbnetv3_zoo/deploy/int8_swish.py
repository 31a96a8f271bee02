"""Hard-swish and hard-sigmoid of an int8 graph in integer arithmetic.

onnxruntime has no integer kernel for them: each took a DequantizeLinear, two float operators and a
QuantizeLinear. But hard-sigmoid is a line between two constants, and quantizing clips:

    relu6(x + 3) = Add(x, 3), quantized with the range 0..6
    hard-sigmoid = the same integers, read with a sixth of the scale
    hard-swish   = Mul(x, hard-sigmoid)

Add and Mul have integer kernels. The result is rounded once more, to 1/255 of the gate.
"""

from __future__ import annotations

from typing import Any

_THREE = "fbnetv3/three"
# In this range `Add` clips as the function does.
_RANGE = (0.0, 6.0)


def split_activations(model: Any) -> dict[str, tuple[float, float]]:
    """Replaces all hard-swishes and hard-sigmoids in place by operators to be quantized.

    The graph is no longer that of the model until `rescale` has been called on its int8 form.

    Args:
        model: an `onnx.ModelProto` in float.

    Returns:
        The tensors before the division by six, each with its range.
    """
    import onnx

    ranges: dict[str, tuple[float, float]] = {}
    nodes = []
    for node in model.graph.node:
        if node.op_type != "HardSwish" and not _is_sixth(node):
            nodes.append(node)
            continue
        (x,), (y,) = node.input, node.output
        swish = node.op_type == "HardSwish"
        gate = f"{node.name}/gate" if swish else y
        nodes.append(onnx.helper.make_node("Add", [x, _THREE], [gate], name=f"{node.name}/Add"))
        if swish:
            nodes.append(onnx.helper.make_node("Mul", [x, gate], [y], name=f"{node.name}/Mul"))
        ranges[gate] = _RANGE
    if ranges:
        import numpy as np

        del model.graph.node[:]
        model.graph.node.extend(nodes)
        three = np.array([3.0], np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(three, _THREE))
    return ranges


def _is_sixth(node: Any) -> bool:
    """Returns whether a node is a hard-sigmoid with torch's slope; ONNX's default is another."""
    given = {attribute.name: attribute.f for attribute in node.attribute}
    slope, offset = given.get("alpha", 0.2), given.get("beta", 0.5)
    return bool(node.op_type == "HardSigmoid" and abs(slope - 1 / 6) < 1e-4 and offset == 0.5)


def rescale(model: Any, gates: dict[str, tuple[float, float]]) -> None:
    """Divides the tensors that `split_activations` returned by six, in the int8 graph in place.

    Args:
        model: the quantized `onnx.ModelProto`.
        gates: what `split_activations` returned.

    Raises:
        RuntimeError: a tensor was not quantized.
    """
    import onnx

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    written = {node.output[0]: node for node in model.graph.node}
    found = set()
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in written:
            continue
        gate = written[node.input[0]].input[0]
        if gate not in gates:
            continue
        found.add(gate)
        name = f"{node.input[1]}/6"
        if name not in constants:
            sixth = onnx.numpy_helper.to_array(constants[node.input[1]]) / 6
            constants[name] = onnx.numpy_helper.from_array(sixth, name)
            model.graph.initializer.append(constants[name])
        node.input[1] = name
    if missing := set(gates) - found:
        raise RuntimeError(f"{min(missing)} was not quantized; please report this")
