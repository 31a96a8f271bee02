"""A tiny network, data set and run that tests of training share; also a program to be killed."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from fbnetv3.arch.arch import Arch, Row
from fbnetv3.models.model import FBNetV3, build
from fbnetv3.search.data.image_set import ImageSet
from fbnetv3.search.training.batches import default_preprocess
from fbnetv3.search.training.recipe import Recipe
from fbnetv3.search.training.train import Hardware, TrainConfig

TINY = Arch(
    resolution=16,
    stem_channels=8,
    rows=(
        Row("MB1", (3, 3), (1, 1), 8, 1, 1, False),
        Row("MB2", (3, 3), (2, 2), 16, 2, 2, True),
    ),
    head_expansion=2,
    head_channels=32,
)
NUM_CLASSES = 4
# Of the run that is killed: its epochs, and its steps of 16 of 96 images.
EPOCHS = 24
STEPS = EPOCHS * 96 // 16


def tiny_model(seed: int = 0, **kwargs: Any) -> FBNetV3:
    """Returns the network with weights that follow from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(TINY, num_classes=NUM_CLASSES, **kwargs)


def tiny_images(num: int = 96, seed: int = 0, classes: int = NUM_CLASSES) -> ImageSet:
    """Returns noisy images whose class is told by which quarter is bright: learnable in seconds."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num) % classes
    pixels = torch.randint(0, 120, (num, 16, 16, 3), generator=generator)
    for number, label in enumerate(labels.tolist()):
        top, left = 8 * (label // 2 % 2), 8 * (label % 2)
        pixels[number, top : top + 8, left : left + 8] += 120
    return ImageSet(
        name="tiny",
        classes=tuple(f"class{n}" for n in range(classes)),
        labels=labels,
        pixels=pixels.to(torch.uint8),
    )


def tiny_multi_label(num: int = 96, seed: int = 0) -> ImageSet:
    """Returns noisy images with a class for each quarter that is bright: none, one or several."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.rand(num, NUM_CLASSES, generator=generator) < 0.4
    pixels = torch.randint(0, 120, (num, 16, 16, 3), generator=generator)
    for number, label in labels.nonzero().tolist():
        top, left = 8 * (label // 2 % 2), 8 * (label % 2)
        pixels[number, top : top + 8, left : left + 8] += 120
    return ImageSet(
        name="several",
        classes=tuple(f"class{n}" for n in range(NUM_CLASSES)),
        labels=labels,
        pixels=pixels.to(torch.uint8),
    )


def plain_recipe(epochs: int) -> Recipe:
    """Returns a recipe of which no part is random but the order of the images."""
    return tiny_recipe(
        optimizer="sgd",
        lr=0.02,
        epochs=epochs,
        mixup=0.0,
        dropout=0.0,
        drop_path=0.0,
        augment="none",
        label_smoothing=0.0,
    )


def tiny_recipe(**fields: Any) -> Recipe:
    """Returns a recipe that uses every random part; fields replace its own."""
    return Recipe(
        **{
            "optimizer": "rmsprop",
            "lr": 0.005,
            "batch_size": 16,
            "epochs": 4,
            "schedule": "cosine",
            "warmup_epochs": 1.0,
            "weight_decay": 1e-5,
            "dropout": 0.2,
            "drop_path": 0.1,
            "mixup": 0.2,
            "ema_decay": 0.9,
            "label_smoothing": 0.1,
            "augment": "autoaugment",
            **fields,
        }
    )


def tiny_run(
    folder: Path | None = None, recipe: Recipe | None = None, **fields: Any
) -> TrainConfig:
    """Returns a CPU run of the tiny recipe."""
    recipe = recipe or tiny_recipe()
    return TrainConfig(
        recipe=recipe,
        preprocess=default_preprocess(tiny_images(), 16),
        folder=folder,
        hardware=Hardware.of("cpu"),
        **fields,
    )


def work(folder: Path) -> None:
    """Trains into the folder, with a checkpoint every second step."""
    from fbnetv3.search.training.train import train

    recipe = tiny_recipe(epochs=EPOCHS)
    model = tiny_model(drop_rate=recipe.dropout, drop_path_rate=recipe.drop_path)
    train(model, tiny_images(), tiny_images(seed=1), tiny_run(folder, recipe, checkpoint_steps=2))


def main() -> None:
    """Trains into the folder argv[1], killed argv[2] times at random moments, seed argv[3].

    Each attempt is a forked child that gets SIGKILL: importing torch takes longer than the whole
    run, so it is done once.
    """
    import timm.data
    import timm.optim
    import timm.utils  # noqa: F401  # imported before the clock runs

    torch.set_num_threads(1)
    folder, kills = Path(sys.argv[1]), int(sys.argv[2])
    moments = random.Random(sys.argv[3] if len(sys.argv) > 3 else 0)
    # By progress and not by the clock alone, so that a fast machine is not done before the last.
    for share in sorted(moments.uniform(0, 0.8) for _ in range(kills)):
        child = os.fork()
        if child == 0:
            work(folder)
            os._exit(0)
        while _newest_step(folder) < share * STEPS:
            if os.waitpid(child, os.WNOHANG) != (0, 0):
                sys.exit("it ended before it could be killed so often: make the run longer")
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        print(f"killed at step {_newest_step(folder)} or after", flush=True)
    work(folder)


def _newest_step(folder: Path) -> int:
    """Returns the step of the newest checkpoint, 0 where there is none."""
    found = (folder / "checkpoints").glob("step-*.json")
    return max((int(path.stem.removeprefix("step-")) for path in found), default=0)


if __name__ == "__main__":
    main()
