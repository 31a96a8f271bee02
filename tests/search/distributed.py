"""A process of a world of two, for `test_train`: trains the tiny network over gloo."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from fbnetv3.search.training.parallel import joined
from fbnetv3.search.training.train import train

from .tiny import tiny_images, tiny_model, tiny_recipe, tiny_run


def main() -> None:
    """Trains into the folder given."""
    torch.set_num_threads(1)
    recipe = tiny_recipe(mixup=0.0, dropout=0.0, drop_path=0.0, epochs=2, optimizer="sgd", lr=0.01)
    with joined(torch.device("cpu")) as world:
        # Another seed in each: the first one's weights have to reach the others.
        model = tiny_model(seed=world.rank)
        run = tiny_run(Path(sys.argv[1]), recipe)
        train(model, tiny_images(), tiny_images(50, seed=1), run)


if __name__ == "__main__":
    main()
