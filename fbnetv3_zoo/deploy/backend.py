"""What computes the logits of `Classifier`: the protocol, and a file in any runtime.

The metadata of an exported file have its preprocessing, class names and input layout. How a runtime
opens and runs a file is in `runtimes`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fbnetv3._internal.messages import one_line

from .artefact import FEATURES, INPUT, OUTPUT, Artefact
from .parity import as_pixels
from .runtimes.session import Session


@runtime_checkable
class Backend(Protocol):
    """Computes logits. Must be thread-safe if the classifier is used from several threads."""

    def run_batch(self, images: NDArray[Any]) -> NDArray[np.floating[Any]]:
        """Returns logits (N, K) of preprocessed images, usually (N, 3, H, W) float32."""


class ExportedBackend:
    """The model of an exported file: a preprocessed batch to logits. Thread-safe.

    Returned by `fbnetv3.deploy.runtimes.load`.

    Attributes:
        path: the file.
        session: the file in its runtime.
        artefact: the metadata of the file.
        preprocess: the preprocessing of images.
        class_names: class names in the order of the logits; numbers if the file has no names, ()
            if it gives features.
        input_shape: input shape of the graph; dynamic axes are names.

    Args:
        path: the file.
        session: the file in its runtime.

    Raises:
        ValueError: the file was not exported by this package, or its graph and metadata differ.
    """

    def __init__(self, path: str | Path, session: Session) -> None:
        self.path = Path(path)
        self.session = session
        self.artefact = Artefact.from_metadata(session.metadata, source=str(path))
        self.preprocess = self.artefact.preprocess
        num_classes = self._check_graph()
        numbers = () if self.artefact.task == FEATURES else tuple(map(str, range(num_classes)))
        self.class_names = self.artefact.class_names or numbers
        self.input_shape = session.inputs[0].shape

    def _check_graph(self) -> int:
        """Returns the number of logits; raises if the graph does not match the metadata."""
        dtype = "uint8" if self.artefact.in_graph else "float32"
        inputs = [(info.name, info.dtype, len(info.shape)) for info in self.session.inputs]
        outputs = [(info.name, info.dtype, len(info.shape)) for info in self.session.outputs]
        expected = [(INPUT, dtype, 4)], [(OUTPUT, "float32", 2)]
        names = self.artefact.class_names
        num_classes = self.session.outputs[0].shape[1] if outputs == expected[1] else None
        if (inputs, outputs) != expected or not isinstance(num_classes, int) or num_classes < 1:
            raise ValueError(
                f"{self.path} is not an image classifier as in its metadata: it has inputs "
                f"{one_line(str(inputs))}, outputs {one_line(str(outputs))}; expected {expected} "
                "and a fixed number of logits; export it again with `fbnetv3 export`"
            )
        shape, crop = self.session.inputs[0].shape, self.preprocess.crop
        size = shape[1:3] if self.artefact.in_graph else shape[2:4]
        if any(isinstance(length, int) and length != crop for length in size):
            raise ValueError(
                f"{self.path} takes images of {list(size)} pixels, but its metadata say {crop}; "
                "export it again with `fbnetv3 export`"
            )
        if names and len(names) != num_classes:
            raise ValueError(
                f"{self.path} has {len(names)} class names for {num_classes} logits, expected one "
                "each; export it again with `fbnetv3 export`"
            )
        thresholds = self.artefact.thresholds
        if self.artefact.multi_label and len(thresholds) != num_classes:
            raise ValueError(
                f"{self.path} has {len(thresholds)} thresholds for {num_classes} logits, expected "
                "one each; export it again with `fbnetv3 export`"
            )
        return num_classes

    def check_image_size(self, size: int) -> None:
        """Refuses an image size that the file does not take.

        Raises:
            ValueError: it takes another one only.
        """
        sides = self.input_shape[1:3] if self.artefact.in_graph else self.input_shape[2:4]
        if any(isinstance(side, int) and side != size for side in sides):
            raise ValueError(
                f"image_size is {size}, and {self.path} is a file for {sides[0]} pixels; export "
                "the model with --image-size, or an ONNX file with --dynamic batch+size"
            )

    def run_batch(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Returns float32 logits (N, num_classes).

        Args:
            batch: preprocessed images, (N, 3, H, W) in floating point.

        Raises:
            ValueError: it is no such array, or the file takes another image size.
        """
        if not isinstance(batch, np.ndarray) or batch.dtype.kind != "f":
            # Runtimes differ: one would compute with the pixels of uint8 as they are.
            kind = getattr(batch, "dtype", type(batch).__name__)
            raise ValueError(
                f"input is {kind}; expected a NumPy array (N, 3, H, W) of float32, as "
                "`preprocess` returns for an image"
            )
        batch = batch.astype(np.float32, copy=False)
        if batch.ndim != 4:
            raise ValueError(f"input has shape {batch.shape}; expected (N, 3, H, W)")
        fed: NDArray[Any] = as_pixels(batch, self.artefact) if self.artefact.in_graph else batch
        for axis, (given, expected) in enumerate(zip(fed.shape, self.input_shape, strict=True)):
            if axis and isinstance(expected, int) and given != expected:
                cure = "export it with --image-size, or an ONNX file with --dynamic batch+size"
                if axis == (3 if self.artefact.in_graph else 1):
                    cure = (
                        "give RGB images"
                        if expected == 3
                        else f"images are prepared as RGB; give run_batch() {expected} channels"
                    )
                raise ValueError(
                    f"input has shape {fed.shape}; {self.path} takes {self.input_shape}; {cure}"
                )
        return run_in_parts(self.session, fed)


class PlainBackend:
    """The model of a file that another tool wrote, in any runtime. Thread-safe.

    Attributes:
        path: the file.
        session: the file in its runtime.
        num_classes: number of logits, if the file states it.

    Args:
        path: the file.
        session: the file in its runtime.
    """

    def __init__(self, path: str | Path, session: Session) -> None:
        self.path = Path(path)
        self.session = session
        shape = session.outputs[0].shape
        if len(shape) == 2 and isinstance(shape[1], int):
            self.num_classes = shape[1]

    def run_batch(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Returns the first output, (N, num_classes), of a batch in the file's own layout.

        Raises:
            ValueError: the file does not take the batch.
        """
        return run_in_parts(self.session, batch)


def run_in_parts(session: Session, batch: NDArray[Any]) -> NDArray[np.float32]:
    """Returns the logits of a batch of any length, even if the graph has a fixed batch size.

    Args:
        session: an open file.
        batch: a batch in the graph's input layout.
    """
    step = session.inputs[0].shape[0]
    if not len(batch):
        classes = session.outputs[0].shape[-1]
        return np.zeros((0, classes if isinstance(classes, int) else 0), np.float32)
    if not isinstance(step, int) or len(batch) == step:
        return np.asarray(session.run(batch), np.float32)
    missing = -len(batch) % step
    if missing:  # its results are cut off again
        batch = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])
    parts = [session.run(batch[n : n + step]) for n in range(0, len(batch), step)]
    return np.concatenate(parts).astype(np.float32, copy=False)[: len(batch) - missing]
