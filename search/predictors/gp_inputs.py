"""What a Gaussian process measures distances of candidates by: genes, and known costs.

A choice gene is one input, 1 between unequal values. An ordered gene is its encoded position, and
with few values also a choice. A known cost is its logarithm. All are within [0, 1] on the labelled
candidates.

Distances are squared lengths of differences of features, so that those of a whole pool are one
matrix product: of an input's position for squared distances, and of steps between its values for
plain ones.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fbnetv3.search.space.gene import Gene
from fbnetv3.search.space.space import CostsOf, Floats, Matrix, Space

from .protocol import Ints

# An ordered gene with at most this many values is also an input as a choice.
_FEW = 4


class Features(NamedTuple):
    """Features of the values of one gene.

    Attributes:
        squared: (values, columns) whose squared differences add up to squared distances.
        plain: (values, columns) whose squared differences add up to distances.
        of_squared: (columns,) number of the gene's input that each column belongs to.
        of_plain: (columns,) likewise.
    """

    squared: Floats
    plain: Floats
    of_squared: Ints
    of_plain: Ints


class Inputs:
    """The inputs of a space.

    Args:
        space: the search space.
        costs: known costs of candidates; None: there are none.

    Attributes:
        num_genes: number of inputs that genes have; those of costs follow.
    """

    def __init__(self, space: Space, costs: CostsOf | None = None) -> None:
        self.space, self.costs = space, costs
        self._positions = [_positions(space, column) for column in range(len(space.genes))]
        self._features = [
            _features(gene, positions)
            for gene, positions in zip(space.genes, self._positions, strict=True)
        ]
        counts = [_count(gene) for gene in space.genes]
        first = np.cumsum([0, *counts])
        self.num_genes = int(first[-1])
        self._of_squared, self._of_plain = (
            np.concatenate([one[kind] + k for one, k in zip(self._features, first, strict=False)])
            for kind in (2, 3)
        )

    @property
    def count(self) -> int:
        """Number of all inputs."""
        some = self.space.sample(2, np.random.default_rng(0))
        return self.num_genes + (len(self.costs(some)) if self.costs is not None else 0)

    def gaps(self, first: Matrix, second: Matrix, base: Matrix) -> Floats:
        """Returns (inputs, P, Q): squared distances of candidates (P, genes) and (Q, genes).

        Args:
            first: candidates, canonical.
            second: candidates, canonical.
            base: the labelled candidates, whose costs set the scale.
        """
        found = []
        for column, (gene, position) in enumerate(
            zip(self.space.genes, self._positions, strict=True)
        ):
            a, b = first[:, column], second[:, column]
            if _is_choice(gene):
                found.append((a[:, None] != b[None, :]).astype(np.float64))
            if gene.kind != "choice":
                found.append((position[a][:, None] - position[b][None, :]) ** 2)
        for x, y in zip(self.known(first, base), self.known(second, base), strict=True):
            found.append((x[:, None] - y[None, :]) ** 2)
        return np.stack(found)

    def known(self, rows: Matrix, base: Matrix) -> list[Floats]:
        """Returns the logarithm of each cost (P,), from 0 to 1 on the labelled candidates."""
        if self.costs is None:
            return []
        found = []
        for known, own in zip(self.costs(base).values(), self.costs(rows).values(), strict=True):
            least = np.log(np.maximum(np.asarray(known, np.float64), 1e-12))
            values = np.log(np.maximum(np.asarray(own, np.float64), 1e-12))
            found.append((values - least.min()) / max(float(np.ptp(least)), 1e-12))
        return found

    def weighted(self, rows: Matrix, squared: Floats, plain: Floats) -> tuple[Floats, Floats]:
        """Returns features (P, columns) of genes, for squared and for plain distances.

        Args:
            rows: (P, genes) candidates, canonical.
            squared: (inputs,) what each squared distance is multiplied by.
            plain: (inputs,) what each plain distance is multiplied by.
        """
        first, second = (
            np.concatenate(
                [one[kind][rows[:, column]] for column, one in enumerate(self._features)], axis=1
            )
            for kind in (0, 1)
        )
        return first * np.sqrt(squared[self._of_squared]), second * np.sqrt(plain[self._of_plain])


def distances(first: Floats, second: Floats) -> Floats:
    """Returns (P, Q) squared distances of features (P, columns) and (Q, columns)."""
    found = first @ second.T
    found *= -2
    found += (first**2).sum(1)[:, None]
    found += (second**2).sum(1)[None, :]
    return np.asarray(np.maximum(found, 0, out=found))


def _is_choice(gene: Gene) -> bool:
    return gene.kind == "choice" or len(gene.values) <= _FEW


def _count(gene: Gene) -> int:
    return int(_is_choice(gene)) + int(gene.kind != "choice")


def _positions(space: Space, column: int) -> Floats:
    """Returns the position (values,) of each value of an ordered gene, from 0 to 1."""
    gene, offset = space.genes[column], int(space.offsets[column])
    block = space.encoding[offset : offset + len(gene.values)]
    return np.asarray(block[:, block.any(axis=0)].sum(axis=1))


def _features(gene: Gene, positions: Floats) -> Features:
    blocks: list[tuple[Floats, Floats]] = []
    if _is_choice(gene):
        # Two of them differ in two columns.
        same = np.eye(len(gene.values)) * np.sqrt(0.5)
        blocks.append((same, same))
    if gene.kind != "choice":
        steps = np.sort(positions)
        above = (positions[:, None] > steps[None, :-1]).astype(np.float64)
        blocks.append((positions[:, None], above * np.sqrt(np.diff(steps))))
    squared, plain = ([block[kind] for block in blocks] for kind in (0, 1))
    return Features(
        np.concatenate(squared, axis=1),
        np.concatenate(plain, axis=1),
        *(np.repeat(np.arange(len(x)), [b.shape[1] for b in x]) for x in (squared, plain)),
    )
