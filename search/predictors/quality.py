"""How well a predictor ranks labels that it has not seen: rank correlations, cross-validation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fbnetv3.search.space.space import Floats, Mask, Matrix

from .protocol import Ints, Predictor, fit_to

FOLDS = 5
# Labelled candidates whose other genes a part's prediction is averaged over.
_OTHERS = 16


@dataclass(frozen=True)
class Quality:
    """How well predictions rank and match unseen labels.

    Attributes:
        tau: Kendall's rank correlation.
        spearman: Spearman's.
        mse: mean squared error in the labels' unit.
        tau_better_half: tau among the labels above the median, which a search depends on.
        predicted: (n,) the prediction for each label.
        tau_alone: part of the genes -> tau of what the predictor knows of it alone, see
            `cross_validate`.
    """

    tau: float
    spearman: float
    mse: float
    tau_better_half: float
    predicted: Floats
    tau_alone: Mapping[str, float] = field(default_factory=dict)


def quality(predicted: Floats, labels: Floats) -> Quality:
    """Returns the quality of predictions (n,) against labels (n,)."""
    better = labels >= np.median(labels)
    return Quality(
        tau=tau(predicted, labels),
        spearman=float(spearman(predicted, labels)),
        mse=float(((predicted - labels) ** 2).mean()),
        tau_better_half=tau(predicted[better], labels[better]),
        predicted=predicted,
    )


def cross_validate(
    predictor: Predictor,
    rows: Matrix,
    labels: Floats,
    *,
    seed: int = 0,
    shares: Floats | None = None,
    parts: Mapping[str, npt.NDArray[np.bool_]] | None = None,
) -> Quality:
    """Returns the quality of predictions in five-fold cross-validation.

    Of two parts of the genes, such as network and recipe, each is rated alone too: its prediction
    is the mean over candidates that differ in the other part, and is compared with the labels less
    what the other part predicts alone. No further fit is needed.

    Args:
        predictor: left fitted to all labels or, with parts, to four fifths of them.
        rows: (n, num_genes) candidates.
        labels: (n,).
        seed: random seed of the split.
        shares: (n,) share of the final training of each label; None: all are equal. Only labels of
            the highest share are held out and judged.
        parts: names of two parts -> (num_genes,) which genes they have; None: rate none alone.

    Raises:
        ValueError: fewer than ten labels, of the highest share.
    """
    values = np.asarray(labels, np.float64)
    shares = np.ones(len(values)) if shares is None else shares
    judged = np.flatnonzero(shares == shares.max(initial=0.0))
    if len(judged) < 2 * FOLDS:
        raise ValueError(f"{len(judged)} labels; expected at least {2 * FOLDS} to cross-validate")
    fold = folds(shares == shares.max(initial=0.0), seed)
    predicted, alone = np.empty(len(values)), dict[str, Floats]()
    if parts is None:
        predicted = predictor.fit_held_out(rows, values, shares, fold)
    else:
        rng = np.random.default_rng([seed, 1])
        alone = {name: np.empty(len(values)) for name in parts}
        for number in range(FOLDS):
            held = fold == number
            fit_to(predictor, rows[~held], values[~held], shares[~held])
            predicted[held] = predictor.predict(rows[held]).mean
            for name, genes in parts.items():
                alone[name][held] = _alone(predictor, rows[held], rows[~held], genes, rng)
    found = quality(predicted[judged], values[judged])
    own = {name: one[judged] for name, one in alone.items()}
    return dataclasses.replace(found, tau_alone=_taus_alone(own, values[judged]))


def folds(judged: Mask, seed: int) -> Ints:
    """Returns (n,) the fold that each label is held out in, -1 for those that are not judged."""
    fold = np.full(len(judged), -1)
    num = int(judged.sum())
    fold[judged] = np.random.default_rng(seed).permutation(num) % FOLDS
    return fold


def _alone(
    predictor: Predictor,
    rows: Matrix,
    others: Matrix,
    genes: npt.NDArray[np.bool_],
    rng: np.random.Generator,
) -> Floats:
    """Returns (P,) the mean prediction for some genes of candidates with other genes of others."""
    drawn = others[rng.integers(len(others), size=min(_OTHERS, len(others)))]
    mixed = np.where(genes, rows[:, None], drawn[None]).reshape(-1, rows.shape[1])
    mean = predictor.predict(predictor.space.canonical(mixed)).mean.reshape(len(rows), -1)
    # In a table of labels, costs of pairs that it lacks are not known.
    known = np.isfinite(mean)
    num = known.sum(1)
    total: Floats = np.where(known, mean, 0).sum(1)
    found: Floats = np.divide(total, num, out=np.full(len(rows), np.nan), where=num > 0)
    return found


def _taus_alone(alone: Mapping[str, Floats], labels: Floats) -> dict[str, float]:
    """Returns tau of each part's prediction with the labels less the other part's prediction."""
    taus = {}
    for name, predicted in alone.items():
        rest = sum((other for key, other in alone.items() if key != name), np.zeros(len(labels)))
        known = np.isfinite(predicted) & np.isfinite(rest)
        taus[name] = tau(predicted[known], (labels - rest)[known]) if known.sum() > 1 else 0.0
    return taus


def tau(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Returns Kendall's tau-b of two lists, 0 where either is constant."""
    from scipy.stats import kendalltau

    found = float(kendalltau(first, second).statistic)
    return 0.0 if math.isnan(found) else found


def spearman(first: npt.ArrayLike, second: npt.ArrayLike) -> Floats:
    """Returns Spearman's rank correlation along the last axis; 0 where either is constant.

    Equal values share their mean rank.
    """
    from scipy.stats import rankdata

    a, b = (rankdata(values, axis=-1) for values in (first, second))
    a, b = (ranks - ranks.mean(axis=-1, keepdims=True) for ranks in (a, b))
    spread = np.sqrt((a**2).sum(axis=-1) * (b**2).sum(axis=-1))
    return np.asarray((a * b).sum(axis=-1) / np.where(spread == 0, 1, spread))
