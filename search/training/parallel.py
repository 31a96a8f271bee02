"""Data-parallel training under torchrun: who this process is, and batch-norm over all of them."""

from __future__ import annotations

import contextlib
import gc
import importlib
import inspect
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class World:
    """This process among those that train together.

    Attributes:
        rank: from 0 to size - 1; 0 writes files.
        size: processes.
        nodes: machines. A recipe's batch and learning rate are for one of them.
    """

    rank: int = 0
    size: int = 1
    nodes: int = 1


def current_world() -> World:
    """Returns the initialised process group, or a world of one process."""
    if not (dist.is_available() and dist.is_initialized()):
        return World()
    size = dist.get_world_size()
    local = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    return World(rank=dist.get_rank(), size=size, nodes=max(1, size // local))


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """Joins the processes that torchrun started, where it did, and leaves them at the end."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield current_world()
        return
    if device.type == "cuda":
        # From here on "cuda" is this process's own GPU.
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    # A group that something still holds when Python ends can abort it: gloo's threads run on. This
    # module holds the group that there is when it is first imported, which timm does.
    importlib.import_module("torch.distributed.nn.functional")
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield current_world()
    finally:
        dist.destroy_process_group()
        gc.collect()  # DDP holds the group, in cycles


def data_parallel(module: nn.Module, device: torch.device) -> nn.Module:
    """Returns a module whose gradients are averaged over all processes.

    Each process keeps its own buffers: they start equal, and `AllReduceBatchNorm2d` keeps them so.
    """
    parallel = nn.parallel.DistributedDataParallel
    # The name of torch before 2.13, which warns of it since.
    names = ("forward_sync_buffers", "broadcast_buffers")
    known = inspect.signature(parallel).parameters
    own: Any = {next(name for name in names if name in known): False}
    return parallel(module, device_ids=[device] if device.type == "cuda" else None, **own)


def summed(values: Tensor) -> Tensor:
    """Returns the sum of a tensor over all processes."""
    if current_world().size > 1:
        dist.all_reduce(values)
    return values


class AllReduceBatchNorm2d(nn.BatchNorm2d):
    """Batch-norm whose statistics in training are those of all processes' batches.

    Does what `nn.SyncBatchNorm` does, which has no CPU version. Two reductions of C numbers: the
    mean first and squared deviations from it second, as the difference of squares loses digits.
    Statistics keep their own dtype under autocast.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Returns the normalised (N, C, H, W), in the dtype of `x`."""
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        count = x.numel() // x.shape[1] * dist.get_world_size()
        values = x.to(self.running_mean.dtype)
        mean = _sum(values.mean((0, 2, 3))) / dist.get_world_size()
        centered = values - mean.view(1, -1, 1, 1)
        var = _sum(centered.square().mean((0, 2, 3))) / dist.get_world_size()
        with torch.no_grad():
            assert self.momentum is not None
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (count / (count - 1)), self.momentum)
        scale = torch.rsqrt(var + self.eps) * self.weight
        out: Tensor = centered * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return out.to(x.dtype)


class _AllReduceBatchNormAct2d(AllReduceBatchNorm2d):
    """The same for timm's batch-norm, which has dropout and activation inside."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """Returns the activated (N, C, H, W), in the dtype of `x`."""
        activated: Tensor = self.act(self.drop(super().forward(x)))
        return activated


class _Sum(torch.autograd.Function):
    """The sum over all processes, whose gradients flow back to all of them.

    torch's own is deprecated, its successor private.
    """

    @staticmethod
    def forward(_context: Any, values: Tensor) -> Tensor:
        """Returns the sum, the same in every process."""
        return summed(values.clone())

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        """Returns the sum of the gradients, as every process's output depends on this input."""
        return summed(gradient.clone())


def _sum(values: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(values)
    return total


@contextlib.contextmanager
def synchronised_batch_norm(model: nn.Module, world: World) -> Iterator[None]:
    """Lets a model's batch-norm see the batches of all processes; the modules are put back after.

    Stand-ins share parameters and buffers with the modules they stand for, and are made for the
    device that the model is on: move it there before. Nothing happens in a world of one process.
    """
    replaced: list[tuple[nn.Module, str, nn.BatchNorm2d, nn.Module]] = []
    if world.size > 1:
        replaced = [
            (parent, name, child, _stand_in(child))
            for parent in model.modules()
            for name, child in parent.named_children()
            if isinstance(child, nn.BatchNorm2d)
        ]
    for parent, name, _, stand_in in replaced:
        setattr(parent, name, stand_in)
    try:
        yield
    finally:
        for parent, name, child, stand_in in replaced:
            # A module that was moved or cast has new buffers.
            for buffer_name, buffer in stand_in.named_buffers():
                setattr(child, buffer_name, buffer)
            setattr(parent, name, child)


def _stand_in(norm: nn.BatchNorm2d) -> nn.Module:
    from timm.layers.norm_act import BatchNormAct2d, convert_sync_batchnorm

    if norm.weight.is_cuda:
        made_by_timm: nn.Module = convert_sync_batchnorm(norm)  # type: ignore[no-untyped-call]  # timm has no type for it
        return made_by_timm
    acts = isinstance(norm, BatchNormAct2d)
    kind = _AllReduceBatchNormAct2d if acts else AllReduceBatchNorm2d
    made = kind(norm.num_features, eps=norm.eps, momentum=norm.momentum)
    made.weight, made.bias = norm.weight, norm.bias
    made.running_mean, made.running_var = norm.running_mean, norm.running_var
    made.num_batches_tracked = norm.num_batches_tracked
    if acts:
        made.drop, made.act = norm.drop, norm.act
    return made
