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
        model: any module of images to logits; left as it is. "torch-optimized" and
            "torch-bf16" fold batch-norm where it is an `FBNetV3`.
        backend: how to run it.
        threads: inside an operator; torch's default unless given.
        device: "cpu" or "cuda".
        name: in results; the backend's unless given.

    Raises:
        ValueError: there is no such backend, or it needs a GPU.
    """
    import torch

    if backend not in TORCH_BACKENDS:
        raise ValueError(f"backend is {backend!r}; expected one of {', '.join(TORCH_BACKENDS)}")
    cuda = torch.device(device).type == "cuda"
    if backend == "torch-cuda-graph" and not cuda:
        raise ValueError(f"backend 'torch-cuda-graph' needs device='cuda'; it is {device!r}")
    default = torch.get_num_threads()
    module = _torch_module(model, backend, device)
    dtype = torch.bfloat16 if backend == "torch-bf16" else torch.float32
    half_inside = backend == "torch-compile-bf16"

    def prepare() -> None:
        torch.set_num_threads(threads or default)

    def placed(batch: NDArray[Any]) -> torch.Tensor:
        x = torch.from_numpy(batch).to(device, dtype)
        if backend == "torch":
            return x
        return x.contiguous(memory_format=torch.channels_last)

    def forward(x: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=half_inside):
            return module(x)  # type: ignore[no-any-return]

    def timed(batch: NDArray[Any]) -> Callable[[], object]:
        x = placed(batch)
        return _graphed(module, x) if backend == "torch-cuda-graph" else lambda: forward(x)

    return Runner(
        name=name or backend,
        threads=threads,
        logits=lambda batch: forward(placed(batch)).float().cpu().numpy(),
        timed=timed,
        prepare=prepare,
        cuda=cuda,
    )


def _torch_module(model: nn.Module, backend: str, device: str) -> nn.Module:
    import torch

    from fbnetv3.models.inference import fold_batch_norm
    from fbnetv3.models.model import FBNetV3

    module: nn.Module = copy.deepcopy(model).eval().requires_grad_(False).to(device)
    if backend not in ("torch", "torch-channels-last") and isinstance(module, FBNetV3):
        module = fold_batch_norm(module)
    if backend != "torch":
        module = module.to(memory_format=torch.channels_last)
    if backend == "torch-bf16":
        module = module.to(torch.bfloat16)
    if backend.startswith("torch-compile"):
        module = torch.compile(module)  # type: ignore[assignment]  # a module, typed as a function
    return module


def _graphed(module: nn.Module, x: torch.Tensor) -> Callable[[], object]:
    import torch

    # Three runs on a side stream before the capture, as torch's documentation has it.
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.inference_mode(), torch.cuda.stream(side):
        for _ in range(3):
            module(x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode(), torch.cuda.graph(graph):
        module(x)
    return graph.replay


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
