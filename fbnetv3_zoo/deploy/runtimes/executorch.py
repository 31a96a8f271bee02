"""A model as an ExecuTorch program for XNNPACK. Extra `executorch`.

The program takes a fixed number of images, float32 (N, C, H, W), and returns float32 logits (N,
num_classes). Its method `fbnetv3_metadata` returns the metadata as JSON, among them the SHA-256 of
the file: that of its bytes with 64 zeros in the place of the hash, compared before a file is run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import re
import sys
import threading
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fbnetv3._internal.files import replacing
from fbnetv3._internal.json_record import read_json
from fbnetv3._internal.messages import one_line
from fbnetv3._internal.optional import need
from fbnetv3._internal.quiet import quiet_stderr
from fbnetv3.images.preprocess import Preprocess

from ..artefact import INPUT, OUTPUT, PREFIX
from ..parity import Parity, Run
from .session import TensorInfo, check_threads

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fbnetv3.models.model import FBNetV3

_METADATA = "fbnetv3_metadata"
_SHA256 = f"{PREFIX}file_sha256"
_NO_HASH = "0" * 64
# What the comparison finds is written after it, over these blanks of the text.
_NUM_BLANKS = 1024
_import_lock = threading.Lock()
# ExecuTorch's type codes of our inputs and outputs.
_DTYPES = {0: "uint8", 6: "float32"}


class ExecuTorchSession:
    """A program and its method `forward`; see `session.Session`."""

    # ExecuTorch's thread pool belongs to the process, and a method runs in the pool that it was
    # loaded with: after a change each session must reload its method, or it would hang.
    _lock = threading.Lock()
    _num_changes = 0

    def __init__(self, path: Path, content: bytes, threads: int | None) -> None:
        self._path, self._content, self._threads = path, content, threads
        self._load()
        meta = self._method.metadata
        self.inputs = [_info(INPUT, meta.input_tensor_meta(n)) for n in range(meta.num_inputs())]
        outputs = range(meta.num_outputs())
        self.outputs = [_info(OUTPUT, meta.output_tensor_meta(n)) for n in outputs]

    def __reduce__(self) -> tuple[type[ExecuTorchSession], tuple[Path, bytes, int | None]]:
        """Returns how to load the program again."""
        return type(self), (self._path, self._content, self._threads)

    def _load(self) -> None:
        with _without_exporter():
            from executorch.runtime import Runtime

        # The program must outlive its method.
        self._program = Runtime.get().load_program(self._content)
        self._method = self._program.load_method("forward")
        self._loaded_at = ExecuTorchSession._num_changes

    def _set_threads(self) -> None:
        from executorch.extension.pybindings import portable_lib as lib

        if self._threads and lib._threadpool_get_thread_count() != self._threads:
            with quiet_stderr():  # it logs that
                lib._unsafe_reset_threadpool(self._threads)
            ExecuTorchSession._num_changes += 1
        if self._loaded_at != ExecuTorchSession._num_changes:
            self._load()

    @property
    def metadata(self) -> Mapping[str, str]:
        """The file's string pairs."""
        if _METADATA not in self._program.method_names:
            return {}
        try:
            with quiet_stderr():
                text = self._program.load_method(_METADATA).execute([])[0]
            pairs: dict[str, str] = dict(read_json(text, "the text"))
        except (RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self._path} has damaged metadata ({one_line(str(error))}); export it again"
            ) from error
        return pairs

    def run(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Returns the logits of a batch in the graph's input layout."""
        return self.run_all(batch)[0]

    def run_all(self, batch: NDArray[Any]) -> list[NDArray[Any]]:
        """Returns all outputs, in the order of `outputs`."""
        taken, dtype = self.inputs[0].shape, self.inputs[0].dtype
        if batch.shape != taken or str(batch.dtype) != dtype:
            raise ValueError(
                f"{self._path} cannot be run on an input of shape {batch.shape}, {batch.dtype}; it "
                f"takes {taken}, {dtype}"
            )
        run = self.bind(batch)
        with self._lock:
            try:
                # Copies: the results are in the program's memory.
                return [np.array(found.numpy()) for found in run()]
            except RuntimeError as error:
                raise ValueError(
                    f"{self._path} cannot be run on an input of shape {batch.shape}: "
                    f"{one_line(str(error))}; export it again with `fbnetv3 export`"
                ) from error

    def bind(self, batch: NDArray[Any]) -> Callable[[], Any]:
        """Returns a function that runs the graph on this batch."""
        import torch

        fed = [torch.from_numpy(np.ascontiguousarray(batch))]

        def run() -> Any:
            self._set_threads()
            return self._method.execute(fed)

        return run


@contextlib.contextmanager
def _without_exporter() -> Iterator[None]:
    """Has the first import of ExecuTorch's runtime leave its exporter out.

    The runtime takes only the class of a warning from it, whose package imports torch's compilers:
    8 s of a processor and 230 MiB. Here a package without content stands in for that one meanwhile,
    whose modules are found as usual. A later import of the exporter is the usual one.
    """
    package = "executorch.exir"
    with _import_lock:
        found = None if package in sys.modules else importlib.util.find_spec("executorch")
        if found is None or "executorch.runtime" in sys.modules:
            yield
            return
        empty = types.ModuleType(package)
        empty.__path__ = [f"{folder}/exir" for folder in found.submodule_search_locations or ()]
        sys.modules[package] = empty
        try:
            yield
        finally:
            for name in [name for name in sys.modules if f"{name}.".startswith(f"{package}.")]:
                del sys.modules[name]


def precisions() -> tuple[str, ...]:
    """Returns the precisions in which ExecuTorch runs a float32 program."""
    return ("fp32",)


def open_session(
    path: Path, *, threads: int | None = None, precision: str = "fp32"
) -> ExecuTorchSession:
    """Opens a program.

    Args:
        path: the `.pte` file.
        threads: size of ExecuTorch's thread pool, which the process shares; default: its own.
        precision: "fp32".

    Raises:
        ValueError: ExecuTorch cannot read the file, or an option is not supported.
    """
    if precision not in precisions():
        raise ValueError(f"precision is {precision!r}; ExecuTorch runs a float32 program in fp32")
    check_threads(threads)
    content = path.read_bytes()
    _check_hash(path, content)
    try:
        # ExecuTorch logs every refusal, and what it cannot know of the CPU.
        with quiet_stderr():
            return ExecuTorchSession(path, content, threads)
    except RuntimeError as error:
        raise ValueError(
            f"{path} is not an ExecuTorch program that can be run: {one_line(str(error))}; make "
            "one with `fbnetv3 export`"
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
    """Exports a model to an ExecuTorch program (`.pte`) for XNNPACK and checks it.

    Args:
        model: a model in any mode; not modified.
        path: the file to write.
        preprocess: preprocessing of images, which sets the input size; default: the model's.
        class_names: class names in the order of the logits; default: those of the model's weights.
        license: SPDX name of the licence of your own weights; default: that of the model's.
        batch_size: the batch size of the program; default: one.

    Raises:
        ValueError: the program's logits differ, or the path is wrong; nothing is written then.
        ImportError: ExecuTorch is not installed.
    """
    need("executorch")
    import torch

    from ..describe import describe
    from ..export_graph import inference_graph
    from ..gate import proved

    batch_size = 1 if batch_size is None else batch_size
    artefact = describe(
        model,
        preprocess=preprocess,
        class_names=class_names,
        batch_size=batch_size,
        license=license,
        tools=("executorch",),
    )
    size = artefact.preprocess.crop
    with replacing(Path(path)) as part:

        def build(model: FBNetV3) -> Run:
            example = (torch.zeros(batch_size, model.in_chans, size, size),)
            write(inference_graph(model, artefact), example, part, artefact.to_metadata())
            return open_session(part).run

        parity = proved(build, model, artefact)
        restate(part, dataclasses.replace(artefact, parity=parity.to_dict()).to_metadata())
        open_session(part)
    return parity


def write(
    module: nn.Module, example: tuple[Tensor, ...], path: Path, metadata: Mapping[str, str]
) -> None:
    """Writes a module as a program for XNNPACK, unchecked.

    Args:
        module: in evaluation mode.
        example: what it takes; all shapes are those of these.
        path: the `.pte` file.
        metadata: string pairs.

    Raises:
        ImportError: ExecuTorch is not installed.
    """
    need("executorch")
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    lowered = to_edge_transform_and_lower(
        torch.export.export(module, example),
        partitioner=[XnnpackPartitioner()],
        constant_methods={_METADATA: _text(metadata) + " " * _NUM_BLANKS},
    )
    path.write_bytes(lowered.to_executorch().buffer)
    restate(path, metadata)


def restate(path: Path, metadata: Mapping[str, str]) -> None:
    """Replaces the metadata of a program that `write` wrote, and its hash.

    Args:
        path: the `.pte` file.
        metadata: string pairs; longer than those they replace by `_NUM_BLANKS` at most.
    """
    content = path.read_bytes()
    found = re.search(rb'\{"[^\0]*"%b": "[0-9a-f]{64}"[^\0]*\} *(?=\0)' % _SHA256.encode(), content)
    text = _text(metadata).encode()
    assert found is not None
    assert len(text) <= len(found[0])
    content = content[: found.start()] + text.ljust(len(found[0])) + content[found.end() :]
    path.write_bytes(_hashed(content, hashlib.sha256(content).hexdigest()))


def _text(metadata: Mapping[str, str]) -> str:
    return json.dumps({**metadata, _SHA256: _NO_HASH})


def _hashed(content: bytes, sha256: str) -> bytes:
    """Returns a program with this hash in the place of its own."""
    return re.sub(rb'(?<="%b": ")[0-9a-f]{64}' % _SHA256.encode(), sha256.encode(), content)


def _check_hash(path: Path, content: bytes) -> None:
    """Raises a ValueError if a program is not what was exported; one without a hash passes."""
    stated = re.search(rb'"%b": "([0-9a-f]{64})"' % _SHA256.encode(), content)
    if stated is None:
        return
    found = hashlib.sha256(_hashed(content, _NO_HASH)).hexdigest()
    if found != stated[1].decode():
        raise ValueError(f"{path} is damaged: it is not what was exported; export it again")


def _info(name: str, meta: Any) -> TensorInfo:
    return TensorInfo(name, _DTYPES.get(meta.dtype(), str(meta.dtype())), tuple(meta.sizes()))
