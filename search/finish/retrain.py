"""Trains the final models: with labels first, then from a teacher. Also under torchrun."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from fbnetv3._internal.errors import Diverged
from fbnetv3.search.data.image_set import ImageSet
from fbnetv3.search.training.batches import default_preprocess
from fbnetv3.search.training.config import Hardware, TrainConfig
from fbnetv3.search.training.distill import open_teacher
from fbnetv3.search.training.foreign import is_foreign, write_record
from fbnetv3.search.training.logbook import EpochLog
from fbnetv3.search.training.loop import Teacher
from fbnetv3.search.training.networks import Network, check_input, open_network, preprocess_for
from fbnetv3.search.training.parallel import current_world
from fbnetv3.search.training.stopping import StopRequest
from fbnetv3.search.training.train import train

from .plan import Final

TEACHER = "teacher"


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What all final trainings share.

    Attributes:
        out: folder of the final models.
        images: training set.
        val_images: validated on after epochs; decides nothing.
        seed: random seed of weights, order and augmentation.
        workers: processes that decode images which are not in memory.
        hardware: how to compute.
        on_epoch: called with the folder's name and each epoch.
        stop: asked after each step whether to stop.
    """

    out: Path
    images: ImageSet
    val_images: ImageSet
    seed: int = 0
    workers: int = 0
    hardware: Hardware = field(default_factory=Hardware.of)
    on_epoch: Callable[[str, EpochLog], None] = lambda _name, _log: None
    stop: StopRequest | None = None


def train_teacher(setup: Setup, final: Final) -> str:
    """Returns the name of the first step's network: the largest one, trained with labels.

    Raises:
        Stopped: `stop` was asked to; the step is saved.
        Diverged: the loss is not finite.
        ValueError: data, network and recipe do not fit together, or the folder is of other ones.
        OSError: the disk is full or not writable.
    """
    _train(setup, dataclasses.replace(final, name=TEACHER), None)
    return f"local-dir:{setup.out / TEACHER}"


def train_finals(setup: Setup, finals: list[Final], teacher: str | None) -> dict[str, str]:
    """Trains models; returns name -> why a model failed.

    A model that fails does not stop the others. Killed, the same call goes on.

    Args:
        setup: what all trainings share.
        finals: the models.
        teacher: what to distill from, as in `open_network`; None trains with labels only.

    Raises:
        Stopped: `stop` was asked to; the step is saved.
        ValueError: the teacher is unknown or has other classes.
        OSError: the disk is full or not writable.
    """
    if teacher is not None:
        # A wrong teacher is wrong for all of them.
        student = default_preprocess(setup.images, 224)
        open_teacher(teacher, setup.images.classes, student, hardware=setup.hardware)
    failed = {}
    for final in finals:
        try:
            _train(setup, final, teacher)
        except (Diverged, ValueError) as error:
            failed[final.name] = str(error)
        except RuntimeError as error:
            # Out of memory, say. Other processes would wait for this one for ever.
            if current_world().size > 1:
                raise
            failed[final.name] = f"{type(error).__name__}: {error}"
    return failed


def _train(setup: Setup, final: Final, teacher: str | None) -> None:
    recipe, folder = final.recipe, setup.out / final.name
    torch.manual_seed(setup.seed)
    network: Network = open_network(
        final.network,
        num_classes=len(setup.images.classes),
        pretrained=False,
        dropout=recipe.dropout,
        drop_path=recipe.drop_path,
    )
    preprocess = preprocess_for(network, setup.images, recipe.resolution)
    check_input(network.model, preprocess.crop, final.network)
    if is_foreign(final.network) and current_world().rank == 0:
        write_record(folder, final.network)
    config = TrainConfig(
        recipe=recipe,
        preprocess=preprocess,
        seed=setup.seed,
        folder=folder,
        workers=setup.workers,
        hardware=setup.hardware,
    )
    taught: Teacher | None = None
    if teacher is not None:
        classes = setup.images.classes
        taught = open_teacher(teacher, classes, preprocess, hardware=setup.hardware)
    train(
        network.model,
        setup.images,
        setup.val_images,
        config,
        teacher=taught,
        on_epoch=lambda log: setup.on_epoch(final.name, log),
        stop=setup.stop,
    )
