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
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fbnetv3.search.space.space import CostsOf, Floats, Matrix, Space

from .gp_inputs import Inputs, distances
from .protocol import Arrays, Ints, Prediction, Predictor, fit_to
from .targets import Scale

_JITTER = 1e-8
# Candidates that are predicted at a time.
_CHUNK = 2048


class GpModel:
    """Posterior over standardised targets.

    Hyperparameters `theta`: log weight of each input, log variance of the Matern part, of the
    additive part, and of the noise.
    """

    def __init__(self, space: Space, costs: CostsOf | None = None) -> None:
        self.space, self.inputs = space, Inputs(space, costs)
        self.theta: Floats = np.zeros(0)
        self.rows: Matrix = np.zeros((0, len(space.genes)), np.int16)
        self.length: Floats | None = None
        self.alpha: Floats = np.zeros(0)
        self.lower: npt.NDArray[np.floating[Any]] = np.zeros((0, 0))

    def fit(
        self,
        rows: Matrix,
        targets: Floats,
        length: Floats | None = None,
        *,
        near: Floats | None = None,
    ) -> None:
        """Fits hyperparameters and posterior to standardised targets (n,).

        Args:
            rows: (n, num_genes) candidates.
            targets: (n,).
            length: (n,) a further input, 0 for what is predicted; None: there is none.
            near: hyperparameters to start from, of nearly the same labels, from which a few
                iterations are enough; None: the prior's.
        """
        from scipy.linalg import cho_solve
        from scipy.optimize import minimize

        self.rows = self.space.canonical(rows)
        self.length = length
        gaps = self._all_gaps(self.rows)
        num = gaps.shape[0]
        prior = np.concatenate([np.full(num, -math.log(num)), [0.0, -1.0, -3.0]])
        best = minimize(
            Posterior(gaps, targets, prior),
            prior if near is None else near,
            jac=True,
            method="L-BFGS-B",
            bounds=[(-9.0, 4.0)] * len(prior),
            options={"maxiter": _ITERATIONS if near is None else _FEW_ITERATIONS},
        )
        self.theta = np.asarray(best.x)
        matrix = _kernel(gaps, self.theta) + (math.exp(self.theta[-1]) + _JITTER) * np.eye(
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
        cross_of = self._cross()
        for start in range(0, len(rows), _CHUNK):
            cross = cross_of(self.space.canonical(rows[start : start + _CHUNK]))
            means.append(cross @ self.alpha)
            shrink = solve_triangular(self.lower, cross.T, lower=True, check_finite=False)
            stds.append(np.sqrt(np.maximum(prior - np.einsum("np,np->p", shrink, shrink), 1e-12)))
        if not means:
            return np.zeros(0), np.zeros(0)
        return np.concatenate(means), np.concatenate(stds)

    def _all_gaps(self, rows: Matrix) -> Floats:
        """Returns (inputs, n, n): squared distances of the labelled candidates."""
        gaps = self.inputs.gaps(rows, rows, rows)
        if self.length is None:
            return gaps
        return np.concatenate([gaps, (self.length[:, None] - self.length[None, :])[None] ** 2])

    def _cross(self) -> Callable[[Matrix], Floats]:
        """Returns a function from candidates (P, num_genes) to their covariances (P, n)."""
        inputs, genes = self.inputs, self.inputs.num_genes
        weights, share = _weights(self.theta)
        matern, added = math.exp(self.theta[-3]), math.exp(self.theta[-2])
        squared, plain = inputs.weighted(self.rows, weights[:genes], share[:genes])
        own = inputs.known(self.rows, self.rows)

        def cross(rows: Matrix) -> Floats:
            first, second = inputs.weighted(rows, weights[:genes], share[:genes])
            far, near = distances(first, squared), distances(second, plain)
            number = genes
            for x, y in zip(inputs.known(rows, self.rows), own, strict=True):
                apart = np.abs(x[:, None] - y[None, :])
                far += weights[number] * apart**2
                near += share[number] * np.minimum(apart, 1.0)
                number += 1
            if self.length is not None:
                far += weights[-1] * self.length[None, :] ** 2
                near += share[-1] * np.minimum(np.abs(self.length), 1.0)[None, :]
            return matern * _matern(far)[0] + added * (1 - near)

        return cross


_ITERATIONS, _FEW_ITERATIONS = 60, 12


def _weights(theta: Floats) -> tuple[Floats, Floats]:
    """Returns the weight of each input, and its share in the additive part."""
    weights = np.exp(theta[:-3])
    return weights, weights / weights.sum()


def _matern(distance: Floats) -> tuple[Floats, Floats]:
    """Returns the Matern 5/2 kernel of squared distances, and its slope."""
    root = np.sqrt(5 * distance + 1e-12)
    decay = np.exp(-root)
    return (1 + root + 5 * distance / 3) * decay, -(5 / 6) * (1 + root) * decay


def _near(gaps: Floats) -> Floats:
    # The distance itself, not its square, keeps this a valid kernel (triangular in each gene).
    return np.minimum(np.sqrt(gaps), 1.0)


def _kernel(gaps: Floats, theta: Floats) -> Floats:
    """Returns the kernel matrix (n, n) of squared distances (inputs, n, n)."""
    weights, share = _weights(theta)
    added = 1 - np.tensordot(share, _near(gaps), 1)
    matern = _matern(np.tensordot(weights, gaps, 1))[0]
    return np.asarray(math.exp(theta[-3]) * matern + math.exp(theta[-2]) * added)


class Posterior:
    """The negative log posterior of the hyperparameters, with its gradient.

    Args:
        gaps: (inputs, n, n) squared distances.
        y: (n,) standardised targets.
        prior: the hyperparameters' prior means; their deviation is 1.5.
    """

    def __init__(self, gaps: Floats, y: Floats, prior: Floats) -> None:
        self._y, self._prior = y, prior
        # The upper triangle has all of a symmetric matrix but its diagonal, whose distances are 0.
        self._upper = np.triu_indices(len(y), 1)
        self._gaps = np.ascontiguousarray(gaps[:, self._upper[0], self._upper[1]])
        self._near = _near(self._gaps)

    def __call__(self, theta: Floats) -> tuple[float, Floats]:
        """Returns the value and the gradient."""
        from scipy.linalg.lapack import dpotrf, dpotri

        y, num = self._y, len(self._y)
        weights, share = _weights(theta)
        large, small, noise = np.exp(theta[-3:])
        matern, slope = _matern(weights @ self._gaps)
        added = 1 - share @ self._near
        matrix = np.zeros((num, num), order="F")
        matrix[self._upper] = large * matern + small * added
        np.fill_diagonal(matrix, large + small + noise + _JITTER)
        factor, failed = dpotrf(matrix, lower=0)
        if failed:
            raise np.linalg.LinAlgError("the kernel matrix is not positive definite")
        # The gradient needs K^-1 itself: the trace of its product with the derivative of K.
        inverse = dpotri(factor, lower=0)[0]
        inverse = np.triu(inverse) + np.triu(inverse, 1).T
        alpha = inverse @ y
        off = (theta - self._prior) / 1.5
        value = 0.5 * y @ alpha + np.log(np.diag(factor)).sum() + 0.5 * (off @ off)
        outer = 0.5 * (inverse - np.outer(alpha, alpha))
        trace, outer = float(np.trace(outer)), 2 * outer[self._upper]
        weighted = self._near @ outer
        gradient = np.concatenate(
            [
                weights * large * (self._gaps @ (outer * slope))
                - small * share * (weighted - share @ weighted),
                [
                    large * (outer @ matern + trace),
                    small * (outer @ added + trace),
                    noise * trace,
                ],
            ]
        )
        return float(value), gradient + off / 1.5


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
        self.space, self.scale = space, Scale(target, warped=True)
        self.model = GpModel(space, costs)
        self.near: Floats | None = None

    def fit(self, rows: Matrix, labels: Floats) -> None:
        """Fits labels (n,) of candidates (n, num_genes)."""
        self.model.fit(rows, self.scale.learn(labels), near=self.near)

    def fit_rungs(self, rows: Matrix, labels: Floats, shares: Floats) -> None:
        """Fits labels of trainings of several lengths, to predict those of the longest."""
        targets, length = self.scale.learn_rungs(labels, shares)
        self.model.fit(rows, targets, length, near=self.near)

    def fit_held_out(self, rows: Matrix, labels: Floats, shares: Floats, fold: Ints) -> Floats:
        """Fits all labels and returns (n,) the predictions of those held out.

        The fits of folds start from the hyperparameters of all labels.
        """
        fit_to(self, rows, labels, shares)
        predicted = np.full(len(labels), np.nan)
        part = GpPredictor(self.space, target=self.scale.target, costs=self.model.inputs.costs)
        part.near = self.model.theta
        for number in np.unique(fold[fold >= 0]):
            held = fold == number
            fit_to(part, rows[~held], labels[~held], shares[~held])
            predicted[held] = part.predict(rows[held]).mean
        return predicted

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
        inputs = self.model.inputs.count + (self.model.length is not None)
        if len(self.model.theta) != inputs + 3:
            raise ValueError(
                f"the Gaussian process has {len(self.model.theta) - 3} inputs; expected {inputs}: "
                "it was fitted by an older version or with other costs, so fit it again"
            )
        # Files of 0.1.0 store the inverse of the factor.
        old = "lower" not in arrays
        self.model.lower = np.linalg.inv(arrays["inverse"]) if old else arrays["lower"]
