"""Effects of recipe genes on the labels, with intervals: what the trainings so far can tell apart.

Least squares of the labels over the recipe genes, one contrast for each: from the value with the
lowest to that with the highest fitted label. Known costs and, with enough labels, the genes of the
network take part as covariates. The interval is Scheffe's at 95 %, which allows for the contrast
having been chosen by the same labels; a gene is resolved if it leaves 0 out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from fbnetv3.search.space.gene import Gene
from fbnetv3.search.space.space import Floats, Matrix, Space
from fbnetv3.search.storage.store import Store

LEVEL = 0.95
# Labels for each coefficient that are needed for a richer model, and for any.
RICH, LEAST = 5, 2
# Labels this many interquartile ranges below the median are trainings that failed, moved there.
_FAR = 4


def gene_effects(
    space: Space, rows: Matrix, labels: Floats, costs: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Returns recipe gene -> its effect as plain JSON types; empty with too few labels.

    An effect has `low` and `high`, the values with the lowest and the highest fitted label,
    `effect`, the difference of these in the labels' unit, `half`, half the width of its interval,
    and `resolved`. Genes that the labels have at one value only are left out.

    Args:
        space: the search space.
        rows: (n, num_genes) labelled candidates.
        labels: (n,) their labels.
        costs: name -> (n,) known costs.
    """
    from scipy.stats import f as f_distribution

    genes = [
        (column, gene)
        for column, gene in enumerate(space.genes)
        if gene.group == "recipe" and len(np.unique(rows[:, column])) > 1
    ]
    if not genes or len(labels) < 3:
        return {}
    design = _design(space, rows, costs, genes, len(labels))
    if design is None:
        return {}
    matrix, slices, curved = design
    values = _without_failed(labels)
    inverse = np.linalg.pinv(matrix.T @ matrix)
    beta = inverse @ matrix.T @ values
    free = len(values) - int(np.linalg.matrix_rank(matrix))
    if free < 1:
        return {}
    variance = float(((values - matrix @ beta) ** 2).sum()) / free
    found = {}
    for (column, gene), part in zip(genes, slices, strict=True):
        seen = np.unique(rows[:, column])
        levels = _columns(gene, seen, curved)
        fitted = levels @ beta[part]
        low, high = int(np.argmin(fitted)), int(np.argmax(fitted))
        step = levels[high] - levels[low]
        width = part.stop - part.start
        scale = width * float(f_distribution.ppf(LEVEL, width, free))
        half = float(np.sqrt(max(scale * variance * (step @ inverse[part, part] @ step), 0.0)))
        effect = float(fitted[high] - fitted[low])
        found[gene.name] = {
            "low": gene.values[int(seen[low])],
            "high": gene.values[int(seen[high])],
            "effect": effect,
            "half": half,
            "resolved": effect > half,
        }
    return found


def unresolved(store: Store) -> list[str]:
    """Returns the recipe genes whose effect the labels of a search's last round do not show."""
    rounds = [
        (int(name.removeprefix("round_")), content)
        for name, content in store.stages().items()
        if name.startswith("round_")
    ]
    effects = max(rounds, key=lambda one: one[0])[1].get("effects", {}) if rounds else {}
    return [name for name, one in effects.items() if not one["resolved"]]


def _design(
    space: Space,
    rows: Matrix,
    costs: Mapping[str, Any],
    genes: list[tuple[int, Gene]],
    num: int,
) -> tuple[Floats, list[slice], bool] | None:
    """Returns the richest model that the labels allow, None if they allow none.

    It is a matrix (n, coefficients), the columns of each gene in it, and whether ordered genes have
    a quadratic term.
    """
    plain = [np.ones(len(rows))]
    for cost in costs.values():
        size = np.log(np.maximum(np.asarray(cost, np.float64), 1e-12))
        if np.ptp(size) > 0:
            plain.append((size - size.mean()) / size.std())
    others = {n for n, gene in enumerate(space.genes) if gene.group != "recipe"}
    network = [
        _columns(space.genes[n], rows[:, n], False)
        for n in sorted(others)
        if len(np.unique(rows[:, n])) > 1
    ]
    for curved, covariates, least in (
        (True, network, RICH),
        (True, [], RICH),
        (False, [], LEAST),
    ):
        blocks = [_columns(gene, rows[:, column], curved) for column, gene in genes]
        matrix = np.column_stack([*plain, *covariates, *blocks])
        if num >= least * matrix.shape[1]:
            ends = np.cumsum([block.shape[1] for block in blocks]) + (
                matrix.shape[1] - sum(block.shape[1] for block in blocks)
            )
            slices = [
                slice(int(end) - block.shape[1], int(end))
                for end, block in zip(ends, blocks, strict=True)
            ]
            return matrix, slices, curved
    return None


def _columns(gene: Gene, indices: Any, curved: bool) -> Floats:
    """Returns (n, columns) of a gene's indices: one-hot without the first, or position."""
    index = np.asarray(indices, np.int64)
    size = len(gene.values)
    if gene.kind == "choice":
        return np.eye(size)[:, 1:][index]
    place = index / max(size - 1, 1) - 0.5
    return np.column_stack([place, place**2]) if curved and size > 2 else place[:, None]


def _without_failed(labels: Collection[float]) -> Floats:
    """Returns labels with those of failed trainings raised, which would hide all effects."""
    values = np.asarray(labels, np.float64)
    low, middle, high = np.percentile(values, (25, 50, 75))
    return np.asarray(np.maximum(values, middle - _FAR * max(high - low, 1e-9)))
