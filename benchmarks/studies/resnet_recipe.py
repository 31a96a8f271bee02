r"""A search of recipes for one ResNet on CIFAR-10, with the search's Python API.

    python -m benchmarks.studies.resnet_recipe --data cifar-10-batches-py --work runs/resnet

The paper searches a recipe for ResNet-50 without EMA and finds one that is 1.9 points better than
its baseline. Here the network is torchvision's ResNet-18 for small images at a quarter of its
width, a full training is ten epochs of 5,000 images, 5,000 others judge it, and the space has what
of the paper's recipe such a network takes: optimizer, rate, weight decay and mixup, all without
EMA. The baseline, a person's recipe, is in the space but not made known to the search. No test
image is seen; `studies.paper_trainings recipes` trains the answer and the baseline on all networks
and tests them.

Killed, the same command goes on. Writes results/paper/resnet_recipe.json; an hour of one core.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.records import RESULTS, write
from fbnetv3._internal.errors import Diverged
from fbnetv3.search import Found, Gene, Layout, Recipe, Space, run
from fbnetv3.search.data.datasets import open_train_val
from fbnetv3.search.training.batches import default_preprocess
from fbnetv3.search.training.train import TrainConfig, train

from .other_networks import narrow_network

FOUND = RESULTS / "paper" / "resnet_recipe.json"
NETWORK, NUM_IMAGES, EPOCHS = "resnet18", 5_000, 10
BUDGET, SHORT = 20.0, 0.1
# What all recipes share, and what the baseline chooses of the genes.
SHARED: dict[str, Any] = {
    "batch_size": 64,
    "epochs": EPOCHS,
    "schedule": "cosine",
    "ema": False,
    "augment": "crop",
}
BASELINE: dict[str, Any] = {"optimizer": "sgd", "lr": 0.025, "weight_decay": 5e-4, "mixup": 0.0}
GENES = (
    Gene("optimizer", ("rmsprop", "sgd")),
    Gene("lr", (0.001, 0.002, 0.004, 0.008, 0.015, 0.025, 0.05, 0.1)),
    Gene("weight_decay", (1e-5, 1e-4, 5e-4, 2e-3, 5e-3, 1e-2)),
    Gene("mixup", (0.0, 0.1, 0.2, 0.3, 0.4)),
)
SPACE = Space("resnet_recipe", GENES, Layout(recipe={gene.name: f"${gene.name}" for gene in GENES}))


def recipe_of(values: Mapping[str, Any]) -> Recipe:
    """Returns the recipe of a full training, of the values of the genes."""
    return Recipe(**SHARED, **values)


class Training:
    """Trains a candidate: the function that the search is given.

    Args:
        data: folder of CIFAR-10.
    """

    def __init__(self, data: Path) -> None:
        images, _ = open_train_val(data)
        self.images = images.subset(torch.arange(NUM_IMAGES))
        self.val = images.subset(torch.arange(NUM_IMAGES, 2 * NUM_IMAGES))

    def __call__(self, params: dict[str, Any], *, seed: int, fidelity: float) -> float:
        """Returns top-1 in percent, NaN of a training that diverged."""
        epochs = max(1, round(EPOCHS * fidelity))
        recipe = recipe_of(params)
        config = TrainConfig(
            recipe=recipe if epochs == EPOCHS else recipe.lengthened(epochs),
            preprocess=default_preprocess(self.images, 32),
            seed=seed,
            validate_epochs=epochs,
        )
        model = narrow_network(NETWORK, len(self.images.classes), seed)
        try:
            last = train(model, self.images, self.val, config).curve[-1].top1_pct
        except Diverged:
            return math.nan
        assert last is not None
        return last


def main() -> None:
    """Parses, searches or goes on, writes what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--budget", type=float, default=BUDGET, help="in full trainings")
    args = parser.parse_args()
    search = run(SPACE, Training(args.data), folder=args.work, budget=args.budget, rungs=[SHORT])
    write(FOUND, record_of(search, args.budget))
    print(FOUND.read_text())


def record_of(search: Found, budget: float) -> dict[str, Any]:
    """Returns what is kept of a search: its answer as a recipe, and every training."""
    best = search.best[""]
    return {
        "network": NETWORK,
        "num_images": NUM_IMAGES,
        "budget": budget,
        "genes": best.params,
        "validation_top1_pct": best.value,
        "recipe": recipe_of(best.params).to_dict(),
        "trainings": [
            {"params": one.params, "share": one.fidelity, "seed": one.seed, "value": one.value}
            for one in search.trials
        ],
    }


if __name__ == "__main__":
    main()
