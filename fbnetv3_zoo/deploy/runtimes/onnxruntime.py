"""ONNX files in onnxruntime, without torch, and their quantization in its QDQ format."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fbnetv3._internal.files import replacing
from fbnetv3._internal.messages import one_line
from fbnetv3._internal.processors import available_cpus
from fbnetv3.images.reader import ImageSource

from ..calibration import METHODS
from ..forks import Reopened
from ..qdq import QdqSearch, Trainer
from ..quantize_score import Evaluator, Int8Result
from .session import TensorInfo, check_threads

CPU = "CPUExecutionProvider"
_DTYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8"}


class OnnxSession:
    """An ONNX file in onnxruntime; see `session.Session`.

    Args:
        path: the file.
        opened: the session of onnxruntime.
    """

    def __init__(self, path: Path, opened: Reopened[Any]) -> None:
        self._path, self._opened = path, opened
        self.inputs = [_info(value) for value in self.session.get_inputs()]
        self.outputs = [_info(value) for value in self.session.get_outputs()]

    @property
    def session(self) -> Any:
        """The session of onnxruntime."""
        return self._opened.get()

    @property
    def metadata(self) -> Mapping[str, str]:
        """The file's string pairs.

        Raises:
            ValueError: they are not text.
        """
        try:
            pairs: dict[str, str] = self.session.get_modelmeta().custom_metadata_map
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{self._path} has damaged metadata ({error}); export it again with "
                "`fbnetv3 export`"
            ) from error
        return pairs

    def run(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Returns the logits of a batch in the graph's input layout."""
        return np.asarray(self._run([self.outputs[0].name], batch)[0])

    def run_all(self, batch: NDArray[Any]) -> list[NDArray[Any]]:
        """Returns all outputs, in the order of `outputs`."""
        names = [info.name for info in self.outputs]
        return [np.asarray(found) for found in self._run(names, batch)]

    def _run(self, names: Sequence[str], batch: NDArray[Any]) -> list[Any]:
        try:
            found: list[Any] = self.session.run(names, {self.inputs[0].name: batch})
            return found
        # onnxruntime's exceptions have no common base class.
        except Exception as error:
            raise ValueError(
                f"{self._path} cannot be run on an input of shape {batch.shape}: "
                f"{one_line(str(error))}; export it again with `fbnetv3 export`"
            ) from error

    def bind(self, batch: NDArray[Any]) -> Callable[[], Any]:
        """Returns a function that runs the graph on this batch."""
        names, fed = [self.outputs[0].name], {self.inputs[0].name: batch}
        return lambda: self.session.run(names, fed)


def precisions() -> tuple[str, ...]:
    """Returns the precisions in which onnxruntime runs a float32 file."""
    return ("fp32",)


def open_session(
    path: Path,
    *,
    threads: int | None = None,
    precision: str = "fp32",
    providers: str | Sequence[str] | None = None,
) -> OnnxSession:
    """Opens an ONNX file.

    Args:
        path: a file of any origin.
        threads: number of inference threads; default: all CPUs available to this process.
        precision: "fp32".
        providers: an execution provider, or several in order of preference; default: the CPU.

    Raises:
        ValueError: the file is not ONNX, a provider is missing, or an option is not supported.
    """
    import onnxruntime as ort

    if precision not in precisions():
        raise ValueError(f"precision is {precision!r}; onnxruntime computes float32 files in fp32")
    providers = [providers] if isinstance(providers, str) else providers
    wanted = list(providers) if providers is not None else [CPU]
    present = ort.get_available_providers()
    missing = [name for name in wanted if name not in present]
    if missing or not wanted:
        raise ValueError(
            f"provider {missing[0] if missing else wanted!r} is not in this onnxruntime; it has "
            f"{', '.join(present)}"
        )
    check_threads(threads)
    num_threads = threads if threads is not None else available_cpus()
    start = functools.partial(_start, path.absolute(), num_threads, wanted)
    return OnnxSession(path, Reopened(start))


def quantize(
    onnx_path: Path,
    path: Path,
    calibration: Sequence[ImageSource],
    evaluator: Evaluator,
    *,
    method: str | None,
    max_drop_pct: float | None,
    sensitivity: bool,
    trainer: Trainer | None = None,
) -> Int8Result:
    """Writes an int8 file by the calibration method that agrees best with the float file.

    If int8 exceeds the budget, layers stay in float, the most sensitive first. With a `trainer`
    weights and ranges are trained first, and kept if that does no harm.
    """
    if method is not None and method not in METHODS:
        raise ValueError(f"method is {method!r}; expected one of {', '.join(METHODS)}")
    with replacing(path) as part:
        search = QdqSearch(onnx_path, part, evaluator, calibration)
        methods = search.compare_methods([method] if method else list(METHODS))
        best = max(methods, key=lambda name: (methods[name][0], -methods[name][1]))
        trained = trainer is not None and search.train(best, trainer)
        layers = search.layer_errors(best) if sensitivity or max_drop_pct is not None else []
        score, num_float = search.within_budget(best, layers, max_drop_pct)
        layers = [
            dataclasses.replace(layer, in_float=number < num_float)
            for number, layer in enumerate(layers)
        ]
        artefact = dataclasses.replace(
            evaluator.float_model.artefact,
            precision="int8",
            parity={},
            confidence=score.confidence,
            quantization={
                "runtime": "onnxruntime",
                "format": "QDQ, weights int8 per channel, activations uint8",
                "calibration": best,
                "num_images": evaluator.reader.num_read[0],
                "trained": trained,
                "in_float": [layer.node for layer in layers if layer.in_float],
                "agreement_pct": round(score.agreement_pct, 2),
            },
        )
        search.finish(artefact)
    return Int8Result(artefact, score, method=best, methods=methods, layers=tuple(layers))


def _start(path: Path, num_threads: int, providers: list[str]) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.log_severity_level = 4  # errors are raised, so that they need no log message
    try:
        session = ort.InferenceSession(
            str(path), options, providers=providers, enable_fallback=False
        )
    except Exception as error:
        raise ValueError(
            f"{path} is not an ONNX file that can be run: {one_line(str(error))}; make one with "
            "`fbnetv3 export`"
        ) from error
    # onnxruntime drops a provider that does not start, with only a warning.
    dropped = [name for name in providers if name not in session.get_providers()]
    if dropped:
        raise ValueError(f"provider {dropped[0]} is installed but does not start on this machine")
    return session


def _info(value: Any) -> TensorInfo:
    return TensorInfo(value.name, _DTYPES.get(value.type, value.type), tuple(value.shape))
