"""A model as a LiteRT (TensorFlow Lite) file, float32 or int8. Extra `litert`; writing: see below.

The file (`.tflite`) takes a fixed number of images, float32 (N, C, H, W), and returns float32
logits (N, num_classes). A zip archive is appended to the model, as the format provides for: it has
the metadata, with the model's SHA-256, and `labels.txt`. Runtimes read over it.

Running and quantizing work beside any torch. Writing needs litert-torch, which needs an older torch
than this package's newest; `need_writer` says how to have both.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import logging
import queue
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fbnetv3._internal.files import ZIP_ERRORS, replacing
from fbnetv3._internal.json_record import read_json
from fbnetv3._internal.messages import one_line
from fbnetv3._internal.optional import need
from fbnetv3._internal.processors import available_cpus
from fbnetv3._internal.quiet import quiet_stderr
from fbnetv3.images.preprocess import Preprocess
from fbnetv3.images.reader import ImageSource

from ..artefact import INPUT, OUTPUT, PREFIX, Artefact
from ..backend import ExportedBackend
from ..forks import Reopened
from ..parity import Parity, Run
from ..quantize_score import Evaluator, Int8Result, over_budget
from .session import TensorInfo, check_threads

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fbnetv3.models.model import FBNetV3

_CARD, _LABELS = "fbnetv3.json", "labels.txt"
_CONVERTER = "litert-torch>=0.10"
# What is tried in turn, as the file's metadata call it -> the quantizer's name for it. 16-bit
# activations are not among them: no fast kernel has them, and they take a hundred times as long.
_RECIPES = {
    "weights int8 per channel, activations int8": "static_wi8_ai8",
    "weights int8 per channel, computed in float": "weight_only_wi8_afp32",
}
# Operators that stay in float. XNNPACK has no int8 hard-swish: each would leave it for a slow
# kernel, and a network with them in int8 takes longer than in float32.
_IN_FLOAT = ("HARD_SWISH",)


class _Interpreters:
    """The interpreters of a file: none is used by two threads at once, and one per core is enough.

    Args:
        path: the file.
        threads: number of threads of each.
    """

    def __init__(self, path: Path, threads: int) -> None:
        self.model, self.metadata = _parts(path)
        self._path, self._threads = path, threads
        # A place for each; what is in it is made when it is first taken.
        self._free: queue.LifoQueue[Any] = queue.LifoQueue()
        for _ in range(available_cpus() - 1):
            self._free.put(None)
        first = self.start()
        self.inputs, self.outputs = first.get_input_details(), first.get_output_details()
        self._free.put(first)

    def start(self) -> Any:
        """Returns a new interpreter.

        Raises:
            ValueError: LiteRT cannot read the model.
        """
        with quiet_stderr():
            try:
                from ai_edge_litert.interpreter import Interpreter

                made = Interpreter(model_content=self.model, num_threads=self._threads)
                made.allocate_tensors()
            except (RuntimeError, ValueError) as error:
                raise ValueError(
                    f"{self._path} is not a LiteRT file that can be run: {one_line(str(error))}; "
                    "make one with `fbnetv3 export`"
                ) from error
        return made

    @contextlib.contextmanager
    def taken(self) -> Iterator[Any]:
        """Yields an interpreter for this thread alone; waits while all are taken."""
        found = self._free.get()
        try:
            found = found or self.start()
            yield found
        finally:
            self._free.put(found)


class LiteRtSession:
    """A LiteRT file; see `session.Session`.

    Args:
        path: the file.
        opened: its interpreters.
    """

    def __init__(self, path: Path, opened: Reopened[_Interpreters]) -> None:
        self._path, self._opened = path, opened
        found = opened.get()
        self.metadata: Mapping[str, str] = found.metadata
        self.inputs = [_info(INPUT, detail) for detail in found.inputs]
        self.outputs = [_info(OUTPUT, detail) for detail in found.outputs]

    def run(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Returns the logits of a batch in the graph's input layout."""
        return self.run_all(batch)[0]

    def run_all(self, batch: NDArray[Any]) -> list[NDArray[Any]]:
        """Returns all outputs, in the order of `outputs`."""
        with self._opened.get().taken() as interpreter:
            self._bound(interpreter, batch)()
            indices = [detail["index"] for detail in interpreter.get_output_details()]
            return [np.array(interpreter.get_tensor(index)) for index in indices]

    def bind(self, batch: NDArray[Any]) -> Callable[[], Any]:
        """Returns a function that runs the graph on this batch."""
        return self._bound(self._opened.get().start(), batch)

    def _bound(self, interpreter: Any, batch: NDArray[Any]) -> Callable[[], Any]:
        (fed, *_), (read, *_) = interpreter.get_input_details(), interpreter.get_output_details()
        batch = np.ascontiguousarray(batch)

        def run() -> Any:
            try:
                interpreter.set_tensor(fed["index"], batch)
                interpreter.invoke()
            except (RuntimeError, ValueError) as error:
                raise ValueError(
                    f"{self._path} cannot be run on an input of shape {batch.shape}: "
                    f"{one_line(str(error))}"
                ) from error
            return interpreter.get_tensor(read["index"])

        return run


def precisions() -> tuple[str, ...]:
    """Returns the precisions in which LiteRT runs a float32 file."""
    return ("fp32",)


def open_session(
    path: Path, *, threads: int | None = None, precision: str = "fp32"
) -> LiteRtSession:
    """Opens a LiteRT file of any origin.

    Args:
        path: the `.tflite` file.
        threads: number of inference threads; default: one per core.
        precision: "fp32".

    Raises:
        ValueError: LiteRT cannot read the file, or an option is not supported.
    """
    if precision not in precisions():
        raise ValueError(f"precision is {precision!r}; LiteRT runs a float32 file in fp32")
    check_threads(threads)
    start = functools.partial(_Interpreters, path.absolute(), threads or available_cpus())
    return LiteRtSession(path, Reopened(start))


def need_writer() -> None:
    """Checks that files can be written here.

    Raises:
        ImportError: they cannot; the message has a command that writes them elsewhere.
    """
    from ..elsewhere import command_elsewhere

    try:
        with _quiet():
            need("litert_torch")
    except ImportError as error:
        raise ImportError(
            "writing a .tflite file needs litert-torch, which does not work beside torch 2.15 or "
            "later; this runs the command in an environment of its own: "
            + command_elsewhere(_CONVERTER)
        ) from error


def export(
    model: FBNetV3,
    path: str | Path,
    *,
    preprocess: Preprocess | None = None,
    class_names: Sequence[str] | None = None,
    license: str | None = None,
    batch_size: int | None = None,
) -> Parity:
    """Exports a model to a LiteRT file (`.tflite`) and checks it.

    The same model gives the same bytes.

    Args:
        model: a model in any mode; not modified.
        path: the file to write.
        preprocess: preprocessing of images, which sets the input size; default: the model's.
        class_names: class names in the order of the logits; default: those of the model's weights.
        license: SPDX name of the licence of your own weights; default: that of the model's.
        batch_size: the batch size of the file; default: one.

    Raises:
        ValueError: the file's logits differ, or the path is wrong; nothing is written then.
        ImportError: litert-torch is not installed.
    """
    need_writer()
    import torch

    from ..describe import describe
    from ..export_graph import inference_graph
    from ..gate import proved

    artefact = describe(
        model,
        preprocess=preprocess,
        class_names=class_names,
        batch_size=1 if batch_size is None else batch_size,
        license=license,
        tools=("litert-torch",),
    )
    size = artefact.preprocess.crop
    with replacing(Path(path)) as part:
        written: list[bytes] = []

        def build(model: FBNetV3) -> Run:
            example = (torch.zeros(artefact.batch_size or 1, model.in_chans, size, size),)
            written[:] = [_converted(inference_graph(model, artefact), example, part)]
            _write(part, written[0], artefact)
            return open_session(part, threads=1).run

        parity = proved(build, model, artefact)
        _write(part, written[0], dataclasses.replace(artefact, parity=parity.to_dict()))
        open_session(part, threads=1)
    return parity


def write(
    module: nn.Module, example: tuple[Tensor, ...], path: Path, metadata: Mapping[str, str]
) -> None:
    """Writes a module as a LiteRT file, unchecked.

    Args:
        module: in evaluation mode.
        example: what it takes; all shapes are those of these.
        path: the `.tflite` file.
        metadata: string pairs; `fbnetv3.labels` has the class names as JSON.

    Raises:
        ImportError: litert-torch is not installed.
    """
    need_writer()
    _converted(module, example, path)
    restate(path, metadata)


def restate(path: Path, metadata: Mapping[str, str]) -> None:
    """Replaces the metadata of a file.

    Args:
        path: the `.tflite` file.
        metadata: string pairs; `fbnetv3.labels` has the class names as JSON.
    """
    model, _ = _parts(path)
    _write_pairs(path, model, metadata, read_json(metadata[PREFIX + "labels"], "labels"))


def _converted(module: nn.Module, example: tuple[Tensor, ...], path: Path) -> bytes:
    """Returns a module as LiteRT's bytes, which are at `path` then."""
    import litert_torch

    with _quiet():
        litert_torch.convert(module, example).export(str(path))
    return path.read_bytes()


def quantize(
    source: Path,
    path: Path,
    calibration: Sequence[ImageSource],
    evaluator: Evaluator,
    *,
    method: str | None,
    max_drop_pct: float | None,
    sensitivity: bool,  # the quantizer has no such report
) -> Int8Result:
    """Writes an int8 file; only its weights are int8 if int8 activations exceed the budget.

    Args:
        source: a float32 file of this format.
        path: the file to write.
        calibration: images for the ranges.
        evaluator: holds the float file.
        method: None; the quantizer has its own.
        max_drop_pct: largest loss, in points.
        sensitivity: not used.
    """
    if method is not None:
        raise ValueError(f"method is {method!r}; it is for onnxruntime, LiteRT has its own")
    need("ai_edge_quantizer")
    fed = [
        batch[n : n + 1]
        for batch in evaluator.reader.batches(calibration)
        for n in range(len(batch))
    ]
    model, _ = _parts(source)
    with replacing(path) as part:
        for form, recipe in _RECIPES.items():
            artefact = dataclasses.replace(
                evaluator.float_model.artefact,
                precision="int8",
                parity={},
                quantization={
                    "runtime": "litert",
                    "format": form,
                    "calibration": "moving average of minima and maxima",
                    "num_images": len(fed),
                },
            )
            quantized = _quantized(model, fed, recipe)
            _write(part, quantized, artefact)
            score = evaluator.score(ExportedBackend(part, open_session(part)))
            if max_drop_pct is None or score.drop_pct <= max_drop_pct:
                artefact = dataclasses.replace(artefact, confidence=score.confidence)
                _write(part, quantized, artefact)
                return Int8Result(artefact, score, method=form)
        raise over_budget(score, max_drop_pct, "also with activations in float")


def _quantized(model: bytes, fed: Sequence[NDArray[Any]], recipe_name: str) -> bytes:
    """Returns a model with int8 weights; its input and output stay float32."""
    with _quiet():
        from ai_edge_litert.interpreter import Interpreter
        from ai_edge_quantizer import recipe
        from ai_edge_quantizer.quantizer import Quantizer

        quantizer = Quantizer(model, getattr(recipe, recipe_name)())
        for operator in ("INPUT", "OUTPUT", *_IN_FLOAT):
            quantizer.update_quantization_recipe(
                ".*",
                recipe.TFLOperationName[operator],
                algorithm_key=recipe.AlgorithmName.NO_QUANTIZE,
            )
        ranges = None
        if quantizer.need_calibration:
            signatures = Interpreter(model_content=model).get_signature_list()
            ((name, ends),) = signatures.items()
            (given,) = ends["inputs"]
            ranges = quantizer.calibrate({name: [{given: image} for image in fed]}, num_threads=1)
        result = quantizer.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    return bytes(result.quantized_model)


def _write(path: Path, model: bytes, artefact: Artefact) -> None:
    """Writes a classifier with its archive."""
    _write_pairs(path, model, artefact.to_metadata(), artefact.class_names)


def _write_pairs(
    path: Path, model: bytes, metadata: Mapping[str, str], labels: Sequence[str]
) -> None:
    """Writes a model with its archive."""
    card = {
        "metadata": dict(metadata),
        "num_bytes": len(model),
        "sha256": hashlib.sha256(model).hexdigest(),
    }
    path.write_bytes(model)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
        for name, text in (
            (_CARD, json.dumps(card, sort_keys=True, indent=1)),
            (_LABELS, "".join(f"{label}\n" for label in labels)),
        ):
            # A `ZipInfo` is of 1980 unless told otherwise, so that the bytes repeat.
            archive.writestr(zipfile.ZipInfo(name), text)


def _parts(path: Path) -> tuple[bytes, dict[str, str]]:
    """Returns the model of a file and its string pairs, none of a file of other origin."""
    content = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            card = read_json(archive.read(_CARD).decode(), f"{_CARD} in {path}")
        model = content[: card["num_bytes"]]
        found = card["sha256"] == hashlib.sha256(model).hexdigest()
        pairs: dict[str, str] = dict(card["metadata"])
    except zipfile.BadZipFile:
        return content, {}
    except (*ZIP_ERRORS, KeyError, TypeError, ValueError) as error:
        if isinstance(error, KeyError) and _CARD in str(error):
            return content, {}  # another tool's archive
        raise ValueError(
            f"{path} has damaged metadata ({one_line(str(error))}); export it again"
        ) from error
    if not found:
        raise ValueError(f"{path} is damaged: its model is not what was exported; export it again")
    return model, pairs


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences progress bars, log messages and warnings of the tools that write files."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            quiet_stderr(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _info(name: str, detail: Mapping[str, Any]) -> TensorInfo:
    shape = tuple(int(length) for length in detail["shape_signature"])
    return TensorInfo(name, np.dtype(detail["dtype"]).name, shape)
