"""A search from Python on a problem with a known answer; also a program to be stopped.

python toy_functions.py FOLDER WORKERS SLEEP_S
"""

import math
import sys
import time
from collections.abc import Iterator
from typing import Any

from fbnetv3 import search

SPACE = search.Space(
    "mlp",
    [
        search.Gene.grid("width", 16, 256, 16),
        search.Gene("act", ("relu", "gelu")),
        search.Gene.log("lr", 1e-4, 1e-1, recipe=True),
    ],
)
LIMITS = ["macs<=4e8", "macs<=8e8"]
TRAININGS = 24
CALL: dict[str, Any] = {
    "limits": LIMITS,
    "trainings": TRAININGS,
    "predictor": "gp",
    "quiet": True,
}
STUDY = {name: value for name, value in CALL.items() if name != "quiet"}


def accuracy(params: dict[str, Any], seed: int = 0) -> float:
    """Returns the accuracy after training, in percent."""
    wrong = abs(math.log10(params["lr"] / 3.16e-3))
    act = 0.5 if params["act"] == "gelu" else 0.0
    return 90 - 20 * math.exp(-params["width"] / 80) - 3 * wrong + act + 0.01 * seed


def train(params: dict[str, Any], *, seed: int, fidelity: float) -> Iterator[float]:
    """Yields the accuracy after each of three epochs."""
    for epoch in (1, 2, 3):
        yield (accuracy(params, seed) - 5 * (3 - epoch)) * fidelity


def cost(params: dict[str, Any]) -> dict[str, float]:
    """Returns the exact costs."""
    return {"macs": params["width"] ** 2 * 1e5, "params": params["width"] * 100}


def best_width(macs: float) -> int:
    """Returns the width of the best network within a limit."""
    return max(width for width in range(16, 257, 16) if cost({"width": width})["macs"] <= macs)


def summary(found: search.Found) -> list[Any]:
    """Returns all of a search that must not depend on what happened to it."""
    return [(t.number, t.params, t.seed, t.round, t.kind, t.value) for t in found.trials]


def main() -> None:
    """Carries a search out whose functions no other process can import."""
    folder, workers, sleep_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])

    def slow(params: dict[str, Any], *, seed: int, fidelity: float) -> Iterator[float]:
        time.sleep(sleep_s)
        yield from train(params, seed=seed, fidelity=fidelity)

    found = search.run(SPACE, slow, folder=folder, cost=cost, workers=workers, **CALL)
    print(len(found.trials))


if __name__ == "__main__":
    main()
