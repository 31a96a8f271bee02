"""An exported file as a `Backend` of `Classifier`, in whichever runtime it was opened.

What a file needs to be used is in its metadata: preprocessing, class names, how it takes pixels.
The edge of this file: how a runtime opens and runs a file is in `runtimes`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fbnetv3._internal.messages import one_line

from .artefact import INPUT, OUTPUT, Artefact
from .parity import as_pixels
from .runtimes.protocol import Session


class ExportedBackend:
    """The network in an exported file: a preprocessed batch to logits. Safe from many threads.

    `fbnetv3.deploy.runtimes.load` makes one.

    Attributes:
        path: the file.
        session: the file in its runtime.
        artefact: what the file says about itself.
        preprocess: what an image goes through before the network.
        class_names: in the order of the logits; numbers where the file has no names.
        input_shape: of the graph; words where sides are free.

    Args:
        path: the file.
        session: the file in its runtime.

    Raises:
        ValueError: it is not ours, or its graph is not what its metadata say.
    """

    def __init__(self, path: str | Path, session: Session) -> None:
        self.path = Path(path)
        self.session = session
        self.artefact = Artefact.from_metadata(session.metadata, source=str(path))
        self.preprocess = self.artefact.preprocess
        num_classes = self._check_ends()
        self.class_names = self.artefact.class_names or tuple(map(str, range(num_classes)))
        self.input_shape = session.inputs[0].shape

    def _check_ends(self) -> int:
        """Returns the number of logits; refuses a graph that its own metadata does not describe."""
        kind = "uint8" if self.artefact.in_graph else "float32"
        taken = [(end.name, end.dtype, len(end.shape)) for end in self.session.inputs]
        given = [(end.name, end.dtype, len(end.shape)) for end in self.session.outputs]
        expected = [(INPUT, kind, 4)], [(OUTPUT, "float32", 2)]
        names = self.artefact.class_names
        num_classes = self.session.outputs[0].shape[1] if given == expected[1] else None
        if (taken, given) != expected or not isinstance(num_classes, int) or num_classes < 1:
            raise ValueError(
                f"{self.path} is no file of an image classifier as its metadata say: it takes "
                f"{one_line(str(taken))} and gives {one_line(str(given))}, expected {expected} and "
                "a fixed number of logits; make it again with `fbnetv3 export`"
            )
        shape, crop = self.session.inputs[0].shape, self.preprocess.crop
        sides = shape[1:3] if self.artefact.in_graph else shape[2:4]
        if any(isinstance(side, int) and side != crop for side in sides):
            raise ValueError(
                f"{self.path} takes images of {list(sides)} pixels, its metadata say {crop}, "
                "expected equal sides; make it again with `fbnetv3 export`"
            )
        if names and len(names) != num_classes:
            raise ValueError(
                f"{self.path} has {len(names)} class names for {num_classes} logits, expected one "
                "each; make it again with `fbnetv3 export`"
            )
        return num_classes

    def run_batch(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Returns float32 logits (N, num_classes).

        Args:
            batch: as `preprocess` makes them, (N, 3, H, W) float32.

        Raises:
            ValueError: the file takes another size.
        """
        if batch.ndim != 4:
            raise ValueError(f"input has shape {batch.shape}; expected (N, 3, H, W)")
        fed: NDArray[Any] = as_pixels(batch, self.artefact) if self.artefact.in_graph else batch
        for number, (given, taken) in enumerate(zip(fed.shape, self.input_shape, strict=True)):
            if number and isinstance(taken, int) and given != taken:
                raise ValueError(
                    f"input has shape {fed.shape}; {self.path} takes "
                    f"{self.input_shape}; export it with dynamic='batch+size' for others"
                )
        return run_in_parts(self.session, fed)


def run_in_parts(session: Session, batch: NDArray[Any]) -> NDArray[np.float32]:
    """Returns the logits of a batch of any length, also where the graph takes one image at a time.

    Args:
        session: of any file.
        batch: in the form that the graph takes.
    """
    step = session.inputs[0].shape[0]
    if not isinstance(step, int) or len(batch) == step:
        return np.asarray(session.run(batch), np.float32)
    parts = [session.run(batch[n : n + step]) for n in range(0, len(batch), step)]
    return np.concatenate(parts).astype(np.float32, copy=False)
