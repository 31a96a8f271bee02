"""What `fbnetv3 train` prints before its first step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fbnetv3._internal.messages import counted

if TYPE_CHECKING:
    from torch import nn

    from fbnetv3.search.data.image_set import ImageSet
    from fbnetv3.search.training.config import TrainConfig


def plan_lines(
    name: str,
    model: nn.Module,
    *,
    trained: bool,
    images: ImageSet,
    val_images: ImageSet,
    config: TrainConfig,
    recipe_name: str,
) -> Iterator[str]:
    """Yields the classes, and what will be trained on what, how and where, a line each.

    Args:
        name: of the network.
        model: the network.
        trained: whether its weights are trained ones.
        images: training set.
        val_images: validation set.
        config: of the run.
        recipe_name: the preset or file that the recipe comes from.
    """
    from fbnetv3.search.data.overview import class_table

    yield from class_table(images, val_images)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    weights = "trained weights" if trained else "fresh weights"
    yield f"model   {name}, {weights}, {parameters / 1e6:.2f} million parameters"
    side = config.preprocess.crop
    yield (
        f"images  {len(images)} to train on, {len(val_images)} to validate on, "
        f"{counted(len(images.classes), 'class', 'classes')}, {side} x {side} pixels"
    )
    if images.multi_label:
        yield "task    multi-label: a score for each class, and its threshold from validation"
    recipe = config.recipe
    steps = len(images) // recipe.batch_size
    factor = f" (it steps at {recipe.lr_factor:g} x lr)" if recipe.lr_factor != 1 else ""
    yield (
        f"recipe  {recipe_name}: {counted(recipe.epochs, 'epoch')} of {counted(steps, 'step')} of "
        f"{counted(recipe.batch_size, 'image')}, {recipe.optimizer} with lr "
        f"{recipe.lr:.4g}{factor}, augment {recipe.augment}"
    )
    hardware = config.hardware
    precision = "bf16" if hardware.bf16 else "fp16" if hardware.fp16 else "fp32"
    loading = counted(config.workers, "worker")
    decoding = "images in memory" if images.pixels is not None else loading
    yield f"device  {hardware.device}, {precision}, {decoding}"
