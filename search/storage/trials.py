"""What a search's store keeps and gives: trials before and after, their rounds and labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

State = Literal["queued", "leased", "done", "failed"]


@dataclass(frozen=True, slots=True)
class Proposal:
    """A trial to be run: a candidate, how long and with which seed to train it.

    Attributes:
        genes: canonical gene indices.
        costs: what is known of it without training, such as `{"macs": 5.2e8}`.
        epochs: number of its labels, one an epoch.
        seed: of initialisation and data order.
        slot: the bin it was chosen for, so that a replacement can come from the same bin.
        predicted: the score that it was chosen by; None for a random candidate.
        origin: "search", or where an imported label comes from.
        value: label of an imported trial, which is done at once.
        fidelity: share of the final training's steps, above 0 and up to 1. Below 1 it is a rung,
            with a schedule of its own that ends after these epochs.
    """

    genes: tuple[int, ...]
    costs: Mapping[str, float]
    epochs: int
    seed: int
    slot: int = 0
    predicted: float | None = None
    origin: str = "search"
    value: float | None = None
    fidelity: float = 1.0


@dataclass(frozen=True, slots=True)
class Trial:
    """A row of the trial table.

    Attributes:
        seq: its number in the search, from 1.
        id: SHA-256 of the search, the candidate, its seed, its length and its fidelity.
        batch: number of its round.
        slot: the bin that it was chosen for.
        genes: canonical gene indices.
        costs: known costs, name -> value.
        seed: of initialisation and data order.
        epochs: how long it is trained.
        predicted: the score that it was chosen by; None for a random candidate.
        origin: "search", or where an imported label comes from.
        state: "queued", "leased" (a worker has it), "done" or "failed".
        attempt: number of the attempt that is running or was the last.
        failures: attempts that failed.
        started: seconds since 1970, None before.
        ended: seconds since 1970, None before; after `started` by what the training took, whatever
            was done to this machine's clock meanwhile.
        reason: of the last failure.
        fidelity: share of the final training's steps, see `Proposal`.
    """

    seq: int
    id: str
    batch: int
    slot: int
    genes: tuple[int, ...]
    costs: Mapping[str, float]
    seed: int
    epochs: int
    predicted: float | None
    origin: str
    state: State
    attempt: int
    failures: int
    started: float | None
    ended: float | None
    reason: str | None
    fidelity: float = 1.0

    @property
    def seconds(self) -> float | None:
        """How long it took; None if it has not ended, or nothing useful is known."""
        if self.started is None or self.ended is None or self.ended <= self.started:
            return None
        return self.ended - self.started


@dataclass(frozen=True, slots=True)
class Batch:
    """A round: its number, its kind, and all that it was chosen with."""

    number: int
    kind: str
    rng_state: Mapping[str, Any]
    predictor: str


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels, in the order in which the trials were proposed.

    Attributes:
        seq: (N,) trial numbers.
        matrix: (N, genes) int16 gene indices.
        values: (N,) float64; NaN where training diverged.
        fidelity: (N,) float64, share of the final training's steps of each.
    """

    seq: NDArray[np.int64]
    matrix: NDArray[np.int16]
    values: NDArray[np.float64]
    fidelity: NDArray[np.float64]

    def where(self, kept: NDArray[np.bool_]) -> Labels:
        """Returns those labels (N,) that are true in a mask."""
        return Labels(self.seq[kept], self.matrix[kept], self.values[kept], self.fidelity[kept])
