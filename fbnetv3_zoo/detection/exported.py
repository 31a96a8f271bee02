"""Detectors in exported files, run by the runtime of their format.

ExecuTorch needs torch for it, the others do not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from fbnetv3._internal.json_record import read_json
from fbnetv3._internal.messages import either
from fbnetv3.deploy.artefact import DETECTOR_SCHEMA, PREFIX
from fbnetv3.deploy.runtimes import ONNX, runtime_of
from fbnetv3.hub.license_policy import check_terms
from fbnetv3.images.reader import ImageSource, open_image

from .detections import Detections
from .outside import Outside

if TYPE_CHECKING:
    from fbnetv3.deploy.runtimes.session import SessionOfAll

SCHEMA = f"{DETECTOR_SCHEMA}/1"
INPUT, OUTPUTS = "image", ("boxes", "labels", "scores")
# The first two hold the whole detector; see `outside` for the others.
SUFFIXES = (".onnx", ".xml", ".pte", ".tflite")


def metadata_of(
    config: Mapping[str, Any], parity: Mapping[str, Any], outside: Outside | None = None
) -> dict[str, str]:
    """Returns the string pairs of a file.

    Args:
        config: a `DetectorConfig` as plain JSON types.
        parity: figures of the comparison with PyTorch, where they are known.
        outside: what is outside the graph; None if nothing is.
    """
    fields = {
        "schema": SCHEMA,
        "task": "object-detection",
        "labels": json.dumps(config["class_names"]),
        "license": str(config["license"]),
        "weights": str(config["weights"]),
        "detector": json.dumps(config, sort_keys=True),
        "parity": json.dumps(parity, sort_keys=True),
    }
    if outside is not None:
        fields["outside"] = json.dumps(outside.to_dict(), sort_keys=True)
    return {PREFIX + key: value for key, value in fields.items()}


class ExportedDetector:
    """A `Detector` in a file that `fbnetv3 detect export` wrote; thread-safe.

    An `.onnx` or `.xml` file holds everything from the image's pixels to the boxes after
    non-maximum suppression. Of the others, `outside` has what is done here instead.

    Args:
        path: an `.onnx`, `.pte` or `.tflite` file, or an `.xml` with its `.bin` beside it.
        num_threads: number of inference threads; default: the runtime's.
        license: "commercial" refuses a file whose weights forbid commercial use; None reads
            FBNETV3_LICENSE.
        providers: onnxruntime's execution providers, in order of preference; default: the CPU.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is of another kind, or the license is refused.
        ImportError: the runtime is not installed.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        num_threads: int | None = None,
        license: str | None = None,
        providers: Sequence[str] | None = None,
    ) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() not in SUFFIXES:
            raise ValueError(f"{path} is no detector's file; expected {either(SUFFIXES)}")
        if not self.path.is_file():
            raise FileNotFoundError(f"no {path}; write it with `fbnetv3 detect export`")
        self._session = _opened(self.path, num_threads, providers)
        found = dict(self._session.metadata)
        if found.get(PREFIX + "schema") != SCHEMA:
            raise ValueError(
                f"{path} is no detector of this package; write one with `fbnetv3 detect export`"
            )
        names = read_json(found[PREFIX + "labels"], f"{path}: labels")
        self.class_names: tuple[str, ...] = tuple(map(str, names))
        self.outside: Outside | None = None
        if PREFIX + "outside" in found:
            where = f"{path}: outside"
            fields = read_json(found[PREFIX + "outside"], where)
            self.outside = Outside.from_dict(fields, where=where)
        self.license = found.get(PREFIX + "license", "")
        if found.get(PREFIX + "weights") or self.license:
            check_terms(str(path), self.license, license)

    def __call__(self, source: ImageSource) -> Detections:
        """Returns the objects in an image.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the image cannot be read.
        """
        return self.run(np.array(open_image(source)))

    def run(self, pixels: NDArray[np.uint8]) -> Detections:
        """Returns the objects in an upright RGB image (H, W, 3).

        Raises:
            ValueError: it has another shape or type.
        """
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise ValueError(
                f"pixels are {pixels.dtype} of shape {pixels.shape}; expected uint8 (H, W, 3) of "
                "one image, or call the detector with the image"
            )
        if self.outside is None:
            boxes, labels, scores = self._session.run_all(pixels)
        else:
            every, probabilities = self._session.run_all(self.outside.square(pixels))
            height, width = pixels.shape[:2]
            boxes, labels, scores = self.outside.found(every, probabilities, height, width)
        return Detections(
            boxes.reshape(-1, 4).astype(np.float32),
            labels.astype(np.int64),
            scores.astype(np.float32),
            self.class_names,
        )


class OnnxDetector(ExportedDetector):
    """An `ExportedDetector` in onnxruntime: `OnnxDetector("detector.onnx")("street.jpg")`.

    Args: those of `ExportedDetector`.
    """

    def __init__(self, path: str | Path, **options: Any) -> None:
        if Path(path).suffix.lower() != ".onnx":
            raise ValueError(f"{path} is no ONNX file; expected one that ends in .onnx")
        super().__init__(path, **options)


def _opened(path: Path, threads: int | None, providers: Sequence[str] | None) -> SessionOfAll:
    runtime = runtime_of(path)
    options: dict[str, Any] = {"threads": threads}
    if runtime is ONNX:
        options["providers"] = providers
    elif providers is not None:
        raise ValueError(f"providers are onnxruntime's; {path} is run by {runtime.name}")
    return cast("SessionOfAll", runtime.open(path, **options))
