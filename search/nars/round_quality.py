"""Statistics of a round: how well the predictor ranks labels, which genes determine its scores.

They are reported only; the search does not depend on them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fbnetv3.search.predictors.protocol import Predictor
from fbnetv3.search.predictors.quality import cross_validate, tau
from fbnetv3.search.space.space import Floats, Matrix, Space

# Cross-validation needs the first number of labels; more than the second would take too long.
FEWEST_LABELS, MOST_LABELS = 10, 1000


def round_quality(
    predictor: Predictor,
    unpretrained: Predictor | None,
    rows: Matrix,
    values: Floats,
    cost: Floats | None,
    *,
    seed: int,
    shares: Floats | None = None,
) -> dict[str, Any]:
    """Returns figures of five-fold cross-validation as plain JSON types; empty for too few labels.

    Args:
        predictor: fitted; it is left as it was.
        unpretrained: the same predictor without pretraining, for comparison.
        rows: (n, num_genes) the labelled candidates.
        values: (n,) their labels.
        cost: (n,) a known cost, which the predictor should outrank.
        seed: random seed of the folds.
        shares: (n,) share of the final training of each label. Those of the highest share are
            predicted, and those of lower ones are always known.
    """
    shares = np.ones(len(values)) if shares is None else shares
    if (shares == shares.max(initial=0)).sum() < FEWEST_LABELS:
        return {}
    some = np.linspace(0, len(values) - 1, min(len(values), MOST_LABELS)).astype(int)
    rows, values, shares = rows[some], values[some], shares[some]
    held = shares == shares.max()
    recipe = np.array([gene.group == "recipe" for gene in predictor.space.genes])
    both = recipe.any() and not recipe.all()
    parts = {"network": ~recipe, "recipe": recipe} if both else None
    state = predictor.state()
    found = cross_validate(predictor, rows, values, seed=seed, shares=shares, parts=parts)
    predictor.restore(*state)
    figures: dict[str, Any] = {
        "tau": found.tau,
        "spearman": found.spearman,
        "mse": found.mse,
        "tau_better_half": found.tau_better_half,
        "predicted": found.predicted.round(4).tolist(),
        "truth": values[held].round(4).tolist(),
        "predictor": predictor.kind,
        **{f"tau_{part}": value for part, value in found.tau_alone.items()},
    }
    if unpretrained is not None:
        plain = cross_validate(unpretrained, rows, values, seed=seed, shares=shares)
        figures["tau_unpretrained"] = plain.tau
        figures["mse_unpretrained"] = plain.mse
        figures["predicted_unpretrained"] = plain.predicted.round(4).tolist()
    if cost is not None:
        figures["tau_of_cost"] = abs(tau(cost[some][held], values[held]))
        figures["worse_than_cost"] = bool(figures["tau"] <= figures["tau_of_cost"])
    return figures


def importance(space: Space, pool: Matrix, scores: Floats) -> dict[str, float]:
    """Returns gene -> share of the variance of a pool's scores (P,) that it alone explains."""
    centred = scores - scores.mean()
    total = float((centred**2).sum())
    shares = {}
    for column, gene in enumerate(space.genes):
        values = pool[:, column]
        count = np.bincount(values, minlength=len(gene.values))
        sums = np.bincount(values, weights=centred, minlength=len(gene.values))
        between = float((sums**2 / np.maximum(count, 1)).sum())
        shares[gene.name] = between / total if total else 0.0
    return shares
