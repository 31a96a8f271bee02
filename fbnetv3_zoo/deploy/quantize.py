"""Quantizes an exported file to int8 and measures agreement, accuracy and size.

Each runtime quantizes in its own way on the user's images: onnxruntime by `qdq`, OpenVINO by NNCF,
LiteRT by its own quantizer.
A file over the accuracy budget is not written. This file needs neither torch nor a data set.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fbnetv3._internal.messages import counted
from fbnetv3.images.reader import ImageSource

from .artefact import Artefact
from .backend import ExportedBackend
from .quantize_score import Evaluator, Labels, LayerError, Reader
from .runtimes import ONNX, Runtime, quantizing

if TYPE_CHECKING:
    from .qdq import Trainer

_Image = TypeVar("_Image")
# From so many points on a loss is remarked: of accuracy, and of agreement, most of which are not
# losses.
_REMARKED_DROP_PCT, _REMARKED_DISAGREEMENT_PCT = 1.0, 5.0
# Fewer images are both calibrated and evaluated on.
_MIN_SPLIT = 8
# More images than this say little more about ranges and agreement, and take minutes.
MAX_CALIBRATION = 300


@dataclass(frozen=True)
class Quantized:
    """A quantized file and its quality.

    Attributes:
        path: the file.
        runtime: the runtime for it.
        method: calibration method.
        num_calibration: number of images for the ranges.
        num_unreadable: number of skipped images.
        unreadable: why each skipped image cannot be read.
        num_evaluation: number of images for the next five figures.
        agreement_pct: share of images with the same top-1 as the float file, in percent; of a
            multi-label file with the same classes.
        top1_float_pct: accuracy of the float file, if labels were given.
        top1_pct: accuracy of the int8 file, if labels were given.
        map_float_pct: mean average precision of a multi-label float file, if labels were given.
        map_pct: the same of the int8 file.
        num_bytes_float: size of the float file.
        num_bytes: size of the written files.
        methods: method -> (agreement in percent, mean error), on calibration images.
        layers: errors of single layers, most sensitive first.
        artefact: the metadata of the file.
    """

    path: Path
    runtime: str
    method: str
    num_calibration: int
    num_unreadable: int
    unreadable: tuple[str, ...]
    num_evaluation: int
    agreement_pct: float
    top1_float_pct: float | None
    top1_pct: float | None
    map_float_pct: float | None
    map_pct: float | None
    num_bytes_float: int
    num_bytes: int
    methods: dict[str, tuple[float, float]]
    layers: tuple[LayerError, ...]
    artefact: Artefact

    @property
    def remark(self) -> str:
        """A sentence on a large or hardly measured loss and what to do about it; "" for others."""
        if self.num_evaluation < _MIN_SPLIT:
            return (
                f"what int8 loses was measured on {counted(self.num_evaluation, 'image')} only; "
                "give a few hundred for --calib, or others for --evaluate"
            )
        for what, before, after in (
            ("top-1", self.top1_float_pct, self.top1_pct),
            ("mAP", self.map_float_pct, self.map_pct),
        ):
            if before is not None and after is not None:
                if before - after < _REMARKED_DROP_PCT:
                    return ""
                lost = f"int8 loses {before - after:.2f} points of {what}"
                break
        else:
            if 100 - self.agreement_pct < _REMARKED_DISAGREEMENT_PCT:
                return ""
            lost = f"int8 changes {100 - self.agreement_pct:.2f} % of the answers"
        trained = ", or --qat" if self.runtime == ONNX.name and not self.trained else ""
        return (
            f"{lost} on {self.num_evaluation} images: --max-drop 1 keeps in float what costs most, "
            f"or writes nothing; more images for --calib may help{trained}"
        )

    @property
    def trained(self) -> bool:
        """Whether weights and ranges were trained."""
        return bool(self.artefact.quantization.get("trained"))


def quantize(
    source: str | Path,
    path: str | Path,
    calibration: Sequence[ImageSource],
    *,
    evaluation: Sequence[ImageSource] | None = None,
    labels: Labels | None = None,
    runtime: str = ONNX.name,
    method: str | None = None,
    max_drop_pct: float | None = None,
    sensitivity: bool = True,
    trainer: Trainer | None = None,
) -> Quantized:
    """Quantizes an exported fp32 file to int8 and measures its quality.

    Args:
        source: a file that `fbnetv3 export` wrote: ONNX, or `.tflite` for LiteRT.
        path: the file to write: `.onnx`, `.xml` for OpenVINO, or `.tflite` for LiteRT.
        calibration: a few hundred images like those of later use. They are read one batch at a time
            and not kept (except for OpenVINO, whose tool needs them all).
        evaluation: images to evaluate the result on; default: every fourth of `calibration`, which
            is then not used for calibration.
        labels: the class of each image of `evaluation`; of a multi-label file its classes.
        runtime: the runtime for the file, "onnxruntime", "openvino" or "litert".
        method: one of `calibration.METHODS`, for onnxruntime; default: the one that agrees best.
        max_drop_pct: maximum loss of top-1 accuracy or mAP (without labels: of agreement) on
            `evaluation`, in points. If int8 exceeds it, onnxruntime keeps layers in float, the most
            sensitive first, and OpenVINO uses 7-bit weights, whose sums do not saturate without
            VNNI. For LiteRT only the weights become int8 then.
        sensitivity: quantize each layer alone for the report; one inference pass per layer.
        trainer: trains weights and ranges first, for onnxruntime; see
            `fbnetv3.search.training.quantized.quantize_aware`.

    Raises:
        FileNotFoundError: the file does not exist.
        OverBudget: the budget cannot be met; nothing is written.
        ValueError: an argument is wrong, or no image can be read; nothing is written.
        ImportError: the runtime is not installed.
    """
    path = Path(path)
    chosen = quantizing(runtime)
    float_model = open_source(source, chosen)
    _check_labels(float_model, labels)
    calibration, evaluation = split(calibration, evaluation, labels)
    _check_arguments(float_model, chosen, max_drop_pct, path)
    make = chosen.file.quantize
    if trainer is not None:
        from .runtimes import onnxruntime

        if chosen is not ONNX:
            raise ValueError(f"runtime is {runtime!r}; int8 files are trained for {ONNX.name} only")
        make = functools.partial(onnxruntime.quantize, trainer=trainer)
    evaluator = Evaluator(float_model, Reader(float_model.preprocess), evaluation, labels)
    evaluator.check_answers()
    result = make(
        Path(source),
        path,
        calibration,
        evaluator,
        method=method,
        max_drop_pct=max_drop_pct,
        sensitivity=sensitivity,
    )
    return Quantized(
        path=path,
        runtime=runtime,
        method=result.method,
        num_calibration=evaluator.reader.num_read[0],
        num_unreadable=len(evaluator.reader.unreadable),
        unreadable=tuple(evaluator.reader.unreadable.values()),
        num_evaluation=result.score.num_images,
        agreement_pct=result.score.agreement_pct,
        top1_float_pct=result.score.top1_float_pct,
        top1_pct=result.score.top1_pct,
        map_float_pct=result.score.map_float_pct,
        map_pct=result.score.map_pct,
        num_bytes_float=float_model.path.stat().st_size,
        num_bytes=sum(part.stat().st_size for part in chosen.parts(path)),
        methods=result.methods,
        layers=result.layers,
        artefact=result.artefact,
    )


def split(
    calibration: Sequence[ImageSource],
    evaluation: Sequence[ImageSource] | None,
    labels: Labels | None,
) -> tuple[Sequence[ImageSource], Sequence[ImageSource]]:
    """Returns the images to calibrate or train on, and those to evaluate on; see `quantize`.

    Raises:
        ValueError: there are none, or `labels` are not those of `evaluation`.
    """
    if not len(calibration):
        raise ValueError("no calibration images; give at least one, a few hundred are better")
    if labels is not None and (evaluation is None or len(labels) != len(evaluation)):
        given = 0 if evaluation is None else len(evaluation)
        raise ValueError(f"{len(labels)} labels for {given} evaluation images; give one per image")
    if evaluation is not None:
        return calibration, evaluation
    if len(calibration) < _MIN_SPLIT:
        return calibration, calibration
    kept = [image for index, image in enumerate(calibration) if index % 4]
    return kept, list(calibration[::4])


def thinned(images: Sequence[_Image], most: int = MAX_CALIBRATION) -> list[_Image]:
    """Returns at most so many images, evenly taken."""
    step = max(1, -(-len(images) // most))
    return list(images[::step])


def open_source(
    source: str | Path, runtime: Runtime, *, threads: int | None = None
) -> ExportedBackend:
    """Opens a file to quantize.

    Args:
        source: the file.
        runtime: the runtime for the int8 file.
        threads: number of inference threads; default: the runtime's.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is of another format than the runtime quantizes, or damaged.
    """
    expected = runtime.quantized_from
    if Path(source).suffix.lower() != expected.suffix:
        raise ValueError(
            f"the file to quantize is {source}; for {runtime.name} give a {expected.suffix} file"
        )
    return expected.load(source, threads=threads)


def _check_labels(float_model: ExportedBackend, labels: Labels | None) -> None:
    if labels is None or not len(labels):
        return
    several = not isinstance(labels[0], int)
    if several != float_model.artefact.multi_label:
        expected = "one class" if several else "a sequence of classes, as the file is multi-label,"
        raise ValueError(f"labels[0] is {labels[0]!r}; expected {expected} for each image")


def _check_arguments(
    float_model: ExportedBackend, runtime: Runtime, max_drop_pct: float | None, path: Path
) -> None:
    precision = float_model.artefact.precision
    if precision != "fp32":
        raise ValueError(f"the file is already {precision}; quantize an fp32 export")
    if (float_model.artefact.batch_size or 1) > 1:
        raise ValueError(
            f"the file takes batches of {float_model.artefact.batch_size} only; quantize one that "
            "was exported without --batch-size"
        )
    if path.exists() and path.samefile(float_model.path):
        raise ValueError(f"output is {path}, the file to quantize; give another name")
    if max_drop_pct is not None and not 0 <= max_drop_pct <= 100:
        raise ValueError(f"max_drop_pct is {max_drop_pct!r}; expected points from 0 to 100")
    if path.suffix != runtime.suffix:
        raise ValueError(
            f"output is {path}; expected a name that ends in {runtime.suffix} for {runtime.name}"
        )
