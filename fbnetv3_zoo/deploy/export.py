"""Exports a model to ONNX and checks the file against the model.

`to_onnx` folds batch-norm, runs torch's exporter, cleans the graph, and compares it with the model
in onnxruntime. The file gets its name only if the check passes. This file makes floating-point
files; `quantize` makes int8 ones, `runtimes` other formats.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fbnetv3._internal.files import replacing
from fbnetv3._version import __version__
from fbnetv3.images.preprocess import Preprocess
from fbnetv3.models.model import FBNetV3, unwrapped

from .artefact import INPUT, OUTPUT, Artefact
from .describe import describe
from .export_graph import inference_graph, reference_of, scaled_copy, untested_weights
from .parity import TOLERANCE, Parity, compare, inputs_for
from .words import Dynamic, Precision

# torch's exporter supports opset 18 and later; for less it writes 18 with only a log message. 18 is
# the default because most runtimes read it, and these models need no later one.
MIN_OPSET = 18
# The limit of a protobuf file is 2 GiB.
_MAX_BYTES = 1_800_000_000


@dataclass(frozen=True)
class Exported:
    """An exported file that has passed its check.

    Attributes:
        path: the file.
        sha256: SHA-256 of the file.
        num_bytes: size of the file.
        opset: ONNX opset of the file.
        num_nodes: number of nodes in the graph.
        parity: comparison with the model.
        artefact: the metadata of the file.
    """

    path: Path
    sha256: str
    num_bytes: int
    opset: int
    num_nodes: int
    parity: Parity
    artefact: Artefact


def to_onnx(
    model: FBNetV3,
    path: str | Path,
    *,
    dynamic: Dynamic | None = "batch",
    precision: Precision = "fp32",
    opset: int = MIN_OPSET,
    include_preprocess: bool = False,
    preprocess: Preprocess | None = None,
    class_names: Sequence[str] | None = None,
    license: str | None = None,
    batch_size: int | None = None,
) -> Exported:
    """Exports a model to ONNX, checks the file against it, and describes the file.

    The input `input` is float32 (N, C, H, W), the output `logits` float32 (N, num_classes). The
    same model gives the same bytes.

    Args:
        model: a model in any mode, on any device; not modified.
        path: the file to write; an existing one is replaced only if the check passes.
        dynamic: dynamic axes of the input: the batch, or the batch, height and width; None fixes
            all of them.
        precision: precision of weights and arithmetic; with fp16, input and output stay float32.
        opset: ONNX opset, 18 or later.
        include_preprocess: take uint8 (N, H, W, 3) and scale and normalise in the graph. Resizing
            and cropping stay outside.
        preprocess: preprocessing of images; default: the model's.
        class_names: class names in the order of the logits; default: those of the model's weights.
        license: SPDX name of the licence of your own weights; default: that of the model's.
        batch_size: the batch size if `dynamic` is None; default: one.

    Raises:
        ValueError: an argument is out of range, the path cannot be written, or the file's logits
            differ from the model's; nothing is written then.
        RuntimeError: torch's exporter failed or wrote an unexpected graph.
    """
    import onnx

    path = Path(path)
    model = unwrapped(model)
    _check_arguments(model, dynamic, precision, opset, include_preprocess)
    if dynamic and batch_size is not None:
        raise ValueError(
            f"batch_size is {batch_size!r} and dynamic is {dynamic!r}; give dynamic=None to fix it"
        )
    artefact = describe(
        model,
        preprocess=preprocess,
        class_names=class_names,
        precision=precision,
        in_graph=include_preprocess,
        opset=opset,
        batch_size=None if dynamic else 1 if batch_size is None else batch_size,
        license=license,
    )
    with replacing(path) as part:
        proto = _trace(model, artefact, dynamic, opset)
        parity = _compared(proto, model, artefact, dynamic)
        crop = artefact.preprocess.crop
        if parity.evidence == "none" or untested_weights(model, crop):
            parity = _compared_scaled(proto, scaled_copy(model, crop), artefact, dynamic, parity)
        artefact = dataclasses.replace(artefact, parity=parity.to_dict())
        _set_metadata(proto, artefact)
        content = proto.SerializeToString(deterministic=True)
        if len(content) > _MAX_BYTES:
            raise ValueError(f"the file would have {len(content)} bytes; expected < {_MAX_BYTES}")
        part.write_bytes(content)
        onnx.checker.check_model(str(part), full_check=True)
        _check_written(part, proto, artefact)
    return Exported(
        path=path,
        sha256=hashlib.sha256(content).hexdigest(),
        num_bytes=len(content),
        opset=opset,
        num_nodes=len(proto.graph.node),
        parity=parity,
        artefact=artefact,
    )


def _compared(proto: Any, model: FBNetV3, artefact: Artefact, dynamic: Dynamic | None) -> Parity:
    reference = reference_of(model, artefact)
    batches = inputs_for(
        artefact,
        in_chans=model.in_chans,
        batch_sizes=(1, 3) if artefact.batch_size is None else (artefact.batch_size,),
        free_size=dynamic == "batch+size",
    )
    return compare(
        _runner(proto.SerializeToString()),
        reference.logits,
        batches,
        tolerance=TOLERANCE[artefact.precision],
        exact=reference.exact_logits,
    )


def _compared_scaled(
    proto: Any, scaled: FBNetV3, artefact: Artefact, dynamic: Dynamic | None, parity: Parity
) -> Parity:
    """Returns `parity` with the evidence of a model whose layers all count.

    It goes the same way as the model and must become the same graph.
    """
    other = _trace(scaled, artefact, dynamic, int(artefact.exported_with["opset"]))
    if _nodes(other) != _nodes(proto):
        raise RuntimeError("a copy with random batch-norm scales is exported as another graph")
    found = _compared(other, scaled, artefact, dynamic)
    proved = found.evidence == "weights" and not untested_weights(scaled, artefact.preprocess.crop)
    return dataclasses.replace(parity, evidence="scaled copy" if proved else parity.evidence)


def _nodes(proto: Any) -> list[tuple[str, str]]:
    return [(node.name, node.op_type) for node in proto.graph.node]


def _trace(model: FBNetV3, artefact: Artefact, dynamic: Dynamic | None, opset: int) -> Any:
    from .onnx_graph import clean

    size = artefact.preprocess.crop
    batch = artefact.batch_size or 2
    example = (
        torch.zeros(batch, size, size, 3, dtype=torch.uint8)
        if artefact.in_graph
        else torch.zeros(batch, model.in_chans, size, size)
    )
    axes: dict[int, str] = {0: "batch"} if dynamic else {}
    if dynamic == "batch+size":
        height, width = (1, 2) if artefact.in_graph else (2, 3)
        axes |= {height: "height", width: "width"}
    try:
        with quiet():
            program = torch.onnx.export(
                inference_graph(model, artefact),
                (example,),
                dynamo=True,
                opset_version=opset,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=(axes,) if axes else None,
                external_data=False,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise RuntimeError(f"torch's exporter failed: {error}") from error
    assert program is not None
    proto = program.model_proto
    written = {entry.domain: entry.version for entry in proto.opset_import}
    if written != {"": opset}:
        raise ValueError(
            f"opset is {opset}, but torch {torch.__version__} wrote {written}; use "
            f"opset={MIN_OPSET} or another that it supports"
        )
    clean(proto)
    return proto


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences the exporter's progress and log messages."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _set_metadata(proto: Any, artefact: Artefact) -> None:
    import onnx

    proto.producer_name = "fbnetv3"
    proto.producer_version = __version__
    proto.domain = "fbnetv3"
    proto.model_version = 1
    classes = f", {len(artefact.class_names)} named classes" if artefact.num_classes else ""
    proto.doc_string = f"{artefact.name}: {artefact.task.replace('-', ' ')}{classes}"
    onnx.helper.set_model_props(proto, artefact.to_metadata())


def _runner(model: bytes | str) -> Callable[[NDArray[Any]], NDArray[Any]]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    # One thread, so that the parity figures in the file repeat.
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda batch: np.asarray(session.run([OUTPUT], {INPUT: batch})[0])


def _check_written(part: Path, proto: Any, artefact: Artefact) -> None:
    """Checks that the file on disk gives the same logits as the graph that was compared."""
    dims = [dim.dim_value or 0 for dim in proto.graph.input[0].type.tensor_type.shape.dim]
    shape = [dims[0] or 1, *(dim or artefact.preprocess.crop for dim in dims[1:])]
    dtype = np.uint8 if artefact.in_graph else np.float32
    batch = np.random.default_rng(1).integers(0, 256, shape).astype(dtype)
    if not np.array_equal(_runner(str(part))(batch), _runner(proto.SerializeToString())(batch)):
        raise RuntimeError(f"{part} gives other logits than before it was written")


def _check_arguments(
    model: FBNetV3,
    dynamic: str | None,
    precision: str,
    opset: int,
    include_preprocess: bool,
) -> None:
    if model.pool_type == "":
        raise ValueError(
            "the model has no pooling (global_pool=''); its output is not (N, classes)"
        )
    if dynamic not in ("batch", "batch+size", None):
        raise ValueError(f"dynamic is {dynamic!r}; expected 'batch', 'batch+size' or None")
    if precision not in TOLERANCE:
        raise ValueError(f"precision is {precision!r}; expected one of {list(TOLERANCE)}")
    if isinstance(opset, bool) or not isinstance(opset, int) or opset < MIN_OPSET:
        raise ValueError(
            f"opset is {opset!r}; torch's exporter writes {MIN_OPSET} and later, which "
            "onnxruntime reads since 1.14"
        )
    import onnx

    if opset > onnx.defs.onnx_opset_version():
        raise ValueError(
            f"opset is {opset}; the installed onnx {onnx.__version__} supports up to "
            f"{onnx.defs.onnx_opset_version()}"
        )
    if include_preprocess and model.in_chans != 3:
        raise ValueError(
            f"include_preprocess needs 3 input channels; the model has {model.in_chans}"
        )
