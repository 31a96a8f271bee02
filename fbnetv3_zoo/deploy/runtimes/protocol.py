"""What a runtime's file offers: opening a file, and where it can, writing and quantising one."""

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
    from ..quantize_score import Judge, Made


class End(NamedTuple):
    """An input or an output of a graph.

    Attributes:
        name: of it.
        dtype: numpy's name of its type where there is one, else the runtime's.
        shape: whole numbers where sides are fixed, words where they are free.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class Session(Protocol):
    """A file of any origin, ready to run in a runtime."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """The file's string pairs, among them those of `Artefact.to_metadata`."""

    @property
    def inputs(self) -> Sequence[End]:
        """What the graph takes."""

    @property
    def outputs(self) -> Sequence[End]:
        """What the graph gives."""

    def run(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Returns the logits of a batch in the form that the graph takes; safe from many threads.

        Raises:
            ValueError: the graph does not work on such a batch.
        """

    def bind(self, batch: NDArray[Any]) -> Callable[[], object]:
        """Returns a function that runs the graph on this one batch, to be timed.

        It costs no more than the runtime itself does, and is called from one thread.
        """


class RuntimeFile(Protocol):
    """The module of a runtime. The last three are left out where the runtime has none of it."""

    def precisions(self) -> tuple[str, ...]:
        """Returns the precisions in which this machine computes a float32 file; "fp32" first."""

    def open_session(
        self, path: Path, *, threads: int | None = None, precision: str = "fp32"
    ) -> Session:
        """Returns a file, ready to run.

        Args:
            path: a file that exists.
            threads: that work on one batch; the runtime's own choice unless given.
            precision: one of `precisions()`: of the arithmetic where the file has float32.

        Raises:
            ValueError: the file cannot be read, or not run as asked.
        """

    def convert(self, onnx_path: str | Path, path: str | Path) -> Parity:
        """Writes an exported ONNX file in the runtime's format, compared with it.

        Raises:
            ValueError: the result differs: nothing is written then; or a path is wrong.
        """

    def export(
        self,
        model: FBNetV3,
        path: str | Path,
        *,
        preprocess: Preprocess | None = None,
        class_names: Sequence[str] | None = None,
    ) -> Parity:
        """Writes a model in the runtime's format, compared with it; arguments as of `to_onnx`.

        Raises:
            ValueError: the result differs: nothing is written then; or a path is wrong.
        """

    def quantize(
        self,
        onnx_path: Path,
        path: Path,
        calibration: Sequence[ImageSource],
        judge: Judge,
        *,
        method: str | None,
        max_drop_pct: float | None,
        sensitivity: bool,
    ) -> Made:
        """Writes an exported fp32 ONNX file in int8; see `quantize.quantize`.

        Raises:
            ValueError: an argument is wrong, or the budget cannot be kept: nothing is written.
        """
