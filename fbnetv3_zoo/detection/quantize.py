"""Quantizes an exported detector to int8, and measures what that costs in average precision.

Backbone and heads become int8: weights per channel, activations uint8 with ranges from images like
those of later use. What turns their outputs into boxes, and the resizing, stays in float. Needs
neither torch nor annotations, but annotations to measure the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fbnetv3._internal.errors import OverBudget
from fbnetv3._internal.files import replacing
from fbnetv3.deploy.artefact import PREFIX
from fbnetv3.deploy.calibration import METHODS, Statistics
from fbnetv3.deploy.qdq_graph import quantized_graph
from fbnetv3.images.reader import ImageSource, open_image

from .exported import INPUT, ExportedDetector

if TYPE_CHECKING:
    from fbnetv3.integrations.coco_folder import CocoFolder
    from fbnetv3.integrations.coco_scores import Scores

METHOD = "percentile_99.99"
_WEIGHTED = ("Conv", "Gemm")
# Names of nodes begin with the module's. In heads only layers with weights: the others there
# compute boxes, in pixels.
_OPERATORS = {
    "/backbone/": (*_WEIGHTED, "Add", "Mul", "GlobalAveragePool"),
    "/head/": _WEIGHTED,
    "/rpn/": _WEIGHTED,
    "/roi_heads/": _WEIGHTED,
}


@dataclass(frozen=True)
class QuantizedDetector:
    """An int8 file and its quality.

    Attributes:
        path: the file.
        method: calibration method.
        num_calibration: number of images for the ranges.
        unreadable: why each other image for the ranges could not be read; they are left out.
        num_layers: quantized layers with weights.
        num_bytes_float: size of the float file.
        num_bytes: size of the int8 file, with the file beside it.
        scores_float: COCO's scores of the float file; None without annotated images.
        scores: the same of the int8 file.
    """

    path: Path
    method: str
    num_calibration: int
    unreadable: tuple[str, ...]
    num_layers: int
    num_bytes_float: int
    num_bytes: int
    scores_float: Scores | None
    scores: Scores | None

    def to_dict(self) -> dict[str, Any]:
        """Returns the record as plain JSON types."""
        scores = {
            name: None if found is None else found.to_dict()
            for name, found in (("scores_float", self.scores_float), ("scores", self.scores))
        }
        counts = ("num_calibration", "num_layers", "num_bytes_float", "num_bytes")
        fields = ("method", "unreadable", *counts)
        named = {name: getattr(self, name) for name in fields}
        return {"path": str(self.path), **named, **scores, "drop_pct": self.drop_pct}

    @property
    def drop_pct(self) -> float | None:
        """Loss of average precision, in points; None without annotated images."""
        if self.scores is None or self.scores_float is None:
            return None
        return 100 * (self.scores_float.values["AP"] - self.scores.values["AP"])


def quantize_detector(
    source: str | Path,
    path: str | Path,
    calibration: Sequence[ImageSource],
    *,
    data: CocoFolder | None = None,
    max_drop_pct: float | None = None,
    method: str = METHOD,
    on_image: Callable[[int], None] = lambda _: None,
) -> QuantizedDetector:
    """Writes an int8 file of an exported detector.

    Args:
        source: an `.onnx` file that `fbnetv3 detect export` wrote.
        path: the file to write, `.onnx`, or `.xml` for OpenVINO.
        calibration: a hundred images or more like those of later use, without annotations.
        data: annotated images to score both files on; none of `calibration`.
        max_drop_pct: highest loss of average precision on `data`, in points.
        method: one of `calibration.METHODS`.
        on_image: called with the number of images done, of calibration and both scorings.

    Raises:
        FileNotFoundError: a file does not exist.
        OverBudget: the loss is higher; nothing is written.
        ValueError: an argument is wrong, or the file is no float detector; nothing is written.
        ImportError: onnxruntime's tools for quantization, or OpenVINO, are not installed.
    """
    source, path = Path(source), Path(path)
    _check(source, path, calibration, data, max_drop_pct, method)
    float_detector = ExportedDetector(source)
    model, nodes = _opened(source)
    done = 0

    def counted(*_: object) -> None:
        nonlocal done
        done += 1
        on_image(done)

    statistics, unreadable = _collected(model, nodes, calibration, counted)
    quantized = _quantized(model, [node.name for node in nodes], statistics, method)
    with replacing(path) as part:
        _write(quantized, part)
        scores = scores_float = None
        if data is not None:
            from .scoring import evaluate

            scores_float = evaluate(float_detector, data, on_image=counted)
            scores = evaluate(ExportedDetector(part), data, on_image=counted)
        files = [part, part.with_suffix(".bin")] if path.suffix == ".xml" else [part]
        found = QuantizedDetector(
            path=path,
            method=method,
            num_calibration=len(calibration) - len(unreadable),
            unreadable=tuple(unreadable),
            num_layers=sum(node.op_type in _WEIGHTED for node in nodes),
            num_bytes_float=source.stat().st_size,
            num_bytes=sum(file.stat().st_size for file in files),
            scores_float=scores_float,
            scores=scores,
        )
        drop = found.drop_pct
        if max_drop_pct is not None and drop is not None and drop > max_drop_pct:
            raise OverBudget(
                f"int8 costs {drop:.2f} points of AP; expected at most {max_drop_pct:g}. Nothing "
                f"was written. Try another method ({', '.join(METHODS)}), or more images"
            )
    return found


def _check(
    source: Path,
    path: Path,
    calibration: Sequence[ImageSource],
    data: CocoFolder | None,
    max_drop_pct: float | None,
    method: str,
) -> None:
    if source.suffix != ".onnx":
        raise ValueError(f"{source} is no ONNX file; quantize a detector that ends in .onnx")
    if path.suffix not in (".onnx", ".xml"):
        raise ValueError(
            f"output is {path}; expected a name that ends in .onnx or .xml, the formats of int8 "
            "detectors"
        )
    if path.exists() and source.exists() and path.samefile(source):
        raise ValueError(f"output is {path}, the file to quantize; give another name")
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; expected one of {', '.join(METHODS)}")
    if not len(calibration):
        raise ValueError("no calibration images; give at least one, a hundred are better")
    if max_drop_pct is not None and (data is None or max_drop_pct < 0):
        raise ValueError(
            f"max_drop_pct is {max_drop_pct!r}; expected points from 0, and annotated images to "
            "measure the loss on"
        )


def _opened(source: Path) -> tuple[Any, list[Any]]:
    """Returns the graph with shapes, and the nodes to quantize."""
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load(source))
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        raise ValueError(f"{source} is int8 already; quantize a float export")
    _name_each_constant(model.graph)
    nodes = [
        node
        for node in model.graph.node
        if any(place in node.name and node.op_type in ops for place, ops in _OPERATORS.items())
    ]
    return model, nodes


def _name_each_constant(graph: Any) -> None:
    """Gives constants that are equal a copy each, where the exporter lets them share one.

    A bias is quantized by the scales of its own layer.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in list(graph.node):
        if node.op_type == "Identity" and node.input[0] in constants:
            copied = graph.initializer.add()
            copied.CopyFrom(constants[node.input[0]])
            copied.name = node.output[0]
            graph.node.remove(node)


def _collected(
    model: Any,
    nodes: Sequence[Any],
    images: Sequence[ImageSource],
    counted: Callable[[], None],
) -> tuple[dict[str, Statistics], list[str]]:
    """Returns the statistics of what the nodes take and give, and why images were left out."""
    import onnx
    import onnxruntime as ort

    constant = {tensor.name for tensor in model.graph.initializer}
    names = [name for node in nodes for name in (*node.input, *node.output)]
    names = [name for name in dict.fromkeys(names) if name and name not in constant]
    observed = onnx.ModelProto()
    observed.CopyFrom(model)
    del observed.graph.output[:]
    observed.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # Fusion would remove some of these tensors.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(observed.SerializeToString(), options, ["CPUExecutionProvider"])
    found = {name: Statistics() for name in names}
    unreadable = []
    for image in images:
        counted()
        try:
            pixels = np.array(open_image(image))
        except (OSError, ValueError) as error:
            unreadable.append(str(error))
            continue
        for name, values in zip(names, session.run(names, {INPUT: pixels}), strict=True):
            if values.size:  # a detector may find no region in an image
                found[name].add(values)
    if len(unreadable) == len(images):
        raise ValueError(f"no calibration image can be read; the first: {unreadable[0]}")
    unseen = [name for name, one in found.items() if not one.images]
    if unseen:
        raise ValueError(
            f"{unseen[0]} saw nothing in {len(images)} images; give images with objects"
        )
    return found, unreadable


def _quantized(model: Any, nodes: list[str], statistics: dict[str, Statistics], method: str) -> Any:
    import onnx

    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    ranges = {name: one.range(method) for name, one in statistics.items()}
    operators = sorted({op for ops in _OPERATORS.values() for op in ops})
    made = quantized_graph(copied, ranges, operators, only=nodes)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    del made.metadata_props[:]
    onnx.helper.set_model_props(made, {**metadata, PREFIX + "precision": "int8"})
    made.producer_name = "fbnetv3"
    del made.graph.value_info[:]
    return made


def _write(model: Any, path: Path) -> None:
    import tempfile

    import onnx

    content = model.SerializeToString(deterministic=True)
    if path.suffix == ".onnx":
        path.write_bytes(content)
        onnx.checker.check_model(str(path))
        return
    from fbnetv3.deploy.runtimes import openvino

    with tempfile.TemporaryDirectory() as folder:
        onnx_path = Path(folder) / "detector.onnx"
        onnx_path.write_bytes(content)
        openvino.write_ir(
            onnx_path, path, {entry.key: entry.value for entry in model.metadata_props}
        )
