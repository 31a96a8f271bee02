"""Trains a detector: a run that can be killed at any moment and goes on with the same bits."""

from __future__ import annotations

import copy
from collections.abc import Callable

from fbnetv3.integrations.coco_folder import CocoFolder
from fbnetv3.search.training.parallel import current_world, synchronised_batch_norm
from fbnetv3.search.training.stopping import StopRequest
from fbnetv3.search.training.train import locked, own_generators

from .detectors import BuiltDetector, save_detector
from .loop import Loop
from .run import DetectionLog, DetectionRun

__all__ = ["DetectionLog", "DetectionRun", "train"]


def train(
    built: BuiltDetector,
    images: CocoFolder,
    val_images: CocoFolder,
    run: DetectionRun,
    *,
    on_epoch: Callable[[DetectionLog], None] = lambda _: None,
    on_step: Callable[[int, int, int], None] = lambda _epoch, _step, _steps: None,
    stop: StopRequest | None = None,
) -> tuple[BuiltDetector, tuple[DetectionLog, ...]]:
    """Returns the detector with averaged weights, and the epochs.

    Goes on where a run of the same folder stopped; with a recipe of more epochs, and nothing else
    changed, also a complete one, on the longer recipe's schedule. The folder gets the averaged
    weights of the last epoch, and in `best/` those of the epoch with the highest AP.

    Under torchrun, a node's processes share the recipe's batch, batch-norm sees all of it, and the
    nodes' batches add up, as does the learning rate.

    Args:
        built: trained in place.
        images: training set.
        val_images: validated on after epochs.
        run: the rest.
        on_epoch: called with each finished epoch, also those before a resume.
        on_step: called with epoch, steps done in it and steps of an epoch.
        stop: asked after each step whether to stop.

    Raises:
        Stopped: `stop` was asked to; the step is saved.
        Diverged: the loss is not finite.
        ValueError: the folder holds another run.
        OSError: the disk is full or not writable; the last checkpoint is whole.
    """
    world = current_world()
    with own_generators(run.hardware.device), locked(run.folder):
        built.module.to(run.hardware.device)
        with synchronised_batch_norm(built.module, world):
            loop = Loop(built, images, val_images, run, stop or StopRequest())
            for log in loop.epochs(on_step):
                on_epoch(log)
        module = loop.average.module
        if world.size > 1:  # the average was copied with the synchronised batch-norms in it
            module = copy.deepcopy(built.module)
            module.load_state_dict(loop.average.module.state_dict())
        averaged = BuiltDetector(module.eval(), built.config)
        if world.rank == 0:
            save_detector(run.folder, averaged)
        return averaged, tuple(loop.curve)
