"""Writes a whole detector to a file, if it finds the same as PyTorch.

A graph of ONNX or OpenVINO takes uint8 pixels (height, width, 3) of any size and gives boxes in
these pixels, labels and scores: resizing, normalisation and non-maximum suppression are inside.
Those of ExecuTorch and LiteRT have fixed shapes, see `outside` and `fixed`.
"""

from __future__ import annotations

import copy
import dataclasses
import operator
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fbnetv3._internal.files import replacing, sha256_of
from fbnetv3._internal.messages import either
from fbnetv3.deploy.export import quiet
from fbnetv3.deploy.runtimes import runtime_of
from fbnetv3.images.labels import example_photos
from fbnetv3.images.reader import open_image

from .detections import Agreement, Detections, agreement
from .detectors import DETECTORS, BuiltDetector, TorchDetector
from .exported import INPUT, OUTPUTS, SUFFIXES, ExportedDetector, metadata_of
from .fixed import FIXED, FixedGraph, check_fixed, outside_of

OPSET = 18
# Of all boxes; a score at the threshold, or an overlap at that of the suppression, may round
# differently.
MIN_SHARE = 0.98
# With fewer boxes a comparison says little; the threshold is lowered then.
MIN_BOXES = 10
_LOWER = (1.0, 0.3, 0.1, 0.03, 0.01, 0.001, 0.0)
_EXAMPLE = (240, 320, 3)


@dataclass(frozen=True)
class ExportedFile:
    """A file that has passed its check.

    Attributes:
        path: the file.
        sha256: its SHA-256.
        num_bytes: its size, with the file beside it.
        agreement: comparison with PyTorch on the package's photos and turned and cut copies.
        threshold: lowest score of the boxes that were compared: lower than the detector's own if
            that leaves too few boxes.
    """

    path: Path
    sha256: str
    num_bytes: int
    agreement: Agreement
    threshold: float

    def to_dict(self) -> dict[str, Any]:
        """Returns the record as plain JSON types."""
        fields = dataclasses.asdict(self)
        return {**fields, "path": str(self.path)}


def export_detector(built: BuiltDetector, path: str | Path) -> ExportedFile:
    """Writes a detector as ONNX, or for OpenVINO (.xml), ExecuTorch (.pte) or LiteRT (.tflite).

    Args:
        built: the detector; it is not changed.
        path: the file to write; an existing one is replaced only if the check passes.

    Raises:
        ValueError: the path cannot be written, the file finds other boxes than PyTorch, or the
            detector finds nothing at any threshold; nothing is written then.
        ImportError: what writes such files is not installed.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"output is {path}; expected a name that ends in {either(SUFFIXES)}")
    check_fixed(built.config.detector, path)
    runtime_of(path).need_writer()
    module = copy.deepcopy(built.module).cpu().float().eval()
    config = built.config.to_dict()
    attribute = DETECTORS[built.config.detector].threshold
    own = float(operator.attrgetter(attribute)(module))
    images = _images()
    lowered, expected = _compared_threshold(BuiltDetector(module, built.config), own, images)
    with replacing(path) as part, tempfile.TemporaryDirectory() as folder:
        if path.suffix in FIXED:
            # The threshold is outside the graph.
            _set_threshold(module, attribute, own)
            _write_fixed(module, part, metadata_of(config, {}, outside_of(module)))
            detector = ExportedDetector(part, num_threads=1)
            detector.outside = dataclasses.replace(outside_of(module), score_threshold=lowered)
            found = _compared(expected, images, detector)
            parity = {**dataclasses.asdict(found), "threshold": lowered}
            runtime: Any = runtime_of(path).file
            runtime.restate(part, metadata_of(config, parity, outside_of(module)))
        else:
            # Only the constant of the threshold differs in the file that is compared.
            _set_threshold(module, attribute, lowered)
            compared = Path(folder) / f"compared{path.suffix}"
            _write(module, compared, metadata_of(config, {}))
            detector = ExportedDetector(compared, num_threads=1)
            found = _compared(expected, images, detector)
            _set_threshold(module, attribute, own)
            parity = {**dataclasses.asdict(found), "threshold": lowered}
            _write(module, part, metadata_of(config, parity))
            _check_kept(detector.run(images[0]).above(own), part, images[0])
    files = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
    size = sum(file.stat().st_size for file in files)
    return ExportedFile(path, sha256_of(path), size, found, lowered)


def _compared(
    expected: list[Detections], images: list[NDArray[np.uint8]], detector: ExportedDetector
) -> Agreement:
    """Returns how far a file finds the same as PyTorch.

    Raises:
        ValueError: too little.
    """
    pairs = [(truth, detector.run(image)) for truth, image in zip(expected, images, strict=True)]
    found = agreement(pairs)
    if found.share < MIN_SHARE:
        raise ValueError(
            f"{100 * (1 - found.share):.1f} % of {found.num_boxes} boxes differ from PyTorch's; "
            f"expected at most {100 * (1 - MIN_SHARE):.0f} %. Nothing was written"
        )
    return found


def _compared_threshold(
    built: BuiltDetector, own: float, images: list[NDArray[np.uint8]]
) -> tuple[float, list[Detections]]:
    """Returns the highest threshold that gives boxes to compare, and PyTorch's boxes."""
    attribute = DETECTORS[built.config.detector].threshold
    detector = TorchDetector(built)
    for factor in _LOWER:
        _set_threshold(built.module, attribute, own * factor)
        expected = [detector(image) for image in images]
        if sum(map(len, expected)) >= MIN_BOXES:
            return own * factor, expected
    raise ValueError(
        "the detector finds nothing in any photo at any threshold, so that nothing shows whether "
        "a file equals it; train it for longer"
    )


def _set_threshold(module: nn.Module, attribute: str, value: float) -> None:
    *parents, name = attribute.split(".")
    holder: Any = operator.attrgetter(".".join(parents))(module) if parents else module
    setattr(holder, name, value)


def _images() -> list[NDArray[np.uint8]]:
    """Returns the package's photos, and copies of other sizes and shapes."""
    photos = [np.array(open_image(path)) for path in example_photos()]
    cut = [photo[: photo.shape[0] * 2 // 3, photo.shape[1] // 4 :] for photo in photos]
    turned = [np.rot90(photo) for photo in photos]
    return [np.ascontiguousarray(image) for image in (*photos, *cut, *turned)]


class _Pixels(nn.Module):
    """A detector from uint8 pixels (H, W, 3) to boxes, labels and scores."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns boxes (N, 4), labels (N) and scores (N)."""
        (found,) = self.detector([pixels.permute(2, 0, 1).float() / 255])
        return found["boxes"], found["labels"], found["scores"]


def _write(module: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    if path.suffix == ".onnx":
        write_onnx(module, path, metadata)
        return
    from fbnetv3.deploy.runtimes import openvino

    with tempfile.TemporaryDirectory() as folder:
        onnx_path = Path(folder) / "detector.onnx"
        write_onnx(module, onnx_path, metadata)
        openvino.write_ir(onnx_path, path, metadata)


def write_onnx(module: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    """Writes a torchvision detector as ONNX, unchecked.

    Args:
        module: in evaluation mode.
        path: the `.onnx` file.
        metadata: string pairs.
    """
    import onnx

    example = torch.zeros(_EXAMPLE, dtype=torch.uint8)
    free: dict[str, dict[int, str]] = {INPUT: {0: "height", 1: "width"}}
    free |= {name: {0: "boxes"} for name in OUTPUTS}
    with quiet():
        # torch's newer exporter captures one path by `torch.export`, which torchvision's detectors
        # end: `batched_nms` chooses its way by the number of boxes (torch 2.15: "Could not guard on
        # data-dependent expression"). Runtimes that begin with it have that outside, see `fixed`.
        torch.onnx.export(
            _Pixels(module).eval(),
            (example,),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_axes=free,
        )
    proto = onnx.load(str(path))
    proto.producer_name = "fbnetv3"
    onnx.helper.set_model_props(proto, metadata)
    path.write_bytes(proto.SerializeToString(deterministic=True))
    onnx.checker.check_model(str(path))


def _write_fixed(module: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    runtime: Any = runtime_of(path).file
    graph = FixedGraph(module).eval()
    runtime.write(graph, (torch.zeros(1, 3, *graph.size),), path, metadata)


def _check_kept(expected: Detections, part: Path, image: NDArray[np.uint8]) -> None:
    """Checks that the file on disk finds what the one that was compared did, above its threshold.

    Lower boxes suppress no higher ones.
    """
    kept = ExportedDetector(part, num_threads=1).run(image)
    if not np.array_equal(kept.boxes, expected.boxes):
        raise RuntimeError(f"{part} finds other boxes than before it was written")
