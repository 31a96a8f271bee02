"""Images in, labels out, with an exported file and without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .classify import Classifier
from .runtimes import ONNX


class OnnxClassifier(Classifier):
    """Images to labels with an exported file: `OnnxClassifier("e.onnx")("cat.jpg")`.

    As `Classifier`, and without torch; safe under many threads at once.

    Args:
        path: a file that `fbnetv3 export` or `fbnetv3 quantize` wrote.
        providers: of onnxruntime, in order of preference; only the processor unless given.
        num_threads: that work on one batch; every processor this process may use unless given.
        batch_size: images a run of the network.
        top_k: classes in an answer; all, where there are fewer.
        num_workers: threads that decode images.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not ONNX, not ours, or a provider is missing.
        ImportError: onnxruntime is missing.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        providers: Sequence[str] | None = None,
        num_threads: int | None = None,
        batch_size: int = 16,
        top_k: int = 5,
        num_workers: int | None = None,
    ) -> None:
        backend = ONNX.load(path, providers=providers, threads=num_threads)
        self.artefact = backend.artefact
        super().__init__(
            backend,
            batch_size=batch_size,
            top_k=top_k,
            num_workers=num_workers,
        )
