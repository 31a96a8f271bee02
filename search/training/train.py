"""The one training loop: candidates of a search, final networks, fine-tuning.

A run is a function of its record, the data and the network's first weights. Killed at any moment it
goes on from its last checkpoint and, on a CPU, ends with the same bits; see `loop`. The caller's
global generators are put back at the end.
"""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fbnetv3.hub.pretrained_cfg import license_of
from fbnetv3.search.data.image_set import ImageSet

from .config import Hardware, TrainConfig
from .logbook import EpochLog, best_of, write_network, write_weights
from .loop import Loop, OnStep, Teacher
from .parallel import current_world, synchronised_batch_norm
from .stopping import StopRequest

__all__ = ["Hardware", "Teacher", "TrainConfig", "Trained", "train", "train_epochs"]


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished run.

    Attributes:
        model: with the raw weights, the object that was given.
        ema: with the averaged weights; None without.
        curve: the epochs.
    """

    model: nn.Module
    ema: nn.Module | None
    curve: tuple[EpochLog, ...]

    @property
    def best(self) -> nn.Module:
        """The last epoch's network to use: averaged weights where the recipe has them."""
        return self.model if self.ema is None else self.ema

    @property
    def top1_pct(self) -> float:
        """Top-1 of `best` after the last epoch, in percent; not of multi-label sets."""
        last = self.curve[-1]
        found = last.top1_pct if self.ema is None else last.ema_top1_pct
        assert found is not None
        return found

    @property
    def accuracy_pct(self) -> float:
        """Validation accuracy of `best`, of a multi-label set mAP, in percent."""
        found = self.curve[-1].accuracy_pct
        assert found is not None
        return found

    @property
    def best_epoch(self) -> EpochLog:
        """The last epoch of the highest validation accuracy."""
        found = best_of(self.curve)
        assert found is not None
        return found


def train(
    model: nn.Module,
    images: ImageSet,
    val_images: ImageSet,
    config: TrainConfig,
    *,
    teacher: Teacher | None = None,
    on_epoch: Callable[[EpochLog], None] = lambda _: None,
    on_step: OnStep = lambda _epoch, _step, _steps: None,
    stop: StopRequest | None = None,
) -> Trained:
    """Returns the model trained; goes on where a run of the same folder stopped.

    A run that is complete keeps one checkpoint without the optimiser's state. With a recipe of more
    epochs, and nothing else changed, it goes on from there, on the longer recipe's schedule.

    Args:
        model: trained in place; logits (N, classes) of normalised images.
        images: training set.
        val_images: validated on after epochs; decides nothing but which epoch is the best.
        config: the rest.
        teacher: what to distil from.
        on_epoch: called with each finished epoch, also those before a resume.
        on_step: called with epoch, steps done in it and steps of an epoch.
        stop: asked after each step whether to stop.

    Raises:
        Stopped: `stop` was asked to; the step is saved where there is a folder.
        Diverged: the loss is not finite.
        ValueError: data, model, config, or a checkpoint in the folder do not fit together.
        OSError: the disk is full or not writable; the last checkpoint is whole.
    """
    going = train_epochs(
        model, images, val_images, config, teacher=teacher, on_step=on_step, stop=stop
    )
    while True:
        try:
            on_epoch(next(going))
        except StopIteration as finished:
            trained: Trained = finished.value
            return trained


def train_epochs(
    model: nn.Module,
    images: ImageSet,
    val_images: ImageSet,
    config: TrainConfig,
    *,
    teacher: Teacher | None = None,
    on_step: OnStep = lambda _epoch, _step, _steps: None,
    stop: StopRequest | None = None,
) -> Generator[EpochLog, None, Trained]:
    """Yields each epoch as it is finished and returns what `train` does; see there.

    For callers that may end a run early: closing the generator gives the folder free, and the run
    can go on later. While it is suspended the global generators are the run's.
    """
    device, world = config.hardware.device, current_world()
    with own_generators(device), locked(config.folder):
        model.to(device)
        with synchronised_batch_norm(model, world):
            loop = Loop(model, images, val_images, config, teacher, stop)
            try:
                yield from loop.epochs(on_step)
            finally:
                loop.batches.close()
            ema = None if loop.ema is None else loop.ema.module
            for part in loop.frozen:
                part.requires_grad_(True)
        # The average was copied with the stand-ins in it.
        if ema is not None and world.size > 1:
            plain = copy.deepcopy(model)
            plain.load_state_dict(ema.state_dict())
            ema = plain
        trained = Trained(model.eval(), None if ema is None else ema.eval(), tuple(loop.curve))
        if config.folder is not None and world.rank == 0:
            _write_results(config.folder, trained, config, images, loop.thresholds)
            loop.keep_what_a_longer_run_needs()
        return trained


def _write_results(
    folder: Path,
    trained: Trained,
    config: TrainConfig,
    images: ImageSet,
    thresholds: tuple[float, ...],
) -> None:
    """Writes the weights of the last epoch."""
    head: dict[str, Any] = {
        "preprocess": config.preprocess,
        "classes": images.classes,
        "thresholds": thresholds,
        "license": config.license,
    }
    write_network(folder, trained.best, **head)
    if trained.ema is not None:
        head["license"] = config.license or license_of(trained.model)
        write_weights(folder / "model_raw.safetensors", trained.model.state_dict(), **head)


@contextlib.contextmanager
def own_generators(device: torch.device) -> Iterator[None]:
    """Puts the global generators back to where they were, of the devices those of this one."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextlib.contextmanager
def locked(folder: Path | None) -> Iterator[None]:
    """Keeps a second run out of a folder; a killed process's hold ends with it."""
    if folder is None or current_world().rank:
        yield
        return
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "train.lock", timeout=0):
            yield
    except Timeout:
        raise ValueError(
            f"another process trains in {folder}; wait, or give another --out"
        ) from None
