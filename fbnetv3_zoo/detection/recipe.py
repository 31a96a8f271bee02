"""The settings of a detector's training, with defaults that fit fine-tuning on a small set."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from fbnetv3._internal.checks import (
    check_choice,
    check_number,
    check_whole,
    checked_seed,
    refusal,
)

from .data import AUGMENTATIONS

# Learning rate for 8 images. SGD's is in proportion to the batch (the paper's 0.16 for 32), AdamW's
# to its root. SSDlite's was measured, see benchmarks/results/ssdlite_trunk.md.
_LR = {"adamw": 1e-3, "sgd": 0.04}
_SSDLITE_ADAMW = 4e-3
_WEIGHT_DECAY = {"adamw": 0.05, "sgd": 1e-4}
_BATCH = 8
# Of the steps; what the averaged weights look back on at the end, and at most what the paper does.
_AVERAGED_SHARE, _MAX_DECAY, _MIN_DECAY = 0.05, 0.9998, 0.9
_WARM_UP_SHARE, _MAX_WARM_UP = 0.05, 1000
# More epochs, images or steps are a slip of the keyboard.
_MOST = 1_000_000


@dataclass(frozen=True, kw_only=True)
class DetectionRecipe:
    """How a detector is trained: warm-up, then a cosine; averaged weights are kept.

    Attributes:
        epochs: number of epochs.
        batch_size: images per step.
        optimizer: "adamw" or "sgd" (with momentum 0.9).
        lr: highest learning rate.
        weight_decay: of weights; norms and biases do not decay.
        warmup_steps: steps of linear warm-up.
        ema_decay: of the averaged weights, per step.
        clip_norm: largest norm of the gradient. It keeps the first steps of fresh heads finite.
        layer_decay: a layer of the backbone has this times the rate of the next one; what follows
            the backbone has `lr`. 1 is the same rate everywhere.
        augment: one of `data.AUGMENTATIONS`.
        seed: of order, augmentation and sampled boxes.

    Raises:
        ValueError: a setting is out of range.
    """

    epochs: int
    batch_size: int
    optimizer: str
    lr: float
    weight_decay: float
    warmup_steps: int
    ema_decay: float
    clip_norm: float = 10.0
    layer_decay: float = 1.0
    augment: str = "flip"
    seed: int = 0

    def __post_init__(self) -> None:
        checked_seed(self.seed)
        for name, least in (("epochs", 1), ("batch_size", 1), ("warmup_steps", 0)):
            check_whole(name, getattr(self, name), least, _MOST)
        check_choice("optimizer", self.optimizer, tuple(_LR))
        check_choice("augment", self.augment, AUGMENTATIONS)
        for name in ("lr", "clip_norm"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise refusal(name, value, "a number above 0")
        highest = {"weight_decay": (0, 1), "ema_decay": (0, 0.999999), "layer_decay": (0.01, 1)}
        for name, (low, high) in highest.items():
            check_number(name, getattr(self, name), low, high)

    @staticmethod
    def fitting(
        num_images: int,
        *,
        detector: str = "ssdlite",
        epochs: int = 20,
        batch_size: int = _BATCH,
        optimizer: str = "adamw",
        lr: float | None = None,
        augment: str = "flip",
        seed: int = 0,
        **others: float,
    ) -> DetectionRecipe:
        """Returns a recipe whose rate, warm-up and average fit the batch and number of steps.

        Args:
            num_images: in the training set; the batch is no larger.
            detector: kind of the detector.
            epochs: number of epochs.
            batch_size: images per step.
            optimizer: "adamw" or "sgd".
            lr: learning rate; None fits the detector, optimiser and batch.
            augment: as the attribute.
            seed: as the attribute.
            **others: other attributes, which replace what fits.

        Raises:
            ValueError: a setting is out of range.
        """
        batch_size = min(batch_size, num_images)
        steps = epochs * (num_images // max(1, batch_size))
        if lr is None:
            scale = max(1, batch_size) / _BATCH
            fast = detector == "ssdlite" and optimizer == "adamw"
            lr = _SSDLITE_ADAMW if fast else _LR.get(optimizer, 0.0)
            lr *= scale if optimizer == "sgd" else math.sqrt(scale)
            lr = lr or 1.0  # of an unknown optimiser, which is refused
        decay = 1 - 1 / max(1.0, _AVERAGED_SHARE * steps)
        fitting: dict[str, Any] = {
            "weight_decay": _WEIGHT_DECAY.get(optimizer, 0.0),
            "warmup_steps": min(_MAX_WARM_UP, round(_WARM_UP_SHARE * steps)),
            "ema_decay": round(min(_MAX_DECAY, max(_MIN_DECAY, decay)), 6),
        }
        return DetectionRecipe(
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            lr=lr,
            augment=augment,
            seed=seed,
            **{**fitting, **others},
        )

    def lr_at(self, step: int, steps: int) -> float:
        """Returns the learning rate of a step, from 0, of all steps of the run."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / (self.warmup_steps + 1)
        left = max(1, steps - self.warmup_steps)
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - self.warmup_steps) / left))

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as plain JSON types."""
        return dataclasses.asdict(self)
