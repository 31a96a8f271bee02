"""Classifies images with an ONNX file, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .artefact import Artefact
from .classify import Classifier
from .runtimes import ONNX, is_exported, runtime_of


class OnnxClassifier(Classifier):
    """A `Classifier` of an ONNX file, without torch: `OnnxClassifier("e.onnx")("cat.jpg")`.

    Args:
        path: a file that `fbnetv3 export` or `fbnetv3 quantize` wrote.
        providers: an execution provider of onnxruntime, or several in order of preference;
            default: the CPU.
        num_threads: number of inference threads; default: all CPUs available to this process.
        batch_size: batch size.
        top_k: number of classes per prediction; all, if there are fewer.
        thresholds: see `Classifier`; for multi-label files.
        num_workers: number of image decoding threads.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not ONNX or not of this package, or a provider is missing.
        ImportError: onnxruntime is not installed.
    """

    artefact: Artefact

    def __init__(
        self,
        path: str | Path,
        *,
        providers: str | Sequence[str] | None = None,
        num_threads: int | None = None,
        batch_size: int = 16,
        top_k: int = 5,
        thresholds: float | Sequence[float] | None = None,
        num_workers: int | None = None,
    ) -> None:
        if is_exported(path) and runtime_of(path) is not ONNX:
            raise ValueError(
                f"{path} is for {runtime_of(path).name}; expected an {ONNX.suffix} file, or use "
                "fbnetv3.load"
            )
        backend = ONNX.load(path, providers=providers, threads=num_threads)
        super().__init__(
            backend,
            batch_size=batch_size,
            top_k=top_k,
            thresholds=thresholds,
            num_workers=num_workers,
        )
