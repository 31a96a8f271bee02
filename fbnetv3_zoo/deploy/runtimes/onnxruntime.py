"""An exported file run by onnxruntime, without torch.

Needs onnxruntime, numpy and Pillow. Everything else, preprocessing and class names included, comes
from the file.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fbnetv3._internal.messages import one_line

from ..artefact import INPUT, OUTPUT, Artefact
from ..parity import as_pixels

CPU = "CPUExecutionProvider"


def available_cpus() -> int:
    """Returns how many processors this process may keep busy: affinity and container quota.

    Runtimes look at the machine instead and start too many threads in a container.
    """
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        allowed = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            allowed = min(allowed, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        pass  # no such limit here
    return max(1, allowed)


def read_artefact(path: str | Path) -> Artefact:
    """Returns what an exported ONNX file says about itself.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not ONNX, or not ours.
    """
    return OnnxBackend(path, threads=1).artefact


class OnnxBackend:
    """The network in an exported file: a preprocessed batch to logits. Safe from many threads.

    Attributes:
        artefact: what the file says about itself.
        preprocess: what an image goes through before the network.
        class_names: in the order of the logits; numbers where the file has no names.

    Args:
        path: the file.
        providers: of onnxruntime, in order of preference; only the processor unless given.
        threads: that work on one batch; every processor this process may use unless given.

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
        threads: int | None = None,
    ) -> None:
        self.path = Path(path)
        self._session = open_session(self.path, providers=providers, threads=threads)
        try:
            metadata = self._session.get_modelmeta().custom_metadata_map
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path} has damaged metadata ({error}); make it again with `fbnetv3 export`"
            ) from error
        self.artefact = Artefact.from_metadata(metadata, source=str(path))
        self.preprocess = self.artefact.preprocess
        num_classes = self._check_ends()
        self.class_names = self.artefact.class_names or tuple(map(str, range(num_classes)))
        self.input_shape: list[int | str] = self._session.get_inputs()[0].shape

    def _check_ends(self) -> int:
        """Returns the number of logits; refuses a graph that its own metadata does not describe."""
        kind = "tensor(uint8)" if self.artefact.in_graph else "tensor(float)"
        taken = [(end.name, end.type, len(end.shape)) for end in self._session.get_inputs()]
        given = [(end.name, end.type, len(end.shape)) for end in self._session.get_outputs()]
        expected = [(INPUT, kind, 4)], [(OUTPUT, "tensor(float)", 2)]
        names = self.artefact.class_names
        num_classes = self._session.get_outputs()[0].shape[1] if given == expected[1] else None
        if (taken, given) != expected or not isinstance(num_classes, int) or num_classes < 1:
            raise ValueError(
                f"{self.path} is no file of an image classifier as its metadata say: it takes "
                f"{one_line(str(taken))} and gives {one_line(str(given))}, expected {expected} and "
                "a fixed number of logits; make it again with `fbnetv3 export`"
            )
        shape, crop = self._session.get_inputs()[0].shape, self.preprocess.crop
        sides = shape[1:3] if self.artefact.in_graph else shape[2:4]
        if any(isinstance(side, int) and side != crop for side in sides):
            raise ValueError(
                f"{self.path} takes images of {sides} pixels, its metadata say {crop}, expected "
                "equal sides; make it again with `fbnetv3 export`"
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
                    f"{tuple(self.input_shape)}; export it with dynamic='batch+size' for others"
                )
        if isinstance(self.input_shape[0], int) and len(fed) != self.input_shape[0]:
            # A file for one image at a time.
            return np.concatenate([self.run_raw(fed[n : n + 1]) for n in range(len(fed))])
        return self.run_raw(fed)

    def run_raw(self, fed: NDArray[Any]) -> NDArray[np.float32]:
        """Returns logits of a batch in the form that the file itself takes.

        Raises:
            ValueError: the graph does not work on such a batch.
        """
        try:
            return np.asarray(self._session.run([OUTPUT], {INPUT: fed})[0], np.float32)
        # onnxruntime's exceptions have no common class of their own.
        except Exception as error:
            raise ValueError(
                f"{self.path} cannot be run on an input of shape {fed.shape}: "
                f"{one_line(str(error))}; make it again with `fbnetv3 export`"
            ) from error


def open_session(
    path: Path, *, providers: Sequence[str] | None = None, threads: int | None = None
) -> Any:
    """Returns an onnxruntime session that runs on what was asked for, or says why it cannot.

    Args:
        path: an ONNX file of any origin.
        providers: as for `OnnxBackend`.
        threads: as for `OnnxBackend`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not ONNX, or a provider is missing.
        ImportError: onnxruntime is missing.
    """
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise ImportError(f"running {path} needs onnxruntime; pip install onnxruntime") from error
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; make one with `fbnetv3 export`")
    wanted = list(providers) if providers is not None else [CPU]
    present = ort.get_available_providers()
    missing = [name for name in wanted if name not in present]
    if missing or not wanted:
        raise ValueError(
            f"provider {missing[0] if missing else wanted!r} is not in this onnxruntime; it has "
            f"{', '.join(present)}"
        )
    if threads is not None and (isinstance(threads, bool) or threads < 1):
        raise ValueError(f"threads is {threads!r}; expected a whole number from 1")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads if threads is not None else available_cpus()
    options.log_severity_level = 4  # what fails is raised, and needs no second message
    try:
        session = ort.InferenceSession(str(path), options, providers=wanted, enable_fallback=False)
    except Exception as error:
        raise ValueError(
            f"{path} is not an ONNX file that can be run: {one_line(str(error))}; make one with "
            "`fbnetv3 export`"
        ) from error
    # A provider that cannot be set up is dropped with no more than a warning.
    dropped = [name for name in wanted if name not in session.get_providers()]
    if dropped:
        raise ValueError(f"provider {dropped[0]} is built in but does not start on this machine")
    return session
