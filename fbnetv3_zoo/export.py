"""A model to one ONNX file that has been proved equal to it.

`to_onnx` folds batch-norm, lets torch's exporter write the graph, cleans it, and compares the file
with the model in onnxruntime before the file gets its name. A file that exists has passed. The edge
of this file: it makes floating-point files; `quantize` makes them int8, `targets` other formats.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import io
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ._version import __version__
from .artefact import INPUT, OUTPUT, Artefact, written_whole
from .counts import count
from .inference import fold_batch_norm
from .model import FBNetV3
from .parity import Parity, compare, inputs_for
from .preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from .pretrained_cfg import class_names_of, preprocess_of, weights_of

Dynamic = Literal["batch", "batch+size"]
Precision = Literal["fp32", "fp16"]

# The exporter has implementations for 18 and later: asked for less it writes 18 and only logs so.
# 18 is the default because the most runtimes read it; nothing in these networks needs more.
MIN_OPSET = 18
# A protobuf file ends at 2 GiB.
_MAX_BYTES = 1_800_000_000
# Largest difference over the spread of an image's logits. fp32: both sides are this far from
# float64 at most; see `compare`. fp16: 60 to 80 layers of 11-bit arithmetic.
TOLERANCE = {"fp32": 1e-3, "fp16": 5e-2}


@dataclass(frozen=True)
class Exported:
    """A file that has passed.

    Attributes:
        path: where it lies.
        sha256: of the file.
        num_bytes: of the file.
        opset: as the file has it.
        num_nodes: operators in the graph.
        parity: how near it is to the model.
        artefact: what the file says about itself.
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
) -> Exported:
    """Writes `model` as an ONNX file, compares the file with it, and returns what was written.

    The input is called `input` and is float32 (N, C, H, W), the output `logits`, float32
    (N, num_classes). The same model gives the same bytes.

    Args:
        model: of any mode and device; left as it is.
        path: the file to write; an older one is replaced only by one that has passed.
        dynamic: which sides of the input are free: the batch, the batch and the image's height and
            width, or none, which fixes a batch of one.
        precision: of weights and arithmetic; fp16 keeps float32 at both ends.
        opset: ONNX operator set, 18 or later.
        include_preprocess: take uint8 (N, H, W, 3) and scale and normalise in the graph. Resizing
            and cropping stay outside.
        preprocess: what images go through; the model's own unless given.
        class_names: in the order of the logits; those of the model's weights unless given.

    Raises:
        ValueError: an argument is out of range, the path cannot be written, or the file gives
            other logits than the model: nothing is written then.
        RuntimeError: torch's exporter failed or did not do what was asked.
    """
    import onnx

    path = Path(path)
    _check_arguments(model, dynamic, precision, opset, include_preprocess)
    artefact = describe(
        model,
        preprocess=preprocess,
        class_names=class_names,
        precision=precision,
        in_graph=include_preprocess,
        opset=opset,
    )
    with written_whole(path) as part:
        proto = _trace(model, artefact, dynamic, opset)
        reference = reference_of(model, artefact)
        batches = inputs_for(
            artefact,
            in_chans=model.in_chans,
            batch_sizes=(1, 3) if dynamic else (1,),
            free_size=dynamic == "batch+size",
        )
        parity = compare(
            _runner(proto.SerializeToString()),
            reference.logits,
            batches,
            tolerance=TOLERANCE[precision],
            exact=reference.exact_logits,
        )
        artefact = dataclasses.replace(artefact, parity=parity.to_dict())
        _describe_in(proto, artefact)
        content = proto.SerializeToString(deterministic=True)
        if len(content) > _MAX_BYTES:
            raise ValueError(f"the file would have {len(content)} bytes; expected < {_MAX_BYTES}")
        part.write_bytes(content)
        onnx.checker.check_model(str(part), full_check=True)
        _check_same(part, proto, artefact)
    return Exported(
        path=path,
        sha256=hashlib.sha256(content).hexdigest(),
        num_bytes=len(content),
        opset=opset,
        num_nodes=len(proto.graph.node),
        parity=parity,
        artefact=artefact,
    )


def describe(
    model: FBNetV3,
    *,
    preprocess: Preprocess | None = None,
    class_names: Sequence[str] | None = None,
    precision: str = "fp32",
    in_graph: bool = False,
    opset: int | None = None,
) -> Artefact:
    """Returns what an exported file says about a model, before it has been compared.

    Args:
        model: its `pretrained_cfg` names the weights.
        preprocess: in place of the model's own.
        class_names: in place of those of the weights.
        precision: of the file.
        in_graph: whether the graph normalises.
        opset: of the file, where it is ONNX.

    Raises:
        ValueError: `class_names` are not as many as the model has classes.
    """
    import onnx
    import onnxscript

    weights = weights_of(model)
    if class_names is None:
        class_names = class_names_of(model)
    elif len(class_names) != model.num_classes:
        raise ValueError(
            f"{len(class_names)} class_names for {model.num_classes} classes; give one a class"
        )
    preprocess = preprocess or preprocess_of(model) or _usual_preprocess(model)
    counts = count(
        model.arch,
        preprocess.crop,
        num_classes=model.num_classes,
        in_chans=model.in_chans,
    )
    name = str(model.pretrained_cfg.get("architecture", "fbnetv3"))
    return Artefact(
        name=weights.name if weights else name,
        arch=model.arch,
        preprocess=preprocess,
        in_graph=in_graph,
        class_names=tuple(class_names),
        weights_tag=weights.tag if weights else "",
        weights_sha256=getattr(weights and weights.source, "sha256", None) or tensors_sha256(model),
        license=weights.license if weights else "",
        source_url=weights.origin if weights else "",
        macs_paper=counts.macs_paper,
        params=sum(parameter.numel() for parameter in model.parameters()),
        precision=precision,
        exported_with={
            "fbnetv3": __version__,
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "onnxscript": onnxscript.__version__,
            **({"opset": str(opset)} if opset else {}),
        },
    )


def tensors_sha256(model: nn.Module) -> str:
    """Returns the SHA-256 of a model's tensors: names, shapes and bytes, sorted by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@dataclass(frozen=True)
class Reference:
    """The model's own answers: arrays as the file takes them, to logits."""

    logits: Callable[[NDArray[Any]], NDArray[Any]]
    exact_logits: Callable[[NDArray[Any]], NDArray[Any]]


def reference_of(model: FBNetV3, artefact: Artefact) -> Reference:
    """Returns the model's logits in float32, and in float64 for when the two sides differ."""
    plain = copy.deepcopy(model).cpu().float().eval()

    def run(batch: NDArray[Any], dtype: torch.dtype) -> NDArray[Any]:
        x = torch.from_numpy(batch)
        if artefact.in_graph:
            # In the order of `Preprocess`, not of the graph: the comparison covers both.
            mean, std = _mean_and_std(artefact.preprocess)
            x = (x.permute(0, 3, 1, 2).contiguous().to(dtype) / 255 - mean) / std
        with torch.inference_mode():
            logits: Tensor = plain.to(dtype)(x.to(dtype))
        return logits.numpy()

    return Reference(
        lambda batch: run(batch, torch.float32), lambda batch: run(batch, torch.float64)
    )


class _MeanPool(nn.Module):
    """Average over the map. `AdaptiveAvgPool2d` exports with shape arithmetic for some layouts."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns (N, C, 1, 1) of (N, C, H, W)."""
        return x.mean((2, 3), keepdim=True)


class _Whole(nn.Module):
    """What the file computes: the network, with casts and normalisation where asked for."""

    def __init__(self, model: FBNetV3, artefact: Artefact) -> None:
        super().__init__()
        self.model = model
        self.in_graph = artefact.in_graph
        self.half_inside = artefact.precision == "fp16"
        mean, std = _mean_and_std(artefact.preprocess)
        self.shift = nn.Buffer(mean * 255)
        self.scale = nn.Buffer(1 / (std * 255))

    def forward(self, x: Tensor) -> Tensor:
        """Returns float32 logits (N, num_classes)."""
        if self.in_graph:
            # Normalised in float32 also where the rest is fp16: 255 steps need 8 of its 11 bits.
            x = (x.permute(0, 3, 1, 2).float() - self.shift) * self.scale
        if self.half_inside:
            return self.model(x.half()).float()  # type: ignore[no-any-return]
        return self.model(x)  # type: ignore[no-any-return]


def inference_graph(model: FBNetV3, artefact: Artefact) -> nn.Module:
    """Returns what a file computes, ready for an exporter: folded, plain, on the processor."""
    folded = fold_batch_norm(model).cpu().float()
    folded = folded.to(memory_format=torch.contiguous_format)
    for module in folded.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.AdaptiveAvgPool2d):
                setattr(module, name, _MeanPool())
        # In-place activations are decomposed and recomposed by the exporter: five times slower.
        if getattr(module, "inplace", False):
            setattr(module, "inplace", False)  # noqa: B010  # no attribute of nn.Module
    if artefact.precision == "fp16":
        folded = folded.half()
    return _Whole(folded, artefact).eval()


def _trace(model: FBNetV3, artefact: Artefact, dynamic: Dynamic | None, opset: int) -> Any:
    from .onnx_graph import clean

    side = artefact.preprocess.crop
    batch = 2 if dynamic else 1
    example = (
        torch.zeros(batch, side, side, 3, dtype=torch.uint8)
        if artefact.in_graph
        else torch.zeros(batch, model.in_chans, side, side)
    )
    free: dict[int, str] = {0: "batch"} if dynamic else {}
    if dynamic == "batch+size":
        height, width = (1, 2) if artefact.in_graph else (2, 3)
        free |= {height: "height", width: "width"}
    try:
        with _quiet():
            program = torch.onnx.export(
                inference_graph(model, artefact),
                (example,),
                dynamo=True,
                opset_version=opset,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=(free,) if free else None,
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
            f"opset {opset} was asked for and torch {torch.__version__} wrote {written}; use "
            f"opset={MIN_OPSET} or another that it honours"
        )
    clean(proto)
    return proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's progress and version-conversion chatter from the caller's terminal."""
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


def _describe_in(proto: Any, artefact: Artefact) -> None:
    import onnx

    proto.producer_name = "fbnetv3"
    proto.producer_version = __version__
    proto.domain = "fbnetv3"
    proto.model_version = 1
    proto.doc_string = (
        f"{artefact.name}: image classification, {len(artefact.class_names)} named classes"
    )
    onnx.helper.set_model_props(proto, artefact.to_metadata())


def _runner(model: bytes | str) -> Callable[[NDArray[Any]], NDArray[Any]]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    # One thread, so that the parity figures in the file are the same at every export.
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda batch: np.asarray(session.run([OUTPUT], {INPUT: batch})[0])


def _check_same(part: Path, proto: Any, artefact: Artefact) -> None:
    """Runs the file as it lies on the disk once more: it must be what was compared."""
    dims = [dim.dim_value or 0 for dim in proto.graph.input[0].type.tensor_type.shape.dim]
    side = artefact.preprocess.crop
    shape = [1, *(dim or side for dim in dims[1:])]
    dtype = np.uint8 if artefact.in_graph else np.float32
    batch = np.random.default_rng(1).integers(0, 256, shape).astype(dtype)
    if not np.array_equal(_runner(str(part))(batch), _runner(proto.SerializeToString())(batch)):
        raise RuntimeError(f"{part} read back gives other logits than before it was written")


def _check_arguments(
    model: FBNetV3,
    dynamic: str | None,
    precision: str,
    opset: int,
    include_preprocess: bool,
) -> None:
    if not isinstance(model, FBNetV3):
        raise ValueError(
            f"model is a {type(model).__name__}; expected an FBNetV3, see fbnetv3.create()"
        )
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
            f"opset is {opset}; the installed onnx {onnx.__version__} knows up to "
            f"{onnx.defs.onnx_opset_version()}"
        )
    if include_preprocess and model.in_chans != 3:
        raise ValueError(
            f"include_preprocess needs 3 input channels, the model has {model.in_chans}"
        )


def _usual_preprocess(model: FBNetV3) -> Preprocess:
    # Nobody has chosen; timm's usual share is cut off, and nothing of a thumbnail.
    side = model.arch.resolution
    resize = side if side < 64 else math.floor(side / 0.95)
    return Preprocess(
        resize=resize,
        crop=side,
        interpolation="bilinear",
        antialias=True,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


def _mean_and_std(preprocess: Preprocess) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocess.mean, preprocess.std))
    return mean, std
