"""Chooses between the MLP ensemble and the Gaussian process, again at every fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fbnetv3.search.space.space import CostsOf, Floats, Matrix, Space

from .gp import GpPredictor
from .mlp import mlp_ensemble
from .protocol import Arrays, Posterior, Prediction, Predictor, Pretraining, fit_to
from .quality import folds, tau

# With more labels a Gaussian process, whose cost is cubic, has no advantage left.
MOST_COMPARED = 1000
# With fewer labels, the standard error of a cross-validated tau is 0.1 and more, larger than the
# difference of the two, and a Gaussian process is fitted in a hundredth of the time.
FEWEST_COMPARED = 48


class AutoPredictor(Predictor):
    """Whichever of two predictors ranks the labels better; with few labels the Gaussian process.

    Its `kind` is that of the chosen predictor.
    """

    def __init__(
        self,
        space: Space,
        *,
        target: str = "log_error",
        seed: int = 0,
        costs: CostsOf | None = None,
    ) -> None:
        self.space, self.seed = space, seed
        self.ensemble = mlp_ensemble(space, target=target, seed=seed)
        self.gp = GpPredictor(space, target=target, costs=costs)
        self.members: dict[str, Predictor] = {one.kind: one for one in (self.gp, self.ensemble)}
        # Before there are labels: the one that pretraining teaches and a search stores.
        self.kind = self.ensemble.kind

    @property
    def chosen(self) -> Predictor:
        """The better predictor."""
        return self.members[self.kind]

    def pretrain(self, pool: Matrix, costs: Mapping[str, npt.NDArray[Any]]) -> Pretraining:
        """Pretrains the ensemble."""
        return self.ensemble.pretrain(pool, costs)

    @property
    def pretrained(self) -> bool:
        """Whether the ensemble was pretrained."""
        return self.ensemble.pretrained

    def fit(self, rows: Matrix, labels: Floats) -> None:
        """Compares both by five-fold tau, then fits the better one to all labels.

        With few labels, takes the Gaussian process.
        """
        self.fit_rungs(rows, labels, np.ones(len(labels)))

    def fit_rungs(self, rows: Matrix, labels: Floats, shares: Floats) -> None:
        """Compares both by how they rank the longest trainings, then fits the better one."""
        longest = shares == shares.max(initial=0.0)
        if len(labels) > MOST_COMPARED:
            self.kind = self.ensemble.kind
        elif longest.sum() < FEWEST_COMPARED:
            self.kind = self.gp.kind
        else:
            fold = folds(longest, self.seed)
            taus = {
                kind: tau(member.fit_held_out(rows, labels, shares, fold)[longest], labels[longest])
                for kind, member in self.members.items()
            }
            self.kind = max(taus, key=lambda kind: taus[kind])
            return
        fit_to(self.chosen, rows, labels, shares)

    def predict(self, rows: Matrix) -> Prediction:
        """Returns the better predictor's predictions."""
        return self.chosen.predict(rows)

    def posterior(self, rows: Matrix) -> Posterior | None:
        """Returns the better predictor's distributions."""
        return self.chosen.posterior(rows)

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """Returns the better predictor's state."""
        arrays, settings = self.chosen.state()
        return arrays, {**settings, "chosen": self.kind}

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]], settings: Mapping[str, Any]) -> None:
        """Restores what `state` returned, or the state of an ensemble."""
        self.kind = settings.get("chosen", self.ensemble.kind)
        self.chosen.restore(arrays, settings)
