"""An exported file to int8, judged by what it does: agreement, accuracy, size and speed.

onnxruntime's QDQ form: weights int8 per channel, activations uint8. The range of every activation
is taken by the method whose result agrees best with the float network on the user's own images;
layers that cost too much stay in float. A result that breaks the accuracy budget is not written.
The edge of this file: it knows an exported file and images, no torch and no data set.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .artefact import Artefact, written_whole
from .calibration import METHODS, Statistics, collect
from .classify import Backend
from .images import ImageSource, open_image
from .onnx_session import OnnxBackend
from .parity import as_pixels, error_of_std
from .preprocess import Preprocess

logger = logging.getLogger("fbnetv3")

Runtime = Literal["onnxruntime", "openvino"]
_OPERATORS = ["Conv", "Gemm", "Add", "Mul", "GlobalAveragePool"]
_WEIGHTED = ("Conv", "Gemm")
_BATCH = 16
# Images on which methods and layers are compared; more cost time and change little.
_NUM_TRIED = 64
_NUM_SENSITIVITY = 8


@dataclass(frozen=True)
class LayerError:
    """What it costs to quantise one layer alone.

    Attributes:
        node: name in the graph, which is the module's name.
        error_of_std: mean over images of the largest change of a logit, in standard deviations of
            the image's logits.
        in_float: whether it was left in float for that.
    """

    node: str
    error_of_std: float
    in_float: bool


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


@dataclass
class _Score:
    """Agreement with the float network, and accuracy where labels are known."""

    agreement_pct: float
    error: float
    top1_float_pct: float | None
    top1_pct: float | None
    num_images: int

    @property
    def drop_pct(self) -> float:
        """Points of accuracy lost; without labels every disagreement counts as lost."""
        if self.top1_pct is None or self.top1_float_pct is None:
            return 100 - self.agreement_pct
        return self.top1_float_pct - self.top1_pct


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
    reader = _Reader(float_model.preprocess)
    if runtime == "openvino":
        return _for_openvino(
            Path(onnx_path),
            path,
            calibration,
            float_model=float_model,
            reader=reader,
            evaluation=evaluation,
            labels=labels,
            max_drop_pct=max_drop_pct,
        )
    with written_whole(path) as part:
        search = _Search(Path(onnx_path), part, float_model, reader, calibration)
        methods = search.compare_methods([method] if method else list(METHODS))
        best = max(methods, key=lambda name: (methods[name][0], -methods[name][1]))
        layers = search.layer_errors(best) if sensitivity or max_drop_pct is not None else []
        judge = _judge(float_model, reader, evaluation, labels)
        score, num_float = search.within_budget(best, layers, judge, max_drop_pct)
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
                "num_images": reader.num_read[0],
                "in_float": [layer.node for layer in layers if layer.in_float],
                "agreement_pct": round(score.agreement_pct, 2),
            },
        )
        search.finish(artefact)
        size = part.stat().st_size
    return _report(
        path, "onnxruntime", best, reader, float_model, score, size, methods, layers, artefact
    )


def _for_openvino(
    onnx_path: Path,
    path: Path,
    calibration: Sequence[ImageSource],
    *,
    float_model: OnnxBackend,
    reader: _Reader,
    evaluation: Sequence[ImageSource],
    labels: Sequence[int] | None,
    max_drop_pct: float | None,
) -> Quantized:
    """Quantises for OpenVINO; where weights of eight bits break the budget, with seven."""
    from .openvino_model import OpenVinoBackend, quantize_openvino, whole_pair

    with whole_pair(path) as part:
        for half_range in (False, True):
            batches = reader.batches(calibration)
            artefact = quantize_openvino(onnx_path, part, batches, half_range=half_range)
            score = _score(float_model, OpenVinoBackend(part), reader, evaluation, labels)
            if max_drop_pct is None or score.drop_pct <= max_drop_pct:
                break
        else:
            raise _over_budget(score, max_drop_pct, "with weights of eight bits or seven")
        size = part.stat().st_size + part.with_suffix(".bin").stat().st_size
    return _report(path, "openvino", "nncf", reader, float_model, score, size, {}, (), artefact)


class _Reader:
    """Images to batches, one at a time; what cannot be read is counted and passed over."""

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess
        self.unreadable: set[int] = set()
        # Of each pass that ran to its end.
        self.num_read: list[int] = []

    def batches(self, images: Iterable[ImageSource]) -> Iterator[NDArray[np.float32]]:
        for batch, _ in self.numbered(images):
            yield batch

    def numbered(
        self, images: Iterable[ImageSource]
    ) -> Iterator[tuple[NDArray[np.float32], list[int]]]:
        """Yields batches with the places of their images in `images`."""
        kept: list[NDArray[np.float32]] = []
        places: list[int] = []
        number, error = 0, None
        for place, image in enumerate(images):
            try:
                kept.append(self.preprocess(open_image(image)))
            except (ValueError, FileNotFoundError) as reason:
                error = error or reason
                self.unreadable.add(id(image))
                continue
            places.append(place)
            number += 1
            if len(kept) == _BATCH:
                yield np.stack(kept), places
                kept, places = [], []
        if kept:
            yield np.stack(kept), places
        if not number:
            raise ValueError(f"no calibration or evaluation image can be read; the first: {error}")
        self.num_read.append(number)


class _Search:
    """The float graph, its statistics, and int8 graphs made of them."""

    def __init__(
        self,
        source: Path,
        part: Path,
        float_model: OnnxBackend,
        reader: _Reader,
        calibration: Sequence[ImageSource],
    ) -> None:
        import onnx

        self.part = part
        self.float_model = float_model
        self.model = onnx.shape_inference.infer_shapes(onnx.load(source))
        self.nodes = [node.name for node in self.model.graph.node if node.op_type in _WEIGHTED]
        fed = (self._fed(batch) for batch in reader.batches(calibration))
        self.statistics: dict[str, Statistics] = collect(self.model, fed)
        tried = list(itertools.islice(calibration, _NUM_TRIED))
        self.tried = list(reader.batches(tried))
        self.expected = [float_model.run_batch(batch) for batch in self.tried]

    def _fed(self, batch: NDArray[np.float32]) -> NDArray[Any]:
        artefact = self.float_model.artefact
        return as_pixels(batch, artefact) if artefact.in_graph else batch

    def build(
        self, method: str, *, only: Sequence[str] | None = None, without: Sequence[str] = ()
    ) -> OnnxBackend:
        """Writes an int8 file and returns it, ready to run.

        Args:
            method: how ranges are taken.
            only: nodes to quantise; all unless given.
            without: nodes to leave in float.
        """
        import onnx
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        ranges = {
            name: tuple(np.array(edge, np.float32) for edge in found.range(method))
            for name, found in self.statistics.items()
        }
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        quantizer = QDQQuantizer(
            model,
            True,  # weights per channel
            False,  # eight bits of them, not seven
            QuantType.QInt8,
            QuantType.QUInt8,
            TensorsData(CalibrationMethod.MinMax, ranges),
            list(only or ()),
            list(without),
            _OPERATORS,
            {"MinimumRealRange": 1e-6},
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
        onnx.save(quantizer.model.model, self.part)
        return OnnxBackend(self.part)

    def compare_methods(self, methods: Sequence[str]) -> dict[str, tuple[float, float]]:
        found = {}
        for method in methods:
            small = self.build(method)
            agreed: list[bool] = []
            errors: list[float] = []
            for batch, expected in zip(self.tried, self.expected, strict=True):
                got = small.run_batch(batch)
                agreed.extend(got.argmax(1) == expected.argmax(1))
                errors.extend(error_of_std(got, expected))
            found[method] = (100 * float(np.mean(agreed)), float(np.mean(errors)))
            logger.info("calibration %s: agreement %.2f %%, error %.3f", method, *found[method])
        return found

    def layer_errors(self, method: str) -> list[LayerError]:
        batch = self.tried[0][:_NUM_SENSITIVITY]
        expected = self.expected[0][:_NUM_SENSITIVITY]
        found = []
        for node in self.nodes:
            error = error_of_std(self.build(method, only=[node]).run_batch(batch), expected)
            found.append(LayerError(node, float(error.mean()), in_float=False))
        return sorted(found, key=lambda layer: -layer.error_of_std)

    def within_budget(
        self,
        method: str,
        layers: Sequence[LayerError],
        judge: Callable[[OnnxBackend], _Score],
        max_drop_pct: float | None,
    ) -> tuple[_Score, int]:
        """Builds the file with as few float layers as the budget needs; returns how many."""
        tried = [0, *(2**n for n in range(len(layers).bit_length())), len(layers)]
        for number in sorted({min(n, len(layers)) for n in tried}):
            if number and number == len(layers):
                break  # a file without an int8 layer is no int8 file
            small = self.build(method, without=[layer.node for layer in layers[:number]])
            score = judge(small)
            if max_drop_pct is None or score.drop_pct <= max_drop_pct:
                return score, number
        raise _over_budget(score, max_drop_pct, "whatever is left in float")

    def finish(self, artefact: Artefact) -> None:
        """Puts the record into the built file: the quantiser may drop or keep what was there."""
        import onnx

        model = onnx.load(self.part)
        del model.metadata_props[:]
        onnx.helper.set_model_props(model, artefact.to_metadata())
        model.producer_name = "fbnetv3"
        model.producer_version = artefact.exported_with["fbnetv3"]
        del model.graph.value_info[:]
        self.part.write_bytes(model.SerializeToString(deterministic=True))
        onnx.checker.check_model(str(self.part))
        OnnxBackend(self.part)


def _judge(
    float_model: OnnxBackend,
    reader: _Reader,
    evaluation: Sequence[ImageSource],
    labels: Sequence[int] | None,
) -> Callable[[OnnxBackend], _Score]:
    return lambda small: _score(float_model, small, reader, evaluation, labels)


def _score(
    float_model: OnnxBackend,
    small: Backend,
    reader: _Reader,
    evaluation: Sequence[ImageSource],
    labels: Sequence[int] | None,
) -> _Score:
    agreed: list[bool] = []
    errors: list[float] = []
    right: list[tuple[bool, bool]] = []
    for batch, places in reader.numbered(evaluation):
        expected, got = float_model.run_batch(batch), small.run_batch(batch)
        agreed.extend(got.argmax(1) == expected.argmax(1))
        errors.extend(error_of_std(got, expected))
        if labels is not None:
            truth = np.array([labels[place] for place in places])
            right.extend(zip(expected.argmax(1) == truth, got.argmax(1) == truth, strict=True))
    top1 = 100 * np.mean(right, axis=0) if right else (None, None)
    return _Score(
        agreement_pct=100 * float(np.mean(agreed)),
        error=float(np.mean(errors)),
        top1_float_pct=None if top1[0] is None else float(top1[0]),
        top1_pct=None if top1[1] is None else float(top1[1]),
        num_images=len(agreed),
    )


def _report(
    path: Path,
    runtime: Runtime,
    method: str,
    reader: _Reader,
    float_model: OnnxBackend,
    score: _Score,
    num_bytes: int,
    methods: dict[str, tuple[float, float]],
    layers: Sequence[LayerError],
    artefact: Artefact,
) -> Quantized:
    return Quantized(
        path=path,
        runtime=runtime,
        method=method,
        num_calibration=reader.num_read[0],
        num_unreadable=len(reader.unreadable),
        num_evaluation=score.num_images,
        agreement_pct=score.agreement_pct,
        top1_float_pct=score.top1_float_pct,
        top1_pct=score.top1_pct,
        num_bytes_float=float_model.path.stat().st_size,
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


def _over_budget(score: _Score, max_drop_pct: float | None, tried: str) -> ValueError:
    return ValueError(
        f"int8 loses {score.drop_pct:.2f} points on {score.num_images} images, more than "
        f"max_drop_pct={max_drop_pct}, {tried}; nothing was written. Give more calibration images "
        "or a larger budget"
    )
