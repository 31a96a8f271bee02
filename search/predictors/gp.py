"""A Gaussian process over genes and known costs: exact, for up to a few hundred labels.

The kernel is Matern 5/2 over a weighted distance plus an additive kernel over genes. Distances are
Hamming for choices and encoded distances for ordered genes. Input weights, kernel variances and
noise maximise the marginal likelihood under weak priors.

After Rasmussen and Williams, Gaussian Processes for Machine Learning, chapters 2 and 5:

    book          here             meaning
    X, y          rows, targets    n labelled candidates, and their standardised labels
    X*            rows             of `predict`, P candidates
    theta         theta            logarithms of the hyperparameters
    K             matrix           (n, n) covariance of the labels, the noise included
    K*            cross            (P, n) covariance of candidates and labels
    L             lower            (n, n) Cholesky factor, K = L L^T
    alpha         alpha            (n,) K^-1 y
    k(x*, x*)     prior            prior variance of a candidate
    v             shrink           (n, P) L^-1 K*^T: the labels reduce that variance by v^T v
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fbnetv3.search.space.space import CostsOf, Floats, Matrix, Space

from .protocol import Arrays, Prediction, Predictor
from .targets import Scale

_JITTER = 1e-8
# An ordered gene with at most this many values is also an input as a choice.
_FEW = 4


class GpModel:
    """Posterior over standardised targets.

    Hyperparameters `theta`: log weight of each input, log variance of the Matern part, of the
    additive part, and of the noise.
    """

    def __init__(self, space: Space, costs: CostsOf | None = None) -> None:
        self.space, self.costs = space, costs
        self.theta: Floats = np.zeros(0)
        self.rows: Matrix = np.zeros((0, len(space.genes)), np.int16)
        self.length: Floats | None = None
        self.alpha: Floats = np.zeros(0)
        self.lower: npt.NDArray[np.floating[Any]] = np.zeros((0, 0))

    def fit(self, rows: Matrix, targets: Floats, length: Floats | None = None) -> None:
        """Fits hyperparameters and posterior to standardised targets (n,).

        Args:
            rows: (n, num_genes) candidates.
            targets: (n,).
            length: (n,) a further input, 0 for what is predicted; None: there is none.
        """
        from scipy.linalg import cho_solve
        from scipy.optimize import minimize

        self.rows = self.space.canonical(rows)
        self.length = length
        gaps = self._all_gaps(self.rows, np.zeros(0) if length is None else length)
        num = gaps.shape[0]
        start = np.concatenate([np.full(num, -math.log(num)), [0.0, -1.0, -3.0]])
        best = minimize(
            _loss,
            start,
            args=(gaps, targets, start),
            jac=True,
            method="L-BFGS-B",
            bounds=[(-9.0, 4.0)] * len(start),
            options={"maxiter": 60},
        )
        self.theta = np.asarray(best.x)
        matrix = _kernel(gaps, self.theta)[0] + (math.exp(self.theta[-1]) + _JITTER) * np.eye(
            len(targets)
        )
        self.lower = np.linalg.cholesky(matrix)
        self.alpha = cho_solve((self.lower, True), targets)

    def predict(self, rows: Matrix) -> tuple[Floats, Floats]:
        """Returns mean (P,) and standard deviation (P,) of the noiseless target."""
        if not len(self.rows):
            raise ValueError("the predictor has no labels yet; call fit first")
        from scipy.linalg import solve_triangular

        means, stds = [], []
        prior = math.exp(self.theta[-3]) + math.exp(self.theta[-2])
        for start in range(0, len(rows), 2048):
            part = self.space.canonical(rows[start : start + 2048])
            cross = _kernel(self._all_gaps(part, np.zeros(len(part))), self.theta)[0]
            means.append(cross @ self.alpha)
            shrink = solve_triangular(self.lower, cross.T, lower=True, check_finite=False)
            stds.append(np.sqrt(np.maximum(prior - (shrink**2).sum(0), 1e-12)))
        if not means:
            return np.zeros(0), np.zeros(0)
        return np.concatenate(means), np.concatenate(stds)

    def _all_gaps(self, rows: Matrix, length: Floats) -> Floats:
        """Returns (inputs, P, n): squared distances to the labelled candidates.

        Args:
            rows: (P, num_genes) candidates.
            length: (P,) lengths of their trainings.
        """
        gaps = self._gaps(rows, self.rows)
        if self.length is None:
            return gaps
        return np.concatenate([gaps, (length[:, None] - self.length[None, :])[None] ** 2])

    def _gaps(self, first: Matrix, second: Matrix) -> Floats:
        """Returns (inputs, P, Q): squared distances, 1 between unequal choices.

        An ordered gene with few values gives two inputs: a distance, and equal or not.
        """
        gaps = []
        for column, gene in enumerate(self.space.genes):
            a, b = first[:, column], second[:, column]
            if len(gene.values) <= _FEW:
                gaps.append((a[:, None] != b[None, :]).astype(np.float64))
            if gene.kind != "choice":
                offset = int(self.space.offsets[column])
                block = self.space.encoding[offset : offset + len(gene.values)]
                position = block[:, block.any(axis=0)].sum(axis=1)
                gaps.append((position[a][:, None] - position[b][None, :]) ** 2)
        if self.costs is not None:
            for x, y in zip(self._inputs(first), self._inputs(second), strict=True):
                gaps.append((x[:, None] - y[None, :]) ** 2)
        return np.stack(gaps)

    def _inputs(self, rows: Matrix) -> list[Floats]:
        """Returns the logarithms of the known costs, scaled to [0, 1] over the labelled rows."""
        assert self.costs is not None
        found = []
        for known, own in zip(
            self.costs(self.rows).values(), self.costs(rows).values(), strict=True
        ):
            base = np.log(np.maximum(np.asarray(known, np.float64), 1e-12))
            values = np.log(np.maximum(np.asarray(own, np.float64), 1e-12))
            found.append((values - base.min()) / max(float(np.ptp(base)), 1e-12))
        return found


def _kernel(gaps: Floats, theta: Floats) -> tuple[Floats, dict[str, Any]]:
    """Returns the kernel matrix, and the terms that its gradient needs."""
    weights = np.exp(theta[:-3])
    distance = np.tensordot(weights, gaps, 1)
    root = np.sqrt(5 * distance + 1e-12)
    decay = np.exp(-root)
    matern = (1 + root + 5 * distance / 3) * decay
    share = weights / weights.sum()
    # The distance itself, not its square, keeps this a valid kernel (triangular in each gene).
    near = np.minimum(np.sqrt(gaps), 1.0)
    added = 1 - np.tensordot(share, near, 1)
    matrix = math.exp(theta[-3]) * matern + math.exp(theta[-2]) * added
    return matrix, {
        "weights": weights,
        "matern": matern,
        "added": added,
        "slope": -(5 / 6) * (1 + root) * decay,
        "share": share,
        "near": near,
    }


def _loss(theta: Floats, gaps: Floats, y: Floats, prior: Floats) -> tuple[float, Floats]:
    """Returns the negative log posterior of the hyperparameters and its gradient."""
    from scipy.linalg import cho_solve

    kernel, part = _kernel(gaps, theta)
    noise = math.exp(theta[-1])
    matrix = kernel + (noise + _JITTER) * np.eye(len(y))
    lower = np.linalg.cholesky(matrix)
    # The gradient needs K^-1 itself: the trace of its product with the derivative of K.
    inverse = cho_solve((lower, True), np.eye(len(y)), check_finite=False)
    alpha = inverse @ y
    spread = np.concatenate([np.full(len(theta) - 3, 1.5), [1.5, 1.5, 1.5]])
    off = (theta - prior) / spread
    value = 0.5 * y @ alpha + np.log(np.diag(lower)).sum() + 0.5 * (off @ off)
    outer = 0.5 * (inverse - np.outer(alpha, alpha))
    slope = math.exp(theta[-3]) * np.tensordot(gaps, outer * part["slope"], 2)
    weighted = np.tensordot(part["near"], outer, 2)
    mean = part["share"] @ weighted
    added = -math.exp(theta[-2]) * part["share"] * (weighted - mean)
    gradient = np.concatenate(
        [
            part["weights"] * slope + added,
            [
                math.exp(theta[-3]) * (outer * part["matern"]).sum(),
                math.exp(theta[-2]) * (outer * part["added"]).sum(),
                noise * np.trace(outer),
            ],
        ]
    )
    return float(value), gradient + off / spread


class GpPredictor(Predictor):
    """A `GpModel` that is fitted to labels and predicts in their unit.

    Of trainings of several lengths, the logarithm of the share is one more input. The kernel
    multiplies its similarity with that of the genes: what short trainings show of a candidate
    counts for long ones as far as labels of both agree.
    """

    kind = "gp"

    def __init__(
        self,
        space: Space,
        *,
        target: str = "log_error",
        seed: int = 0,
        costs: CostsOf | None = None,
    ) -> None:
        del seed  # the fit is deterministic
        self.space, self.scale, self.model = space, Scale(target), GpModel(space, costs)

    def fit(self, rows: Matrix, labels: Floats) -> None:
        """Fits labels (n,) of candidates (n, num_genes)."""
        self.model.fit(rows, self.scale.learn(labels))

    def fit_rungs(self, rows: Matrix, labels: Floats, shares: Floats) -> None:
        """Fits labels of trainings of several lengths, to predict those of the longest."""
        self.model.fit(rows, *self.scale.learn_rungs(labels, shares))

    def predict(self, rows: Matrix) -> Prediction:
        """Returns the posterior's mean and standard deviation, of the longest trainings."""
        return self.scale.invert(*self.model.predict(rows))

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """Returns the posterior."""
        model = self.model
        arrays: Arrays = {
            "theta": model.theta,
            "rows": model.rows,
            "alpha": model.alpha,
            "lower": model.lower,
        }
        if model.length is not None:
            arrays["length"] = model.length
        return arrays, {"scale": self.scale.to_dict()}

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]], settings: Mapping[str, Any]) -> None:
        """Restores what `state` returned."""
        self.scale = Scale.from_dict(settings["scale"])
        for key in ("theta", "rows", "alpha"):
            setattr(self.model, key, arrays[key])
        self.model.length = arrays.get("length")
        # Files of 0.1.0 store the inverse of the factor.
        old = "lower" not in arrays
        self.model.lower = np.linalg.inv(arrays["inverse"]) if old else arrays["lower"]
