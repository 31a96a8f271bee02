"""Exported files in OpenVINO: its own format, bfloat16, and int8 by NNCF. Extra `openvino`.

On x86 processors with VNNI or bfloat16 this is the runtime in which whole blocks run in low
precision: it has kernels for hard-swish and the channel gate behind an int8 convolution, where
onnxruntime goes back to float around each.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fbnetv3._internal.files import replacing
from fbnetv3._internal.optional import missing

from ..artefact import PREFIX, Artefact
from ..parity import TOLERANCE, Parity, as_pixels, compare, inputs_for
from .onnxruntime import OnnxBackend

_SECTION = "fbnetv3"


def has_bf16() -> bool:
    """Returns whether OpenVINO computes in bfloat16 on this processor.

    Raises:
        ImportError: OpenVINO is missing.
    """
    return "BF16" in _openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def compiled(path: Path, *, threads: int | None = None, bf16: bool = False) -> Any:
    """Returns an ONNX or OpenVINO file compiled for the processor.

    Args:
        path: `.onnx` or `.xml`, the latter with its `.bin` beside it.
        threads: in all; OpenVINO's default unless given.
        bf16: compute in bfloat16; else float32, also where OpenVINO would choose by itself.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: OpenVINO cannot read it, or the processor has no bfloat16.
        ImportError: OpenVINO is missing.
    """
    core = _openvino().Core()
    if bf16 and not has_bf16():
        raise ValueError("this processor has no bfloat16 arithmetic; leave bf16=True out")
    options: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
    }
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    return core.compile_model(_read(core, path), "CPU", options)


class OpenVinoBackend:
    """An exported network in OpenVINO: a preprocessed batch to logits. Safe from many threads.

    Attributes:
        artefact: what the file says about itself.
        preprocess: what an image goes through before the network.
        class_names: in the order of the logits; numbers where the file has no names.

    Args:
        path: `.xml` that `to_openvino` or `quantize_openvino` wrote.
        threads: as for `compiled`.
        bf16: as for `compiled`.
    """

    def __init__(self, path: str | Path, *, threads: int | None = None, bf16: bool = False) -> None:
        self._model = compiled(Path(path), threads=threads, bf16=bf16)
        self.artefact = read_openvino(path)
        self.preprocess = self.artefact.preprocess
        num_classes = self._model.output(0).partial_shape[1].get_length()
        self.class_names = self.artefact.class_names or tuple(map(str, range(num_classes)))

    def run_batch(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Returns float32 logits (N, num_classes) of (N, 3, H, W) as `preprocess` makes them."""
        fed: NDArray[Any] = as_pixels(batch, self.artefact) if self.artefact.in_graph else batch
        # A request of its own for each call: a shared one would mix threads up.
        return np.array(self._model.create_infer_request().infer({0: fed})[0], np.float32)


def read_openvino(path: str | Path) -> Artefact:
    """Returns what an OpenVINO file says about itself.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not OpenVINO's, or not ours.
    """
    model = _read(_openvino().Core(), Path(path))
    pairs = {}
    if model.has_rt_info([_SECTION]):
        for key in model.get_rt_info([_SECTION]).value:
            pairs[PREFIX + key] = str(model.get_rt_info([_SECTION, key]).value)
    return Artefact.from_metadata(pairs, source=str(path))


def to_openvino(onnx_path: str | Path, path: str | Path) -> Parity:
    """Writes an exported ONNX file as OpenVINO IR (`.xml` with a `.bin`), compared with it.

    Raises:
        ValueError: the result differs: nothing is written then; or a path is wrong.
        FileNotFoundError: there is no ONNX file.
        ImportError: OpenVINO is missing.
    """
    backend = OnnxBackend(onnx_path, threads=1)
    model = _read(_openvino().Core(), Path(onnx_path))
    batches = _batches(backend)
    with _saved(model, Path(path)) as part:
        # Some OpenVINO kernels sum in another order; the limit is that of the export.
        parity = compare(_infer(part), backend.run_raw, batches, tolerance=TOLERANCE["fp32"])
        _describe_in(model, dataclasses.replace(backend.artefact, parity=parity.to_dict()))
    return parity


def quantize_openvino(
    onnx_path: str | Path,
    path: str | Path,
    batches: Iterable[NDArray[np.float32]],
    *,
    half_range: bool = False,
) -> Artefact:
    """Writes an exported ONNX file as int8 OpenVINO IR; its agreement is for `quantize` to judge.

    NNCF's post-training quantisation: symmetric per-channel weights, activations symmetric where
    they are not negative and asymmetric else ("mixed"), biases corrected.

    Args:
        onnx_path: an exported fp32 file.
        path: `.xml` to write.
        batches: calibration images as `Artefact.preprocess` makes them, any number a batch.
        half_range: weights of seven bits, whose products a processor without VNNI can add without
            saturating; else only the first layer's.

    Raises:
        ImportError: OpenVINO or NNCF is missing.
    """
    try:
        import nncf
    except ImportError as error:
        raise missing("nncf", error) from error
    backend = OnnxBackend(onnx_path, threads=1)
    model = _read(_openvino().Core(), Path(onnx_path))
    # One by one: NNCF's statistics are per item, and the file may be for single images.
    items = [batch[n : n + 1] for batch in batches for n in range(len(batch))]
    if backend.artefact.in_graph:
        fed: list[NDArray[Any]] = [as_pixels(item, backend.artefact) for item in items]
    else:
        fed = list(items)
    if not fed:
        raise ValueError("no calibration images; give at least one, a few hundred are better")
    logging.getLogger("nncf").setLevel(logging.ERROR)
    fixes = nncf.OverflowFix
    with contextlib.redirect_stdout(io.StringIO()):  # progress bars
        small = nncf.quantize(
            model,
            nncf.Dataset(fed),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(fed),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                overflow_fix=fixes.ENABLE if half_range else fixes.FIRST_LAYER
            ),
        )
    artefact = dataclasses.replace(
        backend.artefact,
        precision="int8",
        parity={},
        quantization={
            "runtime": "openvino",
            "tool": f"nncf {nncf.__version__}",
            "weights": "seven bits" if half_range else "eight bits, of the first layer seven",
            "calibration": "mean of minima and maxima, bias correction",
            "num_images": len(fed),
        },
    )
    with _saved(small, Path(path)):
        _describe_in(small, artefact)
    return artefact


def _batches(backend: OnnxBackend) -> Iterator[NDArray[Any]]:
    shape = backend.input_shape
    sides = shape[1:3] if backend.artefact.in_graph else shape[2:]
    channels = shape[3] if backend.artefact.in_graph else shape[1]
    return inputs_for(
        backend.artefact,
        in_chans=int(channels),
        batch_sizes=(1,) if isinstance(shape[0], int) else (1, 3),
        free_size=not isinstance(sides[0], int),
    )


def _infer(path: Path) -> Any:
    model = compiled(path, threads=1)
    return lambda batch: np.array(model.create_infer_request().infer({0: batch})[0])


def _describe_in(model: Any, artefact: Artefact) -> None:
    for key, value in artefact.to_metadata().items():
        model.set_rt_info(value, [_SECTION, key.removeprefix(PREFIX)])


@contextlib.contextmanager
def _saved(model: Any, path: Path) -> Iterator[Path]:
    """Gives the model saved at a temporary place; moves it, saved once more, to `path` at the end.

    Saved twice because the body checks the first and then writes figures into `model`.
    """
    if path.suffix != ".xml":
        raise ValueError(f"output is {path}; OpenVINO writes two files, name the .xml one")
    openvino = _openvino()
    with replacing(path) as part:
        openvino.save_model(model, str(part), compress_to_fp16=False)
        yield part
        openvino.save_model(model, str(part), compress_to_fp16=False)


def _read(core: Any, path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; make one with `fbnetv3 export`")
    try:
        return core.read_model(str(path))
    except RuntimeError as error:
        raise ValueError(f"OpenVINO cannot read {path}: {error}") from error


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise missing("openvino", error) from error
    return openvino
