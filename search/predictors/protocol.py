"""What a predictor is: it learns labels of candidates and says what it expects of others.

A new predictor is one class that inherits `Predictor` and one row of `registry.PREDICTORS`, or a
call from outside of this package:

    class Nearest(Predictor):
        kind = "nearest"
        def __init__(self, space, *, target, seed, costs): ...
        def fit(self, rows, labels): ...
        def predict(self, rows): ...
        def state(self): ...
        def restore(self, arrays, settings): ...

    search.register_predictor("nearest", Nearest)
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt

from fbnetv3.search.space.space import CostsOf, Floats, Matrix, Space

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Prediction:
    """What a predictor says of P candidates, in the labels' unit.

    Attributes:
        mean: (P,) the expected label.
        std: (P,) how unsure that is; 0 where the predictor cannot tell.
    """

    mean: Floats
    std: Floats


@dataclass(frozen=True)
class Pretraining:
    """How well a predictor knows the costs that it was pretrained on.

    Attributes:
        r2: name of the cost -> share of variance explained on the held-out fifth of the pool.
        truth: name -> (H,) standardised costs of the held-out candidates.
        predicted: name -> (H,) what the predictor says of them.
    """

    r2: Mapping[str, float]
    truth: Mapping[str, Floats]
    predicted: Mapping[str, Floats]


class Predictor(Protocol):
    """What every predictor offers. A class that inherits it need not define what has a default.

    Attributes:
        kind: its row in `registry.PREDICTORS`, by which a file of it is read again.
        space: of the candidates.
    """

    kind: str
    space: Space

    @abstractmethod
    def fit(self, rows: Matrix, labels: Floats) -> None:
        """Learns from labels (n,) of candidates (n, num_genes), higher is better.

        Replaces what was learnt from labels before.
        """

    @abstractmethod
    def predict(self, rows: Matrix) -> Prediction:
        """Returns what it expects of candidates (P, num_genes)."""

    @abstractmethod
    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """Returns all that was learnt: arrays, and JSON settings."""

    @abstractmethod
    def restore(self, arrays: Mapping[str, npt.NDArray[Any]], settings: Mapping[str, Any]) -> None:
        """Takes over what `state` returned."""

    def pretrain(
        self,
        pool: Matrix,
        costs: Mapping[str, npt.NDArray[Any]],
    ) -> Pretraining | None:
        """Learns the known costs of a pool (P, num_genes); returns how well.

        None, the default, is of a predictor that cannot.
        """
        return None

    @property
    def pretrained(self) -> bool:
        """Whether `pretrain` has taught it something; by default never."""
        return False

    @property
    def chosen(self) -> Predictor:
        """Itself, or of a predictor that chooses among others the one in use."""
        return self


class MakePredictor(Protocol):
    """Makes a fresh predictor: a class, or a function."""

    def __call__(self, space: Space, *, target: str, seed: int, costs: CostsOf | None) -> Predictor:
        """Returns the predictor.

        Args:
            space: of the candidates.
            target: what it sees of a label, one of `targets.TARGETS`.
            seed: of everything random in it.
            costs: known costs of candidates, which it may take as further inputs.
        """
