"""The interface of predictors: fitted to labelled candidates, they predict the labels of others.

A new predictor is one class that inherits `Predictor` and one entry of `registry.PREDICTORS`, or,
outside this package, one call:

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

import numpy as np
import numpy.typing as npt

from fbnetv3.search.space.space import CostsOf, Floats, Matrix, Space

Arrays = dict[str, npt.NDArray[Any]]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Prediction:
    """Predictions for P candidates, in the labels' unit.

    Attributes:
        mean: (P,) the expected label.
        std: (P,) its standard deviation; 0 where the predictor cannot estimate it.
    """

    mean: Floats
    std: Floats


class Posterior(Protocol):
    """Normal distributions of what P candidates reach, on the scale of a predictor's targets.

    Attributes:
        mean: (P,) their means.
    """

    mean: Floats

    @property
    def std(self) -> Floats:
        """(P,) their standard deviations, without the noise of a training."""

    def scaled(self, labels: Floats) -> Floats:
        """Returns labels (n,) on the scale of the distributions."""

    def add(self, index: int) -> None:
        """Narrows the distributions as a training of a candidate will, whatever its label."""


@dataclass(frozen=True)
class Pretraining:
    """How well a predictor predicts the costs that it was pretrained on.

    Attributes:
        r2: name of the cost -> share of variance explained on the held-out fifth of the pool.
        truth: name -> (H,) standardised costs of the held-out candidates.
        predicted: name -> (H,) their predictions.
    """

    r2: Mapping[str, float]
    truth: Mapping[str, Floats]
    predicted: Mapping[str, Floats]


class Predictor(Protocol):
    """The methods of every predictor. Those with a default need not be overridden.

    Attributes:
        kind: its key in `registry.PREDICTORS`; a saved predictor is loaded by it.
        space: the search space of the candidates.
    """

    kind: str
    space: Space

    @abstractmethod
    def fit(self, rows: Matrix, labels: Floats) -> None:
        """Fits labels (n,) of candidates (n, num_genes), higher is better.

        Replaces any earlier fit.
        """

    def fit_rungs(self, rows: Matrix, labels: Floats, shares: Floats) -> None:
        """Fits labels of trainings of several lengths, to predict those of the longest.

        By default fits the labels of the longest trainings only.

        Args:
            rows: (n, num_genes) candidates, some of them several times.
            labels: (n,).
            shares: (n,) share of the final training's steps that each was trained for.
        """
        longest = shares == shares.max()
        self.fit(rows[longest], labels[longest])

    def fit_held_out(self, rows: Matrix, labels: Floats, shares: Floats, fold: Ints) -> Floats:
        """Fits all labels, and returns what is predicted of those that are held out.

        By default as many fits as there are folds, and one more.

        Args:
            rows: (n, num_genes) candidates.
            labels: (n,).
            shares: (n,) share of the final training's steps of each; only the longest are judged.
            fold: (n,) number of the fold that each label is held out in; -1 for none.

        Returns:
            (n,) the prediction of a fit without the label's fold; NaN where it has none.
        """
        predicted = np.full(len(labels), np.nan)
        for number in np.unique(fold[fold >= 0]):
            held = fold == number
            fit_to(self, rows[~held], labels[~held], shares[~held])
            predicted[held] = self.predict(rows[held]).mean
        fit_to(self, rows, labels, shares)
        return predicted

    @abstractmethod
    def predict(self, rows: Matrix) -> Prediction:
        """Returns the predicted labels of candidates (P, num_genes)."""

    def posterior(self, rows: Matrix) -> Posterior | None:
        """Returns the distributions of candidates (P, num_genes), to choose a round by.

        By default returns None: the predictor knows no more than `predict` returns.
        """
        return None

    @abstractmethod
    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """Returns the fitted state: arrays, and JSON settings."""

    @abstractmethod
    def restore(self, arrays: Mapping[str, npt.NDArray[Any]], settings: Mapping[str, Any]) -> None:
        """Restores what `state` returned."""

    def pretrain(
        self,
        pool: Matrix,
        costs: Mapping[str, npt.NDArray[Any]],
    ) -> Pretraining | None:
        """Pretrains on the known costs of a pool (P, num_genes); returns how well it learned them.

        By default returns None: the predictor has no pretraining.
        """
        return None

    @property
    def pretrained(self) -> bool:
        """Whether the predictor was pretrained; by default never."""
        return False

    @property
    def chosen(self) -> Predictor:
        """The predictor in use: itself, or the one that it has chosen among others."""
        return self


def fit_to(predictor: Predictor, rows: Matrix, labels: Floats, shares: Floats) -> None:
    """Fits a predictor to labels (n,) of trainings of one length or of several."""
    if (shares == shares.max(initial=0.0)).all():
        predictor.fit(rows, labels)
    else:
        predictor.fit_rungs(rows, labels, shares)


class MakePredictor(Protocol):
    """Makes an unfitted predictor: a class, or a function."""

    def __call__(self, space: Space, *, target: str, seed: int, costs: CostsOf | None) -> Predictor:
        """Returns the predictor.

        Args:
            space: the search space of the candidates.
            target: transform of the labels, one of `targets.TARGETS`.
            seed: random seed.
            costs: known costs of candidates, which it may use as further inputs.
        """
