"""A training step as one CUDA graph: thousands of launches become one.

A small network's step is bound by the time that Python takes to launch its kernels. The graph
records them once and the driver launches them all. What differs from step to step, the batch and a
few numbers, is copied into tensors that the graph reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

# Steps made before the capture: libraries choose their kernels, states come into being.
_STEPS_BEFORE = 3

Work = Callable[[Sequence[Tensor], Sequence[Tensor]], None]


class GraphedStep:
    """Makes steps: the first ones as they are, then by a graph. All of them are real steps.

    Args:
        work: makes one step from a batch's tensors and from numbers, 0-dimensional float32 tensors.
            It may not wait for the device, and reads nothing else that changes between steps.
        device: a CUDA device.
    """

    def __init__(self, work: Work, device: torch.device) -> None:
        # "cuda" alone is the current GPU; torch wants to know which.
        index = torch.cuda.current_device() if device.index is None else device.index
        self._work, self._device = work, torch.device("cuda", index)
        self._batch: list[Tensor] = []
        self._numbers: list[Tensor] = []
        self._made = 0
        self._stream: Any = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batch: Sequence[Tensor], numbers: Sequence[float]) -> None:
        """Makes one step.

        Args:
            batch: on the device, of the same shapes at each call.
            numbers: equally many at each call.
        """
        if not self._batch:
            self._batch = [tensor.clone() for tensor in batch]
            self._numbers = [torch.zeros((), device=self._device) for _ in numbers]
        for mine, given in zip(self._batch, batch, strict=True):
            mine.copy_(given)
        for number, value in zip(self._numbers, numbers, strict=True):
            number.fill_(value)
        if self._made < _STEPS_BEFORE:
            self._aside()
        else:
            if self._graph is None:
                self._graph = self._captured()
            self._graph.replay()
        self._made += 1

    def _aside(self) -> None:
        """Makes a step on the stream of the capture, as torch asks for before one."""
        main: Any = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(main)
        with torch.cuda.stream(self._stream):
            self._work(self._batch, self._numbers)
        main.wait_stream(self._stream)

    def _captured(self) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            self._work(self._batch, self._numbers)
        return graph
