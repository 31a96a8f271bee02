"""Every way this package can run a network, each as something `latency.measure` can time.

A backend takes a torch module or an exported file. Its number of threads is its own: torch's is set
before each of its turns, the runtimes get theirs when they are made.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from numpy.typing import NDArray

from fbnetv3._internal.devices import known_device
from fbnetv3.deploy.artefact import Artefact
from fbnetv3.deploy.backend import run_in_parts
from fbnetv3.deploy.parity import inputs_for
from fbnetv3.deploy.runtimes import ONNX, Runtime
from fbnetv3.deploy.words import TorchBackend

from .latency import Contestant

if TYPE_CHECKING:
    import torch
    from torch import nn

Run = Callable[[NDArray[Any]], NDArray[Any]]
TORCH_BACKENDS: tuple[TorchBackend, ...] = get_args(TorchBackend)


@dataclass(frozen=True)
class Runner:
    """A network made ready in one backend.

    Attributes:
        name: backend and, where told apart by it, the file.
        threads: that it works with; None is the backend's own default.
        logits: a batch to logits, for checking what is timed.
        timed: of a batch, something to time: the input is where the backend wants it.
        prepare: to be called before its runs.
        cuda: whether it runs on a GPU.
    """

    name: str
    threads: int | None
    logits: Run
    timed: Callable[[NDArray[Any]], Callable[[], object]]
    prepare: Callable[[], None]
    cuda: bool = False

    def contestant(self, batch: NDArray[Any]) -> Contestant:
        """Returns this runner on one batch, to be timed."""
        self.prepare()
        return Contestant(self.name, self.timed(batch), self.prepare, self.cuda)


@dataclass(frozen=True)
class _Way:
    """How torch runs a module: what a backend's name stands for.

    Attributes:
        channels_last: memory layout of weights and input.
        folded: batch-norm folded into the convolutions, where the module is an `FBNetV3`.
        precision: of weights, input and arithmetic.
        compiled: by `torch.compile`, once for each shape of the input.
        graph: replayed from a CUDA graph, once captured for each shape of the input.
    """

    channels_last: bool = True
    folded: bool = True
    precision: str = "fp32"
    compiled: bool = False
    graph: bool = False


_WAYS: dict[str, _Way] = {
    "torch": _Way(channels_last=False, folded=False),
    "torch-channels-last": _Way(folded=False),
    "torch-optimized": _Way(),
    "torch-bf16": _Way(precision="bf16"),
    "torch-fp16": _Way(precision="fp16"),
    "torch-compile": _Way(compiled=True),
    "torch-compile-bf16": _Way(compiled=True, precision="bf16"),
    "torch-cuda-graph": _Way(graph=True),
    "torch-cuda-graph-bf16": _Way(graph=True, precision="bf16"),
    "torch-compile-cuda-graph-bf16": _Way(compiled=True, graph=True, precision="bf16"),
}


def torch_precision(backend: str) -> str:
    """Returns the precision of one of `TORCH_BACKENDS`: "fp32", "bf16" or "fp16".

    Raises:
        ValueError: there is no such backend.
    """
    return _way(backend).precision


def torch_runner(
    model: nn.Module,
    backend: str,
    *,
    threads: int | None = None,
    device: str = "cpu",
    name: str = "",
) -> Runner:
    """Returns a torch module in one of `TORCH_BACKENDS`.

    Args:
        model: any module of images to logits; left as it is. All backends but "torch" and
            "torch-channels-last" fold batch-norm where it is an `FBNetV3`.
        backend: how to run it.
        threads: inside an operator; torch's default unless given.
        device: "cpu", "cuda" or "cuda:1". A GPU becomes torch's current one before each turn.
        name: in results; the backend's unless given.

    Raises:
        ValueError: there is no such backend or device, or the backend needs a GPU.
    """
    import torch

    way, target = _way(backend), known_device(device)
    cuda = target.type == "cuda"
    if way.graph and not cuda:
        raise ValueError(f"backend {backend!r} needs device='cuda'; it is {device!r}")
    default = torch.get_num_threads()
    module = _torch_module(model, way, target)
    layout = torch.channels_last if way.channels_last else torch.contiguous_format
    graphs: dict[torch.Size, _Graph] = {}

    def prepare() -> None:
        torch.set_num_threads(threads or default)
        if cuda and target.index is not None:
            torch.cuda.set_device(target)

    def placed(batch: NDArray[Any]) -> torch.Tensor:
        x = torch.from_numpy(batch).to(target, _dtype(way.precision))
        return x.contiguous(memory_format=layout)

    def graph_of(x: torch.Tensor) -> _Graph:
        if x.shape not in graphs:
            graphs[x.shape] = _Graph(module, x)
        return graphs[x.shape]

    def forward(x: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return graph_of(x)(x) if way.graph else module(x)

    def timed(batch: NDArray[Any]) -> Callable[[], object]:
        x = placed(batch)
        return graph_of(x).replay if way.graph else lambda: forward(x)

    return Runner(
        name=name or backend,
        threads=threads,
        logits=lambda batch: forward(placed(batch)).float().cpu().numpy(),
        timed=timed,
        prepare=prepare,
        cuda=cuda,
    )


def _way(backend: str) -> _Way:
    if backend not in TORCH_BACKENDS:
        raise ValueError(f"backend is {backend!r}; expected one of {', '.join(TORCH_BACKENDS)}")
    return _WAYS[backend]


def _dtype(precision: str) -> torch.dtype:
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def _torch_module(model: nn.Module, way: _Way, device: torch.device) -> nn.Module:
    import torch

    from fbnetv3.models.inference import fold_batch_norm
    from fbnetv3.models.model import FBNetV3

    module: nn.Module = copy.deepcopy(model).eval().requires_grad_(False).to(device)
    if way.folded and isinstance(module, FBNetV3):
        module = fold_batch_norm(module)
    if way.channels_last:
        module = module.to(memory_format=torch.channels_last)
    module = module.to(_dtype(way.precision))
    if way.compiled:
        # A program for any batch size is slower; a graph has one shape anyway.
        module = torch.compile(module, dynamic=False)  # type: ignore[assignment]  # a module
    return module


class _Graph:
    """A module's run on one shape of input, captured once and replayed as a single launch.

    A replay reads and writes where the capture did: both ends are kept for as long as the graph,
    or else torch gives their memory to other tensors.

    Args:
        module: on a GPU.
        x: the first input, whose memory the graph reads from now on.
    """

    def __init__(self, module: nn.Module, x: torch.Tensor) -> None:
        import torch

        self.input = x
        self._graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.device(x.device):
            # Three runs on a side stream before the capture, as torch's documentation has it.
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    module(x)
            torch.cuda.current_stream().wait_stream(side)
            with torch.cuda.graph(self._graph):
                self.output: torch.Tensor = module(x)

    def replay(self) -> None:
        """Runs on what is in `input` into `output`, without waiting."""
        self._graph.replay()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the logits of another input of the same shape."""
        self.input.copy_(x)
        self.replay()
        return self.output.clone()


def file_runner(
    path: str | Path,
    runtime: Runtime = ONNX,
    *,
    threads: int | None = None,
    precision: str = "fp32",
    name: str = "",
) -> Runner:
    """Returns a file, of any origin and precision, in a runtime.

    Args:
        path: the file.
        runtime: which runs it.
        threads: that work on one batch; the runtime's default unless given.
        precision: one of `runtime.precisions()`: of the arithmetic where the file has float32.
        name: in results; the runtime's, with the precision, unless given.

    Raises:
        ImportError: the runtime's library is missing.
        FileNotFoundError: there is no such file.
        ValueError: it cannot be run as asked.
    """
    session = runtime.open(path, threads=threads, precision=precision)

    def timed(batch: NDArray[Any]) -> Callable[[], object]:
        taken = session.inputs[0].shape
        if any(isinstance(n, int) and n != m for n, m in zip(taken, batch.shape, strict=True)):
            raise ValueError(f"input has shape {batch.shape}; {path} takes {taken}")
        return session.bind(batch)

    return Runner(
        name=name or runtime.name + ("" if precision == "fp32" else f"-{precision}"),
        threads=threads,
        logits=lambda batch: run_in_parts(session, batch),
        timed=timed,
        prepare=lambda: None,
    )


def noise_for(artefact: Artefact, batch_size: int) -> NDArray[Any]:
    """Returns a batch of noise as a network's file takes it."""
    sizes = inputs_for(artefact, in_chans=3, batch_sizes=(batch_size,), free_size=False)
    return next(sizes)
