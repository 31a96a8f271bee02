"""Worlds of processes on this machine, for tests; also the program that each process of two runs.

The program trains the tiny network, or makes one step of a layer with batch-norm.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import random
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fbnetv3._internal.errors import Diverged
from fbnetv3.search.data.image_set import ImageSet
from fbnetv3.search.training.batches import Batch
from fbnetv3.search.training.parallel import World, joined, summed, synchronised_batch_norm
from fbnetv3.search.training.recipe import Recipe
from fbnetv3.search.training.train import train
from tests.paths import ROOT

from .tiny import NUM_CLASSES, tiny_images, tiny_model, tiny_recipe, tiny_run


def shared_recipe() -> Recipe:
    """Returns a recipe without what would differ between one process and two."""
    return tiny_recipe(mixup=0.0, dropout=0.0, drop_path=0.0, epochs=2, optimizer="sgd", lr=0.01)


def run_two(*arguments: str, local: int = 2) -> None:
    """Runs this program in two processes, `local` of them on each node, and waits for both."""
    port = 20000 + random.SystemRandom().randrange(20000)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    env |= {"MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": str(local)}
    program = [sys.executable, "-m", "tests.search.distributed", *arguments]
    started = [
        subprocess.Popen(program, cwd=ROOT, env={**env, "RANK": str(rank)}) for rank in (0, 1)
    ]
    try:
        assert [process.wait(250) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()


@contextlib.contextmanager
def world_of_one(backend: str, folder: Path) -> Iterator[None]:
    """Is an initialised process group of this process alone."""
    dist.init_process_group(
        backend, init_method=f"file://{folder / 'rendezvous'}", rank=0, world_size=1
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


def normalised_layer() -> nn.Sequential:
    """Returns a convolution and its batch-norm, with weights that are always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8))


def one_step(layer: nn.Sequential, world: World, *, bf16: bool) -> dict[str, Tensor]:
    """Returns what a process's share of one batch gives: outputs, gradients, statistics."""
    draw = torch.Generator().manual_seed(1)
    # Means far from zero, where a difference of squares would lose digits.
    x = 5 + torch.randn(8, 3, 8, 8, generator=draw)
    weights = torch.randn(8, 8, 6, 6, generator=draw)
    mine = x[world.rank :: world.size].requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        out = layer(mine)
    (out.float() * weights[world.rank :: world.size]).sum().backward()
    assert mine.grad is not None
    found = {"out": out.detach(), "x.grad": mine.grad}
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None
        found[f"{name}.grad"] = summed(parameter.grad)
    return found


class Wild:
    """A teacher whose logits are not finite in process 1 alone."""

    weight, identity = 0.8, "wild"

    def __init__(self, world: World) -> None:
        self._value = float("nan") if world.rank else 0.0

    def check(self, recipe: Recipe, images: ImageSet) -> None:
        """Takes every recipe."""

    def logits(self, batch: Batch) -> Tensor:
        """Returns (n, classes)."""
        return torch.full((len(batch.labels), NUM_CLASSES), self._value)


def main() -> None:
    """Does what is asked, as one of two processes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("train", "step", "diverge"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--bf16", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.device.type == "cuda":
        # NCCL wants a GPU for each process; gloo lets both share one.
        dist.init_process_group("gloo")
    with joined(asked.device) as world:
        group = weakref.ref(dist.group.WORLD)
        if asked.what == "step":
            layer = normalised_layer()
            with synchronised_batch_norm(layer, world):
                found = one_step(layer, world, bf16=asked.bf16)
            torch.save({**found, **layer.state_dict()}, asked.folder / f"{world.rank}.pt")
        elif asked.what == "diverge":
            with contextlib.suppress(Diverged):
                train(tiny_model(), tiny_images(), tiny_images(), tiny_run(), teacher=Wild(world))
                raise AssertionError("the loss of process 1 is not finite")
            assert int(summed(torch.tensor(1))) == 2  # both are here, neither waits in a step
        else:
            # Another seed in each: the first one's weights have to reach the others.
            model = tiny_model(seed=world.rank)
            run = tiny_run(asked.folder, shared_recipe())
            hardware = dataclasses.replace(run.hardware, device=asked.device, bf16=asked.bf16)
            run = dataclasses.replace(run, hardware=hardware)
            train(model, tiny_images(), tiny_images(50, seed=1), run)
    if asked.device.type == "cpu":
        assert group() is None, "threads of a group that is kept can end Python in an abort"


if __name__ == "__main__":
    main()
