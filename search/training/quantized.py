"""Quantization-aware training: an exported file to int8 whose weights and ranges were trained.

The network learns, in the arithmetic of its int8 file, to give the answers of the float file on the
user's images; their labels are not needed. The training is that of `train`: killed at any moment it
goes on from its last checkpoint. The file is written and judged as without training.

Why not torchao's PT2E or NNCF: each puts quantizers where its own backend wants them, and neither
knows that of `int8_swish`; the ranges that it trains would not be those of this file.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fbnetv3.deploy.quantize import Quantized, open_source, quantize, split, thinned
from fbnetv3.deploy.quantize_score import Labels
from fbnetv3.deploy.runtimes import ONNX
from fbnetv3.images.reader import ImageSource
from fbnetv3.search.data.image_set import ImageSet, read_images

from .config import Hardware, TrainConfig
from .distill import NetworkTeacher
from .fitting import fitted
from .logbook import EpochLog
from .loop import OnStep
from .recipe import Recipe
from .scoring import default_batch_size, logits_of
from .stopping import StopRequest
from .train import train

if TYPE_CHECKING:
    from fbnetv3.deploy.artefact import Artefact
    from fbnetv3.deploy.fake_quantize import TrainableGraph

RECIPE = Recipe(
    optimizer="adamw",
    lr=1e-4,
    batch_size=64,
    epochs=1,
    schedule="cosine",
    ema=False,
    augment="flip",
)
# An image set is trained on until so many steps are made, from once to so many times.
_STEPS, _MOST_EPOCHS = 500, 100
# How often a training looks at its held-out images and saves a checkpoint, at most once an epoch.
_NUM_LOOKS = 10
# Images for the ranges that training begins with, and for the agreement after an epoch.
_NUM_CALIBRATION, _NUM_VALIDATION = 256, 500


def quantize_aware(
    source: str | Path,
    path: str | Path,
    images: Sequence[ImageSource],
    *,
    folder: Path,
    evaluation: Sequence[ImageSource] | None = None,
    labels: Labels | None = None,
    max_drop_pct: float | None = None,
    sensitivity: bool = False,
    recipe: Recipe | None = None,
    hardware: Hardware | None = None,
    workers: int = 0,
    on_epoch: Callable[[EpochLog], None] = lambda _: None,
    on_step: OnStep = lambda _epoch, _step, _steps: None,
    stop: StopRequest | None = None,
) -> Quantized:
    """Trains an exported fp32 ONNX file in int8 arithmetic and writes its int8 file.

    Args:
        source: a file that `fbnetv3 export` wrote.
        path: the `.onnx` file to write.
        images: images like those of later use, without labels; the more the better. Files, their
            contents, or pixels (H, W, 3) uint8 of one size.
        folder: where the training keeps its checkpoints and log; the same call goes on from there.
        evaluation: images to evaluate the result on; default: every fourth of `images`, which is
            then not trained on.
        labels: see `quantize`.
        max_drop_pct: see `quantize`.
        sensitivity: see `quantize`.
        recipe: of the training; default: `recipe_for`.
        hardware: what to compute on, in float32; default: the GPU where there is one.
        workers: processes that decode images.
        on_epoch: called after each epoch; its accuracy, where it has one, is agreement with the
            float file.
        on_step: called with epoch, steps done in it and steps of an epoch.
        stop: asked after each step whether to stop.

    Raises:
        Stopped: `stop` was asked to; the step is saved.
        FileNotFoundError: the file does not exist.
        OverBudget: the budget cannot be met; nothing is written but `folder`.
        ValueError: an argument is wrong, or no image can be read.
    """
    artefact = open_source(source, ONNX, threads=1).artefact
    images, evaluation = split(images, evaluation, labels)
    hardware = hardware or Hardware.of(precision="fp32")
    if hardware.half is not None:
        raise ValueError(f"precision is {hardware.half}; int8 arithmetic is trained in float32")

    def trainer(graph: TrainableGraph, float_graph: TrainableGraph) -> None:
        training = _image_set("the training images", images, artefact)
        held_out = _image_set("the held-out images", thinned(evaluation, _NUM_VALIDATION), artefact)
        chosen = recipe or recipe_for(len(training))
        every = max(1, chosen.epochs // _NUM_LOOKS)
        config = TrainConfig(
            recipe=chosen,
            preprocess=artefact.preprocess,
            folder=folder,
            checkpoint_epochs=every,
            validate_epochs=every,
            workers=workers,
            hardware=hardware,
            license=artefact.license or None,
        )
        float_graph.to(hardware.device).requires_grad_(False)
        teacher = NetworkTeacher(
            float_graph,
            preprocess=artefact.preprocess,
            student=artefact.preprocess,
            weight=1.0,
            hardware=hardware,
        )
        judged = _with_answers(held_out, float_graph, artefact, config)
        train(
            graph,
            training,
            judged,
            config,
            teacher=teacher,
            on_epoch=on_epoch,
            on_step=on_step,
            stop=stop,
        )

    return quantize(
        source,
        path,
        thinned(images, _NUM_CALIBRATION),
        evaluation=evaluation,
        labels=labels,
        max_drop_pct=max_drop_pct,
        sensitivity=sensitivity,
        trainer=trainer,
    )


def recipe_for(
    num_images: int,
    *,
    epochs: int | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
) -> Recipe:
    """Returns the recipe for a number of images, with what a user has chosen."""
    fields: dict[str, Any] = {"epochs": epochs, "lr": lr, "batch_size": batch_size}
    given = {name: value for name, value in fields.items() if value is not None}
    recipe = fitted(
        "quantized",
        dataclasses.replace(RECIPE, **given),
        num_images,
        given=given,
        knows_classes=True,
    )
    if epochs is not None:
        return recipe
    steps = max(1, num_images // recipe.batch_size)
    return dataclasses.replace(recipe, epochs=min(-(-_STEPS // steps), _MOST_EPOCHS))


def _image_set(name: str, images: Sequence[ImageSource], artefact: Artefact) -> ImageSet:
    """Returns images as a set in which each has the first class, or none if it may have several."""
    classes = artefact.class_names or tuple(map(str, range(artefact.num_classes)))
    shape = (len(images), len(classes)) if artefact.multi_label else (len(images),)
    labels = torch.zeros(shape, dtype=torch.bool if artefact.multi_label else torch.long)
    arrays = [image for image in images if isinstance(image, np.ndarray)]
    if len({image.shape for image in arrays}) == 1 and len(arrays) == len(images):
        pixels = torch.from_numpy(np.stack(arrays))
        return ImageSet(name=name, classes=classes, labels=labels, pixels=pixels)
    sources: list[Path | bytes] = []
    for image in images:
        if not isinstance(image, str | os.PathLike | bytes):
            raise ValueError(
                f"{name} have a {type(image).__name__}; expected files, their contents, or arrays "
                "(H, W, 3) of one size"
            )
        sources.append(image if isinstance(image, bytes) else Path(image))
    # As without training, images that cannot be read are left out, however many.
    return read_images(name, classes, sources, labels, any_damaged=True)


def _with_answers(
    images: ImageSet, model: torch.nn.Module, artefact: Artefact, config: TrainConfig
) -> ImageSet:
    """Returns a set whose labels are a network's answers."""
    device = config.hardware.device
    answers = torch.zeros_like(images.labels)
    for batch, logits in logits_of(
        model,
        images,
        artefact.preprocess,
        device=device,
        batch_size=default_batch_size(device, artefact.preprocess.crop),
        workers=config.workers,
    ):
        answers[batch.indices.cpu()] = _answers(logits.cpu(), artefact)
    return dataclasses.replace(images, labels=answers)


def _answers(logits: Tensor, artefact: Artefact) -> Tensor:
    if artefact.multi_label:
        return logits.sigmoid() >= torch.tensor(artefact.thresholds)
    return logits.argmax(1)
