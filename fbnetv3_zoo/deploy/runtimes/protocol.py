"""The protocol of a runtime's module: opens files, may also write and quantize them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from numpy.typing import NDArray

from fbnetv3.images.preprocess import Preprocess
from fbnetv3.images.reader import ImageSource

if TYPE_CHECKING:
    from fbnetv3.models.model import FBNetV3

    from ..parity import Parity
    from ..quantize_score import Evaluator, Int8Result


class TensorInfo(NamedTuple):
    """An input or an output of a graph.

    Attributes:
        name: its name.
        dtype: numpy's name of its type if there is one, else the runtime's.
        shape: its shape; dynamic axes are names.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class Session(Protocol):
    """A file of any origin that is open in a runtime."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """The file's string pairs, among them those of `Artefact.to_metadata`."""

    @property
    def inputs(self) -> Sequence[TensorInfo]:
        """The inputs of the graph."""

    @property
    def outputs(self) -> Sequence[TensorInfo]:
        """The outputs of the graph."""

    def run(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Returns the logits of a batch in the graph's input layout; thread-safe.

        Raises:
            ValueError: the graph does not accept the batch.
        """

    def bind(self, batch: NDArray[Any]) -> Callable[[], object]:
        """Returns a function that runs the graph on this batch, for timing.

        It has no overhead beside the runtime's, and is called from one thread.
        """


class SessionOfAll(Session, Protocol):
    """A session of a runtime that also runs graphs with several outputs, as detectors have."""

    def run_all(self, batch: NDArray[Any]) -> list[NDArray[Any]]:
        """Returns all outputs, in the order of `outputs`; thread-safe.

        Raises:
            ValueError: the graph does not accept the batch.
        """


class RuntimeFile(Protocol):
    """The module of a runtime.

    `need_writer`, `convert`, `export` and `quantize` are optional.
    """

    def precisions(self) -> tuple[str, ...]:
        """Returns the precisions in which it runs a float32 file on this machine; "fp32" first."""

    def open_session(
        self, path: Path, *, threads: int | None = None, precision: str = "fp32"
    ) -> Session:
        """Opens a file.

        Args:
            path: an existing file.
            threads: number of inference threads; default: the runtime's.
            precision: one of `precisions()`, for the arithmetic of a float32 file.

        Raises:
            ValueError: the file cannot be read, or an option is not supported.
        """

    def need_writer(self) -> None:
        """Checks that files can be written here, if that needs more than the runtime's library.

        Raises:
            ImportError: they cannot; the message says what is missing.
        """

    def convert(self, onnx_path: str | Path, path: str | Path) -> Parity:
        """Converts an exported ONNX file to the runtime's format and checks the result against it.

        Raises:
            ValueError: the results differ, or a path is wrong; nothing is written then.
        """

    def export(
        self,
        model: FBNetV3,
        path: str | Path,
        *,
        preprocess: Preprocess | None = None,
        class_names: Sequence[str] | None = None,
        license: str | None = None,
        batch_size: int | None = None,
    ) -> Parity:
        """Exports a model to the runtime's format and checks the file; arguments: see `to_onnx`.

        Raises:
            ValueError: the results differ, or a path is wrong; nothing is written then.
        """

    def quantize(
        self,
        source: Path,
        path: Path,
        calibration: Sequence[ImageSource],
        evaluator: Evaluator,
        *,
        method: str | None,
        max_drop_pct: float | None,
        sensitivity: bool,
    ) -> Int8Result:
        """Quantizes an exported fp32 file to int8; see `quantize.quantize`.

        The source is a file of the format that the runtime's files are written from.

        Raises:
            ValueError: an argument is wrong, or the budget cannot be met; nothing is written then.
        """


def check_threads(threads: int | None) -> None:
    """Refuses a number of threads that no runtime can use; None is a runtime's own default.

    Raises:
        ValueError: it is below 1.
    """
    if threads is not None and (isinstance(threads, bool) or threads < 1):
        raise ValueError(f"threads is {threads!r}; expected a whole number from 1")
