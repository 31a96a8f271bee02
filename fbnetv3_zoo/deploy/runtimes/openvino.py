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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fbnetv3._internal.files import replacing
from fbnetv3._internal.messages import one_line
from fbnetv3._internal.optional import need
from fbnetv3.images.reader import ImageSource

from ..artefact import PREFIX, Artefact
from ..backend import ExportedBackend
from ..parity import TOLERANCE, Parity, as_pixels, compare, inputs_for
from ..quantize_score import Judge, Made, over_budget
from . import ONNX
from .protocol import End

_SECTION = "fbnetv3"
# Where OpenVINO's reader puts the metadata of an ONNX file.
_ONNX_SECTION = "framework"


class OpenVinoSession:
    """An ONNX or OpenVINO file compiled for the processor; see `protocol.Session`."""

    def __init__(self, path: Path, model: Any, compiled: Any) -> None:
        self._path, self._model, self._compiled = path, model, compiled
        self.inputs = [_end(end) for end in model.inputs]
        self.outputs = [_end(end) for end in model.outputs]

    @property
    def metadata(self) -> Mapping[str, str]:
        """The file's string pairs."""
        for section, prefix in ((_SECTION, PREFIX), (_ONNX_SECTION, "")):
            if self._model.has_rt_info([section]):
                keys = self._model.get_rt_info([section]).value
                return {
                    prefix + key: str(self._model.get_rt_info([section, key]).value) for key in keys
                }
        return {}

    def run(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Returns the logits of a batch in the form that the graph takes."""
        try:
            # A request of its own for each call: a shared one would mix threads up, and one that
            # shares its input's memory is bound to its shape.
            return np.array(self._compiled.create_infer_request().infer({0: batch})[0])
        except RuntimeError as error:
            raise ValueError(
                f"{self._path} cannot be run on an input of shape {batch.shape}: "
                f"{one_line(str(error))}"
            ) from error

    def bind(self, batch: NDArray[Any]) -> Callable[[], object]:
        """Returns a function that runs the graph on this one batch."""
        request = self._compiled.create_infer_request()
        return lambda: request.infer({0: batch}, share_inputs=True, share_outputs=True)


def precisions() -> tuple[str, ...]:
    """Returns the precisions in which OpenVINO computes a float32 file on this processor.

    Raises:
        ImportError: OpenVINO is missing.
    """
    return ("fp32", "bf16") if has_bf16() else ("fp32",)


def has_bf16() -> bool:
    """Returns whether OpenVINO computes in bfloat16 on this processor.

    Raises:
        ImportError: OpenVINO is missing.
    """
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def open_session(
    path: Path, *, threads: int | None = None, precision: str = "fp32"
) -> OpenVinoSession:
    """Returns an ONNX or OpenVINO file compiled for the processor.

    Args:
        path: `.onnx` or `.xml`, the latter with its `.bin` beside it.
        threads: in all; OpenVINO's default unless given.
        precision: "bf16", or "fp32", also where OpenVINO would choose bfloat16 by itself.

    Raises:
        ValueError: OpenVINO cannot read it, or the processor has no such arithmetic.
    """
    core = _core()
    if precision not in precisions():
        raise ValueError(
            f"precision is {precision!r}; OpenVINO computes float32 files on this processor in "
            f"{' or '.join(precisions())}"
        )
    if threads is not None and (isinstance(threads, bool) or threads < 1):
        raise ValueError(f"threads is {threads!r}; expected a whole number from 1")
    options: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
    }
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    model = _read(path)
    return OpenVinoSession(path, model, core.compile_model(model, "CPU", options))


def convert(onnx_path: str | Path, path: str | Path) -> Parity:
    """Writes an exported ONNX file as OpenVINO IR (`.xml` with a `.bin`), compared with it.

    Raises:
        ValueError: the result differs: nothing is written then; or a path is wrong.
        FileNotFoundError: there is no ONNX file.
        ImportError: OpenVINO is missing.
    """
    exported = ONNX.load(onnx_path, threads=1)
    batch, *sides = exported.input_shape
    channels = sides.pop(2 if exported.artefact.in_graph else 0)
    batches = inputs_for(
        exported.artefact,
        in_chans=int(channels),
        batch_sizes=(1,) if isinstance(batch, int) else (1, 3),
        free_size=not isinstance(sides[0], int),
    )
    model = _read(Path(onnx_path))
    with _saved(model, Path(path)) as part:
        # Some OpenVINO kernels sum in another order; the limit is that of the export.
        run = open_session(part, threads=1).run
        parity = compare(run, exported.session.run, batches, tolerance=TOLERANCE["fp32"])
        _describe_in(model, dataclasses.replace(exported.artefact, parity=parity.to_dict()))
    return parity


def quantize(
    onnx_path: Path,
    path: Path,
    calibration: Sequence[ImageSource],
    judge: Judge,
    *,
    method: str | None,
    max_drop_pct: float | None,
    sensitivity: bool,  # NNCF has no layers alone
) -> Made:
    """Writes int8 OpenVINO IR; where weights of eight bits break the budget, with seven."""
    if method is not None:
        raise ValueError("method is onnxruntime's; NNCF takes ranges its own way")
    need("nncf")
    with replacing(path) as part:
        for half_range in (False, True):
            batches = judge.reader.batches(calibration)
            artefact = _quantize(onnx_path, part, judge, batches, half_range=half_range)
            score = judge.score(ExportedBackend(part, open_session(part)))
            if max_drop_pct is None or score.drop_pct <= max_drop_pct:
                return Made(artefact, score, method="nncf")
        raise over_budget(score, max_drop_pct, "with weights of eight bits or seven")


def _quantize(
    onnx_path: Path,
    path: Path,
    judge: Judge,
    batches: Iterable[NDArray[np.float32]],
    *,
    half_range: bool,
) -> Artefact:
    """Writes an exported ONNX file as int8 OpenVINO IR.

    NNCF's post-training quantisation: symmetric per-channel weights, activations symmetric where
    they are not negative and asymmetric else ("mixed"), biases corrected.

    Args:
        onnx_path: an exported fp32 file.
        path: `.xml` to write.
        judge: knows the float file.
        batches: calibration images as `Artefact.preprocess` makes them, any number a batch.
        half_range: weights of seven bits, whose products a processor without VNNI can add without
            saturating; else only the first layer's.
    """
    import nncf

    artefact = judge.float_model.artefact
    # One by one: NNCF's statistics are per item, and the file may be for single images.
    items = [batch[n : n + 1] for batch in batches for n in range(len(batch))]
    fed: list[NDArray[Any]] = [
        as_pixels(item, artefact) if artefact.in_graph else item for item in items
    ]
    logging.getLogger("nncf").setLevel(logging.ERROR)
    fixes = nncf.OverflowFix
    with contextlib.redirect_stdout(io.StringIO()):  # progress bars
        small = nncf.quantize(
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
    with _saved(small, path):
        _describe_in(small, artefact)
    return artefact


def _describe_in(model: Any, artefact: Artefact) -> None:
    for key, value in artefact.to_metadata().items():
        model.set_rt_info(value, [_SECTION, key.removeprefix(PREFIX)])


@contextlib.contextmanager
def _saved(model: Any, path: Path) -> Iterator[Path]:
    """Gives the model saved at a temporary place; moves it, saved once more, to `path` at the end.

    Saved twice because the body checks the first and then writes figures into `model`.
    """
    import openvino

    if path.suffix != ".xml":
        raise ValueError(f"output is {path}; OpenVINO writes two files, name the .xml one")
    with replacing(path) as part:
        openvino.save_model(model, str(part), compress_to_fp16=False)
        yield part
        openvino.save_model(model, str(part), compress_to_fp16=False)


def _read(path: Path) -> Any:
    try:
        return _core().read_model(str(path))
    except RuntimeError as error:
        raise ValueError(f"OpenVINO cannot read {path}: {one_line(str(error))}") from error


def _core() -> Any:
    need("openvino")
    import openvino

    return openvino.Core()


def _end(port: Any) -> End:
    shape = tuple(d.get_length() if d.is_static else str(d) for d in port.partial_shape)
    return End(port.any_name, _dtype(port.element_type), shape)


def _dtype(kind: Any) -> str:
    try:
        return str(kind.to_dtype())
    except RuntimeError:  # numpy has no such type
        return str(kind.get_type_name())
