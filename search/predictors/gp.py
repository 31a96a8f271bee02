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
from collections.abc import Callable, Iterator, Mapping
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
    additive part, and of the noise. Targets of shorter trainings than what is predicted have two of
    their own, `shorter`: the logarithms of the factor of what genes explain of them, and of their
    noise's variance.
    """

    def __init__(self, space: Space, costs: CostsOf | None = None) -> None:
        self.space, self.inputs = space, Inputs(space, costs)
        self.theta: Floats = np.zeros(0)
        self.rows: Matrix = np.zeros((0, len(space.genes)), np.int16)
        self.length: Floats | None = None
        self.shorter: Floats = np.zeros(0)
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
            length: (n,) a further input, 0 for what is predicted and below for what is shorter;
                None: there is none.
            near: `hyperparameters` to start from, of nearly the same labels, from which a few
                iterations are enough; None: the prior's.
        """
        from scipy.linalg import cho_solve
        from scipy.optimize import minimize

        self.rows = self.space.canonical(rows)
        self.length = length
        gaps = self._all_gaps(self.rows)
        num = gaps.shape[0]
        prior = np.concatenate([np.full(num, -math.log(num)), [0.0, -1.0, -3.0]])
        if length is not None:
            prior = np.concatenate([prior, [0.0, -3.0]])
        objective = NegativeLogPosterior(gaps, targets, prior, length)
        # Genes explain no more of a shorter training than of a longer one.
        bounds = [*[(-9.0, 4.0)] * (num + 3), (-9.0, 0.0), (-9.0, 4.0)]
        starts = [prior, _few_inputs(gaps, targets, prior, length)] if near is None else [near]
        found = [
            minimize(
                objective,
                start,
                jac=True,
                method="L-BFGS-B",
                bounds=bounds[: len(prior)],
                options={"maxiter": _ITERATIONS if near is None else _FEW_ITERATIONS},
            )
            for start in starts
        ]
        best = np.asarray(min(found, key=lambda one: one.fun).x)
        self.theta, self.shorter = best[: num + 3], best[num + 3 :]
        factor, noise = _by_length(length, self.theta, self.shorter, len(targets))
        matrix = factor[:, None] * _kernel(gaps, self.theta) * factor + np.diag(noise + _JITTER)
        self.lower = np.linalg.cholesky(matrix)
        self.alpha = cho_solve((self.lower, True), targets)

    @property
    def hyperparameters(self) -> Floats:
        """All that `fit` has fitted."""
        return np.concatenate([self.theta, self.shorter])

    def predict(self, rows: Matrix) -> tuple[Floats, Floats]:
        """Returns mean (P,) and standard deviation (P,) of the noiseless target."""
        if not len(self.rows):
            raise ValueError("the predictor has no labels yet; call fit first")
        means, stds = [np.zeros(0)], [np.zeros(0)]
        for mean, _, variance in self.conditioned(self.space.canonical(rows)):
            means.append(mean)
            stds.append(_root(variance))
        return np.concatenate(means), np.concatenate(stds)

    def conditioned(self, rows: Matrix) -> Iterator[tuple[Floats, Floats, Floats]]:
        """Yields mean (p,), `shrink` (n, p) and variance (p,) of parts of canonical candidates.

        Covariances given the labels are the prior ones less products of columns of `shrink`.
        """
        from scipy.linalg import solve_triangular

        prior = math.exp(self.theta[-3]) + math.exp(self.theta[-2])
        cross_of = self.covariances()
        for start in range(0, len(rows), _CHUNK):
            cross = cross_of(rows[start : start + _CHUNK])
            shrink = solve_triangular(self.lower, cross.T, lower=True, check_finite=False)
            yield cross @ self.alpha, shrink, prior - np.einsum("np,np->p", shrink, shrink)

    def _all_gaps(self, rows: Matrix) -> Floats:
        """Returns (inputs, n, n): squared distances of the labelled candidates."""
        gaps = self.inputs.gaps(rows, rows, rows)
        if self.length is None:
            return gaps
        return np.concatenate([gaps, (self.length[:, None] - self.length[None, :])[None] ** 2])

    def covariances(self, others: Matrix | None = None) -> Callable[[Matrix], Floats]:
        """Returns a function from canonical candidates (P, num_genes) to covariances (P, n).

        Args:
            others: (n, num_genes) canonical candidates of the longest length; None: the labelled
                ones.
        """
        inputs, genes = self.inputs, self.inputs.num_genes
        weights, share = _weights(self.theta)
        matern, added = math.exp(self.theta[-3]), math.exp(self.theta[-2])
        length = self.length
        if others is None:
            others = self.rows
        elif length is not None:
            length = np.zeros(len(others))
        factor, _ = _by_length(length, self.theta, self.shorter, len(others))
        squared, plain = inputs.weighted(others, weights[:genes], share[:genes])
        own = inputs.known(others, self.rows)

        def cross(rows: Matrix) -> Floats:
            first, second = inputs.weighted(rows, weights[:genes], share[:genes])
            far, near = distances(first, squared), distances(second, plain)
            number = genes
            for x, y in zip(inputs.known(rows, self.rows), own, strict=True):
                apart = np.abs(x[:, None] - y[None, :])
                far += weights[number] * apart**2
                near += share[number] * np.minimum(apart, 1.0)
                number += 1
            if length is not None:
                far += weights[-1] * length[None, :] ** 2
                near += share[-1] * np.minimum(np.abs(length), 1.0)[None, :]
            return (matern * _matern(far)[0] + added * (1 - near)) * factor

        return cross


_ITERATIONS, _FEW_ITERATIONS = 60, 12
# In a start, so many inputs count most, with this log weight; and the most labels that choose them.
_FEW, _MOST, _SCREENED = 2, 3.0, 128


def _few_inputs(gaps: Floats, targets: Floats, prior: Floats, length: Floats | None) -> Floats:
    """Returns the prior's hyperparameters, but that a few inputs count most: the likeliest ones.

    Of several lengths, the longest alone decides.

    The posterior has several maxima. From the prior, where all inputs count alike, the search for
    one can end where none counts much, although a gene or two explain most of the targets.
    """
    longest = np.arange(len(targets)) if length is None else np.flatnonzero(length == 0)
    some = longest[np.linspace(0, len(longest) - 1, min(len(longest), _SCREENED)).astype(int)]
    own = None if length is None else length[some]
    objective = NegativeLogPosterior(gaps[:, some][:, :, some], targets[some], prior, own)
    start = prior
    for _ in range(_FEW):
        tried = np.tile(start, (len(gaps), 1))
        np.fill_diagonal(tried, _MOST)
        start = min(tried, key=lambda one: objective(one)[0])
    return start


def _root(variance: Floats) -> Floats:
    """Returns standard deviations; rounding may leave a variance below 0."""
    return np.asarray(np.sqrt(np.maximum(variance, 1e-12)))


def _weights(theta: Floats) -> tuple[Floats, Floats]:
    """Returns the weight of each input, and its share in the additive part."""
    weights = np.exp(theta[:-3])
    return weights, weights / weights.sum()


def _by_length(
    length: Floats | None, theta: Floats, shorter: Floats, num: int
) -> tuple[Floats, Floats]:
    """Returns the factor (n,) of what genes explain of each target, and its noise's variance (n,).

    In a training that is too short no network learns anything: such targets are noise, and a
    kernel that had to explain them would explain nothing of the others.
    """
    factor, noise = np.ones(num), np.full(num, math.exp(theta[-1]))
    if length is not None and len(shorter):
        short = length < 0
        factor[short], noise[short] = np.exp(shorter)
    return factor, noise


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


class NegativeLogPosterior:
    """The negative log posterior of the hyperparameters, with its gradient.

    Args:
        gaps: (inputs, n, n) squared distances.
        y: (n,) standardised targets.
        prior: the hyperparameters' prior means; their deviation is 1.5.
        length: (n,) as in `GpModel.fit`.
    """

    def __init__(
        self, gaps: Floats, y: Floats, prior: Floats, length: Floats | None = None
    ) -> None:
        self._y, self._prior, self._length = y, prior, length
        self._num = len(gaps) + 3
        self._short = np.zeros(len(y)) if length is None else (length < 0).astype(np.float64)
        # The upper triangle has all of a symmetric matrix but its diagonal, whose distances are 0.
        self._upper = np.triu_indices(len(y), 1)
        self._gaps = np.ascontiguousarray(gaps[:, self._upper[0], self._upper[1]])
        self._near = _near(self._gaps)

    def __call__(self, hyperparameters: Floats) -> tuple[float, Floats]:
        """Returns the value and the gradient."""
        from scipy.linalg.lapack import dpotrf, dpotri

        theta, shorter = hyperparameters[: self._num], hyperparameters[self._num :]
        y, num, (row, column) = self._y, len(self._y), self._upper
        weights, share = _weights(theta)
        large, small = np.exp(theta[-3:-1])
        matern, slope = _matern(weights @ self._gaps)
        added = 1 - share @ self._near
        factor, noise = _by_length(self._length, theta, shorter, num)
        pair = factor[row] * factor[column]
        explained, own = (large * matern + small * added) * pair, (large + small) * factor**2
        matrix = np.zeros((num, num), order="F")
        matrix[self._upper] = explained
        np.fill_diagonal(matrix, own + noise + _JITTER)
        cholesky, failed = dpotrf(matrix, lower=0)
        if failed:
            raise np.linalg.LinAlgError("the kernel matrix is not positive definite")
        # The gradient needs K^-1 itself: the trace of its product with the derivative of K.
        inverse = dpotri(cholesky, lower=0)[0]
        inverse = np.triu(inverse) + np.triu(inverse, 1).T
        alpha = inverse @ y
        off = (hyperparameters - self._prior) / 1.5
        value = 0.5 * y @ alpha + np.log(np.diag(cholesky)).sum() + 0.5 * (off @ off)
        outer = 0.5 * (inverse - np.outer(alpha, alpha))
        diagonal, outer = np.diag(outer), 2 * outer[self._upper]
        trace, scaled = diagonal @ factor**2, outer * pair
        weighted = self._near @ scaled
        short, of_shorter = self._short, []
        if len(shorter):
            of_shorter = [
                (outer * explained) @ (short[row] + short[column]) + 2 * (diagonal * own) @ short,
                (diagonal * noise) @ short,
            ]
        gradient = np.concatenate(
            [
                weights * large * (self._gaps @ (scaled * slope))
                - small * share * (weighted - share @ weighted),
                [
                    large * (scaled @ matern + trace),
                    small * (scaled @ added + trace),
                    (diagonal * noise) @ (1 - short),
                ],
                of_shorter,
            ]
        )
        return float(value), gradient + off / 1.5


class GpPosterior:
    """The posterior of P candidates, and what it will be when some of them have been trained.

    Their means stay: the label that is expected of a candidate is its own mean (after Ginsbourger,
    Le Riche and Carraro, Kriging is well-suited to parallelize optimization, 2010).

    Args:
        model: the model, fitted.
        scale: what its targets were standardised with.
        rows: (P, num_genes) the candidates.
    """

    def __init__(self, model: GpModel, scale: Scale, rows: Matrix) -> None:
        self._model, self._scale, self._rows = model, scale, model.space.canonical(rows)
        means, shrinks, variances = zip(*model.conditioned(self._rows), strict=True)
        self.mean: Floats = np.concatenate(means)
        self._shrink: Floats = np.concatenate(shrinks, axis=1)
        self._variance: Floats = np.concatenate(variances)

    @property
    def std(self) -> Floats:
        """(P,) standard deviations of the noiseless targets."""
        return _root(self._variance)

    def scaled(self, labels: Floats) -> Floats:
        """Returns labels (n,) as standardised targets."""
        return self._scale.apply(labels)

    def add(self, index: int) -> None:
        """Narrows the distributions as a training of a candidate will."""
        prior = self._model.covariances(self._rows[[index]])(self._rows)[:, 0]
        covariance = prior - self._shrink.T @ self._shrink[:, index]
        noise = math.exp(self._model.theta[-1]) + _JITTER
        column = covariance / math.sqrt(max(float(covariance[index]), 0.0) + noise)
        self._shrink = np.concatenate([self._shrink, column[None]])
        self._variance = self._variance - column**2


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
        part.near = self.model.hyperparameters
        for number in np.unique(fold[fold >= 0]):
            held = fold == number
            fit_to(part, rows[~held], labels[~held], shares[~held])
            predicted[held] = part.predict(rows[held]).mean
        return predicted

    def predict(self, rows: Matrix) -> Prediction:
        """Returns the posterior's mean and standard deviation, of the longest trainings."""
        return self.scale.invert(*self.model.predict(rows))

    def posterior(self, rows: Matrix) -> GpPosterior:
        """Returns the distributions of candidates (P, num_genes), of the longest trainings."""
        return GpPosterior(self.model, self.scale, rows)

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """Returns the fitted posterior."""
        model = self.model
        arrays: Arrays = {
            "theta": model.theta,
            "rows": model.rows,
            "alpha": model.alpha,
            "lower": model.lower,
        }
        if model.length is not None:
            arrays["length"] = model.length
            arrays["shorter"] = model.shorter
        return arrays, {"scale": self.scale.to_dict()}

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]], settings: Mapping[str, Any]) -> None:
        """Restores what `state` returned."""
        self.scale = Scale.from_dict(settings["scale"])
        for key in ("theta", "rows", "alpha"):
            setattr(self.model, key, arrays[key])
        self.model.length = arrays.get("length")
        # Files of 0.1.0 have none.
        self.model.shorter = arrays.get("shorter", np.zeros(0))
        inputs = self.model.inputs.count + (self.model.length is not None)
        if len(self.model.theta) != inputs + 3:
            raise ValueError(
                f"the Gaussian process has {len(self.model.theta) - 3} inputs; expected {inputs}: "
                "it was fitted by an older version or with other costs, so fit it again"
            )
        # Files of 0.1.0 store the inverse of the factor.
        old = "lower" not in arrays
        self.model.lower = np.linalg.inv(arrays["inverse"]) if old else arrays["lower"]
