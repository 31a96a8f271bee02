"""A predictor of one small file, for the tests of the protocol: the nearest labels."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fbnetv3.search.predictors.protocol import Prediction, Predictor
from fbnetv3.search.predictors.targets import Scale
from fbnetv3.search.space.space import CostsOf, Floats, Matrix, Space


class Nearest(Predictor):
    """The mean of all labels, each weighted by how near its candidate is."""

    kind = "nearest"

    def __init__(
        self, space: Space, *, target: str, seed: int = 0, costs: CostsOf | None = None
    ) -> None:
        del seed, costs
        self.space, self.scale = space, Scale(target)
        self.rows: Matrix = np.zeros((0, len(space.genes)), np.int16)
        self.targets: Floats = np.zeros(0)

    def fit(self, rows: Matrix, labels: Floats) -> None:
        self.rows, self.targets = rows, self.scale.learn(labels)

    def predict(self, rows: Matrix) -> Prediction:
        if not len(self.rows):
            raise ValueError("the predictor has no labels yet; call fit first")
        gaps = self.space.encode(rows)[:, None] - self.space.encode(self.rows)
        weights = np.exp(-3 * (gaps**2).sum(axis=2))
        weights /= weights.sum(axis=1, keepdims=True)
        mean = weights @ self.targets
        return self.scale.invert(mean, np.zeros(len(mean)))

    def state(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        return {"rows": self.rows, "targets": self.targets}, {"scale": self.scale.to_dict()}

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]], settings: Mapping[str, Any]) -> None:
        self.rows, self.targets = arrays["rows"], arrays["targets"]
        self.scale = Scale.from_dict(settings["scale"])
