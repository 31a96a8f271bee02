"""Cleans a graph of torch's exporter: stable names, no leftovers, no local paths.

The exporter names values by counters and stores stack traces with file names at every node; two
exports of one model should be equal byte for byte on any machine. Nodes are renamed and rewritten,
weights never change.
"""

from __future__ import annotations

import ast
from collections import Counter
from typing import Any

from .artefact import INPUT, OUTPUT

_SCOPES = "pkg.torch.onnx.name_scopes"
# Operators that a clean graph of these models does not have.
_LEFTOVERS = [
    "BatchNormalization",
    "Concat",
    "Constant",
    "Div",
    "Expand",
    "Gather",
    "Identity",
    "Pow",
    "Range",
    "ReduceMean",
    "Reshape",
    "Shape",
    "Slice",
    "Squeeze",
    "Unsqueeze",
]


def clean(model: Any) -> None:
    """Rewrites an exported `onnx.ModelProto` in place.

    Averages over height and width become GlobalAveragePool, the flattening reshape becomes
    Flatten; mobile runtimes support both best, and neither needs a constant. Nodes and values are
    named after the module that computes them.

    Raises:
        RuntimeError: one of `_LEFTOVERS` is in the graph.
    """
    graph = model.graph
    for node in graph.node:
        if node.op_type == "ReduceMean":
            del node.input[1:], node.attribute[:]
            node.op_type = "GlobalAveragePool"
        elif node.op_type == "Reshape":
            del node.input[1:], node.attribute[:]
            node.op_type = "Flatten"
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    _rename(graph)
    del graph.value_info[:]
    for owner in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del owner.metadata_props[:]
        owner.ClearField("doc_string")
    left = sorted({node.op_type for node in graph.node} & set(_LEFTOVERS))
    if left:
        raise RuntimeError(f"the exporter left {', '.join(left)} in the graph; please report this")


def operators(model: Any) -> Counter[str]:
    """Returns how often each operator occurs in an `onnx.ModelProto`."""
    return Counter(node.op_type for node in model.graph.node)


def _rename(graph: Any) -> None:
    fixed = {INPUT, OUTPUT} | {tensor.name for tensor in graph.initializer}
    new_names = {name: name.removeprefix("model.") for name in fixed}
    taken = Counter(new_names.values())
    for node in graph.node:
        base = f"{_module(node)}/{node.op_type}".lstrip("/")
        taken[base] += 1
        node.name = base if taken[base] == 1 else f"{base}_{taken[base]}"
        for index, value in enumerate(node.output):
            if value not in fixed:
                new_names[value] = node.name if index == 0 else f"{node.name}.{index}"
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [new_names.get(value, value) for value in values]
    for tensor in graph.initializer:
        tensor.name = new_names[tensor.name]
    graph.name = "fbnetv3"


def _module(node: Any) -> str:
    """Returns the dotted path of the module that a node comes from; empty for the wrapper."""
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            scopes = ast.literal_eval(entry.value)
            return str(scopes[-2]).removeprefix("model").lstrip(".") if len(scopes) > 1 else ""
    return ""
