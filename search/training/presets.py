"""Named recipes, each with where its numbers come from and how sure that is.

Sources: "text" is the text of the FBNetV3 paper (arXiv 2006.02049 v3). "low" marks a value of
the paper that could not be checked: it must not be quoted as the paper's. "ours" is chosen here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from .recipe import Recipe


@dataclass(frozen=True, slots=True)
class Preset:
    """A recipe with the source of each number.

    Attributes:
        recipe: the numbers.
        about: what it is for, one sentence.
        notes: field of the recipe -> "text", "low" or "ours", and what is known. Other fields
            are off or at a default that the paper does not state.
    """

    recipe: Recipe
    about: str
    notes: Mapping[str, str]


_SEARCHED = {
    "optimizer": "low: the recipe-only search's winner, unverified",
    "lr": "low: 0.026, unverified; the range is 0.02..0.03 or 0.03..0.04",
    "weight_decay": "low: 7e-6, unverified; the range 7e-6..21e-6 is text",
    "dropout": "low: 0.17, unverified",
    "drop_path": "low: 0.09, unverified; below 0.2 is text",
    "mixup": "low: 0.19, unverified",
    "batch_size": "text: 256 a node",
    "label_smoothing": "text that it is used; its value 0.1 is ours",
    "augment": "text: AutoAugment",
    "momentum": "text: 0.9",
    "ema_decay": "text: 0.99985",
}
_SEARCH = Recipe(
    optimizer="rmsprop",
    lr=0.026,
    batch_size=256,
    epochs=150,
    schedule="exponential",
    decay_per_epoch=0.963,
    weight_decay=7e-6,
    dropout=0.17,
    drop_path=0.09,
    mixup=0.19,
    ema_decay=0.99985,
    label_smoothing=0.1,
    augment="autoaugment",
)
_FINAL = dataclasses.replace(
    _SEARCH,
    lr=0.02,
    epochs=400,
    decay_per_epoch=0.9875,
    warmup_epochs=5.0,
    dropout=0.2,
    drop_path=0.1,
)
_TABLE_1 = Recipe(
    optimizer="sgd",
    lr=0.025,
    batch_size=256,
    epochs=30,
    schedule="cosine",
    weight_decay=4e-5,
    ema=False,
    augment="crop",
)

PRESETS: dict[str, Preset] = {
    "search": Preset(
        _SEARCH,
        "a candidate of the paper's search: 200 classes, one node",
        {**_SEARCHED, "epochs": "text: 150", "decay_per_epoch": "text: 0.963"},
    ),
    "final": Preset(
        _FINAL,
        "the paper's networks on ImageNet: eight nodes, whose rates add up to 0.16",
        {
            **_SEARCHED,
            "epochs": "text: 400",
            "decay_per_epoch": "text: 0.9875",
            "warmup_epochs": "text: 5",
            "lr": "low: 0.16 over eight nodes; per-network rates are not known",
            "dropout": "low: 0.2; per-network values are not known",
            "drop_path": "low: 0.1; E's is below 0.2, F and G have 0.2 (text)",
        },
    ),
    "recipe-only": Preset(
        dataclasses.replace(
            _SEARCH, epochs=400, decay_per_epoch=0.9875, warmup_epochs=5.0, resolution=256
        ),
        "the recipe that the recipe-only search found for FBNetV2-L3",
        {
            **_SEARCHED,
            "epochs": "text: 400",
            "decay_per_epoch": "text: 0.9875",
            "warmup_epochs": "text: 5",
            "resolution": "text: 256",
        },
    ),
    "cifar10": Preset(
        dataclasses.replace(_FINAL, ema_decay=0.999),
        "the paper's transfer to CIFAR-10: from scratch, without distillation",
        {
            **_SEARCHED,
            "ema_decay": "text: 0.999",
            "resolution": "text: 32 for the base network; see data.cifar_arch",
            "epochs": "low: those of `final`",
            "lr": "low: those of `final`",
        },
    ),
    "coco": Preset(
        Recipe(
            optimizer="sgd",
            lr=0.005,
            batch_size=16,
            epochs=36,
            schedule="cosine",
            ema_decay=0.9998,
            augment="flip",
        ),
        "detection on COCO, as numbers for a detector's own trainer; `train` does not detect",
        {
            "ema_decay": "text: 0.9998",
            "schedule": "text: cosine",
            "lr": "text: 0.16 over eight nodes; that it is SGD's is low",
            "epochs": "text: the 3x schedule, about 36 epochs",
            "batch_size": "low",
        },
    ),
    "table1-30": Preset(
        _TABLE_1,
        "recipe 1 of the paper's Table 1",
        dict.fromkeys(("optimizer", "lr", "batch_size", "epochs", "weight_decay"), "text"),
    ),
    "table1-90": Preset(
        dataclasses.replace(_TABLE_1, epochs=90),
        "recipe 2 of the paper's Table 1",
        dict.fromkeys(("optimizer", "lr", "batch_size", "epochs", "weight_decay"), "text"),
    ),
    "short": Preset(
        Recipe(
            optimizer="sgd",
            lr=0.02,
            batch_size=128,
            epochs=30,
            schedule="cosine",
            warmup_epochs=1.0,
            weight_decay=5e-4,
            ema_decay=0.998,
            label_smoothing=0.1,
            augment="cutout",
        ),
        "small images from scratch in tens of epochs",
        {
            **dict.fromkeys(("optimizer", "epochs", "schedule", "weight_decay"), "ours"),
            "lr": "ours: 0.05 suits networks of half a million parameters and stalls fbnetv3_a",
        },
    ),
    "fine-tune": Preset(
        Recipe(
            optimizer="adamw",
            lr=0.002,
            batch_size=64,
            epochs=20,
            schedule="cosine",
            warmup_epochs=1.0,
            weight_decay=1e-4,
            ema_decay=0.998,
            label_smoothing=0.1,
            augment="crop",
        ),
        "trained weights on a data set of your own",
        {
            **dict.fromkeys(("optimizer", "epochs", "schedule", "weight_decay"), "ours"),
            "lr": "ours: AdamW's, for a new classifier; `fitting.fitted` says the rest",
        },
    ),
}


def get_recipe(name: str) -> Recipe:
    """Returns the recipe of a preset.

    Raises:
        ValueError: there is no preset of this name; lists them.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown recipe {name!r}; expected one of {', '.join(PRESETS)}")
    return PRESETS[name].recipe
