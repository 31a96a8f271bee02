"""The runtimes of exported files: one line each in the table here, one module each beside it.

A new runtime is a new line and a new module. The line has what is known without importing the
library: file formats and requirements. The module implements `protocol.RuntimeFile`. Importing this
table imports no runtime, and neither torch nor numpy.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from fbnetv3._internal.messages import either
from fbnetv3._internal.optional import need

if TYPE_CHECKING:
    from ..artefact import Artefact
    from ..backend import ExportedBackend, PlainBackend
    from .protocol import RuntimeFile
    from .session import Session


@dataclass(frozen=True)
class Runtime:
    """A library that runs exported files.

    Attributes:
        name: name for users and reports.
        suffixes: file extensions that it runs: its own format first, in any precision; of other
            formats only float32 files.
        library: Python module needed to run or write a file.
        written_from: source of its files: the ONNX file, or the torch module, to which the ONNX
            exporter's options do not apply.
        quantizer: Python module needed to make int8 files; None if it makes none.
        companion: extension of a second file that belongs to each of its files; "" for none.
        is_folder: whether its files are folders.
        only_on: the only system that runs its files, as in `sys.platform`; "" for any. They are
            written, and their metadata read, on any.
        module: name of the module that implements it; default: the one here named after it.
    """

    name: str
    suffixes: tuple[str, ...]
    library: str
    written_from: Literal["onnx", "model"]
    quantizer: str | None = None
    companion: str = ""
    is_folder: bool = False
    only_on: str = ""
    module: str = ""

    @property
    def suffix(self) -> str:
        """The file extension of its own format."""
        return self.suffixes[0]

    @property
    def file(self) -> RuntimeFile:
        """The module that implements it."""
        module = importlib.import_module(self.module or f"{__name__}.{self.name}")
        return cast("RuntimeFile", module)

    @property
    def quantized_from(self) -> Runtime:
        """The runtime of the files that it quantizes."""
        return ONNX if self.written_from == "onnx" else self

    def need_writer(self) -> None:
        """Checks that its files can be written here.

        Raises:
            ImportError: they cannot; the message says what is missing.
        """
        check = getattr(self.file, "need_writer", None)
        if check is None:
            self.need_library()
        else:
            check()

    def need_library(self) -> None:
        """Imports its library.

        Raises:
            ImportError: it is not installed; the message names the extra.
        """
        own = getattr(self.file, "need_library", None) if self._installed() else None
        if own is None:
            need(self.library)
        else:
            own()

    def available(self) -> bool:
        """Returns whether its library is installed, on a system that runs its files."""
        if self.only_on not in ("", sys.platform):
            return False
        return self._installed()

    def _installed(self) -> bool:
        return importlib.util.find_spec(self.library) is not None

    def runs(self, suffix: str, precision: str) -> bool:
        """Returns whether it runs files of a format and a precision."""
        return suffix == self.suffix or (suffix in self.suffixes and precision == "fp32")

    def parts(self, path: Path) -> list[Path]:
        """Returns all files of one exported model."""
        if self.companion and path.suffix.lower() == self.suffix:
            return [path, path.with_suffix(self.companion)]
        if path.is_dir():
            return sorted(part for part in path.rglob("*") if part.is_file())
        return [path]

    def precisions(self) -> tuple[str, ...]:
        """Returns the precisions in which it can run a float32 file on this machine.

        Raises:
            ImportError: the library is not installed.
        """
        return self.file.precisions()

    def open(self, path: str | Path, **options: Any) -> Session:
        """Opens a file of any origin; see `RuntimeFile.open_session`.

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: the file is empty, a folder or cannot be read, or an option is not
                supported.
            ImportError: the library is not installed.
        """
        path = Path(path)
        if not path.exists():
            raise FileNotFoundError(f"no file {path}; make one with `fbnetv3 export`")
        found = "a folder" if path.is_dir() else "a file" if path.stat().st_size else "empty"
        expected = "a folder" if self.is_folder else "a file"
        if found != expected:
            raise ValueError(f"{path} is {found}; expected {expected} that `fbnetv3 export` wrote")
        self.need_library()
        return self.file.open_session(path, **options)

    def load(self, path: str | Path, **options: Any) -> ExportedBackend:
        """Opens a file that this package exported, as a backend of `Classifier`.

        Args:
            path: the file.
            options: options of `RuntimeFile.open_session`.

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: the file was not exported by this package, an option is not supported, or
                the licence policy refuses the weights in it.
            ImportError: the library is not installed.
        """
        return _exported(path, self.open(path, **options))


_TABLE = (
    #       name           suffixes            library       written from
    Runtime("onnxruntime", (".onnx",), "onnxruntime", "onnx", quantizer="onnxruntime"),
    Runtime("openvino", (".xml", ".onnx"), "openvino", "onnx", quantizer="nncf", companion=".bin"),
    Runtime("litert", (".tflite",), "ai_edge_litert", "model", quantizer="ai_edge_quantizer"),
    Runtime("executorch", (".pte",), "executorch", "model"),
    Runtime("aotinductor", (".pt2",), "torch", "model"),
    Runtime("coreml", (".mlpackage",), "coremltools", "model", is_folder=True, only_on="darwin"),
)
RUNTIMES: dict[str, Runtime] = {runtime.name: runtime for runtime in _TABLE}
# The runtime whose files the others are converted from and compared with.
ONNX = _TABLE[0]


def suffixes() -> tuple[str, ...]:
    """Returns the file extensions of the export formats."""
    return tuple(dict.fromkeys(runtime.suffix for runtime in RUNTIMES.values()))


def is_exported(name: str | Path) -> bool:
    """Returns whether a name has the file extension of an export format, in any case."""
    return Path(name).suffix.lower() in suffixes()


def runtime_of(path: str | Path) -> Runtime:
    """Returns the runtime of a file's format.

    Raises:
        ValueError: the file extension is unknown.
    """
    suffix = Path(path).suffix.lower()
    for runtime in RUNTIMES.values():
        if runtime.suffix == suffix:
            return runtime
    raise ValueError(f"file is {path}; expected a name that ends in {either(suffixes())}")


def quantizing(name: str) -> Runtime:
    """Returns a runtime that can quantize.

    Raises:
        ValueError: there is none of that name.
    """
    able = {runtime.name: runtime for runtime in RUNTIMES.values() if runtime.quantizer}
    if name not in able:
        raise ValueError(f"runtime is {name!r}; expected one of {', '.join(able)}")
    return able[name]


def load(path: str | Path, *, threads: int | None = None) -> ExportedBackend:
    """Opens an exported file in the runtime of its format; see `Runtime.load`.

    Args:
        path: the file.
        threads: number of inference threads; default: the runtime's.
    """
    return runtime_of(path).load(path, threads=threads)


def load_any(path: str | Path, *, threads: int | None = None) -> ExportedBackend | PlainBackend:
    """Opens a file as `load` does, also one of another tool, which has no metadata."""
    from ..artefact import PREFIX
    from ..backend import PlainBackend

    session = runtime_of(path).open(path, threads=threads)
    if f"{PREFIX}schema" in session.metadata:
        return _exported(path, session)
    return PlainBackend(path, session)


def _exported(path: str | Path, session: Session) -> ExportedBackend:
    """Returns an open file that this package exported, if its terms are accepted."""
    from fbnetv3.hub.license_policy import check_terms

    from ..backend import ExportedBackend

    backend = ExportedBackend(path, session)
    check_terms(str(path), backend.artefact.license)
    return backend


def read_artefact(path: str | Path) -> Artefact:
    """Returns the metadata of an exported file.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the format is unknown, or the file was not exported by this package.
        ImportError: the runtime of its format is not installed.
    """
    return load(path, threads=1).artefact
