"""A small problem with a known answer, and with every kind of trouble, for the tests of engines.

A candidate of genes g with the seed s has after epoch k the label
70 + sum(w g) + noise(g, s) + (early(g) - 10) / k, so that early epochs rank otherwise than late
ones.
"""

import hashlib
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

WEIGHTS = (0.5, 1.0, 2.0, 0.25, 1.5, 3.0)


class Toy:
    """See the module.

    Args:
        sleep_s: how long an epoch takes.
        trouble: what happens with some candidates: genes as "0,1,2" -> "raise", "die" (the
            process ends), "hang", "nan", "short" (too few labels), or "once" (dies at the first
            attempt only).
        folder: where "once" remembers.
        noise: standard deviation between seeds.
        early: that of what early epochs add to the ranking.
    """

    def __init__(
        self,
        sleep_s: float = 0.0,
        trouble: Mapping[str, str] | None = None,
        folder: str = "",
        noise: float = 0.1,
        early: float = 2.0,
    ) -> None:
        self._sleep_s, self._trouble = sleep_s, dict(trouble or {})
        self._folder, self._noise, self._early = folder, noise, early

    def evaluate(
        self, row: Sequence[int], *, seed: int, epochs: int, fidelity: float = 1.0
    ) -> Iterator[float]:
        name = ",".join(str(int(gene)) for gene in row)
        trouble = self._trouble.get(name, self._trouble.get("*", ""))
        digest = hashlib.sha256(f"{name}:{seed}".encode()).digest()
        noise, early = np.random.default_rng(list(digest)).normal(size=2) * (
            self._noise,
            self._early,
        )
        top = 70 + float(np.dot(WEIGHTS[: len(row)], row)) + noise - 30 * (1 - fidelity)
        for epoch in range(1, epochs + 1):
            time.sleep(self._sleep_s)
            if epoch == 2 or epochs == 1:
                self._make(trouble, name)
            if trouble == "short" and epoch == 2:
                return
            yield math.nan if trouble == "nan" and epoch == 2 else top + (early - 10) / epoch

    def costs(self, rows: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
        """Returns costs that grow with some genes that pay, and some that do not."""
        return {"macs": 100.0 + rows @ np.arange(1, rows.shape[1] + 1)}

    def _make(self, trouble: str, name: str) -> None:
        mark = Path(self._folder) / f"died-{name}"
        if trouble == "raise":
            raise ValueError("no such device")
        if trouble == "hang":
            time.sleep(600)
        if trouble == "die" or (trouble == "once" and not mark.exists()):
            mark.touch()
            os._exit(11)


def make(**arguments: Any) -> Toy:
    """Returns the toy objective."""
    return Toy(**arguments)
