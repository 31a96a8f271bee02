"""Exported files in OpenVINO: its own format, bfloat16, and int8 by NNCF. Extra `openvino`.

On x86 CPUs with VNNI or bfloat16 this runtime runs complete blocks in low precision: it has kernels
for hard-swish and the channel gate after an int8 convolution, where onnxruntime returns to float.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fbnetv3._internal.files import replacing, sha256_of
from fbnetv3._internal.messages import one_line
from fbnetv3._internal.optional import need
from fbnetv3._internal.quiet import quiet_stderr
from fbnetv3.images.reader import ImageSource

from ..artefact import PREFIX, Artefact
from ..backend import ExportedBackend
from ..forks import Reopened
from ..parity import TOLERANCE, Parity, as_pixels, compare, inputs_for
from ..quantize_score import Evaluator, Int8Result, over_budget
from . import ONNX
from .session import TensorInfo, check_threads

_SECTION = "fbnetv3"
# OpenVINO's section for the metadata of an ONNX file.
_ONNX_SECTION = "framework"
# In the .xml the SHA-256 of the .bin, as another model's may have the same name and size.
_BIN_SHA256 = "bin_sha256"
# Within so many bytes an .xml file of OpenVINO names its first element.
_HEAD_BYTES = 200


class OpenVinoSession:
    """An ONNX or OpenVINO file compiled for the CPU; see `session.Session`.

    Args:
        path: the file.
        opened: the model, and the same compiled.
    """

    def __init__(self, path: Path, opened: Reopened[tuple[Any, Any]]) -> None:
        self._path, self._opened = path, opened
        model, _ = opened.get()
        self.inputs = [_info(port) for port in model.inputs]
        self.outputs = [_info(port) for port in model.outputs]

    @property
    def metadata(self) -> Mapping[str, str]:
        """The file's string pairs."""
        model, _ = self._opened.get()
        for section, prefix in ((_SECTION, PREFIX), (_ONNX_SECTION, "")):
            if model.has_rt_info([section]):
                keys = model.get_rt_info([section]).value
                return {prefix + key: str(model.get_rt_info([section, key]).value) for key in keys}
        return {}

    def run(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Returns the logits of a batch in the graph's input layout."""
        try:
            # One request per call: a shared one is not thread-safe, and one that shares the
            # memory of its input is bound to its shape.
            return np.array(self._request().infer({0: batch})[0])
        except RuntimeError as error:
            raise ValueError(
                f"{self._path} cannot be run on an input of shape {batch.shape}: "
                f"{one_line(str(error))}"
            ) from error

    def run_all(self, batch: NDArray[Any]) -> list[NDArray[Any]]:
        """Returns all outputs, in the order of `outputs`."""
        try:
            found = self._request().infer({0: batch})
        except RuntimeError as error:
            raise ValueError(
                f"{self._path} cannot be run on an input of shape {batch.shape}: "
                f"{one_line(str(error))}"
            ) from error
        return [np.array(found[n]) for n in range(len(self.outputs))]

    def bind(self, batch: NDArray[Any]) -> Callable[[], object]:
        """Returns a function that runs the graph on this batch."""
        request = self._request()
        return lambda: request.infer({0: batch}, share_inputs=True, share_outputs=True)

    def _request(self) -> Any:
        _, compiled = self._opened.get()
        return compiled.create_infer_request()


def precisions() -> tuple[str, ...]:
    """Returns the precisions in which OpenVINO runs a float32 file on this CPU.

    Raises:
        ImportError: OpenVINO is not installed.
    """
    return ("fp32", "bf16") if has_bf16() else ("fp32",)


def has_bf16() -> bool:
    """Returns whether OpenVINO supports bfloat16 on this CPU.

    Raises:
        ImportError: OpenVINO is not installed.
    """
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def open_session(
    path: Path, *, threads: int | None = None, precision: str = "fp32"
) -> OpenVinoSession:
    """Opens an ONNX or OpenVINO file, compiled for the CPU.

    Args:
        path: an `.onnx` file, or an `.xml` file with its `.bin` beside it.
        threads: number of inference threads; default: OpenVINO's.
        precision: "bf16", or "fp32" even if OpenVINO would choose bfloat16.

    Raises:
        ValueError: OpenVINO cannot read the file, or an option is not supported.
    """
    if precision not in precisions():
        raise ValueError(
            f"precision is {precision!r}; OpenVINO computes float32 files on this CPU in "
            f"{' or '.join(precisions())}"
        )
    check_threads(threads)
    options: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
    }
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    return OpenVinoSession(path, Reopened(functools.partial(_compiled, path.absolute(), options)))


def convert(onnx_path: str | Path, path: str | Path) -> Parity:
    """Converts an exported ONNX file to OpenVINO IR (`.xml` with a `.bin`) and checks the result.

    Raises:
        ValueError: the results differ, or a path is wrong; nothing is written then.
        FileNotFoundError: the ONNX file does not exist.
        ImportError: OpenVINO is not installed.
    """
    exported = ONNX.load(onnx_path, threads=1)
    if exported.artefact.precision not in TOLERANCE:
        raise ValueError(
            f"{onnx_path} is {exported.artefact.precision}; convert a float file, or quantize one "
            "for OpenVINO with `fbnetv3 quantize FLOAT.onnx -o INT8.xml`"
        )
    batch, *size = exported.input_shape
    channels = size.pop(2 if exported.artefact.in_graph else 0)
    batches = inputs_for(
        exported.artefact,
        in_chans=int(channels),
        batch_sizes=(batch,) if isinstance(batch, int) else (1, 3),
        free_size=not isinstance(size[0], int),
    )
    model = _read(Path(onnx_path))
    with _saved(model, Path(path)) as part:
        # Some OpenVINO kernels sum in another order; the tolerance is that of the export.
        run = open_session(part, threads=1).run
        tolerance = TOLERANCE[exported.artefact.precision]
        parity = compare(run, exported.session.run, batches, tolerance=tolerance)
        tools = {**exported.artefact.exported_with, "openvino": version("openvino")}
        _set_metadata(
            model,
            dataclasses.replace(exported.artefact, exported_with=tools, parity=parity.to_dict()),
        )
    return parity


def write_ir(onnx_path: Path, path: Path, metadata: Mapping[str, str]) -> None:
    """Writes an ONNX file as OpenVINO IR with string pairs, unchecked.

    Args:
        onnx_path: an ONNX file.
        path: the `.xml` file; a `.bin` is written beside it.
        metadata: the pairs, whose keys begin with `artefact.PREFIX`.

    Raises:
        ValueError: OpenVINO cannot read the file.
        ImportError: OpenVINO is not installed.
    """
    need("openvino")
    model = _read(onnx_path)
    for key, value in metadata.items():
        model.set_rt_info(value, [_SECTION, key.removeprefix(PREFIX)])
    _save(model, path)


def quantize(
    onnx_path: Path,
    path: Path,
    calibration: Sequence[ImageSource],
    evaluator: Evaluator,
    *,
    method: str | None,
    max_drop_pct: float | None,
    sensitivity: bool,  # NNCF does not quantize single layers
) -> Int8Result:
    """Writes int8 OpenVINO IR; with 7-bit weights if 8-bit ones exceed the budget."""
    if method is not None:
        raise ValueError(f"method is {method!r}; it is for onnxruntime, NNCF has its own")
    need("nncf")
    with replacing(path) as part:
        for half_range in (False, True):
            batches = evaluator.reader.batches(calibration)
            quantized, artefact = _quantize(onnx_path, evaluator, batches, half_range=half_range)
            _write(quantized, part, artefact)
            score = evaluator.score(ExportedBackend(part, open_session(part)))
            if max_drop_pct is None or score.drop_pct <= max_drop_pct:
                artefact = dataclasses.replace(artefact, confidence=score.confidence)
                _write(quantized, part, artefact)
                return Int8Result(artefact, score, method="nncf")
        raise over_budget(score, max_drop_pct, "with 8-bit and with 7-bit weights")


def _quantize(
    onnx_path: Path,
    evaluator: Evaluator,
    batches: Iterable[NDArray[np.float32]],
    *,
    half_range: bool,
) -> tuple[Any, Artefact]:
    """Returns an exported ONNX file as an int8 OpenVINO model, and its metadata.

    NNCF's post-training quantization: symmetric per-channel weights, activations symmetric if they
    are not negative and otherwise asymmetric ("mixed"), biases corrected.

    Args:
        onnx_path: an exported fp32 file.
        evaluator: holds the float file.
        batches: preprocessed calibration images, in batches of any size.
        half_range: 7-bit weights, whose products a CPU without VNNI can sum without saturation;
            otherwise only in the first layer.
    """
    import nncf

    artefact = evaluator.float_model.artefact
    # Single images: NNCF's statistics are per item, and the file's batch size may be one.
    items = [batch[n : n + 1] for batch in batches for n in range(len(batch))]
    fed: list[NDArray[Any]] = [
        as_pixels(item, artefact) if artefact.in_graph else item for item in items
    ]
    logging.getLogger("nncf").setLevel(logging.ERROR)
    fixes = nncf.OverflowFix
    with contextlib.redirect_stdout(io.StringIO()):  # progress bars
        quantized = nncf.quantize(
            _read(onnx_path),
            nncf.Dataset(fed),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(fed),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                overflow_fix=fixes.ENABLE if half_range else fixes.FIRST_LAYER
            ),
        )
    artefact = dataclasses.replace(
        artefact,
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
    return quantized, artefact


def _write(model: Any, path: Path, artefact: Artefact) -> None:
    with _saved(model, path):
        _set_metadata(model, artefact)


def _set_metadata(model: Any, artefact: Artefact) -> None:
    for key, value in artefact.to_metadata().items():
        model.set_rt_info(value, [_SECTION, key.removeprefix(PREFIX)])


@contextlib.contextmanager
def _saved(model: Any, path: Path) -> Iterator[Path]:
    """Yields the model saved to a temporary path; at the end saves it again and moves it to `path`.

    Saved twice because the body checks the file and then writes the figures into `model`.
    """
    if path.suffix != ".xml":
        raise ValueError(f"output is {path}; OpenVINO writes two files; name the .xml one")
    with replacing(path) as part:
        _save(model, part)
        yield part
        _save(model, part)


def _save(model: Any, path: Path) -> None:
    """Writes a model with the hash of its weights."""
    import openvino

    openvino.save_model(model, str(path), compress_to_fp16=False)
    model.set_rt_info(sha256_of(path.with_suffix(".bin")), [_SECTION, _BIN_SHA256])
    openvino.save_model(model, str(path), compress_to_fp16=False)


def _compiled(path: Path, options: dict[str, Any]) -> tuple[Any, Any]:
    model = _read(path)
    weights, key = path.with_suffix(".bin"), [_SECTION, _BIN_SHA256]
    if model.has_rt_info(key) and str(model.get_rt_info(key).value) != sha256_of(weights):
        raise ValueError(
            f"{weights} is not what was exported with {path.name}: it is damaged or another "
            "model's; copy both files of the model, or export it again"
        )
    return model, _core().compile_model(model, "CPU", options)


def _read(path: Path) -> Any:
    weights = path.with_suffix(".bin")
    if not weights.is_file() and b"<net " in path.read_bytes()[:_HEAD_BYTES]:
        raise FileNotFoundError(
            f"no file {weights}, which has the weights of {path.name}; copy both files of the "
            "model, with one name, or export it again"
        )
    core = _core()
    try:
        with quiet_stderr():  # each of its readers logs what it does not like
            return core.read_model(str(path))
    except RuntimeError as error:
        # Names of OpenVINO's source files come before the reason.
        reason = one_line(str(error).strip().splitlines()[-1])
        raise ValueError(
            f"OpenVINO cannot read {path}: {reason}; make one with `fbnetv3 export`"
        ) from error


def _core() -> Any:
    need("openvino")
    import openvino

    return openvino.Core()


def _info(port: Any) -> TensorInfo:
    shape = tuple(d.get_length() if d.is_static else str(d) for d in port.partial_shape)
    return TensorInfo(port.any_name, _dtype(port.element_type), shape)


def _dtype(kind: Any) -> str:
    try:
        return str(kind.to_dtype())
    except RuntimeError:  # numpy has no such type
        return str(kind.get_type_name())
