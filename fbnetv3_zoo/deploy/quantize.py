"""An exported file to int8, judged by what it does: agreement, accuracy, size and speed.

Each runtime quantises in its own way, on the user's own images: onnxruntime by `qdq`, OpenVINO by
NNCF. A result that breaks the accuracy budget is not written. The edge of this file: it knows an
exported file and images, no torch and no data set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fbnetv3.images.reader import ImageSource

from .artefact import Artefact
from .quantize_score import Judge, LayerError, Reader
from .runtimes import ONNX, Runtime, quantizing


@dataclass(frozen=True)
class Quantized:
    """What was written and how good it is.

    Attributes:
        path: of the file.
        runtime: which runs it.
        method: how activation ranges were taken.
        num_calibration: images behind the ranges.
        num_unreadable: images that were passed over.
        unreadable: why each image that was passed over cannot be read.
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
    runtime: str
    method: str
    num_calibration: int
    num_unreadable: int
    unreadable: tuple[str, ...]
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
    runtime: str = ONNX.name,
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
        runtime: which is to run the file, "onnxruntime" or "openvino".
        method: one of `calibration.METHODS`, which are onnxruntime's; the one that agrees best
            unless given.
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
    float_model = ONNX.load(onnx_path)
    calibration, evaluation = _split(calibration, evaluation, labels)
    chosen = quantizing(runtime)
    _check_arguments(float_model.artefact, chosen, max_drop_pct, path)
    judge = Judge(float_model, Reader(float_model.preprocess), evaluation, labels)
    made = chosen.file.quantize(
        Path(onnx_path),
        path,
        calibration,
        judge,
        method=method,
        max_drop_pct=max_drop_pct,
        sensitivity=sensitivity,
    )
    return Quantized(
        path=path,
        runtime=runtime,
        method=made.method,
        num_calibration=judge.reader.num_read[0],
        num_unreadable=len(judge.reader.unreadable),
        unreadable=tuple(judge.reader.unreadable.values()),
        num_evaluation=made.score.num_images,
        agreement_pct=made.score.agreement_pct,
        top1_float_pct=made.score.top1_float_pct,
        top1_pct=made.score.top1_pct,
        num_bytes_float=float_model.path.stat().st_size,
        num_bytes=sum(part.stat().st_size for part in chosen.parts(path)),
        methods=made.methods,
        layers=made.layers,
        artefact=made.artefact,
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
    artefact: Artefact, runtime: Runtime, max_drop_pct: float | None, path: Path
) -> None:
    if artefact.precision != "fp32":
        raise ValueError(f"the file is {artefact.precision} already; quantise an fp32 export")
    if max_drop_pct is not None and not 0 <= max_drop_pct <= 100:
        raise ValueError(f"max_drop_pct is {max_drop_pct!r}; expected points from 0 to 100")
    if path.suffix != runtime.suffix:
        raise ValueError(
            f"output is {path}; expected a name that ends in {runtime.suffix} for {runtime.name}"
        )
