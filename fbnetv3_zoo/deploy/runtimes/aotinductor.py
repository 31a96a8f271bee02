"""A model as an AOTInductor package: compiled ahead of time by torch, for the CPU of this machine.

The package (`.pt2`) takes float32 (N, C, H, W) and returns float32 logits (N, num_classes). It is a
zip archive with a shared library, which holds code and weights, and a JSON file with the metadata
and the library's SHA-256. Running it runs that code: open only packages that you trust.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fbnetv3._internal.files import ZIP_ERRORS, replacing
from fbnetv3._internal.json_record import read_json
from fbnetv3._internal.messages import one_line
from fbnetv3.images.preprocess import Preprocess

from ..artefact import INPUT, OUTPUT, Artefact
from ..forks import Reopened, with_own_threads
from ..parity import Parity, Run
from ..torch_backend import torch_threads
from .session import TensorInfo, check_threads

if TYPE_CHECKING:
    from fbnetv3.models.model import FBNetV3

# All names in the archive begin with it; torch takes any.
_ROOT = "fbnetv3"
_CARD = f"{_ROOT}/extra/fbnetv3.json"
# Instruction sets as torch names them; each runs code for those before it.
_CAPABILITIES = ("DEFAULT", "AVX2", "AVX512")
_COMPILERS = ("g++", "clang++")
_OPTIONS = {
    # Weights are packed once, when the package is made.
    "freezing": True,
    # These name each operator with an address in memory, so that the bytes would not repeat.
    "size_asserts": False,
    "alignment_asserts": False,
    # Headers that are compiled in advance pay off from the second package on.
    "aot_inductor.precompile_headers": False,
    "cpp_cache_precompile_headers": False,
    # The number of threads is torch's at run time, not that of the compiling machine.
    "cpp.dynamic_threads": True,
    # Of the code that only calls kernels; most of the compiling time otherwise.
    "aot_inductor.compile_wrapper_opt_level": "O0",
}


@dataclass(frozen=True)
class _Card:
    """The JSON file of a package.

    Attributes:
        metadata: the string pairs of `Artefact.to_metadata`.
        shape: shape of the input; dynamic axes are names.
        num_classes: number of logits.
        capability: instruction set that the code needs.
        library: name of the shared library in the archive.
        sha256: SHA-256 of the library.
    """

    metadata: dict[str, str]
    shape: tuple[int | str, ...]
    num_classes: int
    capability: str
    library: str
    sha256: str


class AotSession:
    """A package that is loaded; see `session.Session`.

    Args:
        path: the file.
        card: its JSON file.
        opened: torch's loader of the package.
        threads: number of threads; None for torch's own setting.
    """

    def __init__(self, path: Path, card: _Card, opened: Reopened[Any], threads: int | None) -> None:
        self._path, self._opened, self._threads = path, opened, threads
        self.metadata: Mapping[str, str] = card.metadata
        self.inputs = [TensorInfo(INPUT, "float32", card.shape)]
        self.outputs = [TensorInfo(OUTPUT, "float32", (card.shape[0], card.num_classes))]

    def run(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Returns the logits of a batch in the graph's input layout."""
        shape = self.inputs[0].shape
        fits = batch.ndim == len(shape) and all(
            not isinstance(expected, int) or expected == given
            for expected, given in zip(shape, batch.shape, strict=True)
        )
        if not fits or batch.dtype != np.float32 or not len(batch):  # the code does not check
            raise ValueError(
                f"{self._path} cannot be run on an input of shape {batch.shape}, {batch.dtype}; "
                f"it takes {shape}, float32"
            )
        return with_own_threads(self._run, batch)

    def _run(self, batch: NDArray[Any]) -> NDArray[Any]:
        with torch_threads(self._threads):
            return np.array(self.bind(batch)().numpy())

    def bind(self, batch: NDArray[Any]) -> Callable[[], Any]:
        """Returns a function that runs the graph on this batch."""
        import torch

        package = self._opened.get()
        fed = torch.from_numpy(np.ascontiguousarray(batch))
        number = self._threads

        def run() -> Any:
            if number is not None and torch.get_num_threads() != number:
                torch.set_num_threads(number)
            return package.boxed_run([fed])[0]

        return run


def precisions() -> tuple[str, ...]:
    """Returns the precisions in which a float32 package runs."""
    return ("fp32",)


def open_session(path: Path, *, threads: int | None = None, precision: str = "fp32") -> AotSession:
    """Opens a package of this module.

    Args:
        path: the `.pt2` file.
        threads: number of inference threads; default: torch's setting.
        precision: "fp32".

    Raises:
        ValueError: the file is no package of this module, is damaged or for another CPU, or an
            option is not supported.
    """
    if precision not in precisions():
        raise ValueError(f"precision is {precision!r}; a float32 package runs in fp32")
    check_threads(threads)
    card = _read_card(path)  # before any of its code runs
    return AotSession(path, card, Reopened(functools.partial(_loaded, path.absolute())), threads)


def export(
    model: FBNetV3,
    path: str | Path,
    *,
    preprocess: Preprocess | None = None,
    class_names: Sequence[str] | None = None,
    license: str | None = None,
    batch_size: int | None = None,
) -> Parity:
    """Compiles a model to an AOTInductor package (`.pt2`) for this machine's CPU and checks it.

    The same model gives the same bytes on one machine, with the same torch and compiler.

    Args:
        model: a model in any mode; not modified.
        path: the file to write.
        preprocess: preprocessing of images, which sets the input size; default: the model's.
        class_names: class names in the order of the logits; default: those of the model's weights.
        license: SPDX name of the licence of your own weights; default: that of the model's.
        batch_size: the only batch size; default: any.

    Raises:
        ValueError: the package's logits differ, or the path is wrong; nothing is written then.
        ImportError: there is no C++ compiler.
        RuntimeError: the compiler failed.
    """
    from ..describe import describe
    from ..gate import proved

    need_writer()
    artefact = describe(
        model,
        preprocess=preprocess,
        class_names=class_names,
        batch_size=batch_size,
        license=license,
        tools=(),
    )
    with replacing(Path(path)) as part:
        contents: dict[str, bytes] = {}

        def build(model: FBNetV3) -> Run:
            contents.clear()
            contents.update(_compiled(model, artefact))
            _write(part, contents, artefact, model)
            return open_session(part, threads=1).run

        parity = proved(build, model, artefact)
        artefact = dataclasses.replace(artefact, parity=parity.to_dict())
        _write(part, contents, artefact, model)
    return parity


def need_writer() -> None:
    """Checks that there is a C++ compiler.

    Raises:
        ImportError: there is none.
    """
    named = os.environ.get("CXX")
    tried = (named,) if named else _COMPILERS
    if not any(shutil.which(name) for name in tried):
        raise ImportError(
            f"this needs a C++ compiler, and there is no {' or '.join(tried)}: install g++ "
            "(Debian, Ubuntu: apt install g++), or set CXX to a compiler"
        )


def _compiled(model: FBNetV3, artefact: Artefact) -> dict[str, bytes]:
    """Returns the parts of torch's package that are needed to run it."""
    import torch

    from ..export_graph import inference_graph

    size = artefact.preprocess.crop
    shapes = None if artefact.batch_size else ({0: torch.export.Dim("batch", min=1)},)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            inference_graph(model, artefact),
            (torch.zeros(artefact.batch_size or 2, model.in_chans, size, size),),
            dynamic_shapes=shapes,
        )
        package = torch._inductor.aoti_compile_and_package(
            program, package_path=str(Path(folder) / f"{_ROOT}.pt2"), inductor_configs=_OPTIONS
        )
        with zipfile.ZipFile(package) as archive:
            # Sources, and an identifier that is new each time, are not needed.
            return {
                name: archive.read(name)
                for name in sorted(archive.namelist())
                if not name.endswith((".cpp", ".o", "serialization_id"))
            }


def _write(path: Path, contents: dict[str, bytes], artefact: Artefact, model: FBNetV3) -> None:
    import torch

    (library,) = (name for name in contents if name.endswith(".so"))
    size = artefact.preprocess.crop
    card = _Card(
        metadata=artefact.to_metadata(),
        shape=(artefact.batch_size or "batch", model.in_chans, size, size),
        num_classes=model.num_classes,
        capability=torch.backends.cpu.get_cpu_capability(),
        library=library,
        sha256=hashlib.sha256(contents[library]).hexdigest(),
    )
    text = json.dumps(dataclasses.asdict(card), sort_keys=True, indent=1).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in [*contents.items(), (_CARD, text)]:
            # A `ZipInfo` is of 1980 unless told otherwise, so that the bytes repeat.
            archive.writestr(zipfile.ZipInfo(name), content)


def _read_card(path: Path) -> _Card:
    import torch

    try:
        with zipfile.ZipFile(path) as archive:
            fields = read_json(archive.read(_CARD).decode(), _CARD)
            card = _Card(**{**fields, "shape": tuple(fields["shape"])})
            found = hashlib.sha256(archive.read(card.library)).hexdigest()
    except (*ZIP_ERRORS, KeyError, TypeError, ValueError) as error:
        reason = one_line(str(error))
        if isinstance(error, KeyError):
            reason = f"{reason} is missing" if _CARD not in reason else f"it has no {_CARD}"
        raise ValueError(
            f"{path} is not a package that `fbnetv3 export` wrote ({reason}), or is damaged; make "
            "one with `fbnetv3 export`"
        ) from error
    if found != card.sha256:
        raise ValueError(f"{path} is damaged: its code is not what was exported; export it again")
    here = torch.backends.cpu.get_cpu_capability()
    rank = {name: number for number, name in enumerate(_CAPABILITIES)}
    if here != card.capability and rank.get(here, -1) <= rank.get(card.capability, len(rank)):
        raise ValueError(
            f"{path} was compiled for a CPU with {card.capability}, and this one has {here}; "
            "export it on this machine"
        )
    return card


def _loaded(path: Path) -> Any:
    import torch

    try:
        # What `torch._inductor.aoti_load_package` wraps, which imports the compiler: 4.6 s of a
        # processor until the first answer in place of 0.02, and 155 MiB. The arguments are the name
        # of the model in the package, no single-threaded mode, one model, the current device.
        return torch._C._aoti.AOTIModelPackageLoader(str(path), "model", False, 1, -1)
    except RuntimeError as error:
        raise ValueError(
            f"torch {torch.__version__} cannot load {path}: {one_line(str(error))}; export it again"
        ) from error
