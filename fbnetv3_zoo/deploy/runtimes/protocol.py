"""The protocol of a runtime's module: it opens files, and may also write and quantize them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fbnetv3.images.preprocess import Preprocess
from fbnetv3.images.reader import ImageSource

if TYPE_CHECKING:
    from fbnetv3.models.model import FBNetV3

    from ..parity import Parity
    from ..quantize_score import Evaluator, Int8Result
    from .session import Session


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
