"""A runtime as one file: ONNX's own reference evaluator. `test_runtimes` adds it to the table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from fbnetv3.deploy.runtimes.session import TensorInfo


class ReferenceSession:
    def __init__(self, model: onnx.ModelProto) -> None:
        self._evaluator = ReferenceEvaluator(model)
        self.metadata = {pair.key: pair.value for pair in model.metadata_props}
        self.inputs = [_end(value) for value in model.graph.input]
        self.outputs = [_end(value) for value in model.graph.output]

    def run(self, batch: NDArray[Any]) -> NDArray[Any]:
        result: NDArray[Any] = self.bind(batch)()
        return result

    def bind(self, batch: NDArray[Any]) -> Callable[[], Any]:
        run: Any = self._evaluator.run  # typed as a mapping of results; it gives their list
        return lambda: run(None, {self.inputs[0].name: batch})[0]


def precisions() -> tuple[str, ...]:
    return ("fp32",)


def open_session(
    path: Path, *, threads: int | None = None, precision: str = "fp32"
) -> ReferenceSession:
    if threads not in (None, 1) or precision != "fp32":
        raise ValueError(f"threads is {threads}, precision {precision!r}; expected 1 and 'fp32'")
    return ReferenceSession(onnx.load(path))


def _end(value: onnx.ValueInfoProto) -> TensorInfo:
    kind = value.type.tensor_type
    shape = tuple(dim.dim_param or dim.dim_value for dim in kind.shape.dim)
    return TensorInfo(value.name, str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)), shape)
