"""A file that is open in a runtime, and what its graph takes and gives."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from fbnetv3._internal.messages import counted
from fbnetv3._internal.processors import available_cpus

# Threads for each processor from which on a user is told.
_MANY = 4


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


def check_threads(threads: int | None) -> None:
    """Refuses a number of threads that no runtime can use; None is a runtime's own default.

    Many more threads than processors are warned of: they wait for each other, for seconds a photo.

    Raises:
        ValueError: it is below 1.
    """
    if threads is None:
        return
    if isinstance(threads, bool) or threads < 1:
        raise ValueError(f"threads is {threads!r}; expected a whole number from 1")
    if threads > _MANY * available_cpus():
        processors = counted(available_cpus(), "processor")
        warnings.warn(f"{threads} threads on {processors} are slower than fewer", stacklevel=3)
