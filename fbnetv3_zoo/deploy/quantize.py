"""An exported file to int8, judged by what it does: agreement, accuracy, size and speed.

onnxruntime's QDQ form: weights int8 per channel, activations uint8. The range of every activation
is taken by the method whose result agrees best with the float network on the user's own images;
layers that cost too much stay in float. A result that breaks the accuracy budget is not written.
The edge of this file: it knows an exported file and images, no torch and no data set.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fbnetv3._internal.files import replacing
from fbnetv3.images.images import ImageSource

from .artefact import Artefact
from .calibration import METHODS
from .qdq import LayerError, QdqSearch
from .quantize_score import Judge, Reader, Score, over_budget
from .runtimes.onnxruntime import OnnxBackend

Runtime = Literal["onnxruntime", "openvino"]


@dataclass(frozen=True)
class Quantized:
    """What was written and how good it is.

    Attributes:
        path: of the file.
        runtime: which runs it.
        method: how activation ranges were taken.
        num_calibration: images behind the ranges.
        num_unreadable: images that were passed over.
        num_evaluation: images behind the next three figures.
        agreement_pct: share with the same top-1 as the float file, in percent.
        top1_float_pct: accuracy of the float file, where labels were given.
        top1_pct: accuracy of the int8 file, where labels were given.
        num_bytes_float: size of the float file.
        num_bytes: size of what was written.
        methods: method -> (agreement in percent, mean error), on calibration images.
        layers: by cost, the dearest first.
        artefact: what the file says about itself.
    """

    path: Path
    runtime: Runtime
    method: str
    num_calibration: int
    num_unreadable: int
    num_evaluation: int
    agreement_pct: float
    top1_float_pct: float | None
    top1_pct: float | None
    num_bytes_float: int
    num_bytes: int
    methods: dict[str, tuple[float, float]]
    layers: tuple[LayerError, ...]
    artefact: Artefact


def quantize(
    onnx_path: str | Path,
    path: str | Path,
    calibration: Sequence[ImageSource],
    *,
    evaluation: Sequence[ImageSource] | None = None,
    labels: Sequence[int] | None = None,
    runtime: Runtime = "onnxruntime",
    method: str | None = None,
    max_drop_pct: float | None = None,
    sensitivity: bool = True,
) -> Quantized:
    """Writes an exported fp32 file in int8 and returns how good it is.

    Args:
        onnx_path: what `fbnetv3 export` wrote.
        path: the file to write: `.onnx`, or `.xml` for OpenVINO.
        calibration: images like those of later use; a few hundred. They are read one batch at a
            time and never kept together (OpenVINO's tool needs them all).
        evaluation: images to judge the result on; every fourth of `calibration`, then not
            calibrated with, unless given.
        labels: the class of each image of `evaluation`.
        runtime: which is to run the file.
        method: one of `calibration.METHODS`; the one that agrees best unless given.
        max_drop_pct: most points of top-1 accuracy (without labels: of agreement) that may be lost
            on `evaluation`. Where eight bits break it, layers are left in float, the dearest first;
            OpenVINO's weights take seven bits, whose sums do not saturate without VNNI.
        sensitivity: quantise each layer alone for the report; one inference pass a layer.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an argument is wrong, no image can be read, or the budget cannot be kept:
            nothing is written then.
        ImportError: the runtime is missing.
    """
    path = Path(path)
    float_model = OnnxBackend(onnx_path)
    calibration, evaluation = _split(calibration, evaluation, labels)
    _check_arguments(float_model.artefact, runtime, method, max_drop_pct, path)
    judge = Judge(float_model, Reader(float_model.preprocess), evaluation, labels)
    if runtime == "openvino":
        return _for_openvino(Path(onnx_path), path, calibration, judge, max_drop_pct)
    with replacing(path) as part:
        search = QdqSearch(Path(onnx_path), part, judge, calibration)
        methods = search.compare_methods([method] if method else list(METHODS))
        best = max(methods, key=lambda name: (methods[name][0], -methods[name][1]))
        layers = search.layer_errors(best) if sensitivity or max_drop_pct is not None else []
        score, num_float = search.within_budget(best, layers, max_drop_pct)
        layers = [
            dataclasses.replace(layer, in_float=place < num_float)
            for place, layer in enumerate(layers)
        ]
        artefact = dataclasses.replace(
            float_model.artefact,
            precision="int8",
            parity={},
            quantization={
                "runtime": "onnxruntime",
                "format": "QDQ, weights int8 per channel, activations uint8",
                "calibration": best,
                "num_images": judge.reader.num_read[0],
                "in_float": [layer.node for layer in layers if layer.in_float],
                "agreement_pct": round(score.agreement_pct, 2),
            },
        )
        search.finish(artefact)
        size = part.stat().st_size
    return _report(path, "onnxruntime", best, judge, score, size, methods, layers, artefact)


def _for_openvino(
    onnx_path: Path,
    path: Path,
    calibration: Sequence[ImageSource],
    judge: Judge,
    max_drop_pct: float | None,
) -> Quantized:
    """Quantises for OpenVINO; where weights of eight bits break the budget, with seven."""
    from .runtimes.openvino import OpenVinoBackend, quantize_openvino

    with replacing(path) as part:
        for half_range in (False, True):
            batches = judge.reader.batches(calibration)
            artefact = quantize_openvino(onnx_path, part, batches, half_range=half_range)
            score = judge.score(OpenVinoBackend(part))
            if max_drop_pct is None or score.drop_pct <= max_drop_pct:
                break
        else:
            raise over_budget(score, max_drop_pct, "with weights of eight bits or seven")
        size = part.stat().st_size + part.with_suffix(".bin").stat().st_size
    return _report(path, "openvino", "nncf", judge, score, size, {}, (), artefact)


def _report(
    path: Path,
    runtime: Runtime,
    method: str,
    judge: Judge,
    score: Score,
    num_bytes: int,
    methods: dict[str, tuple[float, float]],
    layers: Sequence[LayerError],
    artefact: Artefact,
) -> Quantized:
    return Quantized(
        path=path,
        runtime=runtime,
        method=method,
        num_calibration=judge.reader.num_read[0],
        num_unreadable=len(judge.reader.unreadable),
        num_evaluation=score.num_images,
        agreement_pct=score.agreement_pct,
        top1_float_pct=score.top1_float_pct,
        top1_pct=score.top1_pct,
        num_bytes_float=judge.float_model.path.stat().st_size,
        num_bytes=num_bytes,
        methods=methods,
        layers=tuple(layers),
        artefact=artefact,
    )


def _split(
    calibration: Sequence[ImageSource],
    evaluation: Sequence[ImageSource] | None,
    labels: Sequence[int] | None,
) -> tuple[Sequence[ImageSource], Sequence[ImageSource]]:
    if not len(calibration):
        raise ValueError("no calibration images; give at least one, a few hundred are better")
    if labels is not None and (evaluation is None or len(labels) != len(evaluation)):
        given = "none" if evaluation is None else len(evaluation)
        raise ValueError(f"{len(labels)} labels for {given} evaluation images; give one an image")
    if evaluation is not None:
        return calibration, evaluation
    if len(calibration) < 8:
        return calibration, calibration
    kept = [image for place, image in enumerate(calibration) if place % 4]
    return kept, list(calibration[::4])


def _check_arguments(
    artefact: Artefact, runtime: str, method: str | None, max_drop_pct: float | None, path: Path
) -> None:
    if artefact.precision != "fp32":
        raise ValueError(f"the file is {artefact.precision} already; quantise an fp32 export")
    if runtime not in ("onnxruntime", "openvino"):
        raise ValueError(f"runtime is {runtime!r}; expected 'onnxruntime' or 'openvino'")
    if method is not None and runtime == "openvino":
        raise ValueError("method is onnxruntime's; NNCF takes ranges its own way")
    if method is not None and method not in METHODS:
        raise ValueError(f"method is {method!r}; expected one of {', '.join(METHODS)}")
    if max_drop_pct is not None and not 0 <= max_drop_pct <= 100:
        raise ValueError(f"max_drop_pct is {max_drop_pct!r}; expected points from 0 to 100")
    suffix = ".xml" if runtime == "openvino" else ".onnx"
    if path.suffix != suffix:
        raise ValueError(f"output is {path}; expected a name that ends in {suffix} for {runtime}")
