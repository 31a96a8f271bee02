"""The libraries that run exported files: a line each in the table here, a file each beside it.

A new runtime is a new line and a new file. The line says what can be known without importing the
library: which files it runs and what has to be installed. The file does the work; `protocol` says
what it offers. Importing this table imports no runtime, and neither torch nor numpy.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from fbnetv3._internal.optional import need

if TYPE_CHECKING:
    from ..artefact import Artefact
    from ..backend import ExportedBackend
    from .protocol import RuntimeFile, Session


@dataclass(frozen=True)
class Runtime:
    """A library that runs exported files.

    Attributes:
        name: what users and reports call it.
        suffixes: of the files that it runs: its own format first, of any precision; of other
            formats it runs float32 files.
        library: module that must be importable to run or write a file.
        written_from: what its files are made of: the ONNX file, or the torch module, which leaves
            none of the ONNX exporter's options.
        quantizer: module that must be importable to make int8 files; None where none are made.
        companion: suffix of a second file that belongs to each of its files; "" if there is none.
        module: of the file that does the work; the one here that is called after the runtime
            unless given.
    """

    name: str
    suffixes: tuple[str, ...]
    library: str
    written_from: Literal["onnx", "model"]
    quantizer: str | None = None
    companion: str = ""
    module: str = ""

    @property
    def suffix(self) -> str:
        """The suffix of its own format."""
        return self.suffixes[0]

    @property
    def file(self) -> RuntimeFile:
        """What does the work."""
        module = importlib.import_module(self.module or f"{__name__}.{self.name}")
        return cast("RuntimeFile", module)

    def available(self) -> bool:
        """Returns whether its library is installed."""
        return importlib.util.find_spec(self.library) is not None

    def runs(self, suffix: str, precision: str) -> bool:
        """Returns whether it runs files of a format and a precision."""
        return suffix == self.suffix or (suffix in self.suffixes and precision == "fp32")

    def parts(self, path: Path) -> list[Path]:
        """Returns all files that one network consists of."""
        if self.companion and path.suffix == self.suffix:
            return [path, path.with_suffix(self.companion)]
        return [path]

    def precisions(self) -> tuple[str, ...]:
        """Returns the precisions in which this machine can compute a float32 file with it.

        Raises:
            ImportError: the library is missing.
        """
        return self.file.precisions()

    def open(self, path: str | Path, **options: Any) -> Session:
        """Returns a file of any origin, ready to run; see `RuntimeFile.open_session`.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it cannot be read or run as asked.
            ImportError: the library is missing.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}; make one with `fbnetv3 export`")
        need(self.library)
        return self.file.open_session(path, **options)

    def load(self, path: str | Path, **options: Any) -> ExportedBackend:
        """Returns a file that this package exported, ready to classify with.

        Args:
            path: the file.
            options: as for `RuntimeFile.open_session`.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it was not exported by this package, or cannot be run as asked.
            ImportError: the library is missing.
        """
        from ..backend import ExportedBackend

        return ExportedBackend(path, self.open(path, **options))


_TABLE = (
    #       name           suffixes            library       written from
    Runtime("onnxruntime", (".onnx",), "onnxruntime", "onnx", quantizer="onnxruntime"),
    Runtime("openvino", (".xml", ".onnx"), "openvino", "onnx", quantizer="nncf", companion=".bin"),
    Runtime("executorch", (".pte",), "executorch", "model"),
)
RUNTIMES: dict[str, Runtime] = {runtime.name: runtime for runtime in _TABLE}
# The one whose format the others are made from, and compared with.
ONNX = _TABLE[0]


def suffixes() -> tuple[str, ...]:
    """Returns the suffixes of the formats that networks are exported to."""
    return tuple(dict.fromkeys(runtime.suffix for runtime in RUNTIMES.values()))


def is_exported(name: str | Path) -> bool:
    """Returns whether a name ends as an exported file's does."""
    return Path(name).suffix in suffixes()


def runtime_of(path: str | Path) -> Runtime:
    """Returns the runtime of a file's own format.

    Raises:
        ValueError: no runtime has such files.
    """
    suffix = Path(path).suffix
    for runtime in RUNTIMES.values():
        if runtime.suffix == suffix:
            return runtime
    *others, last = suffixes()
    raise ValueError(f"file is {path}; expected a name that ends in {', '.join(others)} or {last}")


def quantizing(name: str) -> Runtime:
    """Returns a runtime that has a way of its own to int8.

    Raises:
        ValueError: there is no such runtime.
    """
    able = {runtime.name: runtime for runtime in RUNTIMES.values() if runtime.quantizer}
    if name not in able:
        raise ValueError(f"runtime is {name!r}; expected {' or '.join(map(repr, able))}")
    return able[name]


def load(path: str | Path, *, threads: int | None = None) -> ExportedBackend:
    """Returns an exported file in the runtime of its format; see `Runtime.load`.

    Args:
        path: the file.
        threads: that work on one batch; the runtime's own choice unless given.
    """
    return runtime_of(path).load(path, threads=threads)


def read_artefact(path: str | Path) -> Artefact:
    """Returns what an exported file says about itself.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is of no runtime's format, or not ours.
        ImportError: the runtime of its format is missing.
    """
    return load(path, threads=1).artefact
