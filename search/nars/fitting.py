"""The predictor of a search: pretrained on costs, fitted to labels, asked about the pool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fbnetv3.search.predictors.protocol import Predictor, fit_to
from fbnetv3.search.predictors.registry import load_predictor, make_predictor, save_predictor
from fbnetv3.search.space.space import CostsOf, Floats, Matrix, Space
from fbnetv3.search.storage.store import Store
from fbnetv3.search.storage.trials import Labels

from .config import SearchConfig
from .labels import compared, usable

PREDICTOR = "predictor.safetensors"
_PRETRAINED = "pretrained.safetensors"
# More labels than this are subsampled evenly: a network of width 24 does not profit from more.
MOST_FITTED = 4000
# Candidates of the pool whose pretraining is shown.
_SHOWN = 400


class Fitting:
    """A predictor and what it predicts for the pool.

    Attributes:
        predictor: the predictor.
        scores: (P,) predicted values of the pool.
        std: (P,) their standard deviations.
        compared: the longest trainings that it was fitted to: (n, num_genes) candidates, and (n,)
            labels.

    Args:
        space: the search space.
        config: config of the search.
        pool: (P, num_genes) the pool.
        costs: cost -> (P,).
        costs_of: costs of other candidates.
    """

    def __init__(
        self,
        space: Space,
        config: SearchConfig,
        pool: Matrix,
        costs: Mapping[str, Floats],
        costs_of: CostsOf,
    ) -> None:
        self._space, self._config, self._pool, self._costs_of = space, config, pool, costs_of
        # Costs that differ among the candidates of the pool.
        self._varied = {name: cost for name, cost in costs.items() if np.ptp(cost) > 0}
        self.predictor = self.made(config.predictor)
        self.scores: Floats = np.zeros(0)
        self.std: Floats = np.zeros(0)
        self.compared: tuple[Matrix, Floats] = pool[:0], np.zeros(0)
        self._fitted = -1

    def made(self, kind: str) -> Predictor:
        """Returns a new predictor of a kind."""
        return make_predictor(
            kind,
            self._space,
            target=self._config.target,
            seed=self._config.seed,
            costs=self._costs_of if self._varied else None,
        )

    def pretrain(self, store: Store) -> Mapping[str, float]:
        """Stage 1: pretrains the predictor on the costs of the pool, or loads it if it was.

        Returns:
            Cost -> coefficient of determination; empty if there was nothing to do.
        """
        path = store.folder / _PRETRAINED
        if store.stage("pretraining") is not None and path.exists():
            self.predictor.restore(*load_predictor(path).state())
            return {}
        found = self.predictor.pretrain(self._pool, self._varied) if self._varied else None
        if found is None:
            return {}
        save_predictor(self.predictor, path)
        shown: dict[str, dict[str, Any]] = {
            name: {
                "r2": float(found.r2[name]),
                "truth": found.truth[name][:_SHOWN].round(4).tolist(),
                "predicted": found.predicted[name][:_SHOWN].round(4).tolist(),
            }
            for name in found.r2
        }
        store.set_stage("pretraining", {"pool": len(self._pool), "costs": shown})
        return {name: cost["r2"] for name, cost in shown.items()}

    def fitted(self, index: int) -> bool:
        """Returns whether the predictor is fitted to the labels before a round."""
        return self._fitted == index

    def fit(self, index: int, labels: Labels) -> None:
        """Fits the predictor to the labels before a round, and predicts the pool."""
        share = compared(labels.fidelity)
        labels = labels.where(labels.fidelity <= share)
        values = usable(labels)
        longest = labels.fidelity == share
        self.compared = labels.matrix[longest], values[longest]
        some = np.linspace(0, len(values) - 1, min(len(values), MOST_FITTED)).astype(int)
        fit_to(self.predictor, labels.matrix[some], values[some], labels.fidelity[some])
        self._fitted = index
        predicted = self.predictor.predict(self._pool)
        self.scores, self.std = predicted.mean, predicted.std
