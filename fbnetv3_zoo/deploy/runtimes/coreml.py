"""A model as a Core ML package ("ML program"), written anywhere and run on a Mac. Extra `coreml`.

The package (`.mlpackage`, a folder) takes a fixed number of images, float32 (N, C, H, W), and
returns float32 logits (N, num_classes); its metadata are the user-defined ones of the format.
Elsewhere than on a Mac it is checked by computing its operators in torch (`mil_operators`), which
shows that graph and weights are those of the model; Core ML's own arithmetic is not tried.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fbnetv3._internal.files import replacing_folder
from fbnetv3._internal.messages import one_line
from fbnetv3._internal.optional import need
from fbnetv3.images.preprocess import Preprocess

from ..artefact import INPUT, OUTPUT, Artefact
from ..parity import Parity, Run
from .session import TensorInfo, check_threads

if TYPE_CHECKING:
    from fbnetv3.models.model import FBNetV3

_MODEL = "Data/com.apple.CoreML/model.mlmodel"
_WEIGHTS = "Data/com.apple.CoreML/weights"
_MAC = "darwin"
_CHECKED = (
    "checked by computing its operators in torch; Core ML itself, which needs a Mac, has not run"
)


class CoreMlSession:
    """A Core ML package; see `session.Session`. It computes on a Mac only.

    Args:
        path: the folder.
        spec: its model specification.
    """

    def __init__(self, path: Path, spec: Any) -> None:
        self._path = path
        description = spec.description
        self.metadata: Mapping[str, str] = dict(description.metadata.userDefined)
        self.inputs = [_info(value) for value in description.input]
        self.outputs = [_info(value) for value in description.output]
        self._model: Any = None

    def run(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Returns the logits of a batch in the graph's input layout."""
        try:
            return np.asarray(self.bind(batch)())
        except RuntimeError as error:
            raise ValueError(
                f"{self._path} cannot be run on an input of shape {batch.shape}: "
                f"{one_line(str(error))}"
            ) from error

    def bind(self, batch: NDArray[Any]) -> Callable[[], Any]:
        """Returns a function that runs the graph on this batch."""
        if sys.platform != _MAC:
            raise ValueError(
                f"{self._path} runs only on a Mac; export the model to .onnx to run it here"
            )
        if self._model is None:
            import coremltools

            self._model = coremltools.models.MLModel(str(self._path))
        model = self._model
        return lambda: model.predict({INPUT: batch})[OUTPUT]


def precisions() -> tuple[str, ...]:
    """Returns the precisions in which a float32 package runs."""
    return ("fp32",)


def open_session(
    path: Path, *, threads: int | None = None, precision: str = "fp32"
) -> CoreMlSession:
    """Opens a package; on another system than a Mac its metadata can be read.

    Args:
        path: the `.mlpackage` folder.
        threads: checked and not used: Core ML has no such setting.
        precision: "fp32".

    Raises:
        ValueError: the folder is no Core ML package, or an option is not supported.
    """
    if precision not in precisions():
        raise ValueError(f"precision is {precision!r}; a float32 package runs in fp32")
    check_threads(threads)
    return CoreMlSession(path, _spec(path))


def need_library() -> None:
    """Imports coremltools, which logs that this is no Mac, and every version that is not its own.

    Raises:
        ImportError: coremltools is not installed.
    """
    with _quiet():
        need("coremltools")


def export(
    model: FBNetV3,
    path: str | Path,
    *,
    preprocess: Preprocess | None = None,
    class_names: Sequence[str] | None = None,
    license: str | None = None,
    batch_size: int | None = None,
) -> Parity:
    """Exports a model to a Core ML package (`.mlpackage`, iOS 16 and macOS 13) and checks it.

    The same model gives the same bytes. The comparison is with the package's operators as torch
    computes them, on any system.

    Args:
        model: a model in any mode; not modified.
        path: the folder to write.
        preprocess: preprocessing of images, which sets the input size; default: the model's.
        class_names: class names in the order of the logits; default: those of the model's weights.
        license: SPDX name of the licence of your own weights; default: that of the model's.
        batch_size: the batch size of the package; default: one.

    Raises:
        ValueError: the package's logits differ, or the path is wrong; nothing is written then.
        ImportError: coremltools is not installed.
    """
    need_library()
    from ..describe import describe
    from ..gate import proved

    artefact = describe(
        model,
        preprocess=preprocess,
        class_names=class_names,
        batch_size=1 if batch_size is None else batch_size,
        license=license,
        tools=("coremltools",),
    )
    with replacing_folder(Path(path)) as part, _quiet():

        def build(model: FBNetV3) -> Run:
            _convert(model, artefact, part)
            return _operators(part)

        parity = proved(build, model, artefact)
        _describe(part, dataclasses.replace(artefact, parity=parity.to_dict()))
        _operators(part)  # what lies there in the end can be read
    return parity


def _convert(model: FBNetV3, artefact: Artefact, folder: Path) -> None:
    """Writes a package without metadata."""
    import coremltools
    import torch

    from ..export_graph import inference_graph

    size = artefact.preprocess.crop
    example = (torch.zeros(artefact.batch_size or 1, model.in_chans, size, size),)
    program = torch.export.export(inference_graph(model, artefact), example)
    package = coremltools.convert(
        program.run_decompositions({}),
        convert_to="mlprogram",
        minimum_deployment_target=coremltools.target.iOS16,
        compute_precision=coremltools.precision.FLOAT32,
        skip_model_load=True,
    )
    spec = package.get_spec()
    for value, name in ((spec.description.input, INPUT), (spec.description.output, OUTPUT)):
        coremltools.utils.rename_feature(spec, value[0].name, name)
    # Its values are the date and the like.
    spec.description.metadata.userDefined.clear()
    (folder / _WEIGHTS).mkdir(parents=True, exist_ok=True)
    for weights in Path(package.weights_dir).iterdir():
        (folder / _WEIGHTS / weights.name).write_bytes(weights.read_bytes())
    _write(folder, spec)


def _describe(folder: Path, artefact: Artefact) -> None:
    spec = _spec(folder)
    metadata = spec.description.metadata
    metadata.shortDescription = f"{artefact.name}: image classification, {_CHECKED}"
    metadata.license = artefact.license
    metadata.author = "fbnetv3"
    metadata.userDefined.update(artefact.to_metadata())
    _write(folder, spec)


def _write(folder: Path, spec: Any) -> None:
    """Writes the specification and the list of a package's parts."""
    content = spec.SerializeToString(deterministic=True)
    (folder / _MODEL).write_bytes(content)
    # Random in Apple's own tools; these repeat.
    seed = uuid.UUID(bytes=hashlib.sha256(content).digest()[:16])
    parts = {
        str(uuid.uuid5(seed, name)).upper(): {
            "author": "com.apple.CoreML",
            "description": f"CoreML Model {kind}",
            "name": name,
            "path": f"com.apple.CoreML/{name}",
        }
        for name, kind in (("model.mlmodel", "Specification"), ("weights", "Weights"))
    }
    listing = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": parts,
        "rootModelIdentifier": next(iter(parts)),
    }
    (folder / "Manifest.json").write_text(json.dumps(listing, indent=4) + "\n")


def _operators(folder: Path) -> Run:
    """Returns a function that computes a written package in torch."""
    import coremltools  # noqa: F401  # registers the operators
    from coremltools.converters.mil.frontend.milproto.load import load

    from ..mil_operators import compute

    spec = _spec(folder)
    program = load(spec, spec.specificationVersion, str(folder / _WEIGHTS))
    (function,) = program.functions.values()
    return lambda batch: compute(function, batch)


def _spec(folder: Path) -> Any:
    with _quiet():
        from coremltools.proto import Model_pb2
    from google.protobuf.message import DecodeError

    spec = Model_pb2.Model()
    try:
        spec.ParseFromString((folder / _MODEL).read_bytes())
    except (OSError, DecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else one_line(str(error))
        raise ValueError(f"{folder} is not a Core ML package: {reason}") from error
    if not spec.HasField("mlProgram"):
        raise ValueError(f"{folder} is a Core ML model of another kind; expected an ML program")
    return spec


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences coremltools' progress bars, and warnings about what runs only on a Mac."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            Path(os.devnull).open("w") as nowhere,
            contextlib.redirect_stderr(nowhere),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _info(value: Any) -> TensorInfo:
    from coremltools.proto import FeatureTypes_pb2

    array = value.type.multiArrayType
    name = FeatureTypes_pb2.ArrayFeatureType.ArrayDataType.Name(array.dataType).lower()
    return TensorInfo(value.name, name, tuple(array.shape))
