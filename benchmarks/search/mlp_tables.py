"""Trains the joint tables of small multilayer perceptrons that the search is tried on.

    python -m benchmarks.search.mlp_tables --task digits
    python -m benchmarks.search.mlp_tables --task cifar8 --data ../shared/data/cifar10

Every pair of a network (layers, width, activation) and a recipe (batch size, learning rate, weight
decay) is trained with three seeds for eight epochs of 1,000 images, by AdamW with a linearly
falling rate. `digits` are the 8 x 8 digits of scikit-learn, `cifar8` is CIFAR-10 averaged to 8 x 8
pixels. The labels are accuracies in percent on images that were held out (797 and 2,000), after 1,
2, 4 and 8 epochs. Recipes and seeds of a network are trained at once. Writes
benchmarks/data/mlp_TASK.npz: 4,320 candidates, in ten minutes of one core.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from benchmarks.records import ROOT

DATA = ROOT / "benchmarks" / "data"
EPOCHS, KEPT, SEEDS, TRAINED = 8, (1, 2, 4, 8), 3, 1000
ARCH: Mapping[str, tuple[object, ...]] = {
    "layers": (1, 2, 3),
    "width": (4, 8, 16, 32, 64, 128),
    "activation": ("relu", "tanh"),
}
RECIPE: Mapping[str, tuple[float, ...]] = {
    "batch": (16, 64, 256),
    "lr": tuple(float(f"{x:.2g}") for x in np.geomspace(3e-4, 1e-1, 8)),
    "weight_decay": (1e-4, 1e-3, 1e-2, 1e-1, 1.0),
}


def digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Returns scikit-learn's digits: pixels (1797, 64) and classes."""
    from sklearn.datasets import load_digits

    held = load_digits()
    return held.data.astype(np.float32), held.target.astype(np.int64)


def cifar8(folder: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Returns 3,000 images of CIFAR-10: pixels (3000, 192) and classes."""
    sys.path.insert(0, str(folder))
    from unpack_cifar10 import load_batch  # type: ignore[import-not-found]  # beside the data

    pixels, classes = load_batch("data_batch_1")[:2]
    images = np.asarray(pixels)[:3000].reshape(3000, 8, 4, 8, 4, 3).mean((2, 4))
    return images.reshape(3000, -1).astype(np.float32), np.asarray(classes)[:3000].astype(np.int64)


def train(
    x: Tensor, y: Tensor, layers: int, width: int, activation: str, batch: int, classes: int
) -> NDArray[np.float32]:
    """Returns accuracies (lr, weight decay, seeds, epochs) of all recipes of a network."""
    recipes = list(itertools.product(RECIPE["lr"], RECIPE["weight_decay"], range(SEEDS)))
    rate = torch.tensor([r[0] for r in recipes])[:, None, None]
    decay = torch.tensor([r[1] for r in recipes])[:, None, None]
    seed = torch.tensor([r[2] for r in recipes])
    sizes = [x.shape[1], *[width] * layers, classes]
    rng = torch.Generator().manual_seed(layers * 1000 + width * 10 + batch)
    weights = []
    for inputs, outputs in itertools.pairwise(sizes):
        # Recipes share the initial weights of a seed.
        drawn = torch.randn(SEEDS, inputs + 1, outputs, generator=rng) / inputs**0.5
        drawn[:, -1] = 0
        weights.append(drawn[seed].requires_grad_())
    first = [torch.zeros_like(w) for w in weights]
    second = [torch.zeros_like(w) for w in weights]
    orders = [
        torch.stack([torch.randperm(TRAINED, generator=rng) for _ in range(SEEDS)])[seed]
        for _ in range(EPOCHS)
    ]
    steps, done, found = EPOCHS * -(-TRAINED // batch), 0, []
    act = {"relu": torch.relu, "tanh": torch.tanh}[activation]

    def forward(inputs: Tensor) -> Tensor:
        for number, w in enumerate(weights):
            inputs = torch.baddbmm(w[:, -1:], inputs, w[:, :-1])
            inputs = act(inputs) if number < layers else inputs
        return inputs

    for epoch in range(EPOCHS):
        for start in range(0, TRAINED, batch):
            pick = orders[epoch][:, start : start + batch]
            out = forward(x[pick])
            loss = F.cross_entropy(out.flatten(0, 1), y[pick].flatten(), reduction="none")
            slopes = torch.autograd.grad(loss.view(pick.shape).mean(1).sum(), weights)
            share, done = 1 - done / steps, done + 1
            with torch.no_grad():
                for w, g, m, v in zip(weights, slopes, first, second, strict=True):
                    m.lerp_(g, 0.1)
                    v.lerp_(g * g, 0.01)
                    w *= 1 - rate * share * decay
                    scale = (v / (1 - 0.99**done)).sqrt_().add_(1e-8)
                    w -= rate * share * (m / (1 - 0.9**done)) / scale
        if epoch + 1 in KEPT:
            with torch.no_grad():
                test = x[TRAINED:].expand(len(recipes), -1, -1)
                right = (forward(test).argmax(2) == y[TRAINED:]).float().mean(1)
            found.append(100 * right)
    shape = (len(RECIPE["lr"]), len(RECIPE["weight_decay"]), SEEDS, len(KEPT))
    return torch.stack(found, 1).view(shape).numpy()


def main() -> None:
    """Parses, trains, writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task", choices=("digits", "cifar8"), required=True)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "cifar10")
    given = parser.parse_args()
    torch.set_num_threads(1)
    raw, classes = digits() if given.task == "digits" else cifar8(given.data)
    order = np.random.default_rng(0).permutation(len(raw))
    x, y = torch.from_numpy(raw[order]), torch.from_numpy(classes[order])
    x = (x - x[:TRAINED].mean(0)) / x[:TRAINED].std()
    rows, labels = [], []
    for n, depth in enumerate(ARCH["layers"]):
        for k, width in enumerate(ARCH["width"]):
            for a, act in enumerate(ARCH["activation"]):
                for b, batch in enumerate(RECIPE["batch"]):
                    found = train(x, y, int(str(depth)), int(str(width)), str(act), int(batch), 10)
                    for i, j in np.ndindex(found.shape[:2]):
                        rows.append((n, k, a, b, i, j))
                        labels.append(found[i, j])
                print(depth, width, act, np.max(labels[-120:]).round(1), file=sys.stderr)
    np.savez_compressed(
        DATA / f"mlp_{given.task}.npz",
        rows=np.array(rows, np.int8),
        label=np.array(labels, np.float32).round(2),
    )


if __name__ == "__main__":
    main()
