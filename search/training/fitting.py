"""How a preset is fitted to a set of images: batch and learning rate by clear rules.

Numbers only: no torch. `benchmarks/training/finetune.py` compares the outcome with the defaults of
other scripts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from .recipe import Recipe

# The statistics of smaller batches are too noisy for batch-norm, where more images are to be had.
_LEAST_BATCH = 16
# How much slower weights learn that know the classes already: at a tenth of the rate, 430 images
# left 84.9 % of the 88.7 % that they had, at this 87.1 (benchmarks/TRAINING.md).
_KNOWN_CLASSES = 1 / 80
# What SGD takes of the rate of AdamW, which the preset's is.
_SGD_TIMES = 10


def fitted(
    preset: str,
    recipe: Recipe,
    num_images: int,
    *,
    knows_classes: bool,
    given: Collection[str] = (),
) -> Recipe:
    """Returns the recipe of a preset with a batch and a rate for a set of images.

    The batch is at most an eighth of the images, and the rate is proportional to it. To go on from
    trained weights ("fine-tune"), the batch is 16 at least where that leaves four steps an epoch.
    AdamW's rate is the preset's whatever the batch; SGD's, ten times that, and RMSProp's are
    proportional to it. Where the weights know the classes, all take an eightieth.

    Args:
        preset: name of the preset.
        recipe: for larger sets, with what a user has chosen.
        num_images: to train on.
        knows_classes: whether the weights were trained on these classes.
        given: fields of the recipe that a user has chosen, which stay as they are.
    """
    if preset != "fine-tune":
        return _with_batch(recipe, num_images // 8, given)
    found = _with_batch(recipe, max(num_images // 8, min(_LEAST_BATCH, num_images // 4)), given)
    if "lr" in given:
        return found
    lr = recipe.lr if recipe.optimizer == "adamw" else found.lr
    lr *= _SGD_TIMES if recipe.optimizer == "sgd" else 1
    return dataclasses.replace(found, lr=lr * (_KNOWN_CLASSES if knows_classes else 1))


def _with_batch(recipe: Recipe, most: int, given: Collection[str]) -> Recipe:
    """Returns the recipe with its batch halved until it is small enough, down to two images."""
    batch = recipe.batch_size
    while "batch_size" not in given and batch > 2 and batch > most:
        batch //= 2
    lr = recipe.lr if "lr" in given else recipe.lr * batch / recipe.batch_size
    return dataclasses.replace(recipe, batch_size=batch, lr=lr)
