"""A training recipe as data: validated where it is made, JSON both ways, schedule in closed form.

Numbers only: no torch. `presets` has the named recipes, `train` follows one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fbnetv3._internal.checks import check_choice, check_number, check_whole, refusal
from fbnetv3._internal.json_record import keywords_of, read_json

SCHEMA = "fbnetv3-recipe/1"
OPTIMIZERS = ("rmsprop", "sgd", "adamw")
SCHEDULES = ("exponential", "cosine", "linear", "constant")
EMA_STARTS = ("warmup", "copy", "unbiased")
BALANCES = ("none", "sampler", "loss")
AUGMENTS = ("none", "flip", "crop", "cutout", "trivial", "autoaugment")
# One column of the paper's search space holds the rate of both optimisers: SGD multiplies it by 4.
SGD_LR_FACTOR = 4.0
_CHOICES = {
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "augment": AUGMENTS,
    "ema_start": EMA_STARTS,
    "balance": BALANCES,
}
# Field -> the least and the most.
_RANGES = {
    "lr": (1e-9, 100.0),
    "decay_per_epoch": (1e-6, 1.0),
    "weight_decay": (0.0, 1.0),
    "layer_decay": (0.01, 1.0),
    "clip_norm": (0.0, 1e6),
    "mixup": (0.0, 10.0),
    "momentum": (0.0, 0.999999),
    "dropout": (0.0, 0.999999),
    "drop_path": (0.0, 0.999999),
    "ema_decay": (0.0, 0.999999),
    "label_smoothing": (0.0, 0.999999),
}
# What `Recipe.lengthened` changes beside the epochs.
LENGTH_FIELDS = ("warmup_epochs", "weight_decay", "ema_decay", "decay_per_epoch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a network is trained. Equal recipes train equally, given the seed.

    Attributes:
        optimizer: "rmsprop" (the TensorFlow form), "sgd" (Nesterov) or "adamw".
        lr: peak learning rate for `batch_size` images; SGD uses four times this.
        batch_size: images per step and node. The nodes' batches add up, and so does the rate.
        epochs: length of the schedule.
        schedule: what follows warm-up: "exponential" multiplies the rate by `decay_per_epoch` after
            every epoch; "cosine" and "linear" fall to 0 at the end, step by step.
        decay_per_epoch: used by "exponential" only.
        warmup_epochs: the rate grows linearly from near 0 over this many epochs.
        weight_decay: L2, added to the gradient of weights, decoupled from it with AdamW; none on
            batch-norm and biases.
        momentum: of the optimiser; AdamW's first beta.
        clip_norm: gradients are scaled down to this norm over all weights; 0 is off.
        freeze: parts that are not trained, from the input on, see `freezing.parts_of`: a number of
            them, or "backbone" for all but the classifier.
        layer_decay: a block's learning rate is this times that of the next block, as in timm; the
            classifier's is `lr`. 1 is the same rate everywhere.
        balance: of classes with unequal numbers of images. "sampler" draws every class equally
            often, "loss" weighs images by their class; each weight is inverse to the number. With
            several labels per image, "sampler" goes by an image's rarest class, and "loss" weighs
            the images of a class by the number of those without it.
        dropout: before the classifier.
        drop_path: stochastic depth of the last block, growing linearly from the first.
        mixup: alpha of the beta distribution; 0 is off.
        ema: whether averaged weights are kept, validated and preferred.
        ema_decay: of the average, per step.
        ema_start: how the average begins, see `average.averaging_weight`. "warmup" lowers the decay
            of early steps to (1 + t) / (10 + t); "copy" does not, as in the paper's equation (2);
            "unbiased" leaves the initial weights out, as Adam's averages do.
        label_smoothing: share of the target spread over all classes; with several labels per image,
            share of each target that becomes one half.
        augment: each includes those before it, except that the policies exclude each other:
            "none", "flip", "crop" (shifted by up to an eighth of the side, or a random resized crop
            for photos), "cutout" (a square of half the side left out, random erasing for photos),
            "trivial" (TrivialAugment, no cutout), "autoaugment" (the CIFAR-10 policy with
            cutout, or the ImageNet policy for photos).
        resolution: input side in pixels; None is the network's own.

    Raises:
        ValueError: a field is out of range; the message names it.
    """

    optimizer: str
    lr: float
    batch_size: int
    epochs: int
    schedule: str
    decay_per_epoch: float = 1.0
    warmup_epochs: float = 0.0
    weight_decay: float = 0.0
    momentum: float = 0.9
    clip_norm: float = 0.0
    freeze: int | str = 0
    layer_decay: float = 1.0
    balance: str = "none"
    dropout: float = 0.0
    drop_path: float = 0.0
    mixup: float = 0.0
    ema: bool = True
    ema_decay: float = 0.999
    ema_start: str = "warmup"
    label_smoothing: float = 0.0
    augment: str = "crop"
    resolution: int | None = None

    def __post_init__(self) -> None:
        for field, known in _CHOICES.items():
            check_choice(f"recipe: {field}", getattr(self, field), known)
        if self.freeze != "backbone":
            check_whole("recipe: freeze", self.freeze, 0, 1000, otherwise="backbone, or ")
        check_whole("recipe: batch_size", self.batch_size, 1, 1 << 20)
        check_whole("recipe: epochs", self.epochs, 1, 100_000)
        if self.resolution is not None:
            check_whole("recipe: resolution", self.resolution, 8, 4096)
        if not isinstance(self.ema, bool):
            raise refusal("recipe: ema", self.ema, "true or false")
        for field, (low, high) in _RANGES.items():
            check_number(f"recipe: {field}", getattr(self, field), low, high)
        check_number("recipe: warmup_epochs", self.warmup_epochs, 0.0, float(self.epochs))
        if self.mixup and self.batch_size % 2:
            raise refusal("recipe: batch_size", self.batch_size, "an even number where mixup is on")

    @property
    def lr_factor(self) -> float:
        """How many times `lr` the optimiser's own learning rate is."""
        return SGD_LR_FACTOR if self.optimizer == "sgd" else 1.0

    def lr_at(self, epoch: float, *, nodes: int = 1) -> float:
        """Returns the optimiser's learning rate `epoch` epochs into the run.

        Args:
            epoch: epochs done, with the fraction; 0 is the first step's start.
            nodes: the rate is linear in this, as the whole batch is.
        """
        peak = self.lr * nodes * self.lr_factor
        if epoch < self.warmup_epochs:
            return peak * epoch / self.warmup_epochs
        past = epoch - self.warmup_epochs
        done = min(1.0, past / max(self.epochs - self.warmup_epochs, 1e-9))
        if self.schedule == "exponential":
            return float(peak * self.decay_per_epoch ** math.floor(past))
        if self.schedule == "cosine":
            return peak * 0.5 * (1.0 + math.cos(math.pi * done))
        return peak * (1.0 - done) if self.schedule == "linear" else peak

    def lengthened(self, epochs: int, *, data_times: float = 1.0) -> Recipe:
        """Returns the recipe for a training of another length, longer or shorter.

        What acts once a step or once an epoch acts as much per training as it did:

        * weight decay: rate x decay x steps stays as it was, because one that was found by short
          trainings is too strong for a long one (Wang & Aitchison 2024, arXiv 2405.13698);
        * the average: its horizon stays the same share of the training's steps;
        * warm-up: stays the same share of the epochs;
        * an exponential schedule ends at the rate that it ended at, as in the paper, whose decay
          per epoch is 0.963 for 150 epochs and 0.9875 for 400.

        Learning rate, regularisation and augmentation are not changed: all recorded trainings of
        one network with several rates are of one length, so that there is nothing to fit a shift
        of the rate to.

        Args:
            epochs: of the other training.
            data_times: how many times the images that the recipe was found with are trained on.

        Raises:
            ValueError: an argument is out of range, or the decay of a much shorter training is.
        """
        check_number("recipe: data_times", data_times, 1e-9, 1e9)
        check_whole("recipe: epochs", epochs, 1, 100_000)
        longer = epochs / self.epochs
        times = longer * data_times
        return dataclasses.replace(
            self,
            epochs=epochs,
            warmup_epochs=min(self.warmup_epochs * longer, float(epochs)),
            weight_decay=self.weight_decay / times,
            ema_decay=min(self.ema_decay ** (1 / times), 0.999999),
            decay_per_epoch=max(self.decay_per_epoch ** (1 / longer), 1e-6),
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the recipe as plain JSON types, with its schema's name."""
        return {"schema": SCHEMA, **dataclasses.asdict(self)}

    def to_json(self) -> str:
        """Returns the recipe as a JSON text that `from_json` reads back to an equal Recipe."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @property
    def sha256(self) -> str:
        """The recipe's identity: equal for equal recipes."""
        fields = {
            name: float(value) if type(value) is int else value
            for name, value in self.to_dict().items()
        }
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    @staticmethod
    def from_dict(fields: Mapping[str, Any]) -> Recipe:
        """Returns the recipe of a mapping as `to_dict` writes it.

        Raises:
            ValueError: a field is missing, unknown or out of range; the message names it.
        """
        if not isinstance(fields, Mapping):
            raise refusal("recipe", fields, "a JSON object")
        if fields.get("schema") != SCHEMA:
            raise refusal("recipe: schema", fields.get("schema"), repr(SCHEMA))
        body = {key: value for key, value in fields.items() if key != "schema"}
        return Recipe(**keywords_of(Recipe, body, "recipe"))

    @staticmethod
    def from_json(text: str | bytes) -> Recipe:
        """Returns the recipe of a JSON text.

        Raises:
            ValueError: the text is no JSON, or a field is missing, unknown or out of range.
        """
        return Recipe.from_dict(read_json(text, "the recipe"))
